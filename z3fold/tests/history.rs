//! One test for each mistake of the kernel's z3fold (docs/obligations.md, section C).
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use z3fold::Z3fold;
use zpool_api::{Evicted, Handle, ObjRead, Zpool};
use zpool_base::sync::test_rng::Rng;
use zpool_pages::{FailingPages, HeapPages};

const CHUNK: usize = 64;

fn pool() -> Z3fold {
    Z3fold::new(Arc::new(HeapPages::new())).unwrap()
}

fn store(pool: &Z3fold, byte: u8, chunks: usize) -> Handle {
    pool.malloc_from(&vec![byte; chunks * CHUNK]).unwrap()
}

fn check(pool: &Z3fold, handle: Handle, byte: u8, chunks: usize) {
    assert!(*pool.obj_read_begin(handle).unwrap() == *vec![byte; chunks * CHUNK]);
}

fn keep(_: Handle, _: ObjRead<'_>) -> Evicted {
    Evicted::Keep
}

#[test]
fn an_empty_lru_ends_reclaim() {
    let pool = pool();
    assert_eq!(pool.reclaim(5, &keep), Ok(0));
    let handle = store(&pool, 1, 10);
    pool.free(handle).unwrap();
    assert_eq!(pool.reclaim(5, &keep), Ok(0));
    // For a nested reclaim the LRU is empty, because the only page is already being reclaimed.
    let _handle = store(&pool, 1, 10);
    let inner = Cell::new(None);
    let freed = pool.reclaim(5, &|_, _: ObjRead<'_>| {
        inner.set(Some(pool.reclaim(5, &keep)));
        Evicted::Evicted
    });
    assert_eq!((freed, inner.take()), (Ok(1), Some(Ok(0))));
}

/// A page must be freed when its reference count is 0, not when it is on no list. An allocation takes a
/// page off its list for a moment.
#[test]
fn a_page_is_freed_by_its_last_reference_only() {
    let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
    let pool = Z3fold::new(pages.clone()).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // Each thread may allocate in a page just when the other thread frees the last object of this page.
        let threads: Vec<_> = (1..=2u8)
            .map(|byte| {
                let (pool, stop) = (&pool, &stop);
                scope.spawn(move || {
                    let mut rounds = 0u32;
                    while !stop.load(Relaxed) && rounds < if cfg!(miri) { 60 } else { 100_000 } {
                        let handle = store(pool, byte, 20);
                        check(pool, handle, byte, 20);
                        pool.free(handle).unwrap();
                        rounds += 1;
                    }
                })
            })
            .collect();
        for thread in threads {
            let ended = thread.join();
            stop.store(true, Relaxed);
            ended.unwrap();
        }
    });
    assert_eq!((pool.total_pages(), pages.pages_out()), (0, 0));
}

#[test]
fn headless_pages_are_locked_freed_and_reclaimed_like_the_others() {
    let pool = pool();
    let (headless, other) = (store(&pool, 1, 64), store(&pool, 2, 20));
    assert_eq!(pool.total_pages(), 2);
    let read = pool.obj_read_begin(headless).unwrap();
    pool.free(headless).unwrap();
    assert_eq!((pool.total_pages(), pool.stats().parked_objects), (2, 1));
    assert!(read.iter().all(|byte| *byte == 1) && read.len() == 4096);
    drop(read);
    pool.trim();
    assert_eq!(pool.total_pages(), 1);

    // If the callback keeps the object, reclaim must put the page back on the LRU. The callback may also
    // free the object, or evict it.
    let headless = store(&pool, 3, 64);
    assert_eq!(pool.reclaim(9, &keep), Ok(0));
    let seen = Cell::new(0);
    let count = |_: Handle, _: ObjRead<'_>| {
        seen.set(seen.get() + 1);
        Evicted::Keep
    };
    assert_eq!((pool.reclaim(9, &count), seen.get()), (Ok(0), 2));
    let freed = pool.reclaim(9, &|handle, _: ObjRead<'_>| {
        if handle == headless {
            pool.free(handle).unwrap();
        }
        Evicted::Keep
    });
    assert_eq!((freed, pool.total_pages()), (Ok(1), 1));
    check(&pool, other, 2, 20);
    let headless = store(&pool, 4, 64);
    let give_up = |handle, _: ObjRead<'_>| {
        if handle == headless { Evicted::Evicted } else { Evicted::Keep }
    };
    assert_eq!((pool.reclaim(9, &give_up), pool.total_pages()), (Ok(1), 1));
}

/// A free must decide by what it finds under the page lock, not by what it saw before. If reclaim holds the
/// page, the free leaves the page to reclaim. If the object is being read, the free leaves the object to
/// its reader.
#[test]
fn a_free_under_reclaim_is_finished_by_reclaim_once() {
    let pool = pool();
    let handles = [store(&pool, 1, 20), store(&pool, 2, 20), store(&pool, 3, 20)];
    assert_eq!(pool.total_pages(), 1);
    let owned = Cell::new(None);
    let freed = pool.reclaim(1, &|handle, _: ObjRead<'_>| {
        if handle == handles[0] {
            owned.set(Some(pool.obj_read_begin(handles[2]).unwrap()));
            for other in &handles[1..] {
                pool.free(*other).unwrap();
            }
        }
        Evicted::Evicted
    });
    // The object that is still being read keeps the page.
    assert_eq!((freed, pool.total_pages(), pool.stats().parked_objects), (Ok(0), 1, 1));
    let read = owned.take().unwrap();
    assert!(read.iter().all(|byte| *byte == 3));
    // While this object is being read, an allocation finds the page again.
    let other = store(&pool, 4, 24);
    assert_eq!(pool.total_pages(), 1);
    drop(read);
    assert_eq!(pool.stats().parked_objects, 0);
    pool.free(other).unwrap();
    assert_eq!(pool.total_pages(), 0);
}

#[test]
fn pages_whose_reclaim_failed_are_not_left_locked_or_lost() {
    let pool = pool();
    let handles: Vec<Handle> = (0..12).map(|n| store(&pool, n, 18)).collect();
    assert_eq!(pool.total_pages(), 4);
    for _ in 0..3 {
        assert_eq!(pool.reclaim(99, &keep), Ok(0));
        let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.reclaim(99, &|_, _: ObjRead<'_>| -> Evicted {
                std::panic::resume_unwind(Box::new(()))
            })
        }));
        assert!(panics.is_err());
        for (n, handle) in handles.iter().enumerate() {
            check(&pool, *handle, n as u8, 18);
        }
    }
    // Pages with room accept objects, and reclaim frees every page. Both need the page's lock, so no page
    // was left locked.
    let more: Vec<Handle> = (0..4).map(|n| store(&pool, n, 10)).collect();
    assert_eq!(pool.total_pages(), 6, "four pages are full, three objects each");
    let evict = |_: Handle, _: ObjRead<'_>| Evicted::Evicted;
    assert_eq!((pool.reclaim(99, &evict), pool.total_pages()), (Ok(6), 0));
    assert!(handles.iter().chain(&more).all(|handle| pool.obj_read_begin(*handle).is_err()));
}

/// If the middle object of a page cannot be moved, the search continues with other pages. Each page that it
/// skips must be unlocked and back on a list.
#[test]
fn pages_that_an_allocation_passes_by_are_let_go() {
    let pool = pool();
    let pages: Vec<[Handle; 3]> =
        (0..5).map(|n| [store(&pool, 1, 20), store(&pool, 2, 20), store(&pool, n, 10)]).collect();
    assert_eq!(pool.total_pages(), 5);
    let (mut middles, mut lasts) = (Vec::new(), Vec::new());
    for [first, last, middle] in pages {
        // Now 34 chunks are free, 20 of them before the middle object.
        pool.free(first).unwrap();
        middles.push((pool.obj_read_begin(middle).unwrap(), middle));
        lasts.push(last);
    }
    let large = store(&pool, 9, 30);
    assert_eq!(pool.total_pages(), 6, "a middle object was moved during a read");
    for (n, (read, _)) in middles.iter().enumerate() {
        assert!(read.iter().all(|byte| *byte == n as u8));
    }
    // Each page still accepts an object that fits beside its middle object. So the page's lock is free.
    let fit: Vec<Handle> = (0..5).map(|n| store(&pool, 10 + n, 20)).collect();
    assert_eq!(pool.total_pages(), 6);
    for (n, (read, middle)) in middles.into_iter().enumerate() {
        drop(read);
        check(&pool, middle, n as u8, 10);
        check(&pool, fit[n], 10 + n as u8, 20);
        for handle in [middle, fit[n], lasts[n]] {
            pool.free(handle).unwrap();
        }
    }
    check(&pool, large, 9, 30);
    pool.free(large).unwrap();
    assert_eq!(pool.total_pages(), 0);
}

/// In-page compaction must keep bytes and handles, in whichever direction the object moves, and even if its
/// old and new places overlap.
#[test]
fn the_middle_object_is_moved_whole() {
    let mut rng = Rng::new(8);
    for _ in 0..if cfg!(miri) { 5 } else { 500 } {
        let pool = pool();
        let [a, b] = [0; 2].map(|_: i32| 1 + rng.below(25));
        let middle_chunks = 1 + rng.below(62 - a - b);
        let content: Vec<u8> =
            (0..middle_chunks * CHUNK - rng.below(CHUNK)).map(|n| (n * 7 / 3) as u8).collect();
        let first = store(&pool, 1, a);
        let last = store(&pool, 2, b);
        let middle = pool.malloc_from(&content).unwrap();
        let (goes, stays, byte, chunks) =
            if rng.below(2) == 0 { (first, last, 2, b) } else { (last, first, 1, a) };
        pool.free(goes).unwrap();
        let free = 64 - chunks - middle_chunks;
        let large = store(&pool, 3, free);
        assert_eq!(pool.total_pages(), 1, "{a} {middle_chunks} {b}");
        assert!(*pool.obj_read_begin(middle).unwrap() == *content);
        check(&pool, stays, byte, chunks);
        check(&pool, large, 3, free);
    }
}

/// An allocation skips pages whose middle object is being read. It skips at most 16 of them, then requests
/// a new page, and then skips at most 16 more. It moves each skipped page to a list for less room. All
/// other pages stay on the list that counts all their free chunks.
#[test]
fn an_allocation_passes_a_bounded_number_of_pages() {
    let pool = pool();
    let pages: Vec<[Handle; 3]> =
        (0..40).map(|n| [store(&pool, 1, 20), store(&pool, 2, 20), store(&pool, n, 10)]).collect();
    assert_eq!(pool.total_pages(), 40);
    let reads: Vec<_> = pages
        .iter()
        .map(|[first, _, middle]| {
            pool.free(*first).unwrap();
            pool.obj_read_begin(*middle).unwrap()
        })
        .collect();
    store(&pool, 9, 30);
    assert_eq!(pool.total_pages(), 41);
    drop(reads);
    // An object of 34 chunks takes all free chunks of a page, so the middle object must be moved for it.
    // The 41st page also has 34 free chunks, but no middle object.
    let fitted = (0..40).take_while(|_| {
        store(&pool, 8, 34);
        pool.total_pages() == 41
    });
    assert_eq!(fitted.count(), 40 - 2 * 16 + 1);
}
