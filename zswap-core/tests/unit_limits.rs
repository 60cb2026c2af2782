//! Limits of stores with larger units: they count bytes, whatever the unit and whatever pages the backends have.
#![cfg(not(miri))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;

use common::{at, backends, page};
use zpool_base::sync::test_rng::Rng;
use zswap_core::device::MemorySwapDevice;
use zswap_core::{
    AreaSettings, BuildError, LoadError, PAGE_SIZE, Promotion, ShrinkerPolicy, StoreError,
    SwapEntry, Zswap, ZswapBuilder,
};

const LARGE: [usize; 3] = [8192, 32_768, 65_536];
const MIB: usize = 1 << 20;

/// Makes a page of `unit` bytes, each 4096 of which are of the same kind: noise, sparse or text.
fn content(unit: usize, seed: u64) -> Vec<u8> {
    let kind = [1, 2, 5][(seed % 3) as usize];
    let parts = (0..(unit / PAGE_SIZE) as u64).map(|part| (seed * 16 + part) * 8 + kind);
    parts.flat_map(|seed| *page(seed)).collect()
}

fn noise(unit: usize, seed: u64) -> Vec<u8> {
    content(unit, seed * 3)
}

fn load(store: &Zswap, entry: SwapEntry) -> Vec<u8> {
    let mut bytes = vec![0xEE; store.unit()];
    store.load_unit(entry, &mut bytes).unwrap();
    bytes
}

fn device() -> Arc<MemorySwapDevice> {
    Arc::new(MemorySwapDevice::new(1 << 18))
}

fn limited(unit: usize, zpool: &str, bytes: usize) -> ZswapBuilder {
    Zswap::builder().unit(unit).zpool(zpool).compressor("lz4").max_pool_bytes(bytes)
}

/// Returns the bytes of the pools without their warm pages.
fn held(store: &Zswap) -> usize {
    store.trim();
    store.stats().pool_total_size
}

#[test]
fn a_store_with_a_healthy_device_refuses_nothing_in_any_order() {
    for unit in LARGE {
        for zpool in &backends() {
            for limit in [0, PAGE_SIZE, unit, 9 * unit, MIB] {
                let made = limited(unit, zpool, limit).swap_device(device());
                let store = made.promotion(Promotion::Always).build().unwrap();
                let mut rng = Rng::new((limit + unit) as u64);
                let mut model = HashMap::new();
                for round in 0..400 {
                    let key = rng.below(60) as u64;
                    match rng.below(8) {
                        0 => {
                            assert_eq!(store.invalidate(at(key)), model.remove(&key).is_some());
                        }
                        1 => {
                            if let Some(round) = model.get(&key) {
                                assert!(load(&store, at(key)) == content(unit, *round));
                            }
                        }
                        2 if model.contains_key(&key) => {
                            store.try_replace_unit(at(key), &content(unit, round)).unwrap();
                            model.insert(key, round);
                        }
                        _ => {
                            let stored = store.store_unit(at(key), &content(unit, round));
                            stored.unwrap_or_else(|error| {
                                panic!("{zpool}, units of {unit}, limit {limit}: {error:?}")
                            });
                            model.insert(key, round);
                        }
                    }
                }
                for (key, round) in model {
                    assert!(load(&store, at(key)) == content(unit, round), "{zpool} {key}");
                }
            }
        }
    }
}

#[test]
fn threads_store_at_the_limit_and_none_is_refused() {
    for unit in [16_384, 65_536] {
        for zpool in &backends() {
            let store = limited(unit, zpool, 20 * unit).swap_device(device()).build().unwrap();
            thread::scope(|scope| {
                for thread in 0..3_u64 {
                    let store = &store;
                    scope.spawn(move || {
                        for n in 0..100 {
                            let seed = thread * 1000 + n;
                            store.store_unit(at(seed), &content(unit, seed)).unwrap();
                            let earlier = thread * 1000 + n / 2;
                            assert!(load(store, at(earlier)) == content(unit, earlier));
                        }
                    });
                }
            });
            assert_eq!(store.len(), 300);
        }
    }
}

#[test]
fn without_a_device_the_limit_is_exact_and_the_store_goes_on_below_it() {
    for unit in LARGE {
        for zpool in &backends() {
            let limit = 20 * unit;
            let store = limited(unit, zpool, limit).build().unwrap();
            let mut refused = 0;
            for n in 0..100 {
                match store.store_unit(at(n), &noise(unit, n)) {
                    Ok(()) => {}
                    Err(StoreError::PoolLimit { limit: at_limit, .. }) => {
                        assert_eq!(at_limit, limit);
                        refused += 1;
                    }
                    Err(error) => panic!("{zpool}: {error:?}"),
                }
                assert!(held(&store) <= limit, "{zpool}, units of {unit}: {}", held(&store));
            }
            let kept = store.len();
            assert_eq!(kept + refused, 100);
            assert!((15..=20).contains(&kept), "{zpool} holds {kept} of 20 units of noise");
            let first = (0..100).find(|n| store.contains(at(*n))).unwrap();
            assert!(store.invalidate(at(first)));
            store.store_unit(at(200), &noise(unit, 200)).unwrap();
        }
    }
}

#[test]
fn what_max_bytes_asks_for_at_least_holds_a_unit_that_does_not_get_smaller() {
    for unit in LARGE {
        for zpool in &backends() {
            let made = || Zswap::builder().unit(unit).zpool(zpool).compressor("lz4");
            let refused = made().max_bytes(1).build().unwrap_err();
            let BuildError::LimitTooSmall { needed, .. } = refused else { panic!("{refused:?}") };
            // The tables grow with the first page, and a backend with its own descriptors.
            let store = made().max_bytes(needed + 256 * 1024).build().unwrap();
            store.store_unit(at(0), &noise(unit, 1)).unwrap();
            let used = store.memory_bytes();
            assert!(used <= needed + 256 * 1024, "{zpool}: {used} of {needed}");
            assert!(load(&store, at(0)) == noise(unit, 1));
        }
    }
}

#[test]
fn pools_with_pages_of_several_sizes_share_one_limit() {
    let (unit, limit) = (32_768, 4 * MIB);
    let store = limited(unit, "zsmalloc", limit).swap_device(device()).build().unwrap();
    store.add_area(1, AreaSettings::default().zpool("zbud").max_pool_bytes(MIB)).unwrap();
    let entry = |area: u8, n: u64| SwapEntry::new(area, n).unwrap();
    for n in 0..400 {
        if n % 50 == 0 {
            let all = backends();
            store.set_zpool(&all[n as usize / 50 % all.len()]).unwrap();
        }
        store.store_unit(entry((n % 2) as u8, n), &content(unit, n)).unwrap();
        // A thread may exceed the limit by a run of pages.
        let slack = 16 * unit;
        assert!(held(&store) <= limit + slack, "{} bytes after {n}", held(&store));
        let own = store.area(1).unwrap().stats().pool_total_size;
        assert!(own <= MIB + slack, "{own} bytes of the area after {n}");
    }
    assert!(store.migrate_pools(usize::MAX).is_ok());
    for n in 0..400 {
        assert!(load(&store, entry((n % 2) as u8, n)) == content(unit, n), "page {n}");
    }
}

#[test]
fn clean_pages_make_room_without_a_device() {
    let unit = 65_536;
    let store = limited(unit, "zsmalloc", 40 * unit).clean_filter(|_| true).build().unwrap();
    for n in 0..200 {
        store.store_unit(at(n), &noise(unit, n)).unwrap();
        assert!(load(&store, at(n)) == noise(unit, n));
        // Room for a few pages is made at a time, not for most of the store.
        assert!(n < 40 || store.len() >= 30, "{} of 40 units are left", store.len());
    }
    assert!(store.stats().dropped_clean_pages > 100);
    let mut bytes = vec![0; unit];
    assert_eq!(
        store.load_unit(at(0), &mut bytes),
        Err(LoadError::NotFound { entry: at(0) }),
        "the oldest page was dropped"
    );
}

#[test]
fn a_background_shrinker_keeps_a_store_of_large_units_below_its_threshold() {
    let (unit, limit) = (65_536, 4 * MIB);
    let store = Arc::new(limited(unit, "zbud", limit).swap_device(device()).build().unwrap());
    let policy = ShrinkerPolicy::default().from_percent(50);
    let shrinker = store.shrink_in_background(policy).unwrap();
    for n in 0..60 {
        store.store_unit(at(n), &noise(unit, n)).unwrap();
    }
    common::eventually("the pools are below the threshold", || {
        held(&store) <= limit / 2 + unit * 4
    });
    drop(shrinker);
    assert!(store.stats().device_pages < 60, "it writes no more back than it must");
    for n in 0..60 {
        assert!(load(&store, at(n)) == noise(unit, n), "page {n}");
    }
}
