//! If the heap refuses memory at any step, a pool must return an error. It must neither abort nor lose a
//! page.
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

use std::cell::RefCell;
use std::sync::Arc;

use crate::refusing::{warm_lockdep, with_allocations};
use zpool_api::{Evicted, Handle, ObjRead, PageBudget, PageError, PageProvider, Zpool, ZpoolError};
use zpool_base::sync::test_rng::Rng;
use zpool_pages::{FailingPages, HeapPages, MmapPages};

pub(crate) type Build = fn(Arc<dyn PageProvider>, Option<Arc<PageBudget>>) -> Arc<dyn Zpool>;

const CONTENT: [u8; 4096] = [7; 4096];

fn traffic(pool: &dyn Zpool, live: &mut Vec<Handle>, refused: &mut usize) {
    let mut rng = Rng::new(6);
    for _ in 0..1500 {
        match rng.below(16) {
            0..=9 if live.len() < live.capacity() => {
                let stored = if rng.below(2) == 0 {
                    pool.malloc_from(&CONTENT[..1 + rng.below(4096)])
                } else {
                    pool.malloc(1 + rng.below(4096)).and_then(|mut write| {
                        let size = write.size();
                        write.write(&CONTENT[..size])?;
                        write.commit()
                    })
                };
                match stored {
                    Ok(handle) => live.push(handle),
                    Err(
                        ZpoolError::OutOfMetadata { .. }
                        | ZpoolError::OutOfMemory { source: PageError::Refused { .. } },
                    ) => *refused += 1,
                    // This aborts instead of panicking, because a panic would need the heap.
                    Err(_) => std::process::abort(),
                }
            }
            10..=13 if !live.is_empty() => {
                let handle = live.swap_remove(rng.below(live.len()));
                let read = pool.obj_read_begin(handle);
                if pool.free(handle).is_err() || !read.is_ok_and(|read| read[0] == 7) {
                    std::process::abort();
                }
            }
            14 => {
                let mine = RefCell::new(&mut *live);
                let evict = |handle: Handle, _: ObjRead<'_>| {
                    mine.borrow_mut().retain(|other| *other != handle);
                    Evicted::Evicted
                };
                if rng.below(10) == 0 && pool.reclaim(1, &evict).is_err() {
                    std::process::abort();
                }
            }
            _ => {
                pool.trim();
                pool.stats();
            }
        }
    }
}

pub(crate) fn a_pool_refuses_and_goes_on(build: Build) {
    warm_lockdep();
    let mut ever_refused = 0;
    for granted in (0..40).chain((40..1200).step_by(67)) {
        let heap: Arc<dyn PageProvider> = Arc::new(HeapPages::new());
        let mapped: Arc<dyn PageProvider> = Arc::new(MmapPages::new());
        for source in [heap, mapped] {
            let pages = Arc::new(FailingPages::new(source));
            let budget = Arc::new(PageBudget::new(usize::MAX));
            let pool = build(pages.clone(), Some(budget.clone()));
            let mut live = Vec::with_capacity(600);
            let mut refused = 0;
            with_allocations(granted, || traffic(&*pool, &mut live, &mut refused));
            ever_refused += refused;
            let total = pool.total_pages();
            assert_eq!((budget.used(), pages.pages_out()), (total * 4096, total));
            let stats = pool.stats();
            assert_eq!(stats.objects, live.len());
            // With enough memory the pool works again.
            for _ in 0..300 {
                live.push(pool.malloc_from(&CONTENT).unwrap());
            }
            for handle in live {
                assert!(pool.obj_read_begin(handle).unwrap().iter().all(|byte| *byte == 7));
                pool.free(handle).unwrap();
            }
            pool.trim();
            assert_eq!((pool.total_pages(), budget.used(), pages.pages_out()), (0, 0, 0));
        }
    }
    assert!(ever_refused > 0);
}

/// If an allocation fails because there is no memory for a descriptor, it uses up no page number, however
/// often it is tried again.
pub(crate) fn failed_allocations_use_nothing_up(build: Build) {
    warm_lockdep();
    for pages_before in [0, 31, 32, 63, 64, 95, 96, 128] {
        // This provider needs no heap memory to allocate the next page.
        let pages: Arc<dyn PageProvider> = Arc::new(MmapPages::new());
        let pool = build(pages, None);
        let mut live: Vec<Handle> =
            (0..pages_before).map(|_| pool.malloc_from(&CONTENT).unwrap()).collect();
        let extra = pool.malloc_from(&CONTENT).unwrap();
        if pages_before > 0 {
            live.push(extra);
        } else {
            pool.free(extra).unwrap();
        }
        let before = pool.stats();
        let mut stored = Vec::with_capacity(400);
        with_allocations(0, || {
            for _ in 0..400 {
                match pool.malloc_from(&CONTENT) {
                    Ok(handle) => stored.push(handle),
                    Err(ZpoolError::OutOfMetadata { .. }) => break,
                    Err(_) => std::process::abort(),
                }
            }
        });
        // The pool has grown only by the objects that it could store without new memory.
        let grown = pool.stats();
        assert_eq!(grown.total_pages, before.total_pages + stored.len());
        assert!(stored.len() < 400, "no allocation was refused");
        let metadata = grown.metadata_bytes;
        with_allocations(0, || {
            for _ in 0..50 {
                if !matches!(pool.malloc_from(&CONTENT), Err(ZpoolError::OutOfMetadata { .. })) {
                    std::process::abort();
                }
            }
        });
        assert_eq!(
            pool.stats().metadata_bytes,
            metadata,
            "failed allocations used up descriptors, with {pages_before} pages before"
        );
        live.extend(stored);
        live.push(pool.malloc_from(&CONTENT).unwrap());
        for handle in live {
            assert!(pool.obj_read_begin(handle).unwrap().iter().all(|byte| *byte == 7));
            pool.free(handle).unwrap();
        }
        assert_eq!(pool.total_pages(), 0);
    }
}
