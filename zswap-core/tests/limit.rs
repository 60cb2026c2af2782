//! At its limit, a store refuses no page while its device accepts writes and the pages in its pools can be read.
//! A store without a device refuses a page only if it can free no memory for it, and returns the reason.
//!
//! These tests do not run under Miri, because they fill stores with thousands of pages. `tests/writeback.rs`
//! has smaller tests.
#![cfg(not(miri))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use common::rig::{check, marked};
use common::{at, backends, eventually, page};
use compressors::{AcompEngine, Scomp};
use zpool_api::{
    Handle, ObjRead, ObjWrite, PoolTag, Zpool, ZpoolCaps, ZpoolConfig, ZpoolError, ZpoolStats,
};
use zpool_base::sync::test_rng::Rng;
use zswap_core::device::{
    DeviceError, FaultySwapDevice, Geometry, MemorySwapDevice, NullSwapDevice, SwapDevice,
};
use zswap_core::{
    BuildError, LimitReason, PAGE_SIZE, Page, Promotion, Recompress, ShrinkerPolicy, StoreError,
    SwapEntry, WritebackError, Zswap, builtin,
};

const MIB: usize = 1 << 20;

/// Longer than the longest pause (64 ms) before the store tries a failed device again.
const AFTER_THE_PAUSE: Duration = Duration::from_millis(80);

fn limited(zpool: &str, bytes: usize) -> zswap_core::ZswapBuilder {
    Zswap::builder().zpool(zpool).max_pool_bytes(bytes)
}

fn refused(entry: u64, store_limit: usize, reason: LimitReason) -> Result<(), StoreError> {
    Err(StoreError::PoolLimit { entry: at(entry), limit: store_limit, reason })
}

fn pool_pages(store: &Zswap) -> usize {
    store.stats().pools.iter().map(|pool| pool.pool_bytes).sum::<usize>() / PAGE_SIZE
}

/// Stores, overwrites, drops and reads pages of all kinds in random order.
#[test]
fn a_store_with_a_healthy_device_refuses_nothing_in_any_order() {
    let (keys, rounds) = (1500, 12_000);
    for zpool in &backends() {
        for limit in [PAGE_SIZE, 9 * PAGE_SIZE, MIB] {
            let device = Arc::new(MemorySwapDevice::new(1 << 20));
            let store = limited(zpool, limit).swap_device(device).build().unwrap();
            let mut rng = Rng::new(limit as u64);
            let mut model = vec![None; keys];
            let mut back = Box::new([0; PAGE_SIZE]);
            for round in 0..rounds as u64 {
                let key = rng.below(keys);
                let entry = at(key as u64);
                match rng.below(8) {
                    0 => assert_eq!(store.invalidate(entry), model[key].take().is_some()),
                    1 if model[key].is_some() => {
                        store.load(entry, &mut back).unwrap();
                        assert!(back == page(model[key].unwrap()), "{zpool} {key}");
                    }
                    _ => {
                        store.store(entry, &page(round)).unwrap();
                        model[key] = Some(round);
                    }
                }
            }
            for (key, round) in (0..).zip(&model) {
                if let Some(round) = round {
                    store.load(at(key), &mut back).unwrap();
                    assert!(back == page(*round), "{zpool} {key}");
                }
            }
            let stats = store.stats();
            assert!(stats.pool_limit_hit > 0 && stats.written_back_pages > 0);
            assert_eq!((stats.reject_reclaim_fail, stats.reject_alloc_fail), (0, 0));
            let used: usize = stats.pools.iter().map(|pool| pool.pool_bytes).sum();
            // Only one thread stores, so no other thread holds pages. Only warm pages may exceed the limit.
            assert!(used <= limit + 2 * MIB, "{used} of {limit}");
        }
    }
}

#[test]
fn threads_and_batches_at_the_limit_are_refused_nothing() {
    let engine = Arc::new(AcompEngine::new(2, 16).unwrap());
    let (threads, rounds) = (4, 60);
    for zpool in &backends() {
        for acomp in [None, Some(engine.clone())] {
            let device = Arc::new(MemorySwapDevice::new(1 << 20));
            let builder = limited(zpool, 24 * PAGE_SIZE).swap_device(device);
            let builder = match acomp {
                Some(engine) => builder.acomp(engine),
                None => builder.acomp(Arc::new(Scomp)),
            };
            let store = Arc::new(builder.build().unwrap());
            let shrinker = store.shrink_in_background(ShrinkerPolicy::default()).unwrap();
            thread::scope(|scope| {
                for t in 0..threads {
                    let store = &store;
                    scope.spawn(move || {
                        for round in 0..rounds {
                            let pages: Vec<(SwapEntry, Box<Page>)> = (0..40u64)
                                .map(|n| (at(t * 100 + n), page(round * 1000 + t * 100 + n)))
                                .collect();
                            let batch: Vec<(SwapEntry, &Page)> =
                                pages.iter().map(|(entry, page)| (*entry, &**page)).collect();
                            for result in store.store_batch(&batch).unwrap() {
                                result.unwrap();
                            }
                            let mut back = Box::new([0; PAGE_SIZE]);
                            for (entry, page) in &pages {
                                store.load(*entry, &mut back).unwrap();
                                assert!(back == *page);
                                store.store(*entry, page).unwrap();
                            }
                        }
                    });
                }
            });
            drop(shrinker);
            assert_eq!(store.stats().reject_reclaim_fail, 0);
        }
    }
}

#[test]
fn room_inside_the_pages_serves_at_the_limit() {
    for zpool in &backends() {
        let store = limited(zpool, MIB).build().unwrap();
        let full = (0..100_000).find(|n| store.store(at(*n), &page(n * 8 + 5)).is_err()).unwrap();
        (0..full).step_by(2).for_each(|n| assert!(store.invalidate(at(n))));
        // The store has room again for nearly as many pages as were dropped.
        let again =
            (0..full / 2).take_while(|n| store.store(at(100_000 + n), &page(n * 8 + 5)).is_ok());
        let again = again.count() as u64;
        assert!(again >= full / 2 * 9 / 10, "{zpool}: {again} of {}", full / 2);
    }
}

#[test]
fn a_device_that_failed_is_tried_again_and_one_success_opens_the_store() {
    let memory = Arc::new(MemorySwapDevice::new(100_000));
    let device = Arc::new(FaultySwapDevice::new(memory));
    let store = limited("zbud", MIB).compressor("null").swap_device(device.clone());
    let store = store.build().unwrap();
    let limit = MIB;
    let mut n = 0;
    let mut next = || {
        n += 1;
        (n, store.store(at(n), &marked(n, 0)))
    };
    (0..400).for_each(|_| next().1.unwrap());
    // After one or two failures in a row, the store tries the device again at once.
    for _ in 0..20 {
        device.fail_writes(0, 2);
        (0..64).for_each(|_| next().1.unwrap());
    }
    // All writes fail now. Pages are refused only for that reason, and each refusal is counted.
    device.fail_writes(0, u64::MAX);
    let refusals = (0..400).map(|_| next()).filter(|(entry, result)| {
        assert!(result.is_ok() || *result == refused(*entry, limit, LimitReason::DeviceFailed));
        result.is_err()
    });
    let refusals = refusals.count() as u64;
    let stats = store.stats();
    assert!(refusals > 300);
    assert_eq!((stats.reject_device_fail, stats.reject_reclaim_fail), (refusals, refusals));
    // If memory is freed in another way, the store uses it at once.
    let in_pools = |store: &Zswap| store.stats().pools[0].objects;
    let before = in_pools(&store);
    let gone = (1..=1680).find(|entry| store.invalidate(at(*entry)) && in_pools(&store) < before);
    assert!(gone.is_some());
    next().1.unwrap();
    // The device works again. The store takes pages again after the longest pause at the latest.
    device.fail_writes(0, 0);
    thread::sleep(AFTER_THE_PAUSE);
    (0..400).for_each(|_| next().1.unwrap());
}

#[test]
fn a_full_device_is_a_reason_and_a_free_segment_ends_it() {
    // Four segments, with room for a page each: pages that do not get smaller, and 4 KiB that nobody can use.
    // One of them is kept for cleaning.
    let device = Arc::new(MemorySwapDevice::new(8));
    let store = limited("zbud", 10 * PAGE_SIZE).compressor("null").swap_device(device);
    let store = store.promotion(Promotion::Never).build().unwrap();
    (0..13).for_each(|n| store.store(at(n), &marked(n, 0)).unwrap());
    for _ in 0..3 {
        let result = store.store(at(99), &marked(99, 0));
        assert_eq!(result, refused(99, 10 * PAGE_SIZE, LimitReason::DeviceFull));
    }
    assert_eq!((store.stats().reject_device_full, store.stats().device_pages), (3, 3));
    // A page that replaces an older page is not refused, whether the older page is in a pool or on the
    // device.
    (0..13).for_each(|n| store.store(at(n), &marked(n, 1)).unwrap());
    (0..13).for_each(|n| check(&store, n, 1));
    let on_device = (0..13).find(|n| {
        let before = store.stats().device_pages;
        store.invalidate(at(*n)) && store.stats().device_pages < before
    });
    assert!(on_device.is_some());
    store.store(at(99), &marked(99, 0)).unwrap();
    check(&store, 99, 0);
}

#[test]
fn a_shrinker_that_begins_above_the_threshold_is_an_error_and_so_are_other_contradictions() {
    let device = || Arc::new(NullSwapDevice::new(1000));
    let store = limited("zbud", MIB).accept_threshold_percent(80).swap_device(device());
    let store = Arc::new(store.build().unwrap());
    let policy = ShrinkerPolicy::default().from_percent(95);
    let error = store.shrink_in_background(policy).unwrap_err();
    assert_eq!(error, WritebackError::Thresholds { from_percent: 95, accept_percent: 80 });
    assert!(store.shrink_in_background(policy.from_percent(80)).is_ok());
    for percent in [0, 101] {
        let error = limited("zbud", MIB).accept_threshold_percent(percent).build().unwrap_err();
        assert!(matches!(error, BuildError::Contradiction(_)), "{error}");
    }
    let error = limited("zbud", 2 * MIB).max_bytes(MIB).build().unwrap_err();
    assert!(matches!(error, BuildError::Contradiction(_)), "{error}");
    let error = Zswap::builder().max_bytes(1000).build().unwrap_err();
    assert!(matches!(error, BuildError::LimitTooSmall { limit: "max_bytes", .. }), "{error}");
}

/// With a limit of less than a page, only same-filled pages stay in memory. Other pages are refused, unless a
/// device takes them.
#[test]
fn a_limit_of_less_than_a_page_is_kept_and_refuses_nothing_that_a_device_takes() {
    for zpool in &backends() {
        for limit in [0, 1, PAGE_SIZE - 1] {
            let store = limited(zpool, limit).build().unwrap();
            assert_eq!(store.store(at(1), &page(5)), refused(1, limit, LimitReason::NoDevice));
            store.store(at(1), &[3; PAGE_SIZE]).unwrap();
            drop(store);
            let device = Arc::new(MemorySwapDevice::new(1000));
            let store = limited(zpool, limit).swap_device(device).build().unwrap();
            let mut back = Box::new([0; PAGE_SIZE]);
            for n in 0..50 {
                store.store(at(n), &page(n * 8 + 5)).unwrap();
                assert!(pool_pages(&store) <= 16 + 512, "{zpool}");
            }
            for n in 0..50 {
                store.load(at(n), &mut back).unwrap();
                assert!(back == page(n * 8 + 5), "{zpool} {n}");
            }
        }
    }
}

#[test]
fn a_shrinker_and_a_device_that_recovers_leave_no_store_closed() {
    let memory = Arc::new(MemorySwapDevice::new(100_000));
    let device = Arc::new(FaultySwapDevice::new(memory));
    let store = limited(builtin::DEFAULT_ZPOOL, MIB).swap_device(device.clone());
    let store = Arc::new(store.build().unwrap());
    let policy = ShrinkerPolicy::default().from_percent(95).pause(Duration::from_millis(1));
    let shrinker = store.shrink_in_background(policy).unwrap();
    device.fail_writes(0, 300);
    (0..4000).for_each(|n| drop(store.store(at(n), &page(n * 8 + 1))));
    device.fail_writes(0, 0);
    thread::sleep(AFTER_THE_PAUSE);
    (0..1000).for_each(|n| store.store(at(10_000 + n), &page(n * 8 + 1)).unwrap());
    assert!(shrinker.report().steps > 0);
}

#[test]
fn a_limit_may_be_changed_and_what_is_beyond_it_leaves() {
    let device = Arc::new(MemorySwapDevice::new(100_000));
    let store = limited(builtin::DEFAULT_ZPOOL, 4 * MIB).swap_device(device).build().unwrap();
    (0..2000).for_each(|n| store.store(at(n), &page(n * 8 + 1)).unwrap());
    assert!(pool_pages(&store) > 600);
    store.set_max_pool_bytes(Some(MIB)).unwrap();
    (2000..4000).for_each(|n| store.store(at(n), &page(n * 8 + 1)).unwrap());
    store.trim();
    assert!(pool_pages(&store) <= 256, "{}", pool_pages(&store));
    store.set_max_pool_bytes(None).unwrap();
    (4000..6000).for_each(|n| store.store(at(n), &page(n * 8 + 1)).unwrap());
    assert!(pool_pages(&store) > 2000);
    let mut back = Box::new([0; PAGE_SIZE]);
    for n in 0..6000 {
        store.load(at(n), &mut back).unwrap();
        assert!(back == page(n * 8 + 1), "{n}");
    }
}

/// The limit is lowered so far that a single call of `store` cannot write back enough pages to keep it.
#[test]
fn a_limit_far_below_what_is_held_refuses_no_page_while_the_device_works() {
    for zpool in &backends() {
        let device = Arc::new(MemorySwapDevice::new(100_000));
        let store = limited(zpool, 64 * MIB).swap_device(device).build().unwrap();
        (0..8000).for_each(|n| store.store(at(n), &page(n * 8 + 7)).unwrap());
        let before = pool_pages(&store);
        assert!(before > 4000, "{zpool}: {before}");
        store.set_max_pool_bytes(Some(PAGE_SIZE)).unwrap();
        if cfg!(feature = "zstd") {
            store.recompress(&Recompress::new("zstd").max_pages(3)).unwrap();
        }
        store.store(at(8000), &page(8000 * 8 + 7)).unwrap();
        assert!(pool_pages(&store) < before, "{zpool}: nothing was written back");
        store.try_replace(at(8000), &page(8001 * 8 + 7)).unwrap();
        (8001..8010).for_each(|n| store.store(at(n), &page(n * 8 + 7)).unwrap());
        store.trim();
        // Only the memory of the last page is still in use. That is at most a run of 16 pages.
        assert!(pool_pages(&store) <= 16, "{zpool}: {}", pool_pages(&store));
    }
}

#[test]
fn a_pool_that_was_emptied_counts_for_nothing() {
    let store = limited(builtin::DEFAULT_ZPOOL, MIB).build().unwrap();
    (0..100_000).find(|n| store.store(at(*n), &page(n * 8 + 5)).is_err()).unwrap();
    store.set_compressor("null").unwrap();
    assert!(store.store(at(1 << 30), &page(1)).is_err());
    store.invalidate_area(0);
    store.store(at(5), &page(1)).unwrap();
}

/// A backend that refuses to read its objects while its flag is set: all of them, or those that begin with this
/// byte.
#[derive(Debug)]
struct Mute {
    inner: Arc<dyn Zpool>,
    mute: Arc<AtomicBool>,
    only: Option<u8>,
}

impl Zpool for Mute {
    fn name(&self) -> &'static str {
        "mute"
    }
    fn tag(&self) -> PoolTag {
        self.inner.tag()
    }
    fn caps(&self) -> ZpoolCaps {
        self.inner.caps()
    }
    fn malloc(&self, size: usize) -> Result<ObjWrite<'_>, ZpoolError> {
        self.inner.malloc(size)
    }
    fn free(&self, handle: Handle) -> Result<(), ZpoolError> {
        self.inner.free(handle)
    }
    fn obj_read_begin(&self, handle: Handle) -> Result<ObjRead<'_>, ZpoolError> {
        let object = self.inner.obj_read_begin(handle)?;
        if self.mute.load(SeqCst) && self.only.is_none_or(|first| object.first() == Some(&first)) {
            return Err(ZpoolError::Unsupported { backend: "mute", operation: "reading" });
        }
        Ok(object)
    }
    fn total_pages(&self) -> usize {
        self.inner.total_pages()
    }
    fn stats(&self) -> ZpoolStats {
        self.inner.stats()
    }
}

/// Returns backends with a `mute` one of a built-in kind, and its flag.
fn mute(zpool: &str, only: Option<u8>) -> (zpool_api::Registry, Arc<AtomicBool>) {
    let (mut registry, flag) = (builtin::zpools(), Arc::new(AtomicBool::new(false)));
    let (zpool, mute) = (zpool.to_owned(), flag.clone());
    let build = move |config: &ZpoolConfig| -> Result<Arc<dyn Zpool>, ZpoolError> {
        let inner = builtin::zpools().build(&zpool, config)?;
        Ok(Arc::new(Mute { inner, mute: mute.clone(), only }))
    };
    registry.register("mute", build).unwrap();
    (registry, flag)
}

#[test]
fn pages_that_cannot_be_read_do_not_stand_in_the_way_of_others() {
    let (registry, mute) = mute("zbud", None);
    let limit = 8 * PAGE_SIZE;
    let store = limited("mute", limit).zpool_registry(registry).compressor("null");
    let store = store.swap_device(Arc::new(MemorySwapDevice::new(10_000))).build().unwrap();
    (0..8).for_each(|n| store.store(at(n), &marked(n, 0)).unwrap());
    mute.store(true, SeqCst);
    for n in 100..200 {
        let result = store.store(at(n), &marked(n, 0));
        assert_eq!(result, refused(n, limit, LimitReason::Unreadable));
    }
    mute.store(false, SeqCst);
    (200..300).for_each(|n| store.store(at(n), &marked(n, 0)).unwrap());
    (0..8).chain(200..300).for_each(|n| check(&store, n, 0));
    assert_eq!(store.stats().reject_unreadable, 100);
}

/// Pages that a codec cannot decompress any more leave the pools all the same, and make room for others.
#[test]
fn pages_that_cannot_be_decompressed_make_room() {
    let device = Arc::new(MemorySwapDevice::new(10_000));
    let rig = common::rig::rig_with(|builder| {
        builder.checksums(true).max_pool_bytes(8 * PAGE_SIZE).swap_device(device)
    });
    rig.spoils.store(true, SeqCst);
    (0..200).for_each(|n| rig.store.store(at(n), &marked(n, 0)).unwrap());
    rig.spoils.store(false, SeqCst);
    (0..200).for_each(|n| check(&rig.store, n, 0));
}

#[test]
fn dropping_a_background_thread_waits_for_a_segment_and_not_for_a_step() {
    /// A device that counts its writes. Each write waits until the flag is set.
    #[derive(Debug)]
    struct Slow(AtomicBool, std::sync::atomic::AtomicUsize);
    impl SwapDevice for Slow {
        fn geometry(&self) -> Geometry {
            Geometry::of_pages(100_000)
        }
        fn write_segment(&self, _: u64, _: &[u8]) -> Result<(), DeviceError> {
            self.1.fetch_add(1, SeqCst);
            while !self.0.load(SeqCst) {
                thread::yield_now();
            }
            Ok(())
        }
        fn read(&self, segment: u64, _: usize, _: &mut [u8]) -> Result<(), DeviceError> {
            Err(DeviceError::Missing { segment })
        }
    }
    let device = Arc::new(Slow(AtomicBool::new(false), Default::default()));
    let store = limited("zbud", MIB).compressor("null").swap_device(device.clone());
    let store = Arc::new(store.build().unwrap());
    (0..250).for_each(|n| store.store(at(n), &marked(n, 0)).unwrap());
    let policy = ShrinkerPolicy::default().from_percent(0).most_pages(200);
    let shrinker = store.shrink_in_background(policy).unwrap();
    eventually("a write", || device.1.load(SeqCst) == 1);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Gives `drop(shrinker)` time to request the stop before the device finishes this write.
            thread::sleep(Duration::from_millis(50));
            device.0.store(true, SeqCst);
        });
        drop(shrinker);
    });
    assert_eq!(device.1.load(SeqCst), 1, "the rest of the step was not done");
}

/// One page cannot be read. Other pages are stored nevertheless, since the threads that hold the rest of the
/// memory free it soon.
#[test]
fn one_page_that_cannot_be_read_refuses_no_other() {
    for zpool in &backends() {
        // The other pages are text.
        let (registry, mute) = mute(zpool, Some(0xEE));
        mute.store(true, SeqCst);
        let store = limited("mute", 4 * PAGE_SIZE).zpool_registry(registry).compressor("null");
        let store = store.swap_device(Arc::new(NullSwapDevice::new(1 << 30))).build().unwrap();
        let mut unreadable = page(1);
        unreadable[0] = 0xEE;
        store.store(at(0), &unreadable).unwrap();
        std::thread::scope(|scope| {
            for t in 1..=6u64 {
                let store = &store;
                scope.spawn(move || {
                    let pages: Vec<_> = (0..8).map(|n| page(n * 8 + 7)).collect();
                    for round in 0..60 {
                        let batch: Vec<_> = pages
                            .iter()
                            .enumerate()
                            .map(|(n, page)| (at(t << 20 | round << 4 | n as u64), &**page))
                            .collect();
                        for result in store.store_batch(&batch).unwrap() {
                            assert_eq!(result, Ok(()), "{zpool}");
                        }
                    }
                });
            }
        });
        let stats = store.stats();
        assert_eq!((stats.reject_unreadable, store.contains(at(0))), (0, true));
    }
}

/// A device that stores a page with each write, in the very store that writes to it.
#[derive(Debug, Default)]
struct Recursing {
    inner: OnceLock<MemorySwapDevice>,
    store: OnceLock<Weak<Zswap>>,
    refused: AtomicUsize,
}

impl SwapDevice for Recursing {
    fn geometry(&self) -> Geometry {
        self.inner.get().unwrap().geometry()
    }
    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        if let Some(store) = self.store.get().and_then(Weak::upgrade) {
            if store.store(at(1 << 40 | segment), &common::page(segment * 8 + 7)).is_err() {
                self.refused.fetch_add(1, SeqCst);
            }
            if store.shrink(1) == Err(WritebackError::Reentrant) {
                self.refused.fetch_add(1, SeqCst);
            }
        }
        self.inner.get().unwrap().write_segment(segment, bytes)
    }
    fn read(&self, segment: u64, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.inner.get().unwrap().read(segment, at, bytes)
    }
    fn discard(&self, segment: u64) {
        self.inner.get().unwrap().discard(segment);
    }
}

#[test]
fn a_device_that_stores_into_its_own_store_is_refused_and_ends() {
    let device = Arc::new(Recursing::default());
    device.inner.set(MemorySwapDevice::new(1 << 20)).unwrap();
    let store = limited("zbud", 8 * PAGE_SIZE).swap_device(device.clone()).build().unwrap();
    let store = Arc::new(store);
    device.store.set(Arc::downgrade(&store)).unwrap();
    (0..40).for_each(|n| store.store(at(n), &page(n * 8 + 7)).unwrap());
    assert!(device.refused.load(SeqCst) > 0);
    let mut back = [0; PAGE_SIZE];
    for n in 0..40 {
        store.load(at(n), &mut back).unwrap();
        assert!(back == *page(n * 8 + 7), "{n}");
    }
}

/// The backend does not charge its pages. So the store itself sets the charge to the pages that the backend
/// reports. Several threads do this at the same time, and none of them leaves a charge for pages that are
/// gone.
#[test]
fn a_backend_that_knows_no_budget_refuses_nothing_while_threads_come_and_go() {
    let mut registry = builtin::zpools();
    let unbudgeted = |config: &ZpoolConfig| {
        builtin::zpools().build("zbud", &ZpoolConfig::new(config.pages.clone()))
    };
    registry.register("unbudgeted", unbudgeted).unwrap();
    let store = Zswap::builder().zpool_registry(registry).zpool("unbudgeted");
    let store = &store.max_pool_bytes(MIB).build().unwrap();
    thread::scope(|scope| {
        for n in 0..3 {
            scope.spawn(move || {
                let page = marked(n, 0);
                for _ in 0..200_000 {
                    store.store(at(n), &page).unwrap();
                    assert!(store.invalidate(at(n)));
                }
            });
        }
    });
    assert_eq!((store.len(), store.stats().pool_limit_hit), (0, 0));
}
