//! What a store costs the process: the resident set while pages are stored, after they are gone, and
//! after the store is gone. The pages are 80 MiB, a sample of real processes repeated with small
//! changes. They are stored with lz4.
//!
//! This is the only test in its process, so that no other test's memory is measured.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]
#![cfg(target_os = "linux")]

use zswap_core::{PAGE_SIZE, Page, SwapEntry, Zswap};

const MIB: usize = 1 << 20;
const STORED: usize = 80 * MIB / PAGE_SIZE;

/// Returns the resident bytes of private anonymous memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Returns the sample that is also built into the program `zswap`: pages of real processes.
fn sample() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../measure/assets/sample.pages.zst");
    zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap()
}

/// Makes page `i` of 80 MiB. The pages are the sample, repeated. One word of each page is combined with the
/// index of the repetition, so that no two repetitions of a page are equal.
fn page(sample: &[u8], i: usize, out: &mut Page) {
    let pages = sample.len() / PAGE_SIZE;
    out.copy_from_slice(&sample[i % pages * PAGE_SIZE..][..PAGE_SIZE]);
    let copy = (i / pages) as u64;
    for (byte, change) in out[2048..2056].iter_mut().zip(copy.to_le_bytes()) {
        *byte ^= change;
    }
}

fn entry(i: usize) -> SwapEntry {
    SwapEntry::new(0, i as u64).unwrap()
}

fn fill(store: &Zswap, sample: &[u8]) {
    let mut buffer = [0; PAGE_SIZE];
    for i in 0..STORED {
        page(sample, i, &mut buffer);
        store.store(entry(i), &buffer).unwrap();
    }
}

fn check(store: &Zswap, sample: &[u8]) {
    let (mut expect, mut back) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
    for i in 0..STORED {
        page(sample, i, &mut expect);
        store.load(entry(i), &mut back).unwrap();
        assert!(back == expect, "page {i}");
    }
}

fn empty(store: &Zswap) {
    assert_eq!(store.invalidate_area(0), STORED);
}

#[test]
fn the_resident_set_follows_what_is_stored() {
    let sample = sample();
    // Contexts, thread-locals and the reader of /proc are set up before the first reading.
    let before_any = {
        let store = Zswap::builder().compressor("lz4").build().unwrap();
        let mut buffer = [0; PAGE_SIZE];
        page(&sample, 3, &mut buffer);
        for _ in 0..64 {
            store.store(entry(0), &buffer).unwrap();
            store.load(entry(0), &mut buffer).unwrap();
        }
        resident();
        drop(store);
        resident()
    };

    let store = Zswap::builder().compressor("lz4").build().unwrap();
    let mut buffer = [0; PAGE_SIZE];
    page(&sample, 3, &mut buffer);
    for _ in 0..64 {
        store.store(entry(0), &buffer).unwrap();
    }
    assert!(store.invalidate(entry(0)));
    store.trim();
    let start = resident();

    let mut emptied = Vec::new();
    for round in 0..10 {
        fill(&store, &sample);
        if round == 0 {
            check(&store, &sample);
        }
        let full = store.stats();
        let grown = resident() - start;
        let counted = full.pool_total_size + full.metadata_bytes;
        println!(
            "round {round}: full: grown by {grown}, counted {counted} (pool {}, metadata {})",
            full.pool_total_size, full.metadata_bytes
        );
        assert!(
            grown.abs_diff(counted) < MIB,
            "the statistics say {counted} bytes, the resident set grew by {grown}"
        );
        let objects = full.pools[0].objects;
        empty(&store);
        let stats = store.stats();
        let left = resident().saturating_sub(start);
        println!("round {round}: emptied: {left} left, {} of them cached", stats.pool_total_size);
        assert_eq!((stats.stored_pages, stats.compressed_bytes), (0, 0));
        assert!(
            left <= stats.pool_total_size + 24 * objects + MIB,
            "emptied: {left} bytes left, {} of them cached, {objects} objects at the peak",
            stats.pool_total_size
        );
        // Subtract the pages that the provider keeps warm: how many these are depends on the order in
        // which the pages were freed.
        emptied.push(left.saturating_sub(stats.pool_total_size));
    }
    let (first, last) = (emptied[1], emptied[9]);
    assert!(last <= first + 64 * 1024, "ten rounds of fill and empty grow: {emptied:?}");

    drop(store);
    let left = resident().saturating_sub(before_any);
    println!("dropped: {left} left");
    assert!(left <= MIB, "dropped: {left} bytes left");
}
