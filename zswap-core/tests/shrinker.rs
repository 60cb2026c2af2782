//! Tests the background shrinker. It writes pages back before the limit is reached. It goes on after failures
//! of the device, and ends with the store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use common::rig::{Rig, check, marked, rig_with};
use common::{at, eventually};
use zswap_core::device::{DeviceError, FaultySwapDevice, Geometry, MemorySwapDevice, SwapDevice};
use zswap_core::{PAGE_SIZE, ShrinkerPolicy, WritebackError, Zswap};

const LIMIT: usize = 20 * PAGE_SIZE;

/// Makes a store with this device. Its limit is 20 pool pages, and each pool page holds one page.
fn limited(device: Arc<dyn SwapDevice>) -> Rig {
    rig_with(|builder| builder.compressor("null").max_pool_bytes(LIMIT).swap_device(device))
}

fn quick() -> ShrinkerPolicy {
    ShrinkerPolicy::default().from_percent(50).pause(Duration::from_millis(1))
}

fn pool_bytes(store: &Zswap) -> usize {
    store.stats().pools.iter().map(|pool| pool.objects * PAGE_SIZE).sum()
}

#[test]
fn pages_go_before_the_limit_is_reached_and_no_more_than_need_be() {
    let device = Arc::new(MemorySwapDevice::new(1000));
    let Rig { store, pages, .. } = limited(device);
    (0..18).for_each(|entry| store.store(at(entry), &marked(entry, 0)).unwrap());
    store.set_writeback_enabled(false);
    let shrinker = store.shrink_in_background(quick()).unwrap();
    eventually("a step", || shrinker.report().steps > 2);
    assert_eq!((shrinker.report().written, shrinker.report().failed), (0, 0), "switched off");
    store.set_writeback_enabled(true);
    eventually("less than half of the limit", || pool_bytes(&store) <= LIMIT / 2);
    let report = shrinker.report();
    eventually("a step with nothing to do", || shrinker.report().steps > report.steps + 1);
    assert_eq!((store.stats().device_pages, pool_bytes(&store)), (8, LIMIT / 2));
    assert_eq!(shrinker.report().written, 8);
    let shown = format!("{shrinker:?}");
    assert!(shown.contains("written: 8"), "{shown}");
    // Store more pages. The shrinker makes room for them.
    let end = if cfg!(miri) { 22 } else { 60 };
    for entry in 18..end {
        store.store(at(entry), &marked(entry, 0)).unwrap();
        eventually("room", || pool_bytes(&store) <= LIMIT / 2);
    }
    // A written page leaves its pool before it is counted, so wait for the count.
    eventually("all counted", || store.stats().written_back_pages >= end - 10);
    assert_eq!((store.stats().pool_limit_hit, store.stats().written_back_pages), (0, end - 10));
    (0..end).for_each(|entry| check(&store, entry, 0));
    assert!(store.stats().device_loads >= end - 10);

    // The thread does not keep the store alive. It ends when the store is gone.
    drop(store);
    eventually("the store's end", || pages.pages_out() == 0);
    let steps = shrinker.report().steps;
    assert_eq!((shrinker.report().failed, shrinker.report().last_error), (0, None));
    thread::sleep(Duration::from_millis(3));
    assert!(shrinker.report().steps <= steps + 1);
}

#[test]
fn a_device_that_fails_is_tried_again() {
    let device = Arc::new(FaultySwapDevice::new(Arc::new(MemorySwapDevice::new(1000))));
    let Rig { store, .. } = limited(device.clone());
    device.fail_writes(2, u64::MAX);
    (0..18).for_each(|entry| store.store(at(entry), &marked(entry, 0)).unwrap());
    // The first step writes three pages, the second two. Each step writes one segment.
    let shrinker = store.shrink_in_background(quick().most_pages(3)).unwrap();
    eventually("a failure", || shrinker.report().failed > 1);
    let report = shrinker.report();
    assert!(matches!(report.last_error, Some(WritebackError::Device { .. })), "{report:?}");
    assert_eq!((report.written, pool_bytes(&store)), (5, 13 * PAGE_SIZE));
    let stats = store.stats();
    assert_eq!((stats.device_pages, stats.device_segments), (5, 2), "the rest stays in memory");
    device.fail_writes(0, 0);
    eventually("less than half of the limit", || pool_bytes(&store) <= LIMIT / 2);
    (0..18).for_each(|entry| check(&store, entry, 0));
    assert_eq!(shrinker.report().written, 8);
}

/// A device whose writes panic while its flag is set.
#[derive(Debug)]
struct Panics(MemorySwapDevice, AtomicBool);

impl SwapDevice for Panics {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        assert!(!self.1.load(SeqCst), "on purpose");
        self.0.write_segment(segment, bytes)
    }
    fn read(&self, segment: u64, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.0.read(segment, offset, bytes)
    }
    fn discard(&self, segment: u64) {
        self.0.discard(segment);
    }
}

#[test]
fn a_device_that_panics_does_not_end_it() {
    let device = Arc::new(Panics(MemorySwapDevice::new(1000), AtomicBool::new(true)));
    let Rig { store, .. } = limited(device.clone());
    (0..18).for_each(|entry| store.store(at(entry), &marked(entry, 0)).unwrap());
    let shrinker = store.shrink_in_background(quick()).unwrap();
    eventually("a panic", || shrinker.report().failed > 0);
    assert_eq!((store.stats().device_segments, device.0.segments()), (0, 0));
    (0..18).for_each(|entry| check(&store, entry, 0));
    device.1.store(false, SeqCst);
    eventually("less than half of the limit", || pool_bytes(&store) <= LIMIT / 2);
    (0..18).for_each(|entry| check(&store, entry, 0));
    assert_eq!(store.stats().device_pages, 8);
    assert!(device.0.segments() > 0);
}

#[test]
fn dropped_it_stops_and_without_a_limit_or_a_device_it_does_not_start() {
    let device = Arc::new(MemorySwapDevice::new(1000));
    let Rig { store, .. } = limited(device.clone());
    // The first pause lasts an hour. The pages are stored after the first step.
    let slow = quick().pause(Duration::from_secs(3600));
    let shrinker = store.shrink_in_background(slow).unwrap();
    eventually("the first step", || shrinker.report().steps == 1);
    (0..18).for_each(|entry| store.store(at(entry), &marked(entry, 0)).unwrap());
    drop(shrinker);
    assert_eq!((device.segments(), store.stats().device_pages), (0, 0));

    let none = rig_with(|builder| builder.max_pool_bytes(LIMIT));
    let error = none.store.shrink_in_background(quick()).unwrap_err();
    assert_eq!(error, WritebackError::NoDevice);
    let own = Arc::new(MemorySwapDevice::new(1000));
    let unlimited = rig_with(|builder| builder.swap_device(own));
    let error = unlimited.store.shrink_in_background(quick()).unwrap_err();
    assert_eq!(error, WritebackError::NoLimit);
}
