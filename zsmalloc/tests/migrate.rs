//! A fragmented block of 2 MiB is emptied under load, and the system gets the whole block back.
#![cfg(all(target_os = "linux", not(miri)))]
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

use zpool_api::{Handle, PageProvider, Zpool};
use zpool_pages::MmapPages;
use zsmalloc::Zsmalloc;

/// Counts the 4 KiB pages of an address range that are in memory or swapped out.
fn resident_pages(range: &Range<usize>) -> usize {
    let page_map = File::open("/proc/self/pagemap").unwrap();
    let mut entries = vec![0; range.len() / 4096 * 8];
    page_map.read_exact_at(&mut entries, (range.start / 4096 * 8) as u64).unwrap();
    // The top two bits of an entry say that the page is present, and that it is swapped out.
    entries.chunks_exact(8).filter(|entry| entry[7] >> 6 != 0).count()
}

fn object(n: usize) -> Vec<u8> {
    vec![n as u8; 2100 + n % 50]
}

fn check(pool: &Zsmalloc, n: usize, handle: Handle) {
    assert!(*pool.obj_read_begin(handle).unwrap() == *object(n), "object {n}");
}

/// Makes a pool of some megabytes. Keeps every third object in every other 64 KiB, and frees the others.
fn fragmented(pages: &Arc<MmapPages>) -> (Zsmalloc, Vec<(usize, Handle)>) {
    let pool = Zsmalloc::new(pages.clone()).unwrap();
    let made: Vec<(usize, Handle)> =
        (0..6000).map(|n| (n, pool.malloc_from(&object(n)).unwrap())).collect();
    let mut stay = Vec::new();
    for (n, handle) in made {
        // Some zspages become empty, so that there is room elsewhere.
        let address = pool.obj_read_begin(handle).unwrap().as_ptr().addr();
        if address / 65536 % 2 == 0 && n % 3 == 0 {
            stay.push((n, handle));
        } else {
            pool.free(handle).unwrap();
        }
    }
    pool.trim();
    (pool, stay)
}

#[test]
fn a_fragmented_block_is_emptied_under_load() {
    let pages = Arc::new(MmapPages::new());
    if pages.page_size() != 4096 {
        return;
    }
    let (pool, stay) = fragmented(&pages);
    let block = pages.isolate_block().expect("there is a sparse block, and room elsewhere");
    let range = block.range();
    let before = resident_pages(&range);
    let inside: Vec<_> = stay
        .iter()
        .filter(|(_, handle)| {
            range.contains(&pool.obj_read_begin(*handle).unwrap().as_ptr().addr())
        })
        .copied()
        .collect();
    assert!(before > 20 && inside.len() > 20, "{before} pages of {} objects", inside.len());

    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for seed in 0..3usize {
            let (pool, inside, stop, rounds) = (&pool, &inside, &stop, &rounds);
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    for (n, handle) in inside.iter().skip(seed) {
                        check(pool, *n, *handle);
                        let other = pool.malloc_from(&object(n + seed)).unwrap();
                        check(pool, n + seed, other);
                        pool.free(other).unwrap();
                    }
                    rounds.fetch_add(1, Relaxed);
                }
            });
        }
        while rounds.load(Relaxed) < 3 {
            thread::yield_now();
        }
        // Objects that readers held in one sweep are moved in a later one.
        let mut sweeps = 0;
        while pool.migrate_within(range.clone()).unwrap().left > 0 {
            sweeps += 1;
            assert!(sweeps < 100_000, "readers held the last objects through every sweep");
        }
        let last = rounds.load(Relaxed);
        while rounds.load(Relaxed) < last + 3 {
            thread::yield_now();
        }
        stop.store(true, Relaxed);
    });

    assert!(pages.putback_block(block), "the block is not empty");
    assert_eq!(resident_pages(&range), 0);
    for (n, handle) in stay {
        check(&pool, n, handle);
        pool.free(handle).unwrap();
    }
    assert_eq!(pool.stats().total_pages, 0);
}

#[test]
fn blocks_go_until_none_is_worth_it_and_a_guard_keeps_its_own() {
    let pages = Arc::new(MmapPages::new());
    if pages.page_size() != 4096 {
        return;
    }
    let (pool, stay) = fragmented(&pages);
    let resident = || {
        pages
            .regions()
            .iter()
            .map(|(start, len)| resident_pages(&(*start..start + len)))
            .sum::<usize>()
    };
    let before = resident();
    let (n, handle) = stay[stay.len() / 2];
    let read = pool.obj_read_begin(handle).unwrap();
    let at = read.as_ptr();
    let (mut blocks, mut moved) = (0, 0);
    loop {
        let done = pool.migrate().unwrap();
        moved += done.zspages;
        if done.block_bytes == 0 {
            break;
        }
        assert_eq!(done.block_bytes, 2 << 20);
        blocks += 1;
    }
    assert!(blocks > 0 && moved > 0, "{blocks} blocks, {moved} zspages");
    assert_eq!(read.as_ptr(), at);
    assert!(*read == *object(n));
    assert!(resident() <= before);
    let stats = pool.stats();
    assert_eq!(stats.total_pages + stats.cached_pages, resident());
    drop(read);
    for (n, handle) in stay {
        check(&pool, n, handle);
        pool.free(handle).unwrap();
    }
}
