//! A store reports as much memory as the process has grown by. Each measurement runs in its own process.
#![cfg(all(target_os = "linux", not(miri)))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::process::Command;
use std::sync::Arc;

use common::{at, page};
use zpool_base::sync::test_rng::Rng;
use zswap_core::device::{Geometry, MemorySwapDevice, NullSwapDevice};
use zswap_core::{AreaSettings, PAGE_SIZE, StoreError, SwapEntry, Zswap};

const MIB: usize = 1 << 20;
/// The environment variable that is set in the child process, which measures.
const CHILD: &str = "ZSWAP_MEMORY_CHILD";

/// Returns true in the child process, which then measures. In the parent, runs the test again in a child
/// process, checks that it passes there, and returns false.
fn is_child(test: &str) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(CHILD, "1")
        // With one arena for all threads, the memory that malloc keeps for itself does not depend on the
        // thread.
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && output.contains("1 passed"), "{output}");
    false
}

/// Returns the resident bytes of this process.
fn rss() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * PAGE_SIZE
}

/// Checks that the memory that the store reports differs from the growth of the process by at most 2 percent
/// plus 1.25 MiB: code that runs for the first time becomes resident, too, and that is about 1 MiB. Checks that the store reports the same sum without its other figures.
fn agrees(what: &str, store: &Zswap, before: usize) {
    let (said, grown) = (store.stats().memory_bytes(), rss() - before);
    assert_eq!(store.memory_bytes(), said, "{what}");
    let off = said.abs_diff(grown);
    assert!(off <= grown / 50 + MIB + MIB / 4, "{what}: says {said}, has grown by {grown}");
}

#[test]
fn the_sum_is_what_the_process_has_grown_by() {
    if !is_child("the_sum_is_what_the_process_has_grown_by") {
        return;
    }
    for zpool in ["zsmalloc", "z3fold", "zbud"] {
        for checksums in [false, true] {
            let before = rss();
            let store = Zswap::builder().zpool(zpool).checksums(checksums).build().unwrap();
            for n in 0..20_000 {
                store.store(at(n), &page(n)).unwrap();
            }
            agrees(zpool, &store, before);
            for n in (0..20_000).filter(|n| n % 4 != 0) {
                store.invalidate(at(n));
            }
            store.compact().unwrap();
            agrees(&format!("{zpool}, three quarters dropped"), &store, before);
        }
    }
}

/// A store that has something of everything that is counted.
#[test]
fn the_sum_by_itself_is_that_of_the_figures() {
    let same = |store: &Zswap, what: &str| {
        let (alone, stats) = (store.memory_bytes(), store.stats());
        assert_eq!(alone, stats.memory_bytes(), "{what}");
        alone
    };
    for zpool in ["zsmalloc", "z3fold", "zbud"] {
        let device = Arc::new(MemorySwapDevice::new(1000));
        let builder = Zswap::builder().zpool(zpool).compressor("zstd").swap_device(device);
        let store = builder.checksums(true).build().unwrap();
        let mut last = same(&store, "empty");
        let mut grows = |what: &str| {
            let now = same(&store, what);
            assert!(now > last, "{what}: {now}, {last} before");
            last = now;
        };
        (0..100).for_each(|n| store.store(at(n), &page(n)).unwrap());
        grows("pages, patterns and contexts");
        let pages: Vec<_> = (100..116).map(page).collect();
        let batch: Vec<_> = (100..).map(at).zip(pages.iter().map(|page| &**page)).collect();
        store.store_batch(&batch).unwrap();
        grows("contexts for batches");
        store.set_compressor("lz4").unwrap();
        (200..300).for_each(|n| store.store(at(n), &page(n)).unwrap());
        grows("two pools");
        store.add_area(9, AreaSettings::default()).unwrap();
        store.store(SwapEntry::new(9, 1).unwrap(), &page(4)).unwrap();
        grows("an area");
        store.shrink(50).unwrap();
        assert!(store.stats().device_pages > 0);
        same(&store, "pages on the device");
        store.invalidate_area(0);
        same(&store, "no pages");
    }
}

/// Stores entries whose offsets are spread over the whole range, without pool memory.
#[test]
fn sparse_entries_are_counted_and_the_memory_of_those_that_went_comes_back() {
    if !is_child("sparse_entries_are_counted_and_the_memory_of_those_that_went_comes_back") {
        return;
    }
    let before = rss();
    let store = Zswap::builder().build().unwrap();
    let empty = store.stats().metadata_bytes;
    let mut rng = Rng::new(5);
    let count = 1_000_000;
    let keys: Vec<u64> = (0..count).map(|_| rng.next() >> 8).collect();
    let before = before + keys.len() * 8;
    for round in 0..3 {
        for key in &keys {
            store.store(at(key.rotate_left(round) >> 8), &[7; PAGE_SIZE]).unwrap();
        }
        let said = store.stats().metadata_bytes;
        let each = (said - empty) / count;
        assert!(each <= 100, "{each} bytes an entry");
        agrees("a million sparse entries", &store, before);
        for key in &keys {
            assert!(store.invalidate(at(key.rotate_left(round) >> 8)));
        }
        agrees("none left", &store, before);
        let left = store.stats().metadata_bytes - empty;
        assert!(left <= MIB, "{left} bytes stay of {said}");
    }
}

/// Stores same-filled pages with patterns that do not fit in their entries. The checksums of these entries
/// are never written.
#[test]
fn patterns_are_counted_and_their_memory_comes_back() {
    if !is_child("patterns_are_counted_and_their_memory_comes_back") {
        return;
    }
    let count = 530_000u64;
    let long = |n: u64| {
        let mut page = [0; PAGE_SIZE];
        let pattern = (u64::MAX - n).to_ne_bytes();
        page.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&pattern));
        page
    };
    for (checksums, spread) in [(false, 1), (true, 1 << 20)] {
        let before = rss();
        let store = Zswap::builder().checksums(checksums).build().unwrap();
        let empty = store.stats().metadata_bytes;
        (0..count).for_each(|n| store.store(at(n * spread), &long(n)).unwrap());
        agrees("long patterns", &store, before);
        for n in (0..count).filter(|n| n % 10 > 0) {
            store.take(at(n * spread), &mut [0; PAGE_SIZE]).unwrap();
        }
        agrees("a tenth left", &store, before);
        for n in 0..count {
            store.invalidate(at(n * spread));
        }
        agrees("none left", &store, before);
        assert!(store.stats().metadata_bytes - empty <= MIB);
    }
}

#[test]
fn a_limit_on_everything_holds_for_everything() {
    if !is_child("a_limit_on_everything_holds_for_everything") {
        return;
    }
    let before = rss();
    let limit = 24 * MIB;
    let builder =
        Zswap::builder().max_bytes(limit).swap_device(Arc::new(NullSwapDevice::new(1 << 32)));
    let store = builder.build().unwrap();
    let mut rng = Rng::new(8);
    // Store pages first, and then entries without pool memory. So the pools shrink as the index grows.
    for n in 0..60_000 {
        store.store(at(rng.next() >> 8), &page(n)).unwrap();
    }
    let stats = store.stats();
    assert!(stats.memory_bytes() <= limit + MIB, "{} of {limit}", stats.memory_bytes());
    assert!(stats.pool_total_size > limit / 2 && stats.written_back_pages > 0);
    agrees("full of pages", &store, before);
    let full = (0..3_000_000).find_map(|_| store.store(at(rng.next() >> 8), &[7; PAGE_SIZE]).err());
    let Some(StoreError::MemoryLimit { unwritable, limit: said, .. }) = full else {
        panic!("{full:?}");
    };
    assert!(unwritable >= limit && unwritable <= limit + MIB && said == limit, "{unwritable}");
    let stats = store.stats();
    assert!(stats.memory_bytes() <= limit + MIB, "{} of {limit}", stats.memory_bytes());
    agrees("full of entries", &store, before);
    // A page can still be stored under an existing entry. A higher limit makes room for new entries.
    let known = store.entries().next().unwrap();
    store.store(known, &[8; PAGE_SIZE]).unwrap();
    store.set_max_bytes(Some(2 * limit)).unwrap();
    store.store(at(rng.next() >> 8), &page(5)).unwrap();
    assert!(store.set_max_bytes(Some(MIB)).is_err());
}

/// Writes pages back, each to a segment of its own. The table of the segments is counted.
#[test]
fn the_segments_of_a_device_are_counted() {
    if !is_child("the_segments_of_a_device_are_counted") {
        return;
    }
    let before = rss();
    let geometry = Geometry { segments: 1 << 20, segment_bytes: 8192, block_bytes: 1 };
    let device = Arc::new(NullSwapDevice::with_geometry(geometry));
    let store = Zswap::builder().compressor("null").swap_device(device).build().unwrap();
    // The table doubles when it is full, so this many segments fill nearly all of it.
    let (count, noise) = (131_000, page(1));
    for n in 0..count {
        store.store(at(n), &noise).unwrap();
        assert_eq!(store.shrink(1), Ok(1));
    }
    let stats = store.stats();
    assert_eq!(stats.device_segments as u64, count);
    assert!(stats.metadata_bytes > 6 * MIB && stats.metadata_bytes < 24 * MIB, "{stats:?}");
    agrees("full of segments", &store, before);
    store.invalidate_area(0);
    assert_eq!(store.stats().device_segments, 0);
    agrees("none left", &store, before);
}
