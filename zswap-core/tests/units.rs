//! Stores whose pages have 4 to 64 KiB, as a program with database pages would use them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use common::{at, backends, page};
use zpool_base::sync::test_rng::Rng;
use zpool_pages::HeapPages;
use zswap_core::device::{AttachError, MemorySwapDevice, NullSwapDevice};
use zswap_core::{
    AreaSettings, BatchError, BuildError, LoadError, MOST_UNIT, PAGE_SIZE, Recompress, StoreError,
    SwapEntry, UnitError, Zswap, ZswapBuilder,
};

const UNITS: [usize; 5] = [4096, 8192, 16384, 32768, 65536];
const COMPRESSORS: [&str; 4] = ["lz4", "zstd", "linewords", "null"];

/// Makes a page of `unit` bytes of one kind: one word, noise, sparse, text, or a mixture.
fn content(unit: usize, seed: u64) -> Vec<u8> {
    let kinds = seed % 9;
    let mut bytes = Vec::with_capacity(unit);
    for part in 0..(unit / PAGE_SIZE) as u64 {
        // The same seed for all parts makes one word throughout.
        let seed = match kinds {
            0 => seed / 9 * 8,
            8 => seed + part,
            kind => (seed / 9 * 100 + part) * 8 + kind,
        };
        bytes.extend_from_slice(&*page(seed));
    }
    bytes
}

fn load(store: &Zswap, entry: SwapEntry) -> Option<Vec<u8>> {
    let mut bytes = vec![0xEE; store.unit()];
    match store.load_unit(entry, &mut bytes) {
        Ok(()) => Some(bytes),
        Err(LoadError::NotFound { .. }) => None,
        Err(error) => panic!("{entry:?}: {error}"),
    }
}

fn builder(unit: usize) -> ZswapBuilder {
    Zswap::builder().unit(unit).checksums(true)
}

/// A store beside a map of what it must hold.
struct Model {
    store: Zswap,
    pages: HashMap<u64, Vec<u8>>,
    rng: Rng,
}

impl Model {
    fn new(store: Zswap, seed: u64) -> Model {
        Model { store, pages: HashMap::new(), rng: Rng::new(seed) }
    }

    fn step(&mut self) {
        let (unit, n) = (self.store.unit(), self.rng.below(40) as u64);
        let new = content(unit, self.rng.next() >> 16);
        match self.rng.below(10) {
            0..=3 => {
                self.store.store_unit(at(n), &new).unwrap();
                self.pages.insert(n, new);
            }
            4 => {
                self.store.try_replace_unit(at(n), &new).unwrap();
                self.pages.insert(n, new);
            }
            5 => {
                let mut taken = vec![0; unit];
                let found = self.store.take_unit(at(n), &mut taken).is_ok();
                assert_eq!(self.pages.remove(&n), found.then_some(taken));
            }
            6 => assert_eq!(self.store.invalidate(at(n)), self.pages.remove(&n).is_some()),
            7 => {
                let other = content(unit, self.rng.next() >> 16);
                let pages = [(at(n), &new[..]), (at(n + 1), &other[..]), (at(n), &new[..])];
                assert!(self.store.store_units(&pages).unwrap().iter().all(Result::is_ok));
                self.pages.extend([(n, new), (n + 1, other)]);
            }
            8 => {
                let entries: Vec<_> = (n..n + 5).map(at).collect();
                let mut bytes = vec![0; 5 * unit];
                let loaded = self.store.load_units(&entries, &mut bytes).unwrap();
                for (n, (result, bytes)) in (n..).zip(loaded.iter().zip(bytes.chunks(unit))) {
                    assert_eq!(result.is_ok(), self.pages.contains_key(&n));
                    assert!(self.pages.get(&n).is_none_or(|page| page == bytes), "page {n}");
                }
            }
            _ => assert_eq!(load(&self.store, at(n)).as_ref(), self.pages.get(&n)),
        }
    }

    fn check(&self) {
        assert_eq!(self.store.len(), self.pages.len());
        for n in 0..50 {
            assert_eq!(load(&self.store, at(n)).as_ref(), self.pages.get(&n), "page {n}");
        }
    }
}

#[test]
fn every_call_keeps_every_kind_of_page_in_every_backend_and_unit() {
    for unit in UNITS {
        for (n, backend) in backends().iter().enumerate() {
            for (m, compressor) in COMPRESSORS.iter().enumerate() {
                let store = builder(unit).zpool(backend).compressor(compressor).build().unwrap();
                assert_eq!(store.unit(), unit);
                let mut model = Model::new(store, (n * 7 + m) as u64);
                (0..150).for_each(|_| model.step());
                model.check();
                let stats = model.store.stats();
                assert_eq!(stats.stored_pages, model.pages.len());
                (0..50).for_each(|n| _ = model.store.invalidate(at(n)));
                assert_eq!(model.store.len(), 0);
                assert_eq!(model.store.stats().pools[0].objects, 0);
            }
        }
    }
}

#[test]
fn pages_go_to_a_device_and_come_back_in_every_unit() {
    for unit in UNITS {
        for encrypt in [false, true] {
            let device = Arc::new(MemorySwapDevice::new(8192));
            let made = builder(unit).compressor("zstd").swap_device(device);
            #[cfg(feature = "encrypt")]
            let made = made.encrypt(encrypt);
            let mut model = Model::new(made.build().unwrap(), 77 + u64::from(encrypt));
            for _ in 0..40 {
                (0..10).for_each(|_| model.step());
                model.store.shrink(model.rng.below(20)).unwrap();
            }
            model.check();
            let stats = model.store.stats();
            assert!(stats.device_pages > 0 && stats.device_loads > 0, "{stats:?}");
        }
    }
}

#[test]
fn a_limit_in_bytes_holds_whatever_the_unit() {
    for unit in UNITS {
        for backend in backends() {
            let limit = 3 << 20;
            let device = Arc::new(MemorySwapDevice::new(32_768));
            let store = builder(unit)
                .zpool(&backend)
                .compressor("lz4")
                .max_pool_bytes(limit)
                .swap_device(device)
                .build()
                .unwrap();
            let pages = (24 << 20) / unit as u64;
            for n in 0..pages {
                store.store_unit(at(n), &content(unit, n * 9 + 4)).unwrap();
                store.trim();
                let held = store.stats().pool_total_size;
                assert!(held <= limit + 16 * unit, "{held} bytes of {backend}, units of {unit}");
            }
            assert!(store.stats().device_pages > 0);
            (0..pages)
                .for_each(|n| assert_eq!(load(&store, at(n)), Some(content(unit, n * 9 + 4))));
        }
    }
}

#[test]
fn pages_stay_while_backends_and_compressors_are_switched() {
    for unit in UNITS {
        let store = builder(unit).compressor("lz4").build().unwrap();
        let done = AtomicBool::new(false);
        let pages = 60;
        (0..pages).for_each(|n| store.store_unit(at(n), &content(unit, n)).unwrap());
        thread::scope(|scope| {
            scope.spawn(|| {
                for backend in backends() {
                    for compressor in COMPRESSORS {
                        store.set_zpool(&backend).unwrap();
                        store.set_compressor(compressor).unwrap();
                        store.migrate_pools(usize::MAX).unwrap();
                        store.recompress(&Recompress::new("zstd:level=9").max_pages(10)).unwrap();
                    }
                }
                done.store(true, SeqCst);
            });
            while !done.load(SeqCst) {
                for n in 0..pages {
                    assert_eq!(load(&store, at(n)), Some(content(unit, n)), "page {n}");
                }
            }
        });
        store.compact().unwrap();
        (0..pages).for_each(|n| assert_eq!(load(&store, at(n)), Some(content(unit, n))));
    }
}

#[test]
fn areas_and_threads_share_a_store_of_large_pages() {
    let (unit, store) = (32_768, builder(32_768).max_pool_bytes(64 << 20).build().unwrap());
    let settings = AreaSettings::default().zpool("zbud").compressor("zstd");
    store.add_area(3, settings).unwrap();
    let entry = |area: u8, n: u64| SwapEntry::new(area, n).unwrap();
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..40 {
                    let (area, seed) = ((n % 2) as u8 * 3, thread * 1000 + n);
                    let entry = entry(area, seed);
                    store.store_unit(entry, &content(unit, seed)).unwrap();
                    assert_eq!(load(store, entry), Some(content(unit, seed)));
                }
            });
        }
    });
    assert_eq!(store.len(), 160);
    assert_eq!(store.area(3).unwrap().stats().stored_pages, 80);
}

#[test]
fn a_slice_of_another_length_is_refused_and_changes_nothing() {
    let (unit, store) = (16_384, builder(16_384).build().unwrap());
    let (entry, kept) = (at(7), content(unit, 4));
    store.store_unit(entry, &kept).unwrap();
    for len in [0, 1, 4096, 16_383, 16_385, 65_536] {
        let refused = StoreError::WrongLength { entry, len, unit };
        assert_eq!(store.store_unit(entry, &vec![1; len]), Err(refused.clone()));
        assert_eq!(store.try_replace_unit(entry, &vec![1; len]), Err(refused.clone()));
        assert_eq!(store.store_units(&[(entry, &vec![1; len])]).unwrap(), [Err(refused.clone())]);
        assert!(refused.to_string().contains("16384"), "{refused}");
        let mut bytes = vec![5; len];
        let refused = LoadError::WrongLength { entry, len, unit };
        assert_eq!(store.load_unit(entry, &mut bytes), Err(refused.clone()));
        assert_eq!(store.take_unit(entry, &mut bytes), Err(refused));
        let refused = BatchError::WrongLength { len, entries: 1, unit };
        assert_eq!(store.load_units(&[entry], &mut bytes), Err(refused));
        assert_eq!(bytes, vec![5; len]);
    }
    // The calls with pages of 4096 bytes are for stores of such pages.
    assert!(matches!(store.store(entry, &[1; PAGE_SIZE]), Err(StoreError::WrongLength { .. })));
    assert!(matches!(store.load(entry, &mut [1; PAGE_SIZE]), Err(LoadError::WrongLength { .. })));
    let mut pages = [[0; PAGE_SIZE]; 4];
    assert!(store.load_batch(&[entry], &mut pages[..1]).is_err());
    assert!(store.load_batch(&[entry], &mut pages).is_err(), "four pages are no unit here");
    assert_eq!(load(&store, entry), Some(kept));
    assert_eq!(store.len(), 1);
}

#[test]
fn what_cannot_be_built_says_why() {
    for bytes in [0, 1, 2048, 4095, 12_288, 131_072] {
        let refused = builder(bytes).build().unwrap_err();
        assert_eq!(refused, BuildError::Unit(UnitError { bytes }));
        assert!(refused.to_string().contains("32768"), "{refused}");
    }
    // A provider of small pages, for a backend whose objects are as large as its pages at most.
    let small = || builder(MOST_UNIT).zpool("zbud").pages(|| Ok(Arc::new(HeapPages::new())));
    let refused = small().build().unwrap_err();
    let (max, needed) = (PAGE_SIZE, MOST_UNIT);
    assert_eq!(refused, BuildError::ObjectsTooSmall { zpool: "zbud".into(), max, needed });
    let any = |bytes| Ok(Arc::new(HeapPages::with_page_size(bytes)?) as Arc<_>);
    assert!(small().pages_of(any).build().is_ok());
    // Eight segments of 8 KiB can be joined, two cannot.
    let device = |pages| Arc::new(NullSwapDevice::new(pages));
    assert!(builder(MOST_UNIT).swap_device(device(40)).build().is_ok());
    let refused = builder(MOST_UNIT).swap_device(device(4)).build().unwrap_err();
    let unit = |error: &AttachError| matches!(error, AttachError::Unit { unit: 65_536, .. });
    assert!(matches!(&refused, BuildError::Device(error) if unit(error)), "{refused:?}");
}

#[test]
fn larger_units_are_denser() {
    let bytes = |unit: usize| {
        let store = Zswap::builder().unit(unit).compressor("zstd").build().unwrap();
        // Neighbours are alike, as rows of a table are.
        let all: Vec<u8> = (0..(4 << 20) / PAGE_SIZE as u64)
            .flat_map(|n| {
                let mut page = page(n / 16 * 8 + 5);
                page[..8].copy_from_slice(&n.to_ne_bytes());
                *page
            })
            .collect();
        for (n, unit) in (0..).zip(all.chunks(unit)) {
            store.store_unit(at(n), unit).unwrap();
        }
        store.stats().pool_total_size
    };
    let (pages, large) = (bytes(4096), bytes(32_768));
    assert!(large * 2 < pages, "{large} bytes in units of 32 KiB, {pages} in pages");
}
