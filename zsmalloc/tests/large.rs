//! Objects larger than a page: what they cost, and what goes back when they are freed or moved.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

use std::sync::Arc;

use zpool_api::{Handle, MOST_OBJECT, PageBudget, Zpool, ZpoolConfig, ZpoolError};
use zpool_base::sync::test_rng::Rng;
use zpool_pages::HeapPages;
use zsmalloc::{Config, Zsmalloc};

#[cfg(all(target_os = "linux", not(miri)))]
fn provider() -> Arc<dyn zpool_api::PageProvider> {
    Arc::new(zpool_pages::MmapPages::new())
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn provider() -> Arc<dyn zpool_api::PageProvider> {
    Arc::new(HeapPages::new())
}

fn pool(max: usize) -> Zsmalloc {
    let pages = ZpoolConfig::new(provider()).with_max_object_size(max);
    Zsmalloc::from_config(&pages, Config::new()).unwrap()
}

#[test]
fn the_largest_object_is_what_was_asked_or_a_page() {
    for (page_size, asked, max) in [
        (4096, 4096, 4096),
        (4096, 4097, 4097),
        (4096, 40_000, 40_000),
        (4096, 65536, 65536),
        (16384, 8192, 16384),
        (16384, 40_000, 40_000),
        (65536, 8192, 65536),
    ] {
        let pages = Arc::new(HeapPages::with_page_size(page_size).unwrap());
        let config = ZpoolConfig::new(pages).with_max_object_size(asked);
        let pool = Zsmalloc::from_config(&config, Config::new().chain(2)).unwrap();
        assert_eq!(pool.caps().max_object_size, max);
        let handle = pool.malloc_from(&vec![5; max]).unwrap();
        assert!(*pool.obj_read_begin(handle).unwrap() == *vec![5; max]);
        let refused = pool.malloc_from(&vec![5; max + 1]).unwrap_err();
        assert_eq!(refused, ZpoolError::ObjectTooLarge { size: max + 1, max, backend: "zsmalloc" });
    }
}

#[test]
#[cfg(all(target_os = "linux", not(miri)))]
fn whole_units_waste_nothing_and_their_pages_go_back() {
    for unit in [8192, 12_288, 16384, 32768, 65536] {
        let pool = pool(MOST_OBJECT);
        assert_eq!(pool.footprint(unit), unit);
        let handles: Vec<Handle> =
            (0..100u8).map(|n| pool.malloc_from(&vec![n; unit]).unwrap()).collect();
        let each = unit / 4096;
        assert_eq!(pool.total_pages(), 100 * each);
        // Every object has pages of its own, so nothing has to move.
        for handle in handles.iter().step_by(2) {
            pool.free(*handle).unwrap();
        }
        assert!(pool.total_pages() <= 50 * each + 16, "few pages are kept for the next objects");
        pool.compact().unwrap();
        assert_eq!(pool.total_pages(), 50 * each);
        for (n, handle) in handles.iter().enumerate().skip(1).step_by(2) {
            assert!(*pool.obj_read_begin(*handle).unwrap() == *vec![n as u8; unit]);
        }
    }
}

/// Returns objects of random lengths in a range, with their first byte.
fn stored(
    pool: &Zsmalloc,
    rng: &mut Rng,
    count: usize,
    lens: core::ops::Range<usize>,
) -> Vec<(Handle, usize, u8)> {
    let one = |n: usize| {
        let len = lens.start + rng.below(lens.len());
        (pool.malloc_from(&vec![n as u8; len]).unwrap(), len, n as u8)
    };
    (0..count).map(one).collect()
}

#[test]
#[cfg(all(target_os = "linux", not(miri)))]
fn random_lengths_waste_little_even_after_most_were_freed() {
    for lens in [3 << 10..16 << 10, 8 << 10..64 << 10] {
        let pool = pool(MOST_OBJECT);
        let mut rng = Rng::new(lens.start as u64);
        let waste = |objects: &[(Handle, usize, u8)]| {
            let bytes: usize = objects.iter().map(|(_, len, _)| len).sum();
            (pool.total_pages() * 4096) as f64 / bytes as f64 - 1.0
        };
        let mut objects = stored(&pool, &mut rng, 3000, lens.clone());
        assert!(waste(&objects) < 0.045, "{} when full with {lens:?}", waste(&objects));
        while objects.len() > 750 {
            let (handle, ..) = objects.swap_remove(rng.below(objects.len()));
            pool.free(handle).unwrap();
        }
        let freed = pool.compact().unwrap();
        assert!(freed > 0 && waste(&objects) < 0.075, "{} of {lens:?}", waste(&objects));
        for (handle, len, byte) in objects {
            assert!(*pool.obj_read_begin(handle).unwrap() == *vec![byte; len]);
            pool.free(handle).unwrap();
        }
        assert_eq!(pool.total_pages(), 0);
    }
}

#[test]
#[cfg(all(target_os = "linux", not(miri)))]
fn a_budget_is_exact_with_large_objects() {
    let limit = 300 * 4096;
    let budget = Arc::new(PageBudget::new(limit));
    let pages =
        ZpoolConfig::new(provider()).with_budget(budget.clone()).with_max_object_size(MOST_OBJECT);
    let pool = Zsmalloc::from_config(&pages, Config::new()).unwrap();
    let mut rng = Rng::new(5);
    let mut live: Vec<Handle> = Vec::new();
    let mut refused = 0;
    for step in 0..4000usize {
        let len = 1 + rng.below([200, 5000, 20_000, MOST_OBJECT][step % 4]);
        match pool.malloc_from(&vec![1; len]) {
            Ok(handle) => live.push(handle),
            Err(ZpoolError::OutOfMemory { .. }) => {
                refused += 1;
                for _ in 0..live.len() / 8 {
                    pool.free(live.swap_remove(rng.below(live.len()))).unwrap();
                }
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(budget.used(), pool.total_pages() * 4096);
        assert!(budget.used() <= limit, "{} of {limit}", budget.used());
    }
    assert!(refused > 50, "{refused}");
    live.into_iter().for_each(|handle| pool.free(handle).unwrap());
    assert_eq!(budget.used(), 0);
}

#[test]
fn large_objects_move_together_and_to_other_pages() {
    let pages = ZpoolConfig::new(provider()).with_max_object_size(MOST_OBJECT);
    // Under Miri, a shorter table and fewer objects.
    let (chain, count) = if cfg!(miri) { (3, 12) } else { (16, 200) };
    let pool = Zsmalloc::from_config(&pages, Config::new().chain(chain).refine(false)).unwrap();
    let mut rng = Rng::new(3);
    let mut objects = stored(&pool, &mut rng, count, 5900..6100);
    // Two objects of 6144 bytes at most fill three pages.
    assert!(pool.footprint(6000) <= 6144);
    let read = objects.remove(count / 2);
    let guard = pool.obj_read_begin(read.0).unwrap();
    let at = guard.as_ptr();
    for _ in 0..count / 2 {
        let (handle, ..) = objects.swap_remove(rng.below(objects.len()));
        pool.free(handle).unwrap();
    }
    let before = pool.total_pages();
    assert_eq!(before - pool.compact().unwrap(), pool.total_pages());
    assert!(pool.total_pages() < before);
    assert!(pool.migrate_within(0..usize::MAX).unwrap().left > 0);
    assert_eq!(guard.as_ptr(), at);
    assert!(*guard == *vec![read.2; read.1]);
    drop(guard);
    assert_eq!(pool.migrate_within(0..usize::MAX).unwrap().left, 0);
    objects.push(read);
    for (handle, len, byte) in objects {
        assert!(*pool.obj_read_begin(handle).unwrap() == *vec![byte; len]);
        pool.free(handle).unwrap();
    }
    assert_eq!(pool.stats().total_pages, 0);
}

/// A short object never keeps the pages of a much longer place.
#[test]
#[cfg(all(target_os = "linux", not(miri)))]
fn a_short_object_is_not_squeezed_into_a_long_place() {
    let budget = Arc::new(PageBudget::new(15 * 4096));
    let pages =
        ZpoolConfig::new(provider()).with_budget(budget.clone()).with_max_object_size(MOST_OBJECT);
    let pool = Zsmalloc::from_config(&pages, Config::new()).unwrap();
    let units: Vec<Handle> = (0..3).map(|_| pool.malloc_from(&[1; 5 * 4096]).unwrap()).collect();
    assert_eq!(budget.used(), 15 * 4096);
    pool.free(units[0]).unwrap();
    // The five pages are kept for objects of their class, and are charged until they go back.
    let short = pool.malloc_from(&[2; 100]);
    assert!(matches!(short, Err(ZpoolError::OutOfMemory { .. })));
    pool.malloc_from(&[2; 5 * 4096]).unwrap();
    pool.free(units[1]).unwrap();
    assert_eq!(pool.compact().unwrap(), 5);
    pool.malloc_from(&[2; 100]).unwrap();
    assert_eq!(budget.used(), 11 * 4096);
}
