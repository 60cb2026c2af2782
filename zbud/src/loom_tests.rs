//! Models of small whole pools of zbud for loom.
//!
//! Each model says which omission makes it fail; those of the object word are beside it, in buddies.

use loom::thread;
use std::sync::Arc as StdArc;

use zpool_api::{Evicted, ObjRead, Zpool, ZpoolError};
use zpool_pages::HeapPages;

use crate::Zbud;

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

/// A last reader leaves its object while an allocation gives up what is left and takes the room. Fails
/// if the stack's push is not Release or its taking not Acquire.
#[test]
fn loom_pool_leave_against_malloc() {
    loom::model(|| {
        let pool = pool();
        let handle = pool.malloc_from(&[1; 4000]).unwrap();
        let guard = zpool_api::obj_read_owned(pool.clone(), handle).unwrap();
        pool.free(handle).unwrap();
        let reader = thread::spawn(move || {
            assert!(guard.iter().all(|byte| *byte == 1));
            drop(guard);
        });
        let next = pool.malloc_from(&[2; 4000]).unwrap();
        reader.join().unwrap();
        assert!(pool.obj_read_begin(next).unwrap().iter().all(|byte| *byte == 2));
        pool.free(next).unwrap();
        pool.trim();
        let stats = pool.stats();
        assert_eq!((stats.total_pages, stats.objects, stats.parked_objects), (0, 0, 0));
    });
}
