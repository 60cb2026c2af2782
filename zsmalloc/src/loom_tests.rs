//! Models of zsmalloc for loom: the lane and the slot alone, and small whole pools.
//!
//! The comment of each model names the weakenings and omissions that make it fail. The lane's watched cell
//! represents the object's bytes: a model fails if a read and a write of it are not ordered.

use loom::sync::Arc;
use loom::thread;
use std::sync::Arc as StdArc;

use zpool_api::{Zpool, ZpoolError};
use zpool_pages::HeapPages;

use crate::lane::{Freed, Lane};
use crate::sync::Mutex;
use crate::{Config, Zsmalloc};

/// A lane, the class lock, and a slot that is only a number: 1 for the object, 0 for no object.
struct Object {
    lane: Lane,
    slot: crate::sync::atomic::AtomicU64,
    class: Mutex<()>,
}

impl Object {
    /// Makes a published object.
    fn live() -> Arc<Object> {
        let object = Object {
            lane: Lane::default(),
            slot: crate::sync::atomic::AtomicU64::new(0),
            class: Mutex::new(()),
        };
        object.lane.claim();
        object.lane.bytes.write();
        object.slot.store(1, crate::sync::atomic::Ordering::Release);
        assert!(!object.lane.read_unlock_for_test());
        Arc::new(object)
    }

    fn slot(&self) -> u64 {
        // Acquire, as in `Slot::load`.
        self.slot.load(crate::sync::atomic::Ordering::Acquire)
    }

    /// Reads as a pool does. If this thread gets the place, writes to it and returns true.
    fn read(&self) -> bool {
        let seen = self.slot();
        if seen == 0 {
            return false;
        }
        if self.lane.read_lock().unwrap().has_writer() {
            while self.lane.look().has_writer() {
                drop(self.class.lock());
            }
        }
        if self.slot() == seen {
            self.lane.bytes.read();
        }
        self.leave()
    }

    fn leave(&self) -> bool {
        if !self.lane.read_unlock_for_test() {
            return false;
        }
        let _class = self.class.lock();
        let mine = self.lane.reclaim();
        if mine {
            self.lane.bytes.write();
        }
        mine
    }

    /// Frees as a pool does. If this thread gets the place, writes to it and returns true.
    fn free(&self) -> bool {
        let _class = self.class.lock();
        // Relaxed, as in `Slot::invalidate`.
        self.slot.store(0, crate::sync::atomic::Ordering::Relaxed);
        let mine = self.lane.free_for_test() == Freed::Now;
        if mine {
            self.lane.bytes.write();
        }
        mine
    }
}

/// Fails if `read_unlock`, `free` or `read_lock` is Relaxed, if `free` does not check for readers,
/// or if a reader does not check the slot again.
#[test]
fn loom_lane_read_against_free_and_reuse() {
    loom::model(|| {
        let object = Object::live();
        let reader = {
            let object = object.clone();
            thread::spawn(move || object.read())
        };
        let freed = object.free();
        assert!(reader.join().unwrap() != freed, "the place was lost, or had two owners");
        assert!(!object.lane.is_used());
    });
}

/// Fails if `free` parks without checking the count that it replaced, if a passing reader does not
/// try to reclaim, or if `reclaim` clears unconditionally.
#[test]
fn loom_lane_parked_place_falls_to_exactly_one() {
    loom::model(|| {
        let object = Object::live();
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let object = object.clone();
                thread::spawn(move || usize::from(object.read()))
            })
            .collect();
        let mut owners = usize::from(object.free());
        for reader in readers {
            owners += reader.join().unwrap();
        }
        assert_eq!(owners, 1);
        assert!(!object.lane.is_used());
    });
}

/// A mover locks readers out, writes, and lets them in. Fails if `write_trylock` or `read_lock` is
/// not Acquire, if `read_unlock` or `write_unlock` is Relaxed, if `write_unlock` is a store, or if
/// a reader does not wait.
#[test]
fn loom_lane_readers_and_a_writer_exclude_each_other() {
    loom::model(|| {
        let object = Object::live();
        let reader = {
            let object = object.clone();
            thread::spawn(move || assert!(!object.read()))
        };
        {
            let _class = object.class.lock();
            if object.lane.write_trylock() {
                object.lane.bytes.write();
                object.lane.write_unlock_for_test();
            }
        }
        reader.join().unwrap();
        assert!(object.lane.write_trylock(), "the count of readers is wrong");
    });
}

/// Length of the objects: two of them fill a page.
const LEN: usize = 2000;

fn pool() -> StdArc<Zsmalloc> {
    let config = Config::new().chain(1).refine(false);
    StdArc::new(Zsmalloc::with_config(StdArc::new(HeapPages::new()), config).unwrap())
}

fn all(pool: &Zsmalloc, handle: zpool_api::Handle, byte: u8) -> bool {
    match pool.obj_read_begin(handle) {
        Ok(object) => {
            assert!(object.iter().all(|b| *b == byte) && object.len() == LEN);
            true
        }
        Err(error) => {
            assert!(matches!(error, ZpoolError::InvalidHandle { .. }));
            false
        }
    }
}

/// A read against the free of its object and the reuse of slot and place. Fails if `read` does not
/// check the slot again, or if the slot is invalidated after the lane is cleared.
#[test]
fn loom_pool_read_against_free_and_reuse() {
    loom::model(|| {
        let pool = pool();
        let handle = pool.malloc_from(&[1; LEN]).unwrap();
        let reader = {
            let pool = pool.clone();
            thread::spawn(move || all(&pool, handle, 1))
        };
        pool.free(handle).unwrap();
        let next = pool.malloc_from(&[2; LEN]).unwrap();
        reader.join().unwrap();
        assert!(all(&pool, next, 2) && !all(&pool, handle, 1));
        pool.free(next).unwrap();
        let stats = pool.stats();
        assert_eq!((stats.total_pages, stats.objects, stats.parked_objects), (0, 0, 0));
    });
}

/// A handle that is guessed before its object is written. Fails if `publish` is not Release, or if
/// an object is found before it is published.
#[test]
fn loom_pool_guessed_handle_against_malloc() {
    loom::model(|| {
        let pool = pool();
        let first = zpool_api::SlotRef::new(1, 0).unwrap();
        let guess = zpool_api::Handle::new(pool.tag(), first.to_bits());
        let reader = {
            let pool = pool.clone();
            thread::spawn(move || all(&pool, guess, 1))
        };
        let handle = pool.malloc_from(&[1; LEN]).unwrap();
        assert_eq!(handle, guess);
        reader.join().unwrap();
        pool.free(handle).unwrap();
        assert_eq!(pool.total_pages(), 0);
    });
}

/// Of two frees of one handle, exactly one succeeds. Fails if `free` does not check the slot again
/// under the lock.
#[test]
fn loom_pool_free_against_free() {
    loom::model(|| {
        let pool = pool();
        let stays = pool.malloc_from(&[3; LEN]).unwrap();
        let handle = pool.malloc_from(&[1; LEN]).unwrap();
        let other = {
            let pool = pool.clone();
            thread::spawn(move || pool.free(handle).is_ok())
        };
        let mine = pool.free(handle).is_ok();
        assert!(other.join().unwrap() != mine);
        assert!(all(&pool, stays, 3));
        pool.free(stays).unwrap();
        assert_eq!(pool.total_pages(), 0);
    });
}

/// A read against the free of a zspage's last object. The descriptor is then recycled into another
/// class, in which the same offset belongs to another object. The reader may guess the new class and
/// choose a lane that is not its object's. Then only the claim of that lane shows the reader that the
/// slot has changed. Fails if `claim` is not Release or `read_lock` is not Acquire.
#[test]
fn loom_pool_read_against_recycling_into_another_class() {
    model(|| {
        let pool = pool();
        let first = pool.malloc_from(&[0; LEN]).unwrap();
        let handle = pool.malloc_from(&[1; LEN]).unwrap();
        pool.free(first).unwrap();
        let reader = {
            let pool = pool.clone();
            thread::spawn(move || all(&pool, handle, 1))
        };
        pool.free(handle).unwrap();
        // The next object is alone in its zspage, and has the lane that the first object had.
        let next = pool.malloc_from(&[2; 4096]).unwrap();
        reader.join().unwrap();
        assert_eq!(pool.obj_read_begin(next).unwrap()[..], [2; 4096]);
        // The descriptor was recycled, unless the reader was counted in time.
        assert!(pool.core.zspages.len() <= 2);
    });
}

/// Two readers of an object that is freed. Each gets a guard or passes, and either may be the last to
/// leave the parked object. The place is reclaimed exactly once. Fails if `enqueue` or the queue's
/// swap is not Acquire, if its push is not Release, if `dequeue` does not check for readers, or if a
/// passing reader does not queue the place.
#[test]
fn loom_pool_passing_readers_against_free() {
    model(|| {
        let pool = pool();
        let handle = pool.malloc_from(&[1; LEN]).unwrap();
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let pool = pool.clone();
                thread::spawn(move || all(&pool, handle, 1))
            })
            .collect();
        pool.free(handle).unwrap();
        // Reclaims the places that readers have queued so far, without being ordered after them.
        crate::sync::yield_now();
        pool.core.reclaim_queued();
        readers.into_iter().for_each(|reader| {
            reader.join().unwrap();
        });
        let stats = pool.stats();
        assert_eq!((stats.total_pages, stats.objects, stats.parked_objects), (0, 0, 0));
    });
}

/// Makes a pool in which compaction moves one object. A page has room for two objects of LEN bytes;
/// the pool has two pages with one object each.
fn scattered() -> (StdArc<Zsmalloc>, zpool_api::Handle, zpool_api::Handle) {
    let pool = pool();
    let made: Vec<_> = (0..4u8).map(|n| pool.malloc_from(&[n; LEN]).unwrap()).collect();
    for n in [1, 2] {
        pool.free(made[n]).unwrap();
    }
    (pool, made[0], made[3])
}

/// Explores a model whose threads take more steps than loom's default limit.
fn model(body: impl Fn() + Sync + Send + 'static) {
    builder().check(body);
}

fn builder() -> loom::model::Builder {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 20_000;
    builder
}

/// Compacts the only class in use: visiting all classes is too long for a model.
fn compact(pool: &Zsmalloc) {
    let class =
        pool.core.classes.iter().position(|class| class.size.size as usize >= LEN + 4).unwrap();
    pool.core.compact_class(class as u16);
}

/// A read against compaction. Fails if a mover does not take the lane's write lock, if the old
/// place is released before the slot points at the new one, or if a reader does not wait for the
/// mover or does not check the slot again.
#[test]
fn loom_pool_read_against_compact() {
    model(|| {
        let (pool, first, second) = scattered();
        let reader = {
            let pool = pool.clone();
            thread::spawn(move || assert!(all(&pool, first, 0) && all(&pool, second, 3)))
        };
        compact(&pool);
        reader.join().unwrap();
        assert!(all(&pool, first, 0) && all(&pool, second, 3));
    });
}

/// A free against compaction: the object is freed exactly once, wherever it is. Fails if a free
/// does not check slot and class again under the lock.
#[test]
fn loom_pool_free_against_compact() {
    model(|| {
        let (pool, first, second) = scattered();
        let other = {
            let pool = pool.clone();
            thread::spawn(move || pool.free(second).unwrap())
        };
        compact(&pool);
        other.join().unwrap();
        assert!(all(&pool, first, 0) && !all(&pool, second, 3));
        pool.free(first).unwrap();
        let stats = pool.stats();
        assert_eq!((stats.total_pages, stats.objects), (0, 0));
    });
}

/// An allocation, whose bytes are written without the lock, against compaction. Fails if the writer
/// is not counted in its lane.
#[test]
fn loom_pool_malloc_against_compact() {
    model(|| {
        let (pool, first, second) = scattered();
        let other = {
            let pool = pool.clone();
            thread::spawn(move || pool.malloc_from(&[9; LEN]).unwrap())
        };
        compact(&pool);
        let third = other.join().unwrap();
        assert!(all(&pool, first, 0) && all(&pool, second, 3) && all(&pool, third, 9));
    });
}

/// A guard is dropped in another thread while its object is freed: whichever ends last reclaims the place.
#[test]
fn loom_pool_guard_dropped_elsewhere_against_free() {
    loom::model(|| {
        let pool = pool();
        let handle = pool.malloc_from(&[1; LEN]).unwrap();
        let owned = zpool_api::obj_read_owned(pool.clone(), handle).unwrap();
        let other = thread::spawn(move || drop(owned));
        pool.free(handle).unwrap();
        other.join().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.total_pages, stats.objects, stats.parked_objects), (0, 0, 0));
    });
}

/// Makes a pool with two objects in one zspage.
fn pair() -> (StdArc<Zsmalloc>, zpool_api::Handle, zpool_api::Handle) {
    let pool = pool();
    let handles = [0, 1].map(|n| pool.malloc_from(&[n; LEN]).unwrap());
    (pool, handles[0], handles[1])
}

fn migrate(pool: &Zsmalloc) -> zpool_api::Migration {
    pool.migrate_within(0..usize::MAX).unwrap()
}

/// A read against migration. Fails if a mover does not lock the lane of every object, if a lane is
/// released before the base is changed, or if a reader does not wait for the mover or loads the
/// base before it has locked the lane.
#[test]
fn loom_pool_read_against_migrate() {
    model(|| {
        let (pool, first, second) = pair();
        let reader = {
            let pool = pool.clone();
            thread::spawn(move || assert!(all(&pool, first, 0) && all(&pool, second, 1)))
        };
        let done = migrate(&pool);
        assert_eq!(done.zspages + done.left, 1);
        reader.join().unwrap();
        assert!(all(&pool, first, 0) && all(&pool, second, 1));
    });
}

/// Frees of all objects, one of them being read, against migration. Fails if a free in an isolated
/// zspage detaches the zspage, or if `putback` does not check whether the zspage is empty.
#[test]
fn loom_pool_free_against_migrate() {
    model(|| {
        let (pool, first, second) = pair();
        let other = {
            let pool = pool.clone();
            thread::spawn(move || {
                let owned = zpool_api::obj_read_owned(pool.clone(), first).unwrap();
                pool.free(first).unwrap();
                assert!(owned.iter().all(|byte| *byte == 0));
                drop(owned);
                pool.free(second).unwrap();
            })
        };
        migrate(&pool);
        other.join().unwrap();
        assert!(!all(&pool, first, 0) && !all(&pool, second, 1));
        let stats = pool.stats();
        assert_eq!((stats.total_pages, stats.objects, stats.parked_objects), (0, 0, 0));
    });
}

/// An allocation, whose bytes are written without the lock, against migration. Fails if an
/// allocation finds an isolated zspage, or if the writer is not counted in its lane.
#[test]
fn loom_pool_malloc_against_migrate() {
    let mut builder = builder();
    // The allocation alone takes many steps: with a bound of 3 the model takes minutes and finds no more.
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let pool = pool();
        let first = pool.malloc_from(&[0; LEN]).unwrap();
        let other = {
            let pool = pool.clone();
            thread::spawn(move || pool.malloc_from(&[9; LEN]).unwrap())
        };
        migrate(&pool);
        let third = other.join().unwrap();
        assert!(all(&pool, first, 0) && all(&pool, third, 9));
    });
}

/// Compaction, migration and a read at once. Fails if compaction takes an isolated zspage, or if
/// migration takes one that compaction has set aside.
#[test]
fn loom_pool_compact_against_migrate() {
    model(|| {
        let (pool, first, second) = scattered();
        let other = {
            let pool = pool.clone();
            thread::spawn(move || compact(&pool))
        };
        migrate(&pool);
        other.join().unwrap();
        assert!(all(&pool, first, 0) && all(&pool, second, 3));
        pool.free(first).unwrap();
        pool.free(second).unwrap();
        assert_eq!(pool.total_pages(), 0);
    });
}

/// Two migrations of one zspage at the same time.
#[test]
fn loom_pool_migrate_against_migrate() {
    model(|| {
        let (pool, first, second) = pair();
        let other = {
            let pool = pool.clone();
            thread::spawn(move || migrate(&pool))
        };
        let (mine, others) = (migrate(&pool), other.join().unwrap());
        assert!(mine.zspages + others.zspages >= 1, "both gave way");
        assert!(all(&pool, first, 0) && all(&pool, second, 1));
    });
}
