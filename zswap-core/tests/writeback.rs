//! Tests writeback to a device: on demand, at the limit, and while other threads use the store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use common::rig::{check, marked};
use common::{at, page};
use zpool_base::sync::test_rng::Rng;
use zpool_pages::{FailingPages, HeapPages};
use zswap_core::device::{
    DeviceError, FaultySwapDevice, Geometry, MemorySwapDevice, NullSwapDevice, SwapDevice,
    ThrottledSwapDevice,
};
use zswap_core::{
    LimitReason, LoadError, PAGE_SIZE, Promotion, StoreError, WritebackError, Zswap, ZswapBuilder,
    builtin,
};

/// Makes a builder for a store with compressor `null`, and the provider that counts its pool pages. `null`
/// keeps each page uncompressed, so each stored page takes a page of the pool. Pages on the device stay there.
fn builder() -> (ZswapBuilder, Arc<FailingPages>) {
    let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
    let given = pages.clone();
    let builder = Zswap::builder().zpool("zbud").compressor("null").promotion(Promotion::Never);
    (builder.pages(move || Ok(given.clone())), pages)
}

/// Makes a store that holds pages under the entries `0..count`. Its device can be made to fail, and wraps a
/// device in memory. Returns the store, the device in memory and the store's device.
fn filled(count: u64) -> (Zswap, Arc<MemorySwapDevice>, Arc<FaultySwapDevice>) {
    let memory = Arc::new(MemorySwapDevice::new(1000));
    let device = Arc::new(FaultySwapDevice::new(memory.clone()));
    let store = builder().0.swap_device(device.clone()).build().unwrap();
    for entry in 0..count {
        store.store(at(entry), &marked(entry, 0)).unwrap();
    }
    (store, memory, device)
}

/// Returns the number of pages in pools and the number of pages on the device.
fn places(store: &Zswap) -> (usize, usize) {
    let stats = store.stats();
    (stats.pools.iter().map(|pool| pool.objects).sum(), stats.device_pages)
}

#[test]
fn cold_pages_go_first_and_come_back_from_the_device() {
    let (store, memory, device) = filled(20);
    store.store(at(20), &page(0)).unwrap();
    (0..5).for_each(|entry| check(&store, entry, 0));
    assert_eq!(store.shrink(8), Ok(8));
    assert_eq!((places(&store), memory.segments()), ((12, 8), 1));
    // Pages 0 to 4 were loaded, so they got a second chance and are still in the pool. The next eight are on
    // the device.
    device.fail_reads(0, 99);
    (0..5).for_each(|entry| check(&store, entry, 0));
    let mut back = Box::new([0; PAGE_SIZE]);
    (5..13).for_each(|entry| assert!(store.load(at(entry), &mut back).is_err(), "{entry}"));
    (13..20).for_each(|entry| check(&store, entry, 0));
    device.fail_reads(0, 0);
    store.set_writeback_enabled(false);
    assert_eq!(store.shrink(1), Err(WritebackError::NoDevice));
    (0..20).for_each(|entry| check(&store, entry, 0));
    assert_eq!(store.stats().written_back_pages, 8);
    store.set_writeback_enabled(true);

    // All pages were loaded. The first round of the walk uses up their second chances, and the second round
    // writes them back. The same-filled page stays.
    assert_eq!(store.shrink(99), Ok(12));
    assert_eq!((places(&store), store.len()), ((0, 20), 21));
    (0..20).for_each(|entry| check(&store, entry, 0));
    // When pages on the device are taken, invalidated or overwritten, their segments become free.
    for entry in 0..5 {
        store.take(at(entry), &mut back).unwrap();
        assert!(back == marked(entry, 0) && !store.contains(at(entry)));
    }
    (5..10).for_each(|entry| assert!(store.invalidate(at(entry))));
    for entry in 10..15 {
        store.store(at(entry), &marked(entry, 1)).unwrap();
        check(&store, entry, 1);
    }
    assert_eq!((places(&store), memory.segments()), ((5, 5), 1));
    assert_eq!(store.invalidate_area(0), 11);
    assert_eq!((places(&store), memory.segments()), ((0, 0), 0));
}

#[test]
fn a_write_that_fails_keeps_the_page_and_a_read_that_fails_loses_nothing() {
    let (store, memory, device) = filled(10);
    device.fail_writes(0, 2);
    for _ in 0..2 {
        let error = store.shrink(99).unwrap_err();
        let full = |source: &DeviceError| {
            matches!(source, DeviceError::Io { kind: ErrorKind::StorageFull, .. })
        };
        assert!(matches!(&error, WritebackError::Device { source, .. } if full(source)), "{error}");
    }
    assert_eq!((places(&store), memory.segments()), ((10, 0), 0));
    (0..10).for_each(|entry| check(&store, entry, 0));
    assert_eq!(store.shrink(99), Ok(10));

    device.fail_reads(0, 2);
    let mut back = Box::new([0; PAGE_SIZE]);
    let error = store.load(at(4), &mut back).unwrap_err();
    assert!(matches!(error, LoadError::Device { .. }), "{error}");
    let error = store.take(at(4), &mut back).unwrap_err();
    assert!(matches!(error, LoadError::Device { .. }), "{error}");
    (0..10).for_each(|entry| check(&store, entry, 0));

    // Two segments, each with room for one page that does not get smaller.
    let store = builder().0.swap_device(Arc::new(NullSwapDevice::new(4))).build().unwrap();
    for entry in 0..3 {
        store.store(at(entry), &marked(entry, 0)).unwrap();
    }
    assert_eq!(store.shrink(99), Err(WritebackError::DeviceFull { segments: 2 }));
    assert_eq!(places(&store), (1, 2));
    let lost = store.load(at(0), &mut back).unwrap_err();
    assert!(matches!(lost, LoadError::Device { source: DeviceError::Missing { .. }, .. }));
    assert!(store.invalidate(at(0)));
    assert_eq!(store.shrink(99), Ok(1));
}

#[test]
fn at_the_limit_pages_are_written_back_and_without_a_device_stores_are_refused() {
    let limit = 20 * PAGE_SIZE;
    let count = if cfg!(miri) { 60 } else { 200 };
    let memory = Arc::new(MemorySwapDevice::new(1000));
    let store = builder().0.max_pool_bytes(limit).swap_device(memory.clone()).build().unwrap();
    for entry in 0..count {
        store.store(at(entry), &marked(entry, 0)).unwrap();
        assert!(places(&store).0 <= 20, "{:?}", places(&store));
    }
    let stats = store.stats();
    assert!(stats.pool_limit_hit > 0 && stats.written_back_pages >= count - 20);
    assert_eq!(stats.reject_reclaim_fail, 0);
    (0..count).for_each(|entry| check(&store, entry, 0));
    assert_eq!((places(&store).0 + places(&store).1) as u64, count);
    // 15 such pages fit in a segment, and each is written full.
    assert!(memory.segments() as u64 <= count / 15 + 1, "{}", memory.segments());

    // A store without a device refuses a page at the limit. It then refuses pages until it has shrunk to the
    // threshold.
    let (builder, pages) = builder();
    let store = builder.max_pool_bytes(limit).accept_threshold_percent(50).build().unwrap();
    for entry in 0..20 {
        store.store(at(entry), &marked(entry, 0)).unwrap();
    }
    let refused = |entry| {
        let reason = LimitReason::NoDevice;
        Err(StoreError::PoolLimit { entry, limit, reason })
    };
    assert_eq!(store.store(at(99), &marked(99, 0)), refused(at(99)));
    assert_eq!(store.try_replace(at(0), &marked(0, 1)), refused(at(0)));
    check(&store, 0, 0);
    for entry in 0..9 {
        assert!(store.store(at(99), &marked(99, 0)).is_err());
        // A same-filled page needs no room in the pools.
        store.store(at(100), &[9; PAGE_SIZE]).unwrap();
        store.invalidate(at(entry));
    }
    assert!(store.store(at(99), &marked(99, 0)).is_err());
    store.invalidate(at(9));
    store.store(at(99), &marked(99, 0)).unwrap();
    (10..20).for_each(|entry| check(&store, entry, 0));
    // The store has shrunk enough, so it takes pages again.
    let mut more = 200..;
    more.find(|entry| store.store(at(*entry), &marked(*entry, 0)).is_err()).unwrap();
    let stats = store.stats();
    let refused = stats.reject_no_device;
    assert_eq!((stats.pool_limit_hit, stats.reject_reclaim_fail, refused), (14, 13, 13));
    drop(store);
    assert_eq!(pages.pages_out(), 0);
}

/// A device that reports that it is full, although it is not, while its flag is set.
#[derive(Debug)]
struct Brimful(MemorySwapDevice, AtomicBool);

impl SwapDevice for Brimful {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        if self.1.load(SeqCst) {
            return Err(DeviceError::Full { segments: 7 });
        }
        self.0.write_segment(segment, bytes)
    }
    fn read(&self, segment: u64, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.0.read(segment, at, bytes)
    }
}

#[test]
fn a_device_that_says_it_is_full_is_a_full_one_and_no_failed_one() {
    let limit = 4 * PAGE_SIZE;
    let device = Arc::new(Brimful(MemorySwapDevice::new(1000), AtomicBool::new(true)));
    let store = builder().0.max_pool_bytes(limit).swap_device(device.clone()).build().unwrap();
    (0..4).for_each(|entry| store.store(at(entry), &marked(entry, 0)).unwrap());
    // Try more often than a device may fail before the store pauses.
    for round in 1..=20 {
        let entry = at(9);
        let refused = StoreError::PoolLimit { entry, limit, reason: LimitReason::DeviceFull };
        assert_eq!(store.store(entry, &marked(9, 0)), Err(refused));
        assert_eq!(store.shrink(1), Err(WritebackError::DeviceFull { segments: 7 }));
        let stats = store.stats();
        assert_eq!((stats.reject_device_full, stats.reject_device_fail), (round, 0));
    }
    assert_eq!(places(&store), (4, 0));
    // The store tries the device again at once, without a pause.
    device.1.store(false, SeqCst);
    store.store(at(9), &marked(9, 0)).unwrap();
    (0..4).chain([9]).for_each(|entry| check(&store, entry, 0));
}

#[test]
fn an_overwrite_at_the_limit_has_the_room_of_the_older_page() {
    let (builder, pages) = builder();
    let store = builder.max_pool_bytes(4 * PAGE_SIZE).build().unwrap();
    for round in 0..5 {
        (0..4).for_each(|entry| store.store(at(entry), &marked(entry, round)).unwrap());
        assert!(store.store(at(9), &marked(9, round)).is_err());
        (0..4).for_each(|entry| check(&store, entry, round));
    }
    // The store uses freed memory at once.
    assert!(store.invalidate(at(2)));
    store.store(at(9), &marked(9, 0)).unwrap();
    check(&store, 9, 0);
    drop(store);
    assert_eq!(pages.pages_out(), 0);
}

#[test]
fn a_store_that_finds_no_memory_makes_room() {
    let memory = Arc::new(MemorySwapDevice::new(1000));
    let (builder, pages) = builder();
    let store = builder.swap_device(memory.clone()).build().unwrap();
    pages.limit_pages(10);
    let count = if cfg!(miri) { 30 } else { 100 };
    for entry in 0..count {
        store.store(at(entry), &marked(entry, 0)).unwrap();
    }
    (0..count).for_each(|entry| check(&store, entry, 0));
    assert!(places(&store).1 as u64 >= count - 10 && memory.segments() > 0);
    store.set_writeback_enabled(false);
    pages.limit_pages(0);
    assert!(matches!(store.store(at(500), &marked(0, 0)), Err(StoreError::Pool { .. })));
}

/// A function that a device calls during a read or write.
type Hook = Box<dyn Fn(&Zswap) + Send>;

/// A device that calls a hook while it writes or reads. The hook calls the store, or panics.
#[derive(Default)]
struct Hooked {
    inner: OnceLock<MemorySwapDevice>,
    store: Mutex<Weak<Zswap>>,
    write: Mutex<Option<Hook>>,
    read: Mutex<Option<Hook>>,
}

impl core::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Hooked")
    }
}

impl Hooked {
    fn inner(&self) -> &MemorySwapDevice {
        self.inner.get_or_init(|| MemorySwapDevice::new(100))
    }

    fn call(&self, hook: &Mutex<Option<Hook>>) {
        let hook = hook.lock().unwrap_or_else(|e| e.into_inner()).take();
        let store = self.store.lock().unwrap().upgrade();
        if let (Some(hook), Some(store)) = (hook, store) {
            hook(&store);
        }
    }
}

impl SwapDevice for Hooked {
    fn geometry(&self) -> Geometry {
        self.inner().geometry()
    }
    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.call(&self.write);
        self.inner().write_segment(segment, bytes)
    }
    fn read(&self, segment: u64, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.call(&self.read);
        self.inner().read(segment, at, bytes)
    }
    fn discard(&self, segment: u64) {
        self.inner().discard(segment);
    }
}

fn hooked(count: u64) -> (Arc<Zswap>, Arc<Hooked>) {
    let device = Arc::new(Hooked::default());
    let store = Arc::new(builder().0.swap_device(device.clone()).build().unwrap());
    *device.store.lock().unwrap() = Arc::downgrade(&store);
    for entry in 0..count {
        store.store(at(entry), &marked(entry, 0)).unwrap();
    }
    (store, device)
}

#[test]
fn what_happens_to_an_entry_while_it_is_written_back_wins() {
    let (store, device) = hooked(3);
    let set = |hook: Hook| *device.write.lock().unwrap() = Some(hook);
    set(Box::new(|store| store.store(at(0), &marked(0, 1)).unwrap()));
    assert_eq!(store.shrink(2), Ok(2), "the others");
    check(&store, 0, 1);
    assert_eq!((places(&store), device.inner().segments()), ((1, 2), 2));
    set(Box::new(|store| assert!(store.invalidate(at(0)))));
    assert_eq!(store.shrink(9), Ok(0));
    assert!(!store.contains(at(0)));
    assert_eq!((places(&store), device.inner().segments()), ((0, 2), 2));

    // Two calls of `shrink` write the same page back at the same time. Only one of them moves it to the
    // device.
    store.store(at(5), &marked(5, 0)).unwrap();
    set(Box::new(|store| assert_eq!(store.shrink(1), Ok(1))));
    assert_eq!(store.shrink(1), Ok(0));
    assert_eq!((places(&store), device.inner().segments()), ((0, 3), 3));
    check(&store, 5, 0);
}

#[test]
fn a_segment_that_is_read_is_not_written_again_meanwhile() {
    let (store, device) = hooked(2);
    assert_eq!((store.shrink(1), store.shrink(1)), (Ok(1), Ok(1)));
    let mut back = Box::new([0; PAGE_SIZE]);
    // While `load` reads the page, the entry is overwritten and the new page is written back. If the segment
    // were free already, that writeback would use it.
    let rewrite = |store: &Zswap| {
        store.store(at(0), &marked(0, 1)).unwrap();
        assert_eq!(store.shrink(1), Ok(1));
    };
    *device.read.lock().unwrap() = Some(Box::new(rewrite));
    store.load(at(0), &mut back).unwrap();
    assert!(back == marked(0, 0), "the page that was there when the load began");
    check(&store, 0, 1);
    // If the page is replaced while `take` reads it, `take` returns the newer page.
    *device.read.lock().unwrap() = Some(Box::new(|store| {
        store.store(at(0), &marked(0, 2)).unwrap();
        assert_eq!(store.shrink(1), Ok(1));
    }));
    store.take(at(0), &mut back).unwrap();
    assert!(back == marked(0, 2) && !store.contains(at(0)));
    assert_eq!((places(&store), device.inner().segments()), ((0, 1), 1));
}

#[test]
fn a_device_that_panics_leaves_the_store_usable() {
    let (store, device) = hooked(4);
    *device.write.lock().unwrap() = Some(Box::new(|_| panic!("on purpose")));
    let source = DeviceError::Panicked { operation: "write", segment: 0 };
    assert!(
        matches!(store.shrink(9), Err(WritebackError::Device { source: s, .. }) if s == source)
    );
    (0..4).for_each(|entry| check(&store, entry, 0));
    assert_eq!((places(&store), store.shrink(9)), ((4, 0), Ok(4)));
    *device.read.lock().unwrap() = Some(Box::new(|_| panic!("on purpose")));
    let mut back = Box::new([0; PAGE_SIZE]);
    let failed = store.load(at(2), &mut back).unwrap_err();
    let panicked =
        |source: &DeviceError| matches!(source, DeviceError::Panicked { operation: "read", .. });
    assert!(matches!(&failed, LoadError::Device { source, .. } if panicked(source)), "{failed}");
    (0..4).for_each(|entry| check(&store, entry, 0));
    assert_eq!(store.invalidate_area(0), 4);
    assert_eq!((places(&store), device.inner().segments()), ((0, 0), 0));
}

/// Some threads store, read and drop pages in a store at its limit, with a device that is slow and sometimes
/// fails. At the same time, other threads shrink the store and switch its pools.
#[test]
fn writeback_under_load_loses_no_page() {
    let memory = Arc::new(MemorySwapDevice::new(2000));
    let slow = ThrottledSwapDevice::new(memory.clone(), Duration::from_micros(20));
    let device = Arc::new(FaultySwapDevice::new(Arc::new(slow)));
    let (builder, pages) = builder();
    let store = builder.max_pool_bytes(40 * PAGE_SIZE).swap_device(device.clone()).build().unwrap();
    let stop = AtomicBool::new(false);
    let (threads, rounds) = if cfg!(miri) { (1, 12) } else { (3, 2000) };
    let known = builtin::zpools();
    let zpools: Vec<&str> = known.names().collect();
    thread::scope(|scope| {
        for seed in 0..2u64 {
            let (store, stop, device, zpools) = (&store, &stop, &device, &zpools);
            scope.spawn(move || {
                let mut rng = Rng::new(seed + 70);
                while !stop.load(SeqCst) {
                    match rng.below(4) {
                        0 => device.fail_writes(rng.below(30) as u64, 3),
                        1 => store.set_zpool(zpools[rng.below(zpools.len())]).unwrap(),
                        _ => {
                            let shrunk = store.shrink(rng.below(10));
                            let fine = matches!(shrunk, Ok(_) | Err(WritebackError::Device { .. }));
                            assert!(fine, "{shrunk:?}");
                        }
                    }
                    thread::yield_now();
                }
            });
        }
        let workers: Vec<_> = (0..threads)
            .map(|t| {
                let store = &store;
                scope.spawn(move || {
                    let mut rng = Rng::new(t);
                    let mut held = [None; 32];
                    let mut back = Box::new([0; PAGE_SIZE]);
                    for round in 0..rounds {
                        let slot = rng.below(32);
                        let entry = t * 100 + slot as u64;
                        match rng.below(8) {
                            0..=2 => {
                                held[slot] = match store.store(at(entry), &marked(entry, round)) {
                                    Ok(()) => Some(round),
                                    // Three writes in a row have failed, which starts a pause.
                                    Err(StoreError::PoolLimit {
                                        reason: LimitReason::DeviceFailed,
                                        ..
                                    }) => None,
                                    Err(other) => panic!("{other}"),
                                };
                            }
                            3 => {
                                assert_eq!(
                                    store.invalidate(at(entry)),
                                    held[slot].take().is_some()
                                );
                            }
                            4 => {
                                if let Some(round) = held[slot].take() {
                                    store.take(at(entry), &mut back).unwrap();
                                    assert!(back == marked(entry, round), "taken");
                                }
                            }
                            _ => match held[slot] {
                                Some(round) => check(store, entry, round),
                                None => assert!(!store.contains(at(entry))),
                            },
                        }
                    }
                })
            })
            .collect();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        stop.store(true, SeqCst);
        results.into_iter().for_each(|result| result.unwrap());
    });
    let (in_pools, on_device) = places(&store);
    assert_eq!(in_pools + on_device, store.len());
    assert_eq!(store.stats().device_segments, memory.segments());
    store.invalidate_area(0);
    assert_eq!((places(&store), memory.segments()), ((0, 0), 0));
    drop(store);
    assert_eq!(pages.pages_out(), 0);
}
