//! If a page is overwritten while it is being moved, the new page stays, even if the pool's number is reused.
//!
//! Each test tries to make a case that comparing words alone could not detect: the pool from which a page was
//! read becomes empty and is taken down, another pool gets its number, and an object in that pool gets the
//! handle bits of the old page.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread;

use common::rig::{Inside, Rig, marked, rig_with};
use common::{at, backends};
use zswap_core::device::{DeviceError, Geometry, MemorySwapDevice, SwapDevice};
use zswap_core::{LoadError, PAGE_SIZE, Page, Recompress, Zswap, builtin};

type Hook = Box<dyn FnOnce(&Zswap) + Send>;

/// A device that calls a hook during its next write, and passes the store to the hook.
#[derive(Default)]
struct Hooked {
    store: Mutex<Weak<Zswap>>,
    hook: Mutex<Option<Hook>>,
    inner: OnceLock<MemorySwapDevice>,
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
}

impl SwapDevice for Hooked {
    fn geometry(&self) -> Geometry {
        Geometry::of_pages(100)
    }
    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let hook = self.hook.lock().unwrap().take();
        let store = self.store.lock().unwrap().upgrade();
        if let (Some(hook), Some(store)) = (hook, store) {
            hook(&store);
        }
        self.inner().write_segment(segment, bytes)
    }
    fn read(&self, segment: u64, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.inner().read(segment, at, bytes)
    }
}

/// Replaces the old pool and its page. Drops the page, so that the pool is taken down, and a new pool takes
/// its place. The newer page is the first object of the new pool, as the older page was of the old pool.
fn replace_pool_and_page(store: &Zswap, newer: &Page) {
    store.set_compressor("trim8").unwrap();
    assert!(store.invalidate(at(0)));
    store.set_compressor("trim9").unwrap();
    store.store(at(0), newer).unwrap();
}

fn newer_page_is_there(store: &Zswap) {
    let mut back = Box::new([0; PAGE_SIZE]);
    store.load(at(0), &mut back).unwrap();
    assert!(back == marked(0, 2), "the acknowledged page is gone");
}

#[test]
fn a_page_that_is_written_back_is_not_taken_for_the_one_that_came_after_it() {
    for zpool in &backends() {
        for checksums in [false, true] {
            let device = Arc::new(Hooked::default());
            let given = device.clone();
            let Rig { store, pages, .. } =
                rig_with(|builder| builder.zpool(zpool).checksums(checksums).swap_device(given));
            *device.store.lock().unwrap() = Arc::downgrade(&store);
            store.store(at(0), &marked(0, 1)).unwrap();
            let hook = |store: &Zswap| replace_pool_and_page(store, &marked(0, 2));
            *device.hook.lock().unwrap() = Some(Box::new(hook));
            // The older page is skipped. The newer page may be written back when its turn comes.
            assert!(store.shrink(1).is_ok(), "{zpool}");
            newer_page_is_there(&store);
            store.invalidate(at(0));
            assert_eq!(store.stats().device_pages, 0);
            drop(store);
            assert_eq!(pages.pages_out(), 0);
        }
    }
}

/// Runs `hook` on another thread, during the next compression of a page. The hook must not use a `trim`
/// codec, since it would wait for that compression to end.
fn at_next_compression(
    inside: &Inside,
    store: &Arc<Zswap>,
    hook: impl Fn(&Zswap) + Send + Sync + 'static,
) {
    let (store, first) = (Arc::downgrade(store), AtomicBool::new(true));
    *inside.lock().unwrap() = Some(Box::new(move || {
        if let (true, Some(store)) = (first.swap(false, SeqCst), store.upgrade()) {
            thread::scope(|scope| scope.spawn(|| hook(&store)).join().unwrap());
        }
    }));
}

#[test]
fn a_page_that_is_migrated_or_recompressed_is_not_taken_for_the_one_that_came_after_it() {
    for zpool in &backends() {
        for recompress in [false, true] {
            let Rig { store, inside, .. } = rig_with(|builder| builder.zpool(zpool));
            store.store(at(0), &marked(0, 1)).unwrap();
            at_next_compression(&inside, &store, |store| {
                assert!(store.invalidate(at(0)));
                store.set_compressor("null").unwrap();
                store.store(at(0), &marked(0, 2)).unwrap();
            });
            if recompress {
                let done = store.recompress(&Recompress::new("trim1").max_pages(10)).unwrap();
                assert_eq!((done.moved, done.not_smaller), (0, 0), "{zpool}");
            } else {
                store.set_compressor("trim1").unwrap();
                assert_eq!(store.migrate_pools(10).unwrap().moved, 0, "{zpool}");
            }
            *inside.lock().unwrap() = None;
            newer_page_is_there(&store);
        }
    }
}

#[test]
fn a_page_on_a_device_is_never_taken_for_another_one_in_its_place() {
    // One segment, whose only page is at the same address each time.
    let device = Arc::new(MemorySwapDevice::new(2));
    let Rig { store, .. } = rig_with(|builder| builder.swap_device(device));
    for round in 0..if cfg!(miri) { 6 } else { 20 } {
        store.store(at(0), &marked(0, round)).unwrap();
        assert_eq!(store.shrink(1), Ok(1));
        let mut back = Box::new([0; PAGE_SIZE]);
        store.take(at(0), &mut back).unwrap();
        assert!(back == marked(0, round));
        assert_eq!(store.load(at(0), &mut back), Err(LoadError::NotFound { entry: at(0) }));
    }
}

/// Writeback, migration, recompression, switches and overwrites run at the same time on a few entries. Each
/// load returns the page that was stored last.
#[test]
fn movers_switches_and_overwrites_of_the_same_entries_lose_no_page() {
    let device = Arc::new(MemorySwapDevice::new(100));
    let Rig { store, .. } = rig_with(|builder| {
        builder.zpool(builtin::DEFAULT_ZPOOL).checksums(true).swap_device(device)
    });
    let stop = AtomicBool::new(false);
    let rounds = if cfg!(miri) { 5 } else { 3000 };
    thread::scope(|scope| {
        let (store, stop) = (&store, &stop);
        scope.spawn(move || {
            for n in (0..).take_while(|_| !stop.load(SeqCst)) {
                store.set_compressor(["trim1", "trim2", "null"][n % 3]).unwrap();
                thread::yield_now();
            }
        });
        scope.spawn(move || {
            for n in (0u64..).take_while(|_| !stop.load(SeqCst)) {
                match n % 3 {
                    0 => drop(store.shrink(2).unwrap()),
                    1 => drop(store.migrate_pools(3).unwrap()),
                    _ => drop(store.recompress(&Recompress::new("trim5").max_pages(3)).unwrap()),
                }
            }
        });
        let workers: Vec<_> = (0..2u64)
            .map(|t| {
                scope.spawn(move || {
                    let mut back = Box::new([0; PAGE_SIZE]);
                    for round in 0..rounds {
                        let entry = t * 2 + round % 2;
                        store.store(at(entry), &marked(entry, round)).unwrap();
                        store.load(at(entry), &mut back).unwrap();
                        assert!(back == marked(entry, round));
                        if round % 7 == 0 {
                            store.take(at(entry), &mut back).unwrap();
                            assert!(back == marked(entry, round));
                        }
                    }
                })
            })
            .collect();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        stop.store(true, SeqCst);
        results.into_iter().for_each(|result| result.unwrap());
    });
}
