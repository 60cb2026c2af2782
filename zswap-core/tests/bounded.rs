//! The cost of storing a page at the limit depends on the pages in the pools, not on the number of entries.
//!
//! The tests do not run under Miri: they need many entries, and Miri would find nothing new in them.
#![cfg(not(miri))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::sync::Arc;

use common::at;
use common::rig::marked;
use zswap_core::device::{MemorySwapDevice, NullSwapDevice};
use zswap_core::{PAGE_SIZE, Zswap};

const POOLED: u64 = 10_000;
/// In a store made by `at_the_limit`, every `SPACING`th key has a page in the pool.
const SPACING: u64 = 100;

/// Makes a store at its limit, with `POOLED` pages in the pool, at keys that are `SPACING` apart. If
/// `others`, the keys in between have same-filled pages and pages on the device.
fn at_the_limit(others: bool) -> Zswap {
    let store = Zswap::builder()
        .zpool("zbud")
        .compressor("null")
        .swap_device(Arc::new(NullSwapDevice::new(1 << 32)))
        .max_pool_bytes(POOLED as usize * PAGE_SIZE)
        .build()
        .unwrap();
    let page = marked(1, 1);
    for key in (0..POOLED * SPACING).filter(|key| others && key % SPACING != 0) {
        let pattern = [key as u8; PAGE_SIZE];
        let page = if key % SPACING < SPACING / 2 { &*page } else { &pattern };
        store.store(at(key), page).unwrap();
    }
    while store.shrink(usize::MAX).unwrap() > 0 {}
    for key in (0..POOLED * SPACING).step_by(SPACING as usize) {
        store.store(at(key), &page).unwrap();
    }
    assert_eq!(store.stats().pools[0].objects as u64, POOLED);
    store
}

/// Stores many pages. Counts the entries and leaves that the store visited for each page, and returns the
/// greatest count.
fn worst(store: &Zswap) -> u64 {
    let page = marked(2, 2);
    let visited = || {
        let stats = store.stats();
        stats.clock_entries + stats.clock_leaves
    };
    let costs = (0..POOLED).map(|n| {
        let before = visited();
        store.store(at((1 << 40) + n * 1000), &page).unwrap();
        visited() - before
    });
    costs.max().unwrap()
}

#[test]
fn entries_without_pool_memory_cost_a_store_at_the_limit_nothing() {
    let (alone, among_others) = (worst(&at_the_limit(false)), worst(&at_the_limit(true)));
    assert!(alone > 0 && among_others <= 3 * alone, "{among_others} visits, {alone} alone");
}

/// A walk soon finds pages to write back, even if every page has just been loaded.
#[test]
fn second_chances_end() {
    let device = Arc::new(MemorySwapDevice::new(1 << 20));
    let count = 5000;
    let builder = Zswap::builder().zpool("zbud").compressor("null").swap_device(device);
    let store = builder.max_pool_bytes(count as usize * PAGE_SIZE).build().unwrap();
    (0..count).for_each(|n| store.store(at(n), &marked(n, 0)).unwrap());
    let (mut back, mut walks) = (Box::new([0; PAGE_SIZE]), 0);
    for n in 0..50 {
        (0..count).for_each(|n| drop(store.load(at(n), &mut back)));
        let before = store.stats().clock_entries;
        store.store(at(100_000 + n), &marked(n, 1)).unwrap();
        let visited = store.stats().clock_entries - before;
        // The walk wrote full segments with at least 32 pages back: three of 15 such pages, each after at most 64
        // second chances.
        assert!(visited <= 46 * 65, "{visited} entries for one store");
        walks += u64::from(visited > 0);
    }
    // Pages that are loaded twice come back into the pools. So walks are needed again and again.
    assert!(walks > 10, "{walks} walks");
    assert_eq!(store.stats().written_back_pages % 15, 0, "only full segments are written");
}
