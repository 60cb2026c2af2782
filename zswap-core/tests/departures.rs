//! Tests the listener, which hears of pages that leave, and the filter, which says which pages are clean.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread;

use common::areas::builder;
use common::at;
use common::rig::{check, marked};
use zswap_core::device::{FaultySwapDevice, MemorySwapDevice};
use zswap_core::{
    AreaSettings, Departure, LimitReason, LoadError, PAGE_SIZE, StoreError, SwapEntry,
    WritebackError, Zswap, ZswapBuilder,
};

type Heard = Arc<Mutex<Vec<(u64, Departure)>>>;

fn listening(builder: ZswapBuilder) -> (ZswapBuilder, Heard) {
    let heard = Heard::default();
    let notes = heard.clone();
    let listener = move |entry: SwapEntry, how| notes.lock().unwrap().push((entry.offset(), how));
    (builder.listener(listener), heard)
}

fn taken(heard: &Heard) -> Vec<(u64, Departure)> {
    let mut heard = core::mem::take(&mut *heard.lock().unwrap());
    heard.sort_unstable_by_key(|(offset, _)| *offset);
    heard
}

#[test]
fn the_listener_hears_of_each_departure_once() {
    let device = Arc::new(FaultySwapDevice::new(Arc::new(MemorySwapDevice::new(100))));
    let (builder, heard) = listening(builder().swap_device(device.clone()));
    let store = builder.clean_filter(|entry| entry.offset() % 10 == 9).build().unwrap();
    (0..20).for_each(|n| store.store(at(n), &marked(n, 0)).unwrap());
    store.store(at(20), &[0; PAGE_SIZE]).unwrap();
    // An overwritten page did not leave.
    store.store(at(0), &marked(0, 0)).unwrap();
    assert_eq!(taken(&heard), []);
    device.fail_writes(0, 1);
    assert!(matches!(store.shrink(99), Err(WritebackError::Device { .. })));
    assert_eq!(taken(&heard), [(9, Departure::DroppedClean)]);
    assert_eq!(store.shrink(99), Ok(19));
    let left = (0..20).filter(|n| *n != 9).map(|n| match n {
        19 => (n, Departure::DroppedClean),
        n => (n, Departure::WrittenBack),
    });
    assert_eq!(taken(&heard), left.collect::<Vec<_>>());
    assert!(store.invalidate(at(1)) && store.invalidate(at(20)) && !store.invalidate(at(1)));
    store.take(at(2), &mut [0; PAGE_SIZE]).unwrap();
    store.take(at(9), &mut [0; PAGE_SIZE]).unwrap_err();
    let expected =
        [(1, Departure::Invalidated), (2, Departure::Taken), (20, Departure::Invalidated)];
    assert_eq!(taken(&heard), expected);
    assert_eq!(store.invalidate_area(0), 16);
    let heard = taken(&heard);
    assert!(heard.len() == 16 && heard.iter().all(|(_, how)| *how == Departure::Invalidated));
    let stats = store.stats();
    assert_eq!((stats.dropped_clean_pages, stats.written_back_pages), (2, 18));
    assert_eq!(stats.listener_panics, 0);
}

#[test]
fn an_older_page_that_goes_for_a_newer_one_is_superseded() {
    let (builder, heard) = listening(builder());
    let store = builder.max_pool_bytes(3 * PAGE_SIZE).build().unwrap();
    (0..3).for_each(|n| store.store(at(n), &marked(n, 0)).unwrap());
    // There is no room for both, so the older page goes first.
    store.store(at(1), &marked(1, 1)).unwrap();
    assert_eq!(taken(&heard), [(1, Departure::Superseded)]);
    store.try_replace(at(1), &marked(1, 2)).unwrap_err();
    assert_eq!(taken(&heard), []);
    store.set_max_pool_bytes(Some(0)).unwrap();
    store.store(at(1), &marked(1, 3)).unwrap_err();
    assert_eq!(taken(&heard), [(1, Departure::Superseded)]);
}

/// The listener and the filter call the store: about the same entry, and so that other pages leave.
#[test]
fn the_listener_and_the_filter_may_call_the_store() {
    static STORE: OnceLock<Mutex<Weak<Zswap>>> = OnceLock::new();
    let store = || STORE.get().and_then(|store| store.lock().unwrap().upgrade());
    let listener = move |entry: SwapEntry, how| {
        let Some(store) = store() else { return };
        let mut back = Box::new([0; PAGE_SIZE]);
        match how {
            Departure::WrittenBack => store.load(entry, &mut back).unwrap(),
            Departure::DroppedClean => store.store(entry, &marked(entry.offset(), 7)).unwrap(),
            // Each page takes its neighbour with it, three deep.
            Departure::Invalidated if entry.offset() % 4 > 0 => {
                store.invalidate(at(entry.offset() - 1));
            }
            _ => {}
        }
        let _ = store.shrink(1);
    };
    let filter = move |entry: SwapEntry| {
        let Some(store) = store() else { return false };
        // The page that is stored here stays: the filter was asked about the older one.
        if entry.offset() == 30 {
            store.store(entry, &marked(30, 1)).unwrap();
        }
        entry.offset() == 30 || entry.offset() == 31 && !store.contains(at(99))
    };
    let device = Arc::new(MemorySwapDevice::new(1000));
    let built = builder().swap_device(device).listener(listener).clean_filter(filter).build();
    let built = Arc::new(built.unwrap());
    STORE.set(Mutex::new(Arc::downgrade(&built))).unwrap();
    (0..32).for_each(|n| built.store(at(n), &marked(n, 0)).unwrap());
    // Calls from the listener write pages back, too.
    built.shrink(20).unwrap();
    assert!(built.stats().device_pages >= 20);
    assert!(built.invalidate(at(7)));
    assert!((4..8).all(|n| !built.contains(at(n))) && built.contains(at(3)));
    (8..30).for_each(|n| check(&built, n, 0));
    built.store(at(99), &[0; PAGE_SIZE]).unwrap();
    built.shrink(99).unwrap();
    check(&built, 30, 1);
    let mut back = Box::new([0; PAGE_SIZE]);
    built.load(at(31), &mut back).unwrap();
    assert!(back == marked(31, 0) || back == marked(31, 7));
    assert_eq!(built.stats().listener_panics, 0);
}

#[test]
fn a_panic_of_the_listener_or_the_filter_ends_there() {
    let device = Arc::new(MemorySwapDevice::new(1000));
    let panics = |_| -> bool { std::panic::resume_unwind(Box::new(())) };
    let listener = |_, _| std::panic::resume_unwind(Box::new(()));
    let builder = builder().swap_device(device).listener(listener).clean_filter(panics);
    let store = builder.build().unwrap();
    store.add_area(1, AreaSettings::default()).unwrap();
    let of_area = SwapEntry::new(1, 0).unwrap();
    (0..10).for_each(|n| store.store(at(n), &marked(n, 0)).unwrap());
    store.store(of_area, &marked(0, 0)).unwrap();
    assert_eq!(store.shrink(99), Ok(11));
    (0..10).for_each(|n| check(&store, n, 0));
    assert!(store.invalidate(at(0)));
    // Each page was asked about, and left; one was invalidated.
    assert_eq!(store.stats().listener_panics, 2 * 11 + 1);
    assert_eq!(store.area(1).unwrap().stats().listener_panics, 2);
}

/// A store without a device is a cache: it drops clean pages at its limit, and refuses none.
#[test]
fn a_store_without_a_device_makes_room_with_clean_pages() {
    let dirty = Arc::new(AtomicBool::new(false));
    let all_dirty = dirty.clone();
    let asked = Arc::new(AtomicU64::new(0));
    let count = asked.clone();
    let filter = move |entry: SwapEntry| {
        count.fetch_add(1, SeqCst);
        !all_dirty.load(SeqCst) && entry.offset() % 2 == 0
    };
    let limit = 200;
    let store = builder().clean_filter(filter).max_pool_bytes(limit * PAGE_SIZE).build().unwrap();
    (0..50).for_each(|n| store.store(at(2 * n + 1), &marked(2 * n + 1, 0)).unwrap());
    (0..4000).for_each(|n| store.store(at(2 * n), &marked(2 * n, 0)).unwrap());
    let stats = store.stats();
    assert_eq!(stats.stored_pages + stats.dropped_clean_pages as usize, 4050);
    assert!((100..=limit).contains(&stats.stored_pages), "{}", stats.stored_pages);
    (0..50).for_each(|n| check(&store, 2 * n + 1, 0));
    let missing = store.load(at(0), &mut [0; PAGE_SIZE]);
    assert_eq!(missing, Err(LoadError::NotFound { entry: at(0) }));
    // If none is clean, the store searches all of its pages a few times, and not for every refusal.
    dirty.store(true, SeqCst);
    let fills = |n: u64| store.store(at(1 << 20 | n), &marked(0, 0)).is_err();
    assert!((0..4 * limit as u64).any(fills));
    let before = asked.load(SeqCst);
    let many = 2000;
    for n in 0..many {
        let refused = store.store(at(1 << 30 | n), &marked(n, 0)).unwrap_err();
        let reason = LimitReason::NoDevice;
        let limit = limit * PAGE_SIZE;
        assert_eq!(refused, StoreError::PoolLimit { entry: at(1 << 30 | n), limit, reason });
    }
    let searched = (asked.load(SeqCst) - before) / limit as u64;
    assert!(searched < many / 4, "searched all pages {searched} times");
    assert_eq!(store.shrink(1), Err(WritebackError::NoDevice));
    dirty.store(false, SeqCst);
    common::eventually("clean pages are found again", || {
        store.store(at(1 << 40), &marked(0, 0)).is_ok()
    });
}

/// While the device fails, clean pages make room.
#[test]
fn clean_pages_go_while_the_device_fails() {
    let device = Arc::new(FaultySwapDevice::new(Arc::new(MemorySwapDevice::new(1000))));
    device.fail_writes(0, u64::MAX);
    let builder = builder().swap_device(device.clone()).max_pool_bytes(100 * PAGE_SIZE);
    let store = builder.clean_filter(|entry| entry.offset() >= 50).build().unwrap();
    (0..50).for_each(|n| store.store(at(n), &marked(n, 0)).unwrap());
    (50..1000).for_each(|n| store.store(at(n), &marked(n, 0)).unwrap());
    (0..50).for_each(|n| check(&store, n, 0));
    assert!(store.stats().dropped_clean_pages >= 850);
    assert_eq!(store.stats().written_back_pages, 0);
}

/// A page that is overwritten, loaded or taken while clean pages are dropped is never an older one.
#[test]
fn a_page_that_changes_while_the_filter_is_asked_is_not_lost() {
    let rounds = if cfg!(miri) { 40 } else { 4000 };
    // The owner notes which of its pages are dirty: those with an odd number of writes.
    let dirty: Arc<Vec<AtomicBool>> = Arc::new((0..8).map(|_| AtomicBool::new(false)).collect());
    let asked = dirty.clone();
    let filter = move |entry: SwapEntry| !asked[entry.offset() as usize].load(SeqCst);
    let store = builder().clean_filter(filter).build().unwrap();
    let (store, dirty, stop) = (&store, &dirty, &AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    let _ = store.shrink(3);
                    thread::yield_now();
                }
            });
        }
        let mut back = Box::new([0; PAGE_SIZE]);
        let mut dropped = 0;
        for round in 0..rounds {
            let n = round % 8;
            // Dirty before it is stored, and clean only after it was read back: so it must be there.
            dirty[n as usize].store(true, SeqCst);
            store.store(at(n), &marked(n, round)).unwrap();
            store.load(at(n), &mut back).unwrap();
            assert!(back == marked(n, round), "{n} {round}");
            dirty[n as usize].store(false, SeqCst);
            match store.load(at(n), &mut back) {
                Ok(()) => assert!(back == marked(n, round), "{n} {round}"),
                Err(error) => {
                    assert_eq!(error, LoadError::NotFound { entry: at(n) });
                    dropped += 1;
                }
            }
        }
        stop.store(true, SeqCst);
        let _ = dropped;
    });
    assert!(cfg!(miri) || store.stats().dropped_clean_pages > 0);
}
