//! Loom models of small whole pools. zbud and z3fold share them through the macro `pool_models!`, each with
//! its own layout and locks.
//!
//! Some models name omissions or weakenings that make them fail. The models of the object word are in the
//! crate `buddies`.
#![allow(
    clippy::unwrap_used,
    reason = "tests; the lints exempt only functions marked as tests, not those they call"
)]

use loom::thread;
use std::sync::Arc as StdArc;

use zpool_api::{Evicted, Handle, ObjRead, Zpool, ZpoolError};

/// Makes an empty pool.
pub(crate) type Build = fn() -> StdArc<dyn Zpool>;

pub(crate) fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 20_000;
    builder.check(body);
}

/// Returns whether the object is live. If it is, asserts that it consists of `len` bytes with the value
/// `byte`.
pub(crate) fn is(pool: &dyn Zpool, handle: Handle, byte: u8, len: usize) -> bool {
    match pool.obj_read_begin(handle) {
        Ok(object) => {
            assert!(object.iter().all(|b| *b == byte) && object.len() == len);
            true
        }
        Err(error) => {
            assert!(matches!(error, ZpoolError::InvalidHandle { .. }));
            false
        }
    }
}

pub(crate) fn assert_empty(pool: &dyn Zpool) {
    // Frees the objects that readers left to the pool.
    pool.trim();
    let stats = pool.stats();
    assert_eq!((stats.total_pages, stats.objects, stats.parked_objects), (0, 0, 0));
}

/// An allocation in a page races the free of the page's only object. Either the allocation finds the page,
/// or the page is freed, but never both. The model fails if a free settles a page that an allocation has
/// taken, or if an allocation takes no reference for its object.
pub(crate) fn loom_pool_alloc_against_the_last_free_of_the_page(build: Build) {
    model(move || {
        let pool = build();
        let first = pool.malloc_from(&[1; 64]).unwrap();
        let other = {
            let pool = pool.clone();
            thread::spawn(move || pool.malloc_from(&[2; 64]).unwrap())
        };
        pool.free(first).unwrap();
        let second = other.join().unwrap();
        assert!(is(&*pool, second, 2, 64));
        assert_eq!(pool.total_pages(), 1);
        pool.free(second).unwrap();
        assert_empty(&*pool);
    });
}

/// A read races the free of its object and the reuse of the object's room.
pub(crate) fn loom_pool_read_against_free_and_reuse(build: Build) {
    model(move || {
        let pool = build();
        let handle = pool.malloc_from(&[1; 100]).unwrap();
        let reader = {
            let pool = pool.clone();
            thread::spawn(move || is(&*pool, handle, 1, 100))
        };
        pool.free(handle).unwrap();
        let next = pool.malloc_from(&[2; 90]).unwrap();
        reader.join().unwrap();
        assert!(!is(&*pool, handle, 1, 100) && is(&*pool, next, 2, 90));
        pool.free(next).unwrap();
        assert_empty(&*pool);
    });
}

/// The reclaim of a page races the free of its object. The object and the page must each be freed once. The
/// model fails if a free settles a page that reclaim has taken.
pub(crate) fn loom_pool_reclaim_against_free(build: Build) {
    model(move || {
        let pool = build();
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
        assert_empty(&*pool);
    });
}

/// Two reclaims race for one page. The page must be freed once, and both must end.
pub(crate) fn loom_pool_reclaim_against_reclaim(build: Build) {
    model(move || {
        let pool = build();
        let handle = pool.malloc_from(&[1; 64]).unwrap();
        let reclaim =
            |pool: &dyn Zpool| pool.reclaim(1, &|_, _: ObjRead<'_>| Evicted::Evicted).unwrap();
        let other = {
            let pool = pool.clone();
            thread::spawn(move || reclaim(&*pool))
        };
        let mine = reclaim(&*pool);
        assert_eq!(mine + other.join().unwrap(), 1);
        assert!(!is(&*pool, handle, 1, 64));
        assert_empty(&*pool);
    });
}

/// The only object of a page is freed while it is being read. The read ends on another thread.
pub(crate) fn loom_pool_the_last_put_is_a_readers(build: Build) {
    model(move || {
        let pool = build();
        let handle = pool.malloc_from(&[1; 64]).unwrap();
        let owned = zpool_api::obj_read_owned(pool.clone(), handle).unwrap();
        let other = thread::spawn(move || {
            assert!(owned.iter().all(|byte| *byte == 1));
            drop(owned);
        });
        pool.free(handle).unwrap();
        other.join().unwrap();
        assert_empty(&*pool);
    });
}

/// The callback of a reclaim frees another object of the same page, while another thread reads that object.
pub(crate) fn loom_pool_evict_frees_another_of_the_page(build: Build) {
    model(move || {
        let pool = build();
        let one = pool.malloc_from(&[1; 64]).unwrap();
        let two = pool.malloc_from(&[2; 64]).unwrap();
        let reader = {
            let pool = pool.clone();
            thread::spawn(move || is(&*pool, two, 2, 64))
        };
        let freed = pool
            .reclaim(1, &|handle, _: ObjRead<'_>| {
                if handle == one {
                    pool.free(two).unwrap();
                }
                Evicted::Evicted
            })
            .unwrap();
        reader.join().unwrap();
        assert!(freed <= 1 && !is(&*pool, one, 1, 64) && !is(&*pool, two, 2, 64));
        assert_empty(&*pool);
    });
}

/// The last reader of a freed object leaves it to the pool. At the same time, an allocation frees such
/// objects and takes their room. The model fails if the stack's push is not Release, or if taking the stack
/// is not Acquire.
pub(crate) fn loom_pool_leave_against_malloc(build: Build) {
    model(move || {
        let pool = build();
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
        assert_empty(&*pool);
    });
}

/// Makes a `#[test]` of each of the models above, for one pool.
macro_rules! pool_models {
    ($build:expr) => {
        pool_models!($build;
            loom_pool_alloc_against_the_last_free_of_the_page,
            loom_pool_read_against_free_and_reuse,
            loom_pool_reclaim_against_free,
            loom_pool_reclaim_against_reclaim,
            loom_pool_the_last_put_is_a_readers,
            loom_pool_evict_frees_another_of_the_page,
            loom_pool_leave_against_malloc
        );
    };
    ($build:expr; $($model:ident),*) => {
        $(
            #[test]
            fn $model() {
                models::$model($build);
            }
        )*
    };
}
