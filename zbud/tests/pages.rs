//! Tests which page an object gets and how long a page stays. The tests call only methods of the [`Zpool`] trait,
//! and read the number of an object's page from its handle.
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use zbud::Zbud;
use zpool_api::{Evicted, Handle, ObjRead, SlotRef, Zpool};
use zpool_pages::{FailingPages, HeapPages};

const CHUNK: usize = 64;

fn pool() -> Zbud {
    Zbud::new(Arc::new(HeapPages::new())).unwrap()
}

fn store(pool: &Zbud, chunks: usize) -> Handle {
    pool.malloc_from(&vec![chunks as u8; chunks * CHUNK]).unwrap()
}

/// Returns the number of the object's page. A slot number is the page's number with the buddy's number
/// appended as the lowest bit.
fn page_of(handle: Handle) -> u32 {
    SlotRef::from_bits(handle.backend_bits()).slot() >> 1
}

fn is_last(handle: Handle) -> bool {
    SlotRef::from_bits(handle.backend_bits()).slot() & 1 == 1
}

#[test]
fn the_tightest_room_is_taken() {
    let pool = pool();
    let [forty, fifty, forty_five] = [40, 50, 45].map(|chunks| store(&pool, chunks));
    assert_eq!(pool.total_pages(), 3);
    let beside = [(15, forty_five), (20, forty), (1, fifty)];
    for (chunks, neighbour) in beside {
        let object = store(&pool, chunks);
        assert_eq!((page_of(object), is_last(object)), (page_of(neighbour), true), "{chunks}");
    }
    assert_eq!(pool.total_pages(), 3);
    store(&pool, 1);
    assert_eq!(pool.total_pages(), 4, "a third object in a page");
}

#[test]
fn a_freed_first_buddy_gives_its_room_again() {
    let pool = pool();
    let first = store(&pool, 30);
    let last = store(&pool, 34);
    assert_eq!(page_of(first), page_of(last));
    pool.free(first).unwrap();
    let elsewhere = store(&pool, 31);
    assert_ne!(page_of(elsewhere), page_of(last));
    let first = store(&pool, 30);
    assert_eq!((page_of(first), is_last(first)), (page_of(last), false));
    pool.free(last).unwrap();
    pool.free(first).unwrap();
    assert_eq!(pool.total_pages(), 1);
}

#[test]
fn reclaim_takes_each_page_once_oldest_first() {
    let pool = pool();
    let oldest = [store(&pool, 60), store(&pool, 61), store(&pool, 60)];
    // This object goes to the page of the 61 chunks, so that page becomes the newest.
    store(&pool, 3);
    let seen = RefCell::new(Vec::new());
    let freed = pool.reclaim(9, &|handle, _: ObjRead<'_>| {
        seen.borrow_mut().push(page_of(handle));
        Evicted::Keep
    });
    assert_eq!(freed, Ok(0));
    assert_eq!(seen.take(), [0, 2, 1].map(|nth: usize| page_of(oldest[nth])));
    assert_eq!((pool.total_pages(), pool.stats().reclaimed_pages), (3, 0));
}

#[test]
fn a_page_that_reclaim_ends_is_found_as_before() {
    let pool = pool();
    let first = store(&pool, 8);
    let last = store(&pool, 9);
    // The callback evicts the first object and keeps the last, so the page stays.
    let evict = |handle, _: ObjRead<'_>| {
        if handle == first { Evicted::Evicted } else { Evicted::Keep }
    };
    assert_eq!(pool.reclaim(1, &evict), Ok(0));
    assert_eq!(pool.stats().reclaimed_pages, 0);
    assert_ne!(page_of(store(&pool, 56)), page_of(last));
    assert_eq!(page_of(store(&pool, 55)), page_of(last));
}

#[test]
fn a_page_under_reclaim_is_kept_by_reclaim_alone() {
    let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
    let pool = Zbud::new(pages.clone()).unwrap();
    let only = store(&pool, 8);
    let asked = Cell::new(0);
    let freed = pool.reclaim(1, &|handle, _: ObjRead<'_>| {
        asked.set(asked.get() + 1);
        let other = store(&pool, 8);
        assert_ne!(page_of(other), page_of(only), "an allocation found it");
        let inner = pool.reclaim(9, &|inner, _: ObjRead<'_>| {
            assert_ne!(inner, only, "a second reclaim found it");
            Evicted::Evicted
        });
        assert_eq!(inner, Ok(1));
        pool.free(handle).unwrap();
        assert_eq!((pool.total_pages(), pages.pages_out()), (1, 1), "reclaim still holds it");
        Evicted::Evicted
    });
    assert_eq!((freed, asked.get()), (Ok(1), 1));
    assert_eq!((pool.total_pages(), pages.pages_out()), (0, 0));
    assert_eq!(pool.stats().reclaimed_pages, 2);
}
