//! Tests that a tenant cannot harm another one, and that no mix of areas, filter and listener exceeds a limit, ends
//! never, or is refused without need.

#![cfg(not(miri))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use common::areas::{builder, of, pages, put, with_device};
use common::at;
use common::rig::marked;
use compressors::{Acomp, AcompCompletions, AcompDone, AcompRequest, Scomp};
use zswap_core::device::{Geometry, MemorySwapDevice};
use zswap_core::{AreaSettings, LimitReason, PAGE_SIZE, StoreError, SwapEntry, Zswap};

/// Stores of each thread.
const ROUNDS: u64 = 3000;

/// Threads of one tenant at its own limit: the store has none. Other threads make room in the area all the time.
#[test]
fn a_flood_by_threads_moves_no_page_of_another() {
    let tenants = &with_device(400_000).build().unwrap();
    tenants.add_area(3, AreaSettings::default()).unwrap();
    tenants.add_area(200, AreaSettings::default().max_pool_bytes(pages(4))).unwrap();
    (0..500).for_each(|n| put(tenants, 3, n).unwrap());
    thread::scope(|scope| {
        for k in 0..6u64 {
            scope.spawn(move || {
                for n in 0..ROUNDS {
                    put(tenants, 200, (k << 20) | (n % 64)).unwrap();
                    if n % 3 == 0 {
                        tenants.invalidate(of(200, (k << 20) | ((n + 7) % 64)));
                    }
                }
            });
        }
    });
    assert_eq!(tenants.area(3).unwrap().stats().device_pages, 0);
}

/// The same without a device: an area that closes does not close the store.
#[test]
fn an_area_at_its_limit_does_not_close_the_store() {
    let builder = builder().accept_threshold_percent(50);
    let tenants = &builder.max_pool_bytes(pages(1000)).build().unwrap();
    tenants.add_area(200, AreaSettings::default().max_pool_bytes(pages(4))).unwrap();
    (0..600).for_each(|n| put(tenants, 3, n).unwrap());
    thread::scope(|scope| {
        for k in 0..6u64 {
            scope.spawn(move || {
                for n in 0..ROUNDS {
                    match put(tenants, 200, (k << 20) | (n % 8)) {
                        Ok(()) => {}
                        Err(StoreError::PoolLimit { limit, .. }) => assert_eq!(limit, pages(4)),
                        Err(error) => panic!("{error}"),
                    }
                    if n % 2 == 0 {
                        tenants.invalidate(of(200, (k << 20) | ((n + 3) % 8)));
                    }
                }
            });
        }
        // Fewer than 710 of 1000 pages are in use.
        scope.spawn(move || (0..ROUNDS).for_each(|n| put(tenants, 3, 1000 + n % 100).unwrap()));
    });
}

#[test]
fn a_tenant_with_dirty_pages_leaves_the_clean_ones_of_another_alone() {
    let s = builder().clean_filter(|entry| entry.swap_type() == 3).build().unwrap();
    for area in [3, 200] {
        s.add_area(area, AreaSettings::default().max_pool_bytes(pages(100))).unwrap();
    }
    let refused = (0..2000).filter(|n| {
        let _ = put(&s, 200, *n);
        put(&s, 3, *n).is_err()
    });
    assert_eq!(refused.count(), 0);
}

#[test]
fn protected_pages_do_not_lift_the_limit() {
    let s = with_device(20_000).max_pool_bytes(pages(20)).build().unwrap();
    for area in 0..=255 {
        let settings = AreaSettings::default().protected_pool_bytes(usize::MAX);
        s.add_area(area, settings).unwrap();
    }
    (0..20).for_each(|n| put(&s, 0, n).unwrap());
    (1..=255).for_each(|area| (0..3).for_each(|n| put(&s, area, n).unwrap()));
    s.trim();
    assert!(s.stats().pool_total_size <= pages(20 + 16), "{}", s.stats().pool_total_size / 4096);
}

/// The same with a device that is full: the limit holds, and refusals say why.
#[test]
fn a_full_device_does_not_lift_the_limit_for_protected_areas() {
    let s = with_device(64).max_pool_bytes(pages(40)).build().unwrap();
    for area in 0..=200 {
        let settings = AreaSettings::default().protected_pool_bytes(usize::MAX);
        s.add_area(area, settings).unwrap();
    }
    let mut refused = 0;
    for (area, n) in (0..=200).flat_map(|area| (0..3).map(move |n| (area, n))) {
        match put(&s, area, n) {
            Ok(()) => {}
            Err(StoreError::PoolLimit { reason, .. }) => {
                assert_eq!(reason, LimitReason::DeviceFull);
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    s.trim();
    assert!(refused > 400, "{refused}");
    assert!(s.stats().pool_total_size <= pages(40 + 16), "{}", s.stats().pool_total_size / 4096);
}

#[test]
fn max_bytes_holds_over_many_areas() {
    let s = builder().build().unwrap();
    (1..=255).for_each(|area| s.add_area(area, AreaSettings::default()).unwrap());
    let limit = s.stats().memory_bytes() + (1 << 20);
    s.set_max_bytes(Some(limit)).unwrap();
    for (n, area) in (0..200).flat_map(|n| (0..=255).map(move |area| (n, area))) {
        let _ = s.store(of(area, n << 32), &[0; PAGE_SIZE]);
    }
    let over = s.stats().memory_bytes().saturating_sub(limit);
    assert!(over < 100_000, "{over}");
}

/// Completes the newest request first, as it may.
#[derive(Debug, Default)]
struct Lifo(Mutex<Vec<(AcompRequest, usize, Arc<AcompCompletions>)>>);

impl Acomp for Lifo {
    fn submit(
        &self,
        request: AcompRequest,
        tag: usize,
        done: &Arc<AcompCompletions>,
    ) -> Result<(), AcompRequest> {
        self.0.lock().unwrap().push((request, tag, done.clone()));
        Ok(())
    }
    fn parallelism(&self) -> usize {
        4
    }
    fn wait_any(&self, done: &AcompCompletions) -> Option<(usize, AcompDone)> {
        let next = self.0.lock().unwrap().pop();
        if let Some((request, tag, done)) = next {
            Scomp.submit(request, tag, &done).unwrap();
        }
        done.take()
    }
}

#[test]
fn a_batch_that_completes_backwards_keeps_the_limit() {
    let builder = with_device(20_000).max_pool_bytes(pages(20));
    let s = builder.acomp(Arc::new(Lifo::default())).build().unwrap();
    let contents: Vec<_> = (0..1000).map(|n| marked(n, 1)).collect();
    let batch = contents.iter().zip(0..).map(|(page, n)| (at(n), &**page)).collect::<Vec<_>>();
    s.store_batch(&batch).unwrap();
    s.trim();
    assert!(s.stats().pool_total_size <= pages(20 + 16), "{}", s.stats().pool_total_size / 4096);
}

#[test]
fn a_full_device_is_no_reason_if_there_are_clean_pages() {
    let is_clean = |entry: SwapEntry| entry.offset() >= 1 << 30;
    let s = with_device(60).max_pool_bytes(pages(200)).clean_filter(is_clean).build().unwrap();
    let dirty = (0..).find(|n| put(&s, 0, *n).is_err()).unwrap();
    (dirty - 100..dirty).for_each(|n| assert!(s.invalidate(at(n))));
    let refused = (0..400).filter(|n| put(&s, 0, 1 << 40 | *n).is_err()).count();
    assert_eq!(refused, 0);
}

#[test]
fn a_filter_that_shrinks_does_not_wait_for_its_own_segment() {
    static STORE: OnceLock<Weak<Zswap>> = OnceLock::new();
    static SLOW: AtomicBool = AtomicBool::new(false);
    let filter = |entry: SwapEntry| {
        if let Some(s) = STORE.get().and_then(Weak::upgrade).filter(|_| entry.offset() == 5) {
            let start = Instant::now();
            let _ = s.shrink(1);
            SLOW.store(start.elapsed() > Duration::from_secs(2), SeqCst);
        }
        false
    };
    let geometry = Geometry { segments: 1, ..Geometry::of_pages(64) };
    let device = Arc::new(MemorySwapDevice::with_geometry(geometry));
    let s = Arc::new(builder().swap_device(device).clean_filter(filter).build().unwrap());
    STORE.set(Arc::downgrade(&s)).unwrap();
    (0..10).for_each(|n| put(&s, 0, n).unwrap());
    s.shrink(8).unwrap();
    assert!(!SLOW.load(SeqCst));
}

#[test]
fn small_areas_share_segments() {
    let s = with_device(60_000).build().unwrap();
    for area in 1..=200 {
        s.add_area(area, AreaSettings::default()).unwrap();
        put(&s, area, 0).unwrap();
    }
    // Half of them were loaded, so they get a second chance first.
    (1..=100).for_each(|area| s.load(of(area, 0), &mut [0; PAGE_SIZE]).unwrap());
    assert_eq!(s.shrink(200), Ok(200));
    assert!(s.stats().device_segments <= 20, "{}", s.stats().device_segments);
}

/// Each dropped page makes the listener store one a little further on.
#[test]
fn shrink_ends_although_pages_are_stored_ahead_of_it() {
    static STORE: OnceLock<Weak<Zswap>> = OnceLock::new();
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let listener = |entry: SwapEntry, _| {
        let Some(s) = STORE.get().and_then(Weak::upgrade) else { return };
        if CALLS.fetch_add(1, SeqCst) < 100_000 {
            put(&s, 0, entry.offset() + 32).unwrap();
        }
    };
    let s = Arc::new(builder().clean_filter(|_| true).listener(listener).build().unwrap());
    STORE.set(Arc::downgrade(&s)).unwrap();
    (0..20).for_each(|n| put(&s, 0, n).unwrap());
    s.shrink(usize::MAX).unwrap();
    assert!(CALLS.load(SeqCst) < 1000, "{}", CALLS.load(SeqCst));
}
