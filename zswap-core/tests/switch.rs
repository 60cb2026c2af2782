//! Tests switches to another backend or compressor while the store is in use.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use common::at;
use common::rig::{Rig, check, marked, pools, rig};
use compressors::CompressorError;
use zpool_base::sync::test_rng::Rng;
use zswap_core::{BuildError, LoadError, PAGE_SIZE, builtin};

#[test]
fn old_pages_stay_where_they_are_and_their_pool_goes_with_the_last() {
    let Rig { store, pages, contexts, .. } = rig();
    for entry in 0..10 {
        store.store(at(entry), &marked(entry, 0)).unwrap();
    }
    store.set_compressor("trim1").unwrap();
    for entry in 10..20 {
        store.store(at(entry), &marked(entry, 0)).unwrap();
    }
    store.set_zpool("other").unwrap();
    for entry in 20..30 {
        store.store(at(entry), &marked(entry, 0)).unwrap();
    }
    let expected = [("trim1", 10), ("trim0", 10), ("trim1", 10)];
    let now = pools(&store);
    assert_eq!(now.iter().map(|p| (p.1.as_str(), p.2)).collect::<Vec<_>>(), expected);
    (0..30).for_each(|entry| check(&store, entry, 0));

    // Empty the first pool: overwrite, take and drop its pages.
    let before = contexts.load(SeqCst);
    for entry in 0..4 {
        store.store(at(entry), &marked(entry, 1)).unwrap();
    }
    let mut back = Box::new([0; PAGE_SIZE]);
    for entry in 4..7 {
        store.take(at(entry), &mut back).unwrap();
        assert!(back == marked(entry, 0));
    }
    for entry in 7..10 {
        assert_eq!(pools(&store).len(), 3);
        assert!(store.invalidate(at(entry)));
    }
    assert_eq!(pools(&store).len(), 2);
    assert!(contexts.load(SeqCst) < before, "its contexts went with it");
    (0..4).for_each(|entry| check(&store, entry, 1));
    (10..30).for_each(|entry| check(&store, entry, 0));
    assert_eq!(store.invalidate_area(0), 24);
    assert_eq!(pools(&store).len(), 1, "the current one stays, empty");
    store.trim();
    assert_eq!(pages.pages_out(), 0);
    drop(store);
    assert_eq!(contexts.load(SeqCst), 0);
}

#[test]
fn a_pair_that_still_lives_is_used_again() {
    let Rig { store, .. } = rig();
    store.store(at(0), &marked(0, 0)).unwrap();
    store.set_compressor("trim1").unwrap();
    assert_eq!(pools(&store).len(), 2);
    for round in 0..5 {
        store.set_compressor("trim0").unwrap();
        assert_eq!(pools(&store)[0].1, "trim0");
        // The other pool was empty, so it is gone, and the next switch builds it again.
        assert_eq!(pools(&store).len(), 1);
        store.store(at(1 + round), &marked(1 + round, 0)).unwrap();
        store.set_compressor("trim1").unwrap();
        store.set_compressor("trim1").unwrap();
        assert_eq!(pools(&store).len(), 2);
    }
    assert_eq!(pools(&store)[1].2, 6, "all in the one pool of its pair");
    (0..6).for_each(|entry| check(&store, entry, 0));
}

#[test]
fn a_failed_switch_changes_nothing() {
    let Rig { store, pages, contexts, fails, .. } = rig();
    store.store(at(0), &marked(0, 0)).unwrap();
    let before = (pools(&store), contexts.load(SeqCst), pages.pages_out());
    let unknown = store.set_zpool("zlab").unwrap_err();
    assert!(matches!(unknown, BuildError::Zpool(_)) && unknown.to_string().contains("zbud"));
    let unknown = store.set_compressor("lz5").unwrap_err();
    assert!(matches!(unknown, BuildError::Compressor(_)) && unknown.to_string().contains("trim3"));
    // No codec context can be made now.
    fails.store(true, SeqCst);
    let failed = store.set_compressor("trim5").unwrap_err();
    assert!(matches!(failed, BuildError::Compressor(CompressorError::OutOfMemory { .. })));
    fails.store(false, SeqCst);
    assert_eq!((pools(&store), contexts.load(SeqCst), pages.pages_out()), before);
    check(&store, 0, 0);
    store.set_compressor("trim5").unwrap();
    check(&store, 0, 0);
}

#[test]
fn more_pools_than_there_are_places_are_refused() {
    let Rig { store, contexts, .. } = rig();
    for n in 0..15 {
        store.set_compressor(&format!("trim{n}")).unwrap();
        store.store(at(n), &marked(n, 0)).unwrap();
    }
    let made = contexts.load(SeqCst);
    let refused = store.set_compressor("trim15").unwrap_err();
    assert_eq!(refused, BuildError::TooManyPools { limit: 15 });
    assert_eq!((pools(&store).len(), contexts.load(SeqCst)), (15, made));
    (0..15).for_each(|n| check(&store, n, 0));
    // The store can still switch to a pool that is alive. When a pool is dropped, a new pool can take its
    // place.
    store.set_compressor("trim3").unwrap();
    assert!(store.invalidate(at(8)));
    store.set_compressor("trim15").unwrap();
    store.store(at(8), &marked(8, 1)).unwrap();
    check(&store, 8, 1);
    assert_eq!(pools(&store).len(), 15);
}

#[test]
fn a_switch_from_inside_a_codec_is_an_error() {
    let Rig { store, inside, .. } = rig();
    let theirs = Arc::downgrade(&store);
    *inside.lock().unwrap() = Some(Box::new(move || {
        let store = theirs.upgrade().unwrap();
        assert_eq!(store.set_compressor("trim9"), Err(BuildError::Reentrant));
    }));
    store.store(at(0), &marked(0, 0)).unwrap();
    *inside.lock().unwrap() = None;
    check(&store, 0, 0);
    assert_eq!(pools(&store).len(), 1);
}

/// Some threads overwrite, read, take and drop pages, while two other threads switch the backend and the
/// compressor.
#[test]
fn switching_under_load_loses_no_page() {
    let Rig { store, pages, contexts, .. } = rig();
    let zpools: Vec<String> =
        ["other"].into_iter().chain(builtin::zpools().names()).map(str::to_owned).collect();
    let (stop, switches) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (threads, rounds) = if cfg!(miri) { (2, 8) } else { (4, 6000) };
    thread::scope(|scope| {
        for t in 0..2 {
            let (store, stop, switches, zpools) = (&store, &stop, &switches, &zpools);
            scope.spawn(move || {
                let mut rng = Rng::new(t + 90);
                while !stop.load(SeqCst) {
                    let switched = if t == 0 {
                        store.set_zpool(&zpools[rng.below(zpools.len())])
                    } else {
                        store.set_compressor(&format!("trim{}", rng.below(6)))
                    };
                    assert!(matches!(switched, Ok(()) | Err(BuildError::TooManyPools { .. })));
                    switches.fetch_add(1, SeqCst);
                    thread::yield_now();
                }
            });
        }
        // Each thread has its own entries, so it knows which pages they hold.
        let workers: Vec<_> = (0..threads)
            .map(|t| {
                let store = &store;
                scope.spawn(move || {
                    let mut rng = Rng::new(t);
                    let mut held = [None; 16];
                    let mut back = Box::new([0; PAGE_SIZE]);
                    for round in 0..rounds {
                        let slot = rng.below(16);
                        let entry = t * 100 + slot as u64;
                        match rng.below(8) {
                            0..=2 => {
                                store.store(at(entry), &marked(entry, round)).unwrap();
                                held[slot] = Some(round);
                            }
                            3 => {
                                assert_eq!(store.invalidate(at(entry)), held[slot].take().is_some())
                            }
                            4 => match held[slot].take() {
                                Some(round) => {
                                    store.take(at(entry), &mut back).unwrap();
                                    assert!(back == marked(entry, round));
                                }
                                None => assert!(!store.contains(at(entry))),
                            },
                            _ => match held[slot] {
                                Some(round) => check(store, entry, round),
                                None => {
                                    let gone = store.load(at(entry), &mut back).unwrap_err();
                                    assert!(matches!(gone, LoadError::NotFound { .. }));
                                }
                            },
                        }
                    }
                    for (slot, round) in held.into_iter().enumerate() {
                        if let Some(round) = round {
                            check(store, t * 100 + slot as u64, round);
                        }
                    }
                })
            })
            .collect();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        stop.store(true, SeqCst);
        results.into_iter().for_each(|result| result.unwrap());
    });
    assert!(switches.load(SeqCst) > 2);
    let entries: Vec<_> = store.entries().collect();
    assert_eq!(entries.len(), store.len());
    assert_eq!(pools(&store).iter().map(|pool| pool.2).sum::<usize>(), entries.len());
    for entry in entries {
        assert!(store.invalidate(entry));
    }
    assert_eq!(pools(&store).len(), 1);
    store.trim();
    assert_eq!(pages.pages_out(), 0);
    drop(store);
    assert_eq!(contexts.load(SeqCst), 0);
}
