//! Models of zbud for loom: the object word alone, and small whole pools.
//!
//! Each model says which weakening or omission makes it fail. The bytes of a buddy are stood for
//! by a watched cell: a read and a write of it that are not ordered fail the model.

use loom::sync::Arc;
use loom::thread;
use std::sync::Arc as StdArc;

use zpool_api::{Evicted, HeapPages, ObjRead, Zpool, ZpoolError};

use crate::Zbud;
use crate::sync::Watched;
use crate::word::{Freed, ObjWord, PinError};

struct Object {
    word: ObjWord,
    bytes: Watched,
}

/// A live object of generation 1.
fn live() -> Arc<Object> {
    let object = Object { word: ObjWord::new(1), bytes: Watched::new() };
    object.word.claim(8);
    object.bytes.write();
    object.word.publish();
    Arc::new(object)
}

/// Reads the object of generation 1 if it is there; tells whether the space fell to this thread.
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

/// Fails if `unpin` is Relaxed (the reader's look is not ordered before the write), if the CAS of
/// `free` or `try_own` is Relaxed, and if `free` takes the space while there are readers.
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

/// Fails if `free` parks without looking at the count, if the passing reader of a failed `pin` does
/// not try to own, and if the CAS of `try_own` is Relaxed: the last reader then writes where the
/// other one may still be reading.
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

/// Fails if `pin` does not check what its RMW returned: the reader would then see the next object.
/// Fails too if `publish` is not Release or `pin` not Acquire.
#[test]
fn loom_a_stale_handle_never_reads_the_next_object() {
    loom::model(|| {
        let object = live();
        let reader = {
            let object = object.clone();
            thread::spawn(move || match object.word.pin(2) {
                // The next object: written before it was published.
                Ok(word) => {
                    object.bytes.read();
                    assert_eq!((word.generation(), word.len()), (2, 9));
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
        assert!(mine != readers, "exactly one had the space");
    });
}

/// Of two frees of one handle one wins.
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

fn pool() -> StdArc<Zbud> {
    StdArc::new(Zbud::new(StdArc::new(HeapPages::new())).unwrap())
}

/// A whole pool: a read of an object against its free and the reuse of its room. Fails if
/// `give_up` comes before the readers are gone, or if the word is claimed before it is released.
#[test]
fn loom_pool_read_against_free_and_reuse() {
    loom::model(|| {
        let pool = pool();
        let handle = pool.malloc_from(&[1; 100]).unwrap();
        let reader = {
            let pool = pool.clone();
            thread::spawn(move || match pool.obj_read_begin(handle) {
                Ok(object) => assert!(object.iter().all(|b| *b == 1) && object.len() == 100),
                Err(error) => assert!(matches!(error, ZpoolError::InvalidHandle { .. })),
            })
        };
        pool.free(handle).unwrap();
        let next = pool.malloc_from(&[2; 90]).unwrap();
        reader.join().unwrap();
        assert!(pool.obj_read_begin(handle).is_err());
        pool.free(next).unwrap();
        let stats = pool.stats();
        assert_eq!((stats.total_pages, stats.objects, stats.parked_objects), (0, 0, 0));
    });
}

/// An allocation in a page against the free of the page's only object: the page is found with room
/// or it is gone, never both. Fails if the page is detached while an allocation uses it.
#[test]
fn loom_pool_alloc_against_the_last_free_of_the_page() {
    loom::model(|| {
        let pool = pool();
        let first = pool.malloc_from(&[1; 64]).unwrap();
        let other = {
            let pool = pool.clone();
            thread::spawn(move || pool.malloc_from(&[2; 64]).unwrap())
        };
        pool.free(first).unwrap();
        let second = other.join().unwrap();
        assert!(pool.obj_read_begin(second).unwrap().iter().all(|b| *b == 2));
        assert_eq!(pool.total_pages(), 1);
        pool.free(second).unwrap();
        assert_eq!(pool.total_pages(), 0);
    });
}

/// Reclaim of a page against the free of its object: each is done once, the page goes once.
#[test]
fn loom_pool_reclaim_against_free() {
    loom::model(|| {
        let pool = pool();
        let handle = pool.malloc_from(&[1; 64]).unwrap();
        let freer = {
            let pool = pool.clone();
            thread::spawn(move || pool.free(handle).is_ok())
        };
        let offered = std::cell::Cell::new(false);
        let freed = pool
            .reclaim(1, &|_, object: ObjRead<'_>| {
                assert_eq!(object.len(), 64);
                offered.set(true);
                Evicted::Evicted
            })
            .unwrap();
        let freer_won = freer.join().unwrap();
        assert!(freer_won || (offered.get() && freed == 1));
        assert_eq!(pool.total_pages(), 0);
    });
}
