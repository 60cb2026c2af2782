//! Uses the store as a program would, with every built-in backend and compressor.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{at, page};
use zpool_base::sync::test_rng::Rng;
use zswap_core::{LoadError, PAGE_SIZE, StoreError, SwapEntry, Zswap, builtin};

const SCALE: u64 = if cfg!(miri) { 1 } else { 20 };

/// Calls `body` with a store for each pair of a built-in backend and a built-in compressor.
fn every_pair(body: impl Fn(Zswap)) {
    for zpool in builtin::zpools().names() {
        for compressor in builtin::compressors().names() {
            println!("{zpool} with {compressor}");
            body(Zswap::builder().zpool(zpool).compressor(compressor).build().unwrap());
        }
    }
}

fn one() -> Zswap {
    Zswap::builder().build().unwrap()
}

fn load(store: &Zswap, entry: SwapEntry) -> Result<Box<[u8; PAGE_SIZE]>, LoadError> {
    let mut back = Box::new([0xA5; PAGE_SIZE]);
    store.load(entry, &mut back).map(|()| back)
}

#[test]
fn pages_come_back_as_they_went() {
    every_pair(|store| {
        for i in 0..16 * SCALE {
            store.store(at(i), &page(i)).unwrap();
        }
        assert_eq!(store.len(), 16 * SCALE as usize);
        for i in (0..16 * SCALE).rev() {
            assert!(load(&store, at(i)).unwrap() == page(i), "page {i}");
        }
        let stats = store.stats();
        assert_eq!(stats.stored_pages, 16 * SCALE as usize);
        assert_eq!(stats.same_filled_pages, 2 * SCALE as usize);
        assert!(stats.stored_incompressible_pages >= 2 * SCALE as usize);
        assert!(stats.pool_total_size >= stats.compressed_bytes);
        assert_eq!(stats.pools[0].objects, 14 * SCALE as usize);
        for i in 0..16 * SCALE {
            assert!(store.invalidate(at(i)));
            assert!(!store.invalidate(at(i)));
        }
        let stats = store.stats();
        assert_eq!((stats.stored_pages, stats.same_filled_pages), (0, 0));
        assert_eq!((stats.stored_incompressible_pages, stats.compressed_bytes), (0, 0));
    });
}

#[test]
fn an_overwrite_replaces_and_a_missing_page_is_not_found() {
    let store = one();
    let mut untouched = [7; PAGE_SIZE];
    assert_eq!(store.load(at(3), &mut untouched), Err(LoadError::NotFound { entry: at(3) }));
    assert_eq!(untouched, [7; PAGE_SIZE]);
    // Replace a page of each kind by a page of each kind. Under Miri, only some of the pairs are tried.
    let step = if cfg!(miri) { 3 } else { 1 };
    for old in (0..8).step_by(step) {
        for new in (8..16).step_by(step) {
            store.store(at(3), &page(old)).unwrap();
            store.store(at(3), &page(new)).unwrap();
            assert!(load(&store, at(3)).unwrap() == page(new), "{new} over {old}");
            assert_eq!(store.len(), 1);
        }
    }
    assert!(store.contains(at(3)) && !store.contains(at(4)));
    // The same offset in another area does not hold the page.
    assert!(!store.contains(SwapEntry::new(1, 3).unwrap()));
}

#[test]
fn take_empties_the_entry() {
    let store = one();
    for seed in 0..8 {
        store.store(at(9), &page(seed)).unwrap();
        let mut back = Box::new([0; PAGE_SIZE]);
        store.take(at(9), &mut back).unwrap();
        assert!(back == page(seed));
        assert!(!store.contains(at(9)));
        assert_eq!(store.take(at(9), &mut back), Err(LoadError::NotFound { entry: at(9) }));
    }
    assert!(store.is_empty());
    assert_eq!(store.stats().compressed_bytes, 0);
}

#[test]
fn of_several_takers_one_gets_the_page() {
    let store = one();
    for round in 0..10 * SCALE {
        store.store(at(1), &page(round)).unwrap();
        let winners: usize = std::thread::scope(|s| {
            let takers: Vec<_> = (0..4)
                .map(|_| {
                    s.spawn(|| {
                        let mut back = Box::new([0; PAGE_SIZE]);
                        let got = store.take(at(1), &mut back).is_ok();
                        assert!(!got || back == page(round));
                        usize::from(got)
                    })
                })
                .collect();
            takers.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(winners, 1);
    }
    assert_eq!((store.len(), store.stats().compressed_bytes), (0, 0));
}

#[test]
fn entries_are_listed_in_order_and_by_area() {
    let store = one();
    let mut expect = Vec::new();
    for (area, offset) in
        [(0, 0), (0, 31), (0, 32), (0, 1 << 40), (3, 0), (3, 5), (255, (1 << 56) - 1)]
    {
        let entry = SwapEntry::new(area, offset).unwrap();
        store.store(entry, &page(offset)).unwrap();
        expect.push(entry);
    }
    assert_eq!(store.entries().collect::<Vec<_>>(), expect);
    assert_eq!((&store).into_iter().count(), 7);
    assert_eq!(store.invalidate_area(3), 2);
    assert_eq!(store.invalidate_area(3), 0);
    assert_eq!(store.invalidate_area(255), 1);
    assert_eq!(store.entries().collect::<Vec<_>>(), expect[..4]);
}

#[test]
fn an_incompressible_page_is_refused_when_told_so_and_the_older_one_is_gone() {
    let store = Zswap::builder().store_incompressible(false).build().unwrap();
    store.store(at(5), &page(0)).unwrap();
    let refused = store.store(at(5), &page(1));
    assert!(matches!(refused, Err(StoreError::Incompressible { entry, .. }) if entry == at(5)));
    assert!(!store.contains(at(5)), "an older version must not be returned");
    let stats = store.stats();
    assert_eq!((stats.reject_compress_poor, stats.stored_pages, stats.compressed_bytes), (1, 0, 0));

    let keeps = Zswap::builder().store_incompressible(true).build().unwrap();
    keeps.store(at(5), &page(1)).unwrap();
    assert!(load(&keeps, at(5)).unwrap() == page(1));
    assert_eq!(keeps.stats().stored_incompressible_pages, 1);
}

#[test]
fn random_operations_agree_with_a_map() {
    every_pair(|store| {
        let mut rng = Rng::new(77);
        let mut model: BTreeMap<SwapEntry, u64> = BTreeMap::new();
        for seed in 0..60 * SCALE {
            let entry = SwapEntry::new(rng.below(3) as u8, (rng.below(50) * 7) as u64).unwrap();
            match rng.below(6) {
                0..=2 => {
                    store.store(entry, &page(seed)).unwrap();
                    model.insert(entry, seed);
                }
                3 => assert_eq!(store.invalidate(entry), model.remove(&entry).is_some()),
                4 => {
                    let mut back = Box::new([0; PAGE_SIZE]);
                    let taken = store.take(entry, &mut back).is_ok();
                    match model.remove(&entry) {
                        Some(seed) => assert!(taken && back == page(seed)),
                        None => assert!(!taken),
                    }
                }
                _ => match model.get(&entry) {
                    Some(seed) => assert!(load(&store, entry).unwrap() == page(*seed)),
                    None => assert!(load(&store, entry).is_err()),
                },
            }
            assert_eq!(
                (store.len(), store.contains(entry)),
                (model.len(), model.contains_key(&entry))
            );
        }
        assert_eq!(store.entries().collect::<Vec<_>>(), model.keys().copied().collect::<Vec<_>>());
        for (entry, seed) in model {
            assert!(load(&store, entry).unwrap() == page(seed));
        }
    });
}

#[test]
fn metadata_follows_what_is_held_not_what_was() {
    let store = one();
    let cycle = |round: u64| {
        for i in 0..8 {
            // The entries are far apart, and each round uses other ones. Some patterns need a place in the
            // side table.
            let entry = at((round * 8 + i) << 13);
            store.store(entry, &page(i * 8 + 16)).unwrap();
            store.store(entry, &page(round * 8 + i)).unwrap();
        }
        for i in 0..8 {
            assert!(store.invalidate(at((round * 8 + i) << 13)));
        }
    };
    // The first rounds store pages of all sizes, so that the backend has used all its classes. The backend
    // that Miri runs has no classes.
    let warm = if cfg!(miri) { 1 } else { 64 };
    (0..warm).for_each(cycle);
    let first = store.stats().metadata_bytes;
    (warm..warm + if cfg!(miri) { 2 } else { 200 }).for_each(cycle);
    let last = store.stats().metadata_bytes;
    assert!(last <= first + 1024, "metadata grew from {first} to {last} bytes");
}

/// Some threads overwrite, drop and take the pages of a few entries, while other threads read them. Each page
/// contains its entry, so a reader notices a page that was never stored under the entry.
#[test]
fn threads_see_whole_pages_of_the_right_entry() {
    fn marked(entry: u64, round: u64) -> Box<[u8; PAGE_SIZE]> {
        let mut page = page(round * 8 + 4);
        page[..8].copy_from_slice(&entry.to_le_bytes());
        page[8..16].copy_from_slice(&round.to_le_bytes());
        page
    }
    for compressor in builtin::compressors().names() {
        let store = Arc::new(Zswap::builder().compressor(compressor).build().unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..2)
            .map(|t| {
                let (store, stop) = (store.clone(), stop.clone());
                std::thread::spawn(move || {
                    let (mut rng, mut seen) = (Rng::new(t), 0u64);
                    while !stop.load(Ordering::SeqCst) {
                        let key = rng.below(4) as u64;
                        if let Ok(back) = load(&store, at(key)) {
                            let round = u64::from_le_bytes(back[8..16].try_into().unwrap());
                            assert!(back == marked(key, round), "a torn or foreign page");
                            seen += 1;
                        }
                    }
                    seen
                })
            })
            .collect();
        let writers: Vec<_> = (0..2)
            .map(|t| {
                let store = store.clone();
                std::thread::spawn(move || {
                    let mut rng = Rng::new(t + 50);
                    for round in 0..15 * SCALE {
                        let key = rng.below(4) as u64;
                        match rng.below(8) {
                            0 => drop(store.invalidate(at(key))),
                            1 => drop(store.take(at(key), &mut [0; PAGE_SIZE])),
                            _ => store.store(at(key), &marked(key, round * 2 + t)).unwrap(),
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        stop.store(true, Ordering::SeqCst);
        for reader in readers {
            reader.join().unwrap();
        }
        assert_eq!(store.len(), store.entries().count());
        for entry in store.entries().collect::<Vec<_>>() {
            assert!(store.invalidate(entry));
        }
        let stats = store.stats();
        assert_eq!((stats.stored_pages, stats.compressed_bytes), (0, 0), "{compressor}");
    }
}
