//! Tests how stores use devices: a device serves only one store, it may panic, be full, or fail to be flushed; pages
//! come back from it, and outlive the pool that they come from; its segments are cleaned. The system may limit the
//! size of files.

#![cfg(not(miri))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;
#[path = "common/page_device.rs"]
mod page_device;

use std::cell::RefCell;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use common::rig::{Rig, check, marked, pools, rig_with};
use common::{at, eventually};
use page_device::MemoryPages;
use zswap_core::device::{
    AttachError, DeviceError, FaultySwapDevice, FileDeviceError, FileSwapDevice, Geometry,
    MemorySwapDevice, PageDevice, PageSwapDevice, SwapDevice,
};
use zswap_core::{
    BuildError, CleanerPolicy, LimitReason, LoadError, PAGE_SIZE, Page, Promotion, StoreError,
    WritebackError, Zswap,
};

fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("zswap-device-{}-{name}", std::process::id()))
}

#[test]
fn a_device_serves_one_store_at_a_time() {
    let in_use = |result: Result<Zswap, BuildError>| {
        assert!(matches!(result, Err(BuildError::Device(AttachError::InUse))), "{result:?}");
    };
    let memory = Arc::new(MemorySwapDevice::new(100));
    let builder = Zswap::builder().swap_device(memory.clone());
    let store = builder.clone().build().unwrap();
    in_use(builder.clone().build());
    let wrapped = || Arc::new(FaultySwapDevice::new(memory.clone()));
    in_use(Zswap::builder().swap_device(wrapped()).build());
    store.store(at(0), &marked(0, 0)).unwrap();
    assert_eq!(store.shrink(1), Ok(1));
    check(&store, 0, 0);
    // If a store cannot be built, it releases the device.
    drop(store);
    assert!(Zswap::builder().swap_device(memory.clone()).zpool("zlab").build().is_err());
    let again = Zswap::builder().swap_device(wrapped()).build().unwrap();
    in_use(builder.build());
    drop(again);

    // Two adapters around one device of pages are one device.
    let pages = Arc::new(MemoryPages::new(100));
    let adapted = || Zswap::builder().swap_device(Arc::new(PageDevice(pages.clone())));
    let store = adapted().build().unwrap();
    in_use(adapted().build());
    drop(store);
    adapted().build().unwrap();

    let path = temporary("twice");
    let device = FileSwapDevice::create(&path, 100).unwrap();
    let second = FileSwapDevice::create(&path, 100).unwrap_err();
    assert!(matches!(second, FileDeviceError::InUse { .. }), "{second}");
    drop(device);
    std::fs::remove_file(path).unwrap();
}

/// A device that panics in each call while its flag is set.
#[derive(Debug)]
struct Panics<T>(T, Arc<AtomicBool>);

impl<T> Panics<T> {
    fn step(&self) {
        if self.1.load(SeqCst) {
            resume_unwind(Box::new("on purpose"));
        }
    }
}

impl SwapDevice for Panics<MemorySwapDevice> {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.step();
        self.0.write_segment(segment, bytes)
    }
    fn read(&self, segment: u64, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.step();
        self.0.read(segment, offset, bytes)
    }
    fn discard(&self, segment: u64) {
        self.step();
        self.0.discard(segment);
    }
    fn flush(&self) -> Result<(), DeviceError> {
        self.step();
        self.0.flush()
    }
}

impl PageSwapDevice for Panics<MemorySwapDevice> {
    fn capacity(&self) -> u64 {
        self.0.geometry().bytes() / PAGE_SIZE as u64
    }
    fn write_page(&self, slot: u64, page: &Page) -> Result<(), DeviceError> {
        self.step();
        self.0.write_segment(slot, page)
    }
    fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError> {
        self.step();
        self.0.read(slot, 0, page)
    }
    fn discard(&self, slot: u64) {
        self.step();
        self.0.discard(slot);
    }
}

#[test]
fn a_device_that_panics_in_every_call_costs_the_store_nothing() {
    let lit = Arc::new(AtomicBool::new(true));
    // Three segments of 8 KiB. The device of pages has a slot more, which fills no segment.
    let of_segments = Panics(MemorySwapDevice::new(7), lit.clone());
    panics_in_every_call(Arc::new(of_segments), &lit);
    let slots = Geometry { segments: 7, segment_bytes: PAGE_SIZE, block_bytes: 1 };
    let of_pages = Panics(MemorySwapDevice::with_geometry(slots), lit.clone());
    lit.store(true, SeqCst);
    panics_in_every_call(Arc::new(PageDevice(Arc::new(of_pages))), &lit);
}

/// `lit` says whether the device panics. It has three segments of 8 KiB.
fn panics_in_every_call(device: Arc<dyn SwapDevice>, lit: &AtomicBool) {
    let Rig { store, .. } =
        rig_with(|builder| builder.swap_device(device).promotion(Promotion::Never));
    // Seven of these pages fill a segment.
    const COUNT: u64 = 30;
    for n in 0..COUNT {
        store.store(at(n), &marked(n, 0)).unwrap();
    }
    // The device panics in the write, and again when the segment of the failed write is discarded.
    // A segment that could not be written is used again when no other is free.
    for segment in [0, 1, 2, 0, 1] {
        let error = store.shrink(1).unwrap_err();
        let WritebackError::Device { source, .. } = &error else { panic!("{error}") };
        assert_eq!(*source, DeviceError::Panicked { operation: "write", segment });
    }
    let stats = store.stats();
    assert_eq!((stats.device_pages, stats.device_segments, stats.written_back_pages), (0, 0, 0));
    (0..COUNT).for_each(|n| check(&store, n, 0));
    lit.store(false, SeqCst);
    let fill = || {
        assert_eq!(store.shrink(99), Err(WritebackError::DeviceFull { segments: 3 }));
        let stats = store.stats();
        assert_eq!((stats.device_pages, stats.device_segments), (21, 3));
    };
    fill();
    lit.store(true, SeqCst);
    let mut back = Box::new([0; PAGE_SIZE]);
    let mut panicked = |n| match store.load(at(n), &mut back) {
        Ok(()) => false,
        Err(LoadError::Device { source, .. }) => {
            assert!(matches!(source, DeviceError::Panicked { operation: "read", .. }), "{source}");
            true
        }
        Err(error) => panic!("{error}"),
    };
    assert_eq!((0..COUNT).filter(|n| panicked(*n)).count(), 21);
    // Overwriting and invalidating pages frees the segments, and no segment is lost.
    (0..10).for_each(|n| store.store(at(n), &marked(n, 1)).unwrap());
    assert!((0..COUNT).all(|n| store.invalidate(at(n))));
    let stats = store.stats();
    assert_eq!((stats.device_pages, stats.device_segments, stats.device_live_bytes), (0, 0, 0));
    lit.store(false, SeqCst);
    for n in 0..COUNT {
        store.store(at(n), &marked(n, 2)).unwrap();
    }
    fill();
    (0..COUNT).for_each(|n| check(&store, n, 2));
}

/// Runs a test of this file again in its own process, and calls `inside` there. Fails if that process fails.
#[cfg(target_os = "linux")]
fn in_a_process_of_its_own(name: &str, inside: impl FnOnce()) {
    const INSIDE: &str = "ZSWAP_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let this = std::env::current_exe().unwrap();
    let ran = std::process::Command::new(this)
        .args(["--exact", name, "--test-threads", "1", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{:?}: {said}{}", ran.status, {
        String::from_utf8_lossy(&ran.stderr)
    });
    assert!(said.contains("1 passed"), "{said}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_write_beyond_the_file_size_limit_is_an_error_and_no_signal() {
    in_a_process_of_its_own("a_write_beyond_the_file_size_limit_is_an_error_and_no_signal", || {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let path = temporary("limit");
        let device = FileSwapDevice::create(&path, 100).unwrap();
        std::fs::remove_file(&path).unwrap();
        let segment_bytes = device.geometry().segment_bytes;
        assert_eq!(segment_bytes, 64 << 10);
        let bytes = [7; 1000];
        device.write_segment(5, &bytes).unwrap();
        let was = getrlimit(Resource::Fsize);
        // This limit ends 100 bytes behind the second segment.
        let limit = 2 * segment_bytes as u64 + 100;
        // A device can be created under a limit of less than a page. Under a limit of 0 that fails, and leaves no file.
        for (limit, made) in [(100, true), (0, false)] {
            setrlimit(Resource::Fsize, Rlimit { current: Some(limit), ..was }).unwrap();
            let little = temporary("little");
            assert_eq!(FileSwapDevice::create(&little, 1).is_ok(), made);
            assert_eq!(std::fs::remove_file(little).is_ok(), made);
        }
        setrlimit(Resource::Fsize, Rlimit { current: Some(limit), ..was }).unwrap();
        for segment in [2, 3, 5] {
            let refused = device.write_segment(segment, &bytes).unwrap_err();
            assert_eq!(refused, DeviceError::FileSizeLimit { segment, limit });
            assert!(refused.to_string().contains("ulimit -f"));
        }
        let mut back = [0; 1000];
        device.write_segment(2, &bytes[..100]).unwrap();
        device.write_segment(1, &bytes).unwrap();
        for segment in [1, 5] {
            device.read(segment, 0, &mut back).unwrap();
            assert_eq!(back, bytes);
        }
        // A store treats the limit like any other error of a device. A segment holds 15 pages that do not get smaller.
        let store = Zswap::builder().compressor("null").swap_device(Arc::new(device));
        let store = store.build().unwrap();
        for n in 0..50 {
            store.store(at(n), &marked(n, 0)).unwrap();
        }
        let error = store.shrink(50).unwrap_err();
        let WritebackError::Device { source, .. } = &error else { panic!("{error}") };
        assert_eq!(*source, DeviceError::FileSizeLimit { segment: 2, limit });
        assert_eq!(store.stats().device_pages, 30, "the pages of the third segment stay in memory");
        (0..50).for_each(|n| check(&store, n, 0));
        setrlimit(Resource::Fsize, was).unwrap();
        assert_eq!(store.shrink(50), Ok(20));
        (0..50).for_each(|n| check(&store, n, 0));
        assert_eq!(store.stats().device_loads, 30 + 50);
    });
}

/// Forks, and calls `inside` in the child, which then ends. Returns whether `inside` returned true there.
#[cfg(target_os = "linux")]
fn in_a_child(inside: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs `inside`, which supports a fork, and ends without returning from here. The test
    // is about locks that other threads held during the fork.
    match unsafe { libc::fork() } {
        0 => {
            let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(inside));
            // SAFETY: ends the child without running any destructor or exit handler of the parent.
            unsafe { libc::_exit(i32::from(held.ok() != Some(true))) }
        }
        child => {
            assert!(child > 0);
            let mut status = 0;
            // SAFETY: `child` is a child of this process, and `status` is on this stack frame.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn in_a_child_the_device_is_the_parents() {
    in_a_process_of_its_own("in_a_child_the_device_is_the_parents", || {
        use zpage::segments::{Figures, LoadFault, Segments};
        use zpage::{Codec, Recipe};
        let path = temporary("fork");
        let device: Arc<dyn SwapDevice> = Arc::new(FileSwapDevice::create(&path, 100).unwrap());
        let segments = Segments::attach(device.clone()).unwrap();
        let codec = Arc::new(Codec::new(Recipe::builtin().compressor("null").unwrap().compressor));
        let page = [7; PAGE_SIZE];
        let draft = || {
            let mut draft = segments.draft().unwrap();
            assert!(draft.push(5, &codec, &page));
            draft
        };
        let mut kept = None;
        draft().write().unwrap().install(|_, at| kept.replace(at).is_none());
        let kept = kept.unwrap();
        let pinned = segments.pin(kept).unwrap();
        let (written, drafts) = (draft().write().unwrap(), RefCell::new(vec![draft(), draft()]));
        let calls_are_errors = in_a_child(|| {
            let mut back = [0; PAGE_SIZE];
            let loaded = match pinned.load(5, &mut back) {
                Err(LoadFault::Device(error)) => Err(error),
                other => panic!("{other:?}"),
            };
            let forked = [
                device.write_segment(0, &page),
                device.read(0, 0, &mut back),
                device.flush(),
                drafts.borrow_mut().pop().unwrap().write().map(drop),
                loaded,
                segments.draft().map(drop),
                segments.flush(),
            ];
            device.discard(0);
            segments.give_up(kept);
            // The second draft is dropped without being written.
            drafts.borrow_mut().clear();
            forked.iter().all(|result| *result == Err(DeviceError::Forked))
                && segments.pin(kept).is_none()
                && segments.figures() == Figures::default()
                && segments.free() == 0
                && segments.memory_bytes() == 0
        });
        assert!(calls_are_errors);
        assert_eq!(drafts.borrow().len(), 2);
        drop((pinned, drafts));
        // The parent's draft can still be written, and what it wrote be installed.
        assert_eq!(written.install(|_, _| false), 0);
        // A child may drop its copies of the segments and the device, and may attach its copy of the device to a
        // store that it builds. Then the file stays locked, and the parent's pages stay in it.
        let owned = RefCell::new(Some((segments, device)));
        assert!(in_a_child(|| {
            let (segments, device) = owned.take().unwrap();
            let own = Segments::attach(device.clone()).is_ok();
            drop((segments, device));
            own && owned.borrow().is_none()
        }));
        let (segments, device) = owned.take().unwrap();
        let locked =
            |path| matches!(FileSwapDevice::create(path, 1), Err(FileDeviceError::InUse { .. }));
        assert!(locked(&path) && Segments::attach(device.clone()).is_err());
        let mut back = [0; PAGE_SIZE];
        segments.pin(kept).unwrap().load(5, &mut back).unwrap();
        assert_eq!((back, segments.figures().objects, segments.free()), (page, 1, 5));
        // When the parent drops the device, the file is unlocked, even if a child still has it open.
        let (wait, go) = rustix::pipe::pipe().unwrap();
        // SAFETY: the child only waits until the pipe is closed, and then ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            drop(go);
            let _ = rustix::io::read(&wait, &mut [0; 1]);
            // SAFETY: ends the child without running any destructor or exit handler of the parent.
            unsafe { libc::_exit(0) };
        }
        drop((segments, device));
        std::fs::write(&path, b"").unwrap();
        assert!(FileSwapDevice::create(&path, 1).is_ok());
        drop(go);
        // SAFETY: `child` is a child of this process; its status is not needed.
        assert_eq!(unsafe { libc::waitpid(child, core::ptr::null_mut(), 0) }, child);
        std::fs::remove_file(path).unwrap();
    });
}

/// Makes a store with a device, for pages of 1024 bytes.
fn promoting(promotion: Promotion) -> (Rig, Arc<MemorySwapDevice>) {
    let device = Arc::new(MemorySwapDevice::new(1000));
    let given = device.clone();
    (rig_with(|builder| builder.swap_device(given).promotion(promotion)), device)
}

#[test]
fn a_page_comes_back_into_a_pool_when_the_store_was_told_to() {
    for (promotion, at_load) in [
        (Promotion::Never, u64::MAX),
        (Promotion::SecondLoad, 2),
        (Promotion::default(), 2),
        (Promotion::Always, 1),
    ] {
        let (Rig { store, .. }, device) = promoting(promotion);
        store.store(at(0), &marked(0, 0)).unwrap();
        assert_eq!(store.shrink(1), Ok(1));
        for load in 1..10 {
            check(&store, 0, 0);
            let back = load >= at_load;
            let stats = store.stats();
            assert_eq!(stats.device_loads, load.min(at_load), "{promotion:?}");
            assert_eq!(stats.promoted_pages, u64::from(back), "{promotion:?}");
            assert_eq!(stats.device_pages, usize::from(!back));
            // The page is in one place: its segment is free when it is back.
            assert_eq!(
                (stats.device_segments, device.segments()),
                match back {
                    true => (0, 0),
                    false => (1, 1),
                }
            );
            assert_eq!((stats.stored_pages, pools(&store)[0].2), (1, usize::from(back)));
        }
        // A page that came back is written back like any other.
        if at_load < 10 {
            assert_eq!(store.shrink(1), Ok(1));
            check(&store, 0, 0);
            assert_eq!(store.stats().device_loads, at_load + 1);
        }
    }
}

#[test]
fn a_page_comes_back_into_the_pool_that_new_pages_get_into() {
    let (Rig { store, .. }, _device) = promoting(Promotion::Always);
    (0..3).for_each(|n| store.store(at(n), &marked(n, 0)).unwrap());
    assert_eq!(store.shrink(3), Ok(3));
    store.set_compressor("trim1").unwrap();
    (0..3).for_each(|n| check(&store, n, 0));
    assert_eq!(pools(&store), [("zbud".to_owned(), "trim1".to_owned(), 3)]);
    (0..3).for_each(|n| check(&store, n, 0));
    assert_eq!(store.stats().device_loads, 3);
}

/// A while ends when as many pages were written back as the pools hold.
#[test]
fn two_loads_that_are_far_apart_do_not_bring_a_page_back() {
    let (Rig { store, .. }, _device) = promoting(Promotion::SecondLoad);
    store.store(at(0), &marked(0, 0)).unwrap();
    assert_eq!(store.shrink(1), Ok(1));
    let mut others = 1..;
    let mut pass_a_while = || {
        let n = others.next().unwrap();
        store.store(at(n), &marked(n, 0)).unwrap();
        assert_eq!(store.shrink(1), Ok(1), "the pools are empty again");
    };
    for _ in 0..3 {
        check(&store, 0, 0);
        pass_a_while();
        pass_a_while();
        assert_eq!(store.stats().promoted_pages, 0);
    }
    check(&store, 0, 0);
    pass_a_while();
    assert_eq!(store.stats().promoted_pages, 0);
    check(&store, 0, 0);
    assert_eq!((store.stats().promoted_pages, store.stats().device_loads), (1, 5));
}

#[test]
fn at_the_limit_nothing_is_written_back_for_a_page_to_come_back() {
    let device = Arc::new(MemorySwapDevice::new(1000));
    let Rig { store, .. } = rig_with(|builder| {
        let limited = builder.compressor("null").max_pool_bytes(20 * PAGE_SIZE);
        limited.swap_device(device).promotion(Promotion::Always)
    });
    (0..10).for_each(|n| store.store(at(n), &marked(n, 0)).unwrap());
    assert_eq!(store.shrink(10), Ok(10));
    (10..30).for_each(|n| store.store(at(n), &marked(n, 0)).unwrap());
    let before = store.stats();
    assert_eq!((before.device_pages, before.pools[0].objects), (10, 20));
    (0..10).chain(0..10).for_each(|n| check(&store, n, 0));
    let stats = store.stats();
    assert_eq!(stats.device_loads, 20);
    assert_eq!((stats.promoted_pages, stats.device_pages, stats.pools[0].objects), (0, 10, 20));
    assert_eq!(
        (stats.written_back_pages, stats.device_bytes_written, stats.pool_limit_hit),
        (before.written_back_pages, before.device_bytes_written, before.pool_limit_hit)
    );
    // As soon as there is room, pages come back, but only as many as there is room for.
    (10..14).for_each(|n| assert!(store.invalidate(at(n))));
    (0..10).for_each(|n| check(&store, n, 0));
    let stats = store.stats();
    assert_eq!((stats.promoted_pages, stats.device_pages, stats.pools[0].objects), (4, 6, 20));
    assert_eq!(stats.written_back_pages, before.written_back_pages);
    (0..10).chain(14..30).for_each(|n| check(&store, n, 0));
}

/// A text, which each compressor makes smaller.
#[cfg(feature = "zstd")]
fn text(n: u64) -> Box<Page> {
    common::page(8 * n + 5)
}

#[cfg(feature = "zstd")]
fn check_text(store: &Zswap, n: u64) {
    let mut back = Box::new([0; PAGE_SIZE]);
    store.load(at(n), &mut back).unwrap();
    assert!(back == text(n), "entry {n}");
}

#[cfg(all(feature = "zstd", feature = "zsmalloc"))]
#[test]
fn pages_on_the_device_outlive_their_pool_and_keep_its_codec() {
    // The pool is gone when the pages were written back and another one is current, whatever comes first.
    for switch_first in [true, false] {
        for (zpool, compressor) in [(None, Some("null")), (Some("zsmalloc"), None)] {
            let device = Arc::new(MemorySwapDevice::new(1000));
            let Rig { store, pages, .. } = rig_with(|builder| {
                builder.compressor("zstd").swap_device(device).promotion(Promotion::Never)
            });
            (0..8).for_each(|n| store.store(at(n), &text(n)).unwrap());
            let with_zstd = store.stats().context_bytes;
            let switch = || {
                zpool.iter().for_each(|name| store.set_zpool(name).unwrap());
                compressor.iter().for_each(|spec| store.set_compressor(spec).unwrap());
            };
            if switch_first {
                switch();
                assert_eq!(store.stats().pools.len(), 2);
                assert_eq!(store.shrink(8), Ok(8));
            } else {
                assert_eq!(store.shrink(8), Ok(8));
                switch();
            }
            let (zpool, compressor) = (zpool.unwrap_or("zbud"), compressor.unwrap_or("zstd"));
            assert_eq!(pools(&store), [(zpool.to_owned(), compressor.to_owned(), 0)]);
            store.trim();
            assert_eq!(pages.pages_out(), 0);
            for round in 0..3 {
                (0..8).for_each(|n| check_text(&store, n));
                assert_eq!(store.stats().device_loads, 8 * (round + 1));
            }
            // The old codec's contexts are counted as long as one of its pages is there.
            (0..7).for_each(|n| assert!(store.invalidate(at(n))));
            assert!(store.stats().context_bytes >= with_zstd);
            check_text(&store, 7);
            let before = store.stats().context_bytes;
            store.take(at(7), &mut [0; PAGE_SIZE]).unwrap();
            assert_eq!(store.stats().device_segments, 0);
            let after = store.stats().context_bytes;
            // The new pool may use the same codec as the old one, if its compressor is the same.
            if compressor == "null" {
                assert!(after < before, "{after} {before}");
                assert!(after < with_zstd / 2, "{after} of {with_zstd}");
            }
            store.store(at(0), &text(0)).unwrap();
            check_text(&store, 0);
        }
    }
}

/// Pages that were compressed by several codecs share a segment, if they are of at most eight.
#[cfg(feature = "zstd")]
#[test]
fn a_segment_holds_the_pages_of_eight_codecs() {
    use zswap_core::Recompress;
    let specs: Vec<String> = (1..=9).map(|level| format!("zstd:level={level}")).collect();
    for codecs in [8, 9] {
        let device = Arc::new(MemorySwapDevice::new(1000));
        let Rig { store, .. } = rig_with(|builder| {
            builder.compressor("null").swap_device(device).promotion(Promotion::Never)
        });
        let alone = store.stats().context_bytes;
        let count = 2 * codecs as u64;
        (0..count).for_each(|n| store.store(at(n), &text(n)).unwrap());
        for spec in &specs[..codecs] {
            let done = store.recompress(&Recompress::new(spec).max_pages(2)).unwrap();
            assert_eq!((done.moved, done.not_smaller), (2, 0), "{spec}");
        }
        assert_eq!(store.stats().pools.len(), codecs + 1);
        assert_eq!(store.shrink(99), Ok(2 * codecs));
        let stats = store.stats();
        assert_eq!(stats.device_pages, 2 * codecs);
        assert_eq!(stats.device_segments, codecs.div_ceil(8), "a ninth codec needs another one");
        assert_eq!(pools(&store), [("zbud".to_owned(), "null".to_owned(), 0)]);
        for _ in 0..2 {
            (0..count).for_each(|n| check_text(&store, n));
        }
        let mut before = store.stats().context_bytes;
        for n in (0..count).rev() {
            check_text(&store, n);
            assert!(store.invalidate(at(n)));
            let now = store.stats().context_bytes;
            // All codecs of a segment are kept until its last page is gone.
            let emptied = n == 0 || codecs == 9 && n == 16;
            assert_eq!(now < before, emptied, "entry {n}: {now} {before}");
            before = now;
        }
        assert!(before < 2 * alone.max(PAGE_SIZE), "{before} bytes are left of {alone} at first");
    }
}

/// Makes a store with a device of eight segments. A segment holds 62 pages of 1024 bytes.
fn of_eight_segments() -> Arc<Zswap> {
    let device = Arc::new(MemorySwapDevice::new(8 * 16));
    assert_eq!(device.geometry().segments, 8);
    rig_with(|builder| builder.swap_device(device).promotion(Promotion::Never)).store
}

const OF_A_SEGMENT: u64 = 62;

/// Writes full segments, and then overwrites all pages but each fifth.
fn leave_a_fifth(store: &Zswap, segments: u64) {
    let count = segments * OF_A_SEGMENT;
    (0..count).for_each(|n| store.store(at(n), &marked(n, 0)).unwrap());
    assert_eq!(store.shrink(count as usize), Ok(count as usize));
    assert_eq!(store.stats().device_segments as u64, segments);
    leave_a_fifth_of(store, segments);
}

/// Overwrites all pages of these segments but each fifth.
fn leave_a_fifth_of(store: &Zswap, segments: u64) {
    let count = segments * OF_A_SEGMENT;
    (0..count).filter(|n| n % 5 > 0).for_each(|n| store.store(at(n), &marked(n, 1)).unwrap());
    let stats = store.stats();
    assert_eq!(
        (stats.device_pages as u64, stats.device_segments as u64),
        (count.div_ceil(5), segments)
    );
}

fn check_a_fifth(store: &Zswap, segments: u64) {
    (0..segments * OF_A_SEGMENT).for_each(|n| check(store, n, u64::from(n % 5 > 0)));
}

fn quick() -> CleanerPolicy {
    CleanerPolicy::default().pause(Duration::from_millis(1))
}

#[test]
fn a_cleaner_frees_segments_before_anybody_needs_them() {
    let store = of_eight_segments();
    leave_a_fifth(&store, 7);
    assert_eq!(store.stats().device_cleaned_segments, 0);
    let cleaner = store.clean_in_background(quick()).unwrap();
    eventually("two free segments", || store.stats().device_segments <= 6);
    eventually("a report", || cleaner.report().segments > 0);
    check_a_fifth(&store, 7);
    let report = cleaner.report();
    assert_eq!((report.failed, report.last_error.clone()), (0, None));
    assert!(report.written > 0 && report.written < report.segments, "{report:?}");
    let stats = store.stats();
    assert_eq!(
        (stats.device_cleaned_segments, stats.device_moved_pages),
        (report.segments, report.pages)
    );
    assert_eq!(stats.device_pages as u64, (7 * OF_A_SEGMENT).div_ceil(5), "none is lost");
    // The next call that writes back need not clean.
    drop(cleaner);
    let cleaned = store.stats().device_cleaned_segments;
    assert_eq!(store.shrink(OF_A_SEGMENT as usize), Ok(OF_A_SEGMENT as usize));
    assert_eq!(store.stats().device_cleaned_segments, cleaned);
    check_a_fifth(&store, 7);
}

#[test]
fn a_cleaner_keeps_the_wanted_part_of_a_small_device_free() {
    let store = of_eight_segments();
    leave_a_fifth(&store, 4);
    // Four of eight segments are free.
    let half = store.clean_in_background(quick().free_percent(50)).unwrap();
    eventually("steps", || half.report().steps > 2);
    assert_eq!(half.stop().segments, 0);
    assert_eq!(store.stats().device_segments, 4);
    let all = store.clean_in_background(quick().free_percent(100)).unwrap();
    eventually("all in one segment", || store.stats().device_segments == 1);
    check_a_fifth(&store, 4);
    assert_eq!((all.report().failed, store.stats().device_pages), (0, 50));
}

#[test]
fn without_a_cleaner_the_call_that_finds_no_free_segment_cleans() {
    let store = of_eight_segments();
    leave_a_fifth(&store, 7);
    // The 87 pages that are left there fill two segments, and these new ones four more.
    let new = 4 * OF_A_SEGMENT as usize;
    assert_eq!(store.shrink(new), Ok(new));
    let stats = store.stats();
    assert!(stats.device_cleaned_segments > 0 && stats.device_moved_pages > 0, "{stats:?}");
    assert_eq!(stats.device_pages, 87 + new);
    // What is written more than once makes the sum larger than that of the pages.
    let moved = stats.device_moved_pages * 1024;
    assert!(stats.device_bytes_written > stats.device_new_bytes + moved);
    assert!(stats.write_amplification() > 1.0 && stats.write_amplification() < 1.5);
    check_a_fifth(&store, 7);
    // The rest does not fit. What fits is written, and nothing is lost.
    assert_eq!(store.shrink(usize::MAX), Err(WritebackError::DeviceFull { segments: 8 }));
    assert_eq!(store.stats().device_segments, 7);
    assert!(store.stats().device_pages >= 87 + new + OF_A_SEGMENT as usize);
    check_a_fifth(&store, 7);
}

#[test]
fn a_device_that_is_too_small_costs_refusals_and_no_page() {
    // Four segments of 16 KiB. Three pages that do not get smaller fill a segment, and one segment is kept free for
    // cleaning.
    let device: Arc<dyn SwapDevice> = Arc::new(MemorySwapDevice::new(16));
    too_small(device);
    let of_pages: Arc<dyn SwapDevice> = Arc::new(PageDevice(Arc::new(MemoryPages::new(16))));
    too_small(of_pages);
}

fn too_small(device: Arc<dyn SwapDevice>) {
    let Rig { store, .. } = rig_with(|builder| {
        let limited = builder.compressor("null").max_pool_bytes(20 * PAGE_SIZE);
        limited.swap_device(device).promotion(Promotion::Never)
    });
    let refused = |n: u64| match store.store(at(n), &marked(n, 0)) {
        Ok(()) => false,
        Err(StoreError::PoolLimit { reason: LimitReason::DeviceFull, .. }) => true,
        Err(error) => panic!("{error}"),
    };
    assert_eq!((0..100).filter(|n| refused(*n)).count(), 100 - 20 - 9);
    let stats = store.stats();
    assert_eq!((stats.reject_device_full, stats.pool_limit_hit), (71, 72));
    assert_eq!((stats.stored_pages, stats.device_pages, stats.device_segments), (29, 9, 3));
    let accepted: Vec<u64> = store.entries().map(|entry| entry.offset()).collect();
    assert_eq!(accepted.len(), 29);
    accepted.iter().for_each(|n| check(&store, *n, 0));
    assert_eq!(store.stats().device_loads, 9);
    // A page that replaces an older one of its entry gets that one's room.
    let reads_device = |n: u64, round: u64| {
        let before = store.stats().device_loads;
        check(&store, n, round);
        store.stats().device_loads > before
    };
    let pooled = accepted.iter().find(|n| !reads_device(**n, 0)).unwrap();
    store.store(at(*pooled), &marked(*pooled, 1)).unwrap();
    check(&store, *pooled, 1);
    store.store(at(*pooled), &marked(*pooled, 0)).unwrap();
    // One page of each segment goes. Cleaning makes a free segment of what is left.
    let there: Vec<u64> = accepted.iter().copied().filter(|n| reads_device(*n, 0)).collect();
    assert_eq!(there.len(), 9);
    let gone: Vec<u64> = there.iter().copied().step_by(3).collect();
    gone.iter().for_each(|n| assert!(store.invalidate(at(*n))));
    assert_eq!(store.stats().device_segments, 3);
    assert_eq!((1000..1010).filter(|n| refused(*n)).count(), 7);
    let stats = store.stats();
    assert!(stats.device_cleaned_segments > 0);
    assert_eq!((stats.reject_device_full, stats.stored_pages, stats.device_pages), (78, 29, 9));
    accepted.iter().filter(|n| !gone.contains(n)).for_each(|n| check(&store, *n, 0));
    let new: Vec<u64> = (1000..1010).filter(|n| store.contains(at(*n))).collect();
    assert_eq!(new.len(), 3);
    new.iter().for_each(|n| check(&store, *n, 0));
    // `shrink` says the same, and moves no page.
    assert_eq!(store.shrink(1), Err(WritebackError::DeviceFull { segments: 4 }));
    assert_eq!((store.len(), store.stats().device_pages), (29, 9));
}

#[test]
fn a_device_is_flushed_on_request() {
    let none = Zswap::builder().build().unwrap();
    assert_eq!(none.flush_device(), Err(WritebackError::NoDevice));

    let device = Arc::new(FaultySwapDevice::new(Arc::new(MemorySwapDevice::new(100))));
    let store = Zswap::builder().swap_device(device.clone()).build().unwrap();
    (0..5).for_each(|n| store.store(at(n), &marked(n, 0)).unwrap());
    assert_eq!(store.shrink(5), Ok(5));
    assert_eq!(store.flush_device(), Ok(()));
    device.fail_flushes(0, 1);
    let error = store.flush_device().unwrap_err();
    let WritebackError::Flush { source } = &error else { panic!("{error}") };
    assert!(matches!(source, DeviceError::Io { operation: "flush", .. }), "{source}");
    (0..5).for_each(|n| check(&store, n, 0));
    assert_eq!(store.flush_device(), Ok(()));
    // Pages that are there can be flushed, whether more are written or not.
    store.set_writeback_enabled(false);
    device.fail_flushes(0, 1);
    assert!(matches!(store.flush_device(), Err(WritebackError::Flush { .. })));
    assert_eq!(store.flush_device(), Ok(()));

    let path = temporary("flush");
    let file = FileSwapDevice::create(&path, 100).unwrap();
    std::fs::remove_file(&path).unwrap();
    let store = Zswap::builder().swap_device(Arc::new(file)).build().unwrap();
    store.store(at(0), &marked(0, 0)).unwrap();
    assert_eq!((store.shrink(1), store.flush_device()), (Ok(1), Ok(())));
    check(&store, 0, 0);
}

/// Threads write a few pages at a time to a device, which their pages fill to two fifths.
#[test]
fn a_device_with_room_is_never_full_for_threads_that_share_it() {
    const THREADS: u64 = 4;
    const PAGES: u64 = 30;
    let device = Arc::new(MemorySwapDevice::new(20 * 16));
    let Rig { store, .. } = rig_with(|builder| {
        builder.compressor("null").swap_device(device).promotion(Promotion::Never)
    });
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = &store;
            scope.spawn(move || {
                let entry = |n: u64| thread * 1000 + n % PAGES;
                for n in 0..2000 {
                    store.store(at(entry(n * 7)), &marked(entry(n * 7), n)).unwrap();
                    check(store, entry(n * 7), n);
                    let written = store.shrink(3);
                    assert!(matches!(written, Ok(0..=3)), "round {n}: {written:?}");
                }
            });
        }
    });
    let stats = store.stats();
    assert_eq!(stats.stored_pages as u64, THREADS * PAGES);
    assert!(stats.device_cleaned_segments > 0, "{stats:?}");
}

/// The pools of a store that changes its compressor again and again go and come. Their pages on the device can
/// still be moved together.
#[test]
fn cleaning_works_however_often_the_compressor_was_changed() {
    let store = of_eight_segments();
    for segment in 0..7 {
        for part in 0..4 {
            store.set_compressor(&format!("trim{part}")).unwrap();
            let pages = (0..OF_A_SEGMENT).filter(|n| n % 4 == part);
            pages.map(|n| segment * OF_A_SEGMENT + n).for_each(|n| {
                store.store(at(n), &marked(n, 0)).unwrap();
            });
        }
        assert_eq!(store.shrink(OF_A_SEGMENT as usize), Ok(OF_A_SEGMENT as usize));
        assert_eq!((store.stats().device_segments as u64, pools(&store).len()), (segment + 1, 1));
    }
    leave_a_fifth_of(&store, 7);
    let new = OF_A_SEGMENT as usize;
    assert_eq!(store.shrink(new), Ok(new), "four fifths of each segment are not used");
    assert!(store.stats().device_cleaned_segments > 0);
    check_a_fifth(&store, 7);
}

#[test]
fn a_cleaner_needs_a_device_and_ends_with_its_store() {
    let none = Arc::new(Zswap::builder().build().unwrap());
    assert_eq!(none.clean_in_background(quick()).unwrap_err(), WritebackError::NoDevice);
    let device = Arc::new(MemorySwapDevice::new(100));
    let store = Zswap::builder().swap_device(device.clone());
    let store = Arc::new(store.build().unwrap());
    let cleaner = store.clean_in_background(quick()).unwrap();
    eventually("a step", || cleaner.report().steps > 0);
    drop(store);
    // The thread does not keep the store and its device.
    eventually("the device is free", || {
        Zswap::builder().swap_device(device.clone()).build().is_ok()
    });
    let last = cleaner.stop();
    assert_eq!((last.segments, last.failed, last.last_error), (0, 0, None));
}

/// A device of pages. One of its slots cannot be written as long as the flag is set.
#[derive(Debug)]
struct BadSlot(MemoryPages, u64, AtomicBool);

impl PageSwapDevice for BadSlot {
    fn capacity(&self) -> u64 {
        self.0.capacity()
    }
    fn write_page(&self, slot: u64, page: &Page) -> Result<(), DeviceError> {
        if slot == self.1 && self.2.load(SeqCst) {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(DeviceError::io("write", slot, &full));
        }
        self.0.write_page(slot, page)
    }
    fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError> {
        self.0.read_page(slot, page)
    }
    fn discard(&self, slot: u64) {
        self.0.discard(slot);
    }
}

#[test]
fn a_slot_that_cannot_be_written_keeps_the_pages_of_its_segment_in_memory() {
    // The bad slot is the third of the second segment.
    let device = Arc::new(BadSlot(MemoryPages::new(100), 18, AtomicBool::new(true)));
    let Rig { store, .. } = rig_with(|builder| {
        builder.swap_device(Arc::new(PageDevice(device.clone()))).promotion(Promotion::Never)
    });
    let count = 2 * OF_A_SEGMENT;
    (0..count).for_each(|n| store.store(at(n), &marked(n, 0)).unwrap());
    let error = store.shrink(count as usize).unwrap_err();
    let WritebackError::Device { source, .. } = &error else { panic!("{error}") };
    let (kind, code) = (std::io::ErrorKind::StorageFull, None);
    assert_eq!(*source, DeviceError::Io { operation: "write", segment: 1, kind, code });
    let stats = store.stats();
    assert_eq!((stats.device_pages as u64, stats.device_segments), (OF_A_SEGMENT, 1));
    assert_eq!(stats.pools[0].objects as u64, OF_A_SEGMENT);
    let pages_of_a_segment = device.0.pages();
    assert!((15..=16).contains(&pages_of_a_segment), "{pages_of_a_segment}");
    (0..count).for_each(|n| check(&store, n, 0));
    // The slots that were written before the failure are discarded before they are written again.
    device.2.store(false, SeqCst);
    assert_eq!(store.shrink(count as usize), Ok(OF_A_SEGMENT as usize));
    (0..count).for_each(|n| check(&store, n, 0));
    assert_eq!(device.0.pages(), 2 * pages_of_a_segment);
    assert_eq!(store.invalidate_area(0) as u64, count);
    assert_eq!((store.stats().device_segments, device.0.pages()), (0, 0));
}
