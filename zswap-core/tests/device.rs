//! Tests how stores use devices: a device serves only one store, a device may panic, and the system may limit
//! the size of files.

#![cfg(not(miri))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::cell::RefCell;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use common::at;
use common::rig::{check, marked};
use zswap_core::device::{
    AttachError, DeviceError, FaultySwapDevice, FileDeviceError, FileSwapDevice, MemorySwapDevice,
    SwapDevice,
};
use zswap_core::{BuildError, LoadError, PAGE_SIZE, Page, WritebackError, Zswap};

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

    let path = temporary("twice");
    let device = FileSwapDevice::create(&path, 100).unwrap();
    let second = FileSwapDevice::create(&path, 100).unwrap_err();
    assert!(matches!(second, FileDeviceError::InUse { .. }), "{second}");
    drop(device);
    std::fs::remove_file(path).unwrap();
}

/// A device that panics in each call while its flag is set.
#[derive(Debug)]
struct Panics(MemorySwapDevice, AtomicBool);

impl Panics {
    fn step(&self) {
        if self.1.load(SeqCst) {
            resume_unwind(Box::new("on purpose"));
        }
    }
}

impl SwapDevice for Panics {
    fn capacity(&self) -> u64 {
        self.0.capacity()
    }
    fn write_page(&self, slot: u64, page: &Page) -> Result<(), DeviceError> {
        self.step();
        self.0.write_page(slot, page)
    }
    fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError> {
        self.step();
        self.0.read_page(slot, page)
    }
    fn discard(&self, slot: u64) {
        self.step();
        self.0.discard(slot);
    }
}

#[test]
fn a_device_that_panics_in_every_call_costs_the_store_nothing() {
    let device = Arc::new(Panics(MemorySwapDevice::new(2), AtomicBool::new(true)));
    let store = Zswap::builder().swap_device(device.clone()).build().unwrap();
    for n in 0..3 {
        store.store(at(n), &marked(n, 0)).unwrap();
    }
    // The device panics in the write, and again when the slot of the failed write is freed and discarded.
    for _ in 0..5 {
        let error = store.shrink(1).unwrap_err();
        let WritebackError::Device { source, .. } = &error else { panic!("{error}") };
        assert_eq!(*source, DeviceError::Panicked { operation: "write", slot: 0 });
    }
    assert_eq!(store.stats().device_pages, 0);
    (0..3).for_each(|n| check(&store, n, 0));
    device.1.store(false, SeqCst);
    assert_eq!(store.shrink(9), Err(WritebackError::DeviceFull { slots: 2 }));
    device.1.store(true, SeqCst);
    let mut back = Box::new([0; PAGE_SIZE]);
    let panicked =
        |n| matches!(store.load(at(n), &mut back.clone()), Err(LoadError::Device { .. }));
    assert_eq!((0..3).filter(|n| panicked(*n)).count(), 2);
    // Each overwrite or invalidate frees a slot, and no slot is lost.
    (0..2).for_each(|n| store.store(at(n), &marked(n, 1)).unwrap());
    assert!((0..3).all(|n| store.invalidate(at(n))));
    assert_eq!(store.stats().device_pages, 0);
    device.1.store(false, SeqCst);
    for n in 0..3 {
        store.store(at(n), &marked(n, 2)).unwrap();
    }
    assert_eq!(store.shrink(9), Err(WritebackError::DeviceFull { slots: 2 }));
    (0..3).for_each(|n| check(&store, n, 2));
    store.load(at(0), &mut back).unwrap();
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
        let page = [7; PAGE_SIZE];
        device.write_page(50, &page).unwrap();
        let was = getrlimit(Resource::Fsize);
        // This limit ends in the middle of a page.
        let limit = 10 * PAGE_SIZE as u64 + 100;
        // A device can be created under a limit of less than a page. Under a limit of 0 that fails, and leaves no file.
        for (limit, made) in [(100, true), (0, false)] {
            setrlimit(Resource::Fsize, Rlimit { current: Some(limit), ..was }).unwrap();
            let little = temporary("little");
            assert_eq!(FileSwapDevice::create(&little, 1).is_ok(), made);
            assert_eq!(std::fs::remove_file(little).is_ok(), made);
        }
        setrlimit(Resource::Fsize, Rlimit { current: Some(limit), ..was }).unwrap();
        for slot in [10, 11, 50, 99] {
            let refused = device.write_page(slot, &page).unwrap_err();
            assert_eq!(refused, DeviceError::FileSizeLimit { slot, limit });
            assert!(refused.to_string().contains("ulimit -f"));
        }
        let mut back = [0; PAGE_SIZE];
        device.write_page(9, &page).unwrap();
        device.read_page(9, &mut back).unwrap();
        device.read_page(50, &mut back).unwrap();
        // A store treats the limit like any other error of a device.
        let store = Zswap::builder().swap_device(Arc::new(device)).build().unwrap();
        for n in 0..20 {
            store.store(at(n), &marked(n, 0)).unwrap();
        }
        let error = store.shrink(20).unwrap_err();
        let WritebackError::Device { source, .. } = &error else { panic!("{error}") };
        assert_eq!(*source, DeviceError::FileSizeLimit { slot: 10, limit });
        (0..20).for_each(|n| check(&store, n, 0));
        setrlimit(Resource::Fsize, was).unwrap();
        assert_eq!(store.shrink(20), Ok(10));
        (0..20).for_each(|n| check(&store, n, 0));
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
        use zpage::device_slots::Slots;
        let path = temporary("fork");
        let device: Arc<dyn SwapDevice> = Arc::new(FileSwapDevice::create(&path, 100).unwrap());
        let slots = Slots::attach(device.clone()).unwrap();
        let (kept, taken) = (slots.take().unwrap(), slots.take().unwrap());
        let page = [7; PAGE_SIZE];
        kept.write(&page).unwrap();
        let kept = kept.keep();
        let pinned = slots.pin(kept).unwrap();
        let calls_are_errors = in_a_child(|| {
            let mut back = [0; PAGE_SIZE];
            let forked = [
                device.write_page(0, &page),
                device.read_page(0, &mut back),
                taken.write(&page),
                pinned.read(&mut back),
                slots.read(kept, &mut back),
                slots.take().map(drop),
            ];
            device.discard(0);
            slots.give_up(kept);
            forked.iter().all(|result| *result == Err(DeviceError::Forked))
                && slots.taken() == 0
                && slots.memory_bytes() == 0
        });
        assert!(calls_are_errors);
        drop((pinned, taken));
        // A child may drop its copies of the slots and the device, and may attach its copy of the device to a
        // store that it builds. Then the file stays locked, and the parent's pages stay in it.
        let owned = RefCell::new(Some((slots, device)));
        assert!(in_a_child(|| {
            let (slots, device) = owned.take().unwrap();
            let own = Slots::attach(device.clone()).is_ok();
            drop((slots, device));
            own && owned.borrow().is_none()
        }));
        let (slots, device) = owned.take().unwrap();
        let locked =
            |path| matches!(FileSwapDevice::create(path, 1), Err(FileDeviceError::InUse { .. }));
        assert!(locked(&path) && Slots::attach(device.clone()).is_err());
        let mut back = [0; PAGE_SIZE];
        slots.read(kept, &mut back).unwrap();
        assert_eq!((back, slots.taken()), (page, 1));
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
        drop((slots, device));
        std::fs::write(&path, b"").unwrap();
        assert!(FileSwapDevice::create(&path, 1).is_ok());
        drop(go);
        // SAFETY: `child` is a child of this process; its status is not needed.
        assert_eq!(unsafe { libc::waitpid(child, core::ptr::null_mut(), 0) }, child);
        std::fs::remove_file(path).unwrap();
    });
}
