//! Loom models of the object word.
//!
//! Each model names the weakenings or omissions that make it fail. A watched cell stands for the bytes of a
//! buddy. If a read and a write of it are not ordered, the model fails.

use loom::sync::Arc;
use loom::thread;

use crate::left::{Leaves, Left};
use crate::word::{Freed, ObjWord, PinError};
use zpool_base::sync::Watched;

struct Object {
    word: ObjWord,
    bytes: Watched,
}

/// Returns a live object of generation 1.
fn live() -> Arc<Object> {
    let object = Object { word: ObjWord::new(1), bytes: Watched::new() };
    object.word.claim(8);
    object.bytes.write();
    object.word.publish();
    Arc::new(object)
}

/// Reads the object of generation 1, if it is live. Returns whether this thread now owns the object's
/// space.
fn read(object: &Object) -> bool {
    match object.word.pin(1) {
        Ok(_) => {
            object.bytes.read();
            object.word.unpin().is_some()
        }
        Err(PinError::NotLive(owned)) => owned.is_some(),
        Err(PinError::TooManyReaders) => unreachable!("two threads only"),
    }
}

/// The owner of the space writes only after the readers have read. The model fails in each of these cases:
/// * `unpin` is Relaxed, so that the read is not ordered before the write.
/// * The CAS of `free` or `try_own` is Relaxed.
/// * `free` takes the space while there are readers.
#[test]
fn loom_the_owner_writes_after_the_readers() {
    loom::model(|| {
        let object = live();
        let reader = {
            let object = object.clone();
            thread::spawn(move || {
                if read(&object) {
                    object.bytes.write();
                }
            })
        };
        if let Some(Freed::Owned(_)) = object.word.free(1) {
            object.bytes.write();
        }
        reader.join().unwrap();
    });
}

/// Exactly one thread owns the space of a freed object. The model fails in each of these cases:
/// * `free` parks the object without checking the count.
/// * The passing reader of a failed `pin` does not try to own the space.
/// * The CAS of `try_own` is Relaxed. Then the last reader may write while the other one still reads.
#[test]
fn loom_a_parked_object_falls_to_exactly_one() {
    loom::model(|| {
        let object = live();
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let object = object.clone();
                thread::spawn(move || {
                    let owner = read(&object);
                    if owner {
                        object.bytes.write();
                    }
                    usize::from(owner)
                })
            })
            .collect();
        let mut owners = usize::from(matches!(object.word.free(1), Some(Freed::Owned(_))));
        for reader in readers {
            owners += reader.join().unwrap();
        }
        assert_eq!(owners, 1, "the space was lost, or had two owners");
    });
}

/// A stale handle never reads the next object. The model fails in each of these cases:
/// * `pin` does not check what its RMW returned. Then the reader sees the next object.
/// * `publish` is not Release.
/// * `pin` is not Acquire.
#[test]
fn loom_a_stale_handle_never_reads_the_next_object() {
    loom::model(|| {
        let object = live();
        let reader = {
            let object = object.clone();
            thread::spawn(move || match object.word.pin(2) {
                // This is the next object. It was written before it was published.
                Ok(word) => {
                    object.bytes.read();
                    assert_eq!((word.generation(), word.bytes()), (2, 9));
                    object.word.unpin();
                    false
                }
                Err(_) => read(&object),
            })
        };
        let mut mine = false;
        if let Some(Freed::Owned(_)) = object.word.free(1) {
            assert!(object.word.release(true));
            object.word.claim(9);
            object.bytes.write();
            object.word.publish();
            mine = true;
        }
        let readers = reader.join().unwrap();
        assert!(mine != readers, "the space was lost, or had two owners");
    });
}

/// Of two frees of one handle, exactly one succeeds.
#[test]
fn loom_one_of_two_frees_wins() {
    loom::model(|| {
        let object = live();
        let other = {
            let object = object.clone();
            thread::spawn(move || object.word.free(1).is_some())
        };
        let mine = object.word.free(1).is_some();
        assert!(other.join().unwrap() != mine);
    });
}

/// A mover and a reader exclude each other. The model fails in each of these cases:
/// * `try_move` does not check the readers or is Relaxed.
/// * `end_move` is Relaxed or a plain store.
/// * The reader does not wait.
#[test]
fn loom_a_mover_and_a_reader_exclude_each_other() {
    loom::model(|| {
        let object = live();
        let reader = {
            let object = object.clone();
            thread::spawn(move || {
                let mut word = object.word.pin(1).unwrap();
                while word.is_moving() {
                    thread::yield_now();
                    word = object.word.now();
                }
                object.bytes.read();
                assert_eq!(object.word.unpin(), None);
            })
        };
        if object.word.try_move() {
            object.bytes.write();
            object.word.end_move();
        }
        reader.join().unwrap();
        assert!(object.word.try_move(), "the reader is still counted");
    });
}

/// Two objects that their readers leave, and the stack from which another thread frees them.
struct Leaving {
    left: Left,
    links: [std::cell::UnsafeCell<[u8; 8]>; 2],
    bytes: [Watched; 2],
    finished: [loom::sync::atomic::AtomicUsize; 2],
}

// SAFETY: only the owner of an object accesses its link. The model checks this with `bytes`.
unsafe impl Sync for Leaving {}
// SAFETY: as for `Sync`.
unsafe impl Send for Leaving {}

// SAFETY: each object has 8 bytes of its own, and only its owner uses them.
unsafe impl Leaves for Leaving {
    fn link(&self, slot: u32) -> core::ptr::NonNull<[u8; 8]> {
        let slot = slot as usize;
        self.bytes[slot].write();
        core::ptr::NonNull::new(self.links[slot].get()).unwrap()
    }

    fn finish(&self, slot: u32) {
        let slot = slot as usize;
        self.bytes[slot].write();
        self.finished[slot].fetch_add(1, loom::sync::atomic::Ordering::Relaxed);
    }
}

/// Each object that readers left is freed once. The model fails if `push` is not Release, or if `finish`
/// does not take the stack with an Acquire swap.
#[test]
fn loom_left_objects_are_given_up_once() {
    loom::model(|| {
        let pool = Arc::new(Leaving {
            left: Left::new(),
            links: Default::default(),
            bytes: Default::default(),
            finished: Default::default(),
        });
        let leaver = |slot: u32| {
            let pool = pool.clone();
            thread::spawn(move || {
                pool.bytes[slot as usize].write();
                // SAFETY: this thread owns the object and pushes it once.
                unsafe { pool.left.push(&*pool, slot) };
            })
        };
        let leavers = [leaver(0), leaver(1)];
        pool.left.finish(&*pool);
        for leaver in leavers {
            leaver.join().unwrap();
        }
        pool.left.finish(&*pool);
        for finished in &pool.finished {
            assert_eq!(finished.load(loom::sync::atomic::Ordering::Relaxed), 1);
        }
    });
}
