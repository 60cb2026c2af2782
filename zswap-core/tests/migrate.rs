//! Tests migration and recompression: pages move to the current pool, or to a pool with a denser compressor.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use common::rig::{Rig, check, marked, pools, rig};
use common::{at, page};
use compressors::CompressorError;
use zpool_base::sync::test_rng::Rng;
use zswap_core::{BuildError, MigrateError, PAGE_SIZE, Recompress, StoreError};

#[test]
fn old_pools_are_emptied_into_the_current_one_within_a_budget() {
    let Rig { store, pages, .. } = rig();
    for entry in 0..30 {
        if entry % 10 == 0 {
            store.set_compressor(&format!("trim{}", entry / 10)).unwrap();
        }
        store.store(at(entry * 5), &marked(entry, 0)).unwrap();
    }
    store.store(at(1), &page(0)).unwrap();
    store.set_zpool("other").unwrap();
    assert_eq!(pools(&store).len(), 4);
    let mut moved = 0;
    for left in [23, 16, 9, 2, 0, 0] {
        let done = store.migrate_pools(7).unwrap();
        moved += done.moved;
        assert_eq!((done.left, moved), (left, 30 - left));
    }
    let now = pools(&store);
    assert_eq!((now.len(), now[0].2), (1, 30));
    for entry in 0..30 {
        let mut back = Box::new([0; PAGE_SIZE]);
        store.load(at(entry * 5), &mut back).unwrap();
        assert!(back == marked(entry, 0));
    }
    assert_eq!((store.len(), store.invalidate_area(0)), (31, 31));
    store.trim();
    assert_eq!(pages.pages_out(), 0);
}

#[test]
fn a_page_that_cannot_be_moved_stays_where_it_was() {
    let Rig { store, pages, fails, .. } = rig();
    for entry in 0..20 {
        store.store(at(entry), &marked(entry, 0)).unwrap();
    }
    store.set_zpool("other").unwrap();
    pages.limit_pages(pages.pages_out());
    let error = store.migrate_pools(99).unwrap_err();
    assert!(matches!(error, MigrateError::Store(StoreError::Pool { .. })), "{error}");
    assert_eq!(pools(&store).iter().map(|pool| pool.2).sum::<usize>(), 20);
    (0..20).for_each(|entry| check(&store, entry, 0));
    pages.limit_pages(usize::MAX);
    assert_eq!(store.migrate_pools(99).unwrap().left, 0);
    (0..20).for_each(|entry| check(&store, entry, 0));

    fails.store(true, SeqCst);
    let error = store.recompress(&Recompress::new("trim7").max_pages(99)).unwrap_err();
    assert!(matches!(error, MigrateError::Store(StoreError::Compress { .. })), "{error}");
    let error = store.recompress(&Recompress::new("lz5").max_pages(99)).unwrap_err();
    assert!(matches!(error, MigrateError::Build(BuildError::Compressor(_))), "{error}");
    fails.store(false, SeqCst);
    assert_eq!(pools(&store).len(), 1, "the pool that took no page is gone");
    (0..20).for_each(|entry| check(&store, entry, 0));
}

#[test]
fn a_background_migration_ends_when_all_is_moved_or_it_is_dropped() {
    let Rig { store, .. } = rig();
    let count = if cfg!(miri) { 6 } else { 50 };
    for entry in 0..count {
        store.store(at(entry), &marked(entry, 0)).unwrap();
    }
    store.set_compressor("trim1").unwrap();
    let thread = store.migrate_pools_in_background(3, Duration::from_millis(1)).unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while !thread.report().ended {
        assert!(Instant::now() < end, "{thread:?}");
        (0..count).for_each(|entry| check(&store, entry, 0));
    }
    let report = thread.report();
    assert_eq!((report.moved, report.left, report.failed), (count, 0, 0));
    drop(thread);

    store.set_compressor("trim2").unwrap();
    let thread = store.migrate_pools_in_background(1, Duration::from_secs(3600)).unwrap();
    while thread.report().moved == 0 {
        thread::yield_now();
    }
    drop(thread);
    assert_eq!(pools(&store).len(), 2, "stopped after a page");
    // The thread also ends when the store is gone.
    let thread = store.migrate_pools_in_background(1, Duration::from_millis(1)).unwrap();
    drop(store);
    while !thread.report().ended {
        thread::yield_now();
    }
}

#[test]
fn cold_pages_are_recompressed_and_what_does_not_get_smaller_is_not_tried_again() {
    let Rig { store, inside, .. } = rig();
    store.set_compressor("null").unwrap();
    let noise = |n: u64| page(n * 8 + 1);
    for entry in 0..20 {
        let page = if entry < 15 { marked(entry, 0) } else { noise(entry) };
        store.store(at(entry), &page).unwrap();
    }
    assert_eq!(store.stats().stored_incompressible_pages, 20);
    (0..5).for_each(|entry| check(&store, entry, 0));
    let calls = Arc::new(AtomicU64::new(0));
    let counted = calls.clone();
    *inside.lock().unwrap() = Some(Box::new(move || {
        counted.fetch_add(1, SeqCst);
    }));

    let first = store.recompress(&Recompress::new("trim1").max_pages(4).idle()).unwrap();
    // The first five pages were loaded, so they got a second chance. The next four were moved.
    assert_eq!((first.moved, first.not_smaller, calls.load(SeqCst)), (4, 0, 4));
    check(&store, 9, 0);
    let second = store.recompress(&Recompress::new("trim1").max_pages(99).idle()).unwrap();
    // The second walk begins where the first one ended, and goes around. It tries all remaining pages except
    // page 9, which was just loaded. Ten get smaller.
    assert_eq!((second.moved, second.not_smaller, calls.load(SeqCst)), (10, 5, 19));
    // A page of zbud holds two objects, so an object of a quarter of a page counts as half a page.
    assert_eq!(first.bytes_saved + second.bytes_saved, 14 * PAGE_SIZE / 2);
    let stats = store.stats();
    assert_eq!((stats.pools[0].objects, stats.pools[1].objects), (6, 14));
    assert_eq!(stats.stored_incompressible_pages, 6);

    // The noise pages are marked as not smaller, so they are skipped.
    let third = store.recompress(&Recompress::new("trim1").max_pages(99).idle()).unwrap();
    assert_eq!((third.moved, third.not_smaller, calls.load(SeqCst)), (1, 0, 20));
    let fourth = store.recompress(&Recompress::new("trim1").max_pages(99)).unwrap();
    assert_eq!((fourth.moved, fourth.not_smaller, calls.load(SeqCst)), (0, 0, 20));
    // Overwriting a page clears its mark, so it is tried again.
    store.store(at(15), &marked(15, 1)).unwrap();
    assert_eq!(store.recompress(&Recompress::new("trim1").max_pages(99)).unwrap().moved, 1);
    (0..15).for_each(|entry| check(&store, entry, 0));
    check(&store, 15, 1);
    let mut back = Box::new([0; PAGE_SIZE]);
    for entry in 16..20 {
        store.load(at(entry), &mut back).unwrap();
        assert!(back == noise(entry));
    }
}

#[test]
fn a_background_migration_outlives_a_codec_that_panics_and_a_page_that_cannot_be_read() {
    let Rig { store, inside, .. } = rig();
    (0..4).for_each(|entry| store.store(at(entry), &marked(entry, 0)).unwrap());
    store.set_compressor("trim1").unwrap();
    *inside.lock().unwrap() = Some(Box::new(|| panic!("on purpose")));
    let thread = store.migrate_pools_in_background(2, Duration::from_millis(1)).unwrap();
    // Errors do not end the thread: at least five steps fail.
    while thread.report().failed < 5 {
        thread::yield_now();
    }
    let source = CompressorError::Panicked { operation: "compress" };
    let report = thread.report();
    let panicked = |error: &MigrateError| matches!(error, MigrateError::Store(StoreError::Compress { source: s, .. }) if *s == source);
    assert!(report.last_error.as_ref().is_some_and(panicked), "{report:?}");
    assert_eq!((report.moved, report.left, report.ended), (0, 4, false));
    *inside.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
    while !thread.report().ended {
        (0..4).for_each(|entry| check(&store, entry, 0));
    }
    let report = thread.report();
    assert_eq!((report.moved, report.left), (4, 0));
}

/// While a mover compresses an entry's old page again, the entry is emptied or gets another page.
#[test]
fn an_entry_that_changes_meanwhile_keeps_the_change() {
    let Rig { store, pages, inside, .. } = rig();
    store.set_compressor("null").unwrap();
    for entry in 0..4 {
        store.store(at(entry), &marked(entry, 0)).unwrap();
    }
    let theirs = Arc::downgrade(&store);
    *inside.lock().unwrap() = Some(Box::new(move || {
        let store = theirs.upgrade().unwrap();
        // A same-filled page can be stored from inside a codec, since it needs no context.
        store.store(at(0), &[7; PAGE_SIZE]).unwrap();
        store.invalidate(at(1));
    }));
    let done = store.recompress(&Recompress::new("trim1").max_pages(99)).unwrap();
    *inside.lock().unwrap() = None;
    assert_eq!((done.moved, done.not_smaller), (2, 0));
    let mut back = Box::new([0; PAGE_SIZE]);
    store.load(at(0), &mut back).unwrap();
    assert!(*back == [7; PAGE_SIZE] && !store.contains(at(1)));
    (2..4).for_each(|entry| check(&store, entry, 0));
    let stats = store.stats();
    assert_eq!((stats.stored_pages, stats.same_filled_pages), (3, 1));
    assert_eq!(stats.stored_incompressible_pages, 0);
    assert_eq!(pools(&store).iter().map(|pool| pool.2).sum::<usize>(), 2);
    drop(store);
    assert_eq!(pages.pages_out(), 0);
}

/// Some threads read and overwrite pages. At the same time, one thread switches and migrates, and another one
/// recompresses.
#[test]
fn rehoming_under_load_loses_no_page_and_brings_none_back() {
    let Rig { store, pages, contexts, .. } = rig();
    let stop = AtomicBool::new(false);
    let (threads, rounds) = if cfg!(miri) { (1, 3) } else { (3, 4000) };
    let switch = |rng: &mut Rng| {
        store.set_compressor(&format!("trim{}", rng.below(3))).unwrap();
        store.migrate_pools(rng.below(20)).unwrap();
    };
    let recompress = |rng: &mut Rng| {
        let cold = rng.below(2) == 0;
        let spec = format!("trim{}", rng.below(3));
        let what = Recompress::new(&spec).max_pages(rng.below(20));
        store.recompress(&if cold { what.idle() } else { what }).unwrap();
    };
    thread::scope(|scope| {
        let movers: [&(dyn Fn(&mut Rng) + Sync); 2] = [&switch, &recompress];
        for (seed, mover) in movers.into_iter().enumerate() {
            let stop = &stop;
            scope.spawn(move || {
                let mut rng = Rng::new(seed as u64 + 50);
                while !stop.load(SeqCst) {
                    mover(&mut rng);
                    thread::yield_now();
                }
            });
        }
        let workers: Vec<_> = (0..threads)
            .map(|t| {
                let store = &store;
                scope.spawn(move || {
                    let mut rng = Rng::new(t);
                    let mut held = [0; 16];
                    for slot in 0..16 {
                        store.store(at(t * 100 + slot), &marked(t * 100 + slot, 0)).unwrap();
                    }
                    for round in 1..rounds {
                        let slot = rng.below(16);
                        let entry = t * 100 + slot as u64;
                        if rng.below(3) == 0 {
                            store.store(at(entry), &marked(entry, round)).unwrap();
                            held[slot] = round;
                        }
                        check(store, entry, held[slot]);
                    }
                })
            })
            .collect();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        stop.store(true, SeqCst);
        results.into_iter().for_each(|result| result.unwrap());
    });
    assert_eq!(pools(&store).iter().map(|pool| pool.2).sum::<usize>(), store.len());
    assert_eq!(store.migrate_pools(usize::MAX).unwrap().left, 0);
    assert_eq!(pools(&store).len(), 1);
    assert_eq!(store.invalidate_area(0), threads as usize * 16);
    store.trim();
    assert_eq!(pages.pages_out(), 0);
    drop(store);
    assert_eq!(contexts.load(SeqCst), 0);
}
