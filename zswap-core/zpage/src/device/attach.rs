//! The list of the devices in use in this process. It keeps two stores from using the same device.
//!
//! A store allocates a device's segments from 0, so two stores on one device would overwrite each other's
//! pages. A device does not know its stores, so the process keeps a list of the attached devices' addresses.
//! [`Attached`] keeps its devices alive, so no other device gets a listed address. A wrapper names the devices
//! that it wraps ([`SwapDevice::inner`], [`SwapDevice::page_devices`], [`PageSwapDevice::inner`]) and is attached
//! together with them.
//!
//! A child after `fork` makes its own list, because the parent's list may stay locked for ever. It can start
//! empty, because the parent's stores do nothing in the child ([`zpool_base::fork`]).
//!
//! Lock: the list's mutex. Nothing else is called or locked under it.

use std::sync::{Arc, Mutex, PoisonError};

use once_cell::race::OnceBox;
use zpool_base::fork::{Leaked, Maker};
use zpool_base::unwind::{caught, dropped};

#[cfg(feature = "encrypt")]
use super::Said;
use super::{Geometry, PageSwapDevice, SwapDevice};
use crate::PAGE_SIZE;

/// Why a device could not be attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// Another store of this process uses the device, or one that the device wraps.
    #[error(
        "the device, or one that it wraps, is attached to another store of this process: give each store \
         its own device, or drop the other store first"
    )]
    InUse,
    /// A store cannot use a device of these sizes.
    #[error(
        "the device has segments of {} bytes and blocks of {} bytes: use segments of {} to {} bytes and \
         a multiple of a block, and blocks of a power of two up to {PAGE_SIZE} bytes",
        geometry.segment_bytes, geometry.block_bytes, Geometry::LEAST_SEGMENT, Geometry::MOST_SEGMENT
    )]
    Geometry {
        /// The sizes of the device.
        geometry: Geometry,
    },
    /// The unit is none, or the device has too few segments, or too short ones, for units of this length.
    #[error(
        "the device cannot hold units of {unit} bytes in segments of {segment_bytes} bytes: use units of 4096, 8192, \
         16384, 32768 or 65536 bytes, and a device with more, or longer, segments"
    )]
    #[non_exhaustive]
    Unit {
        /// The unit in bytes.
        unit: usize,
        /// The bytes of a segment; 0 if the unit is none.
        segment_bytes: usize,
    },
    /// The device, or one that it wraps, panicked in `geometry()`, `inner()` or `page_devices()`.
    #[error("the device, or one that it wraps, panicked in {operation}(): make this method return")]
    Panicked {
        /// The method that panicked.
        operation: &'static str,
    },
    /// The device wraps too many devices, perhaps without end.
    #[error(
        "the device wraps {most} devices or more, nested or side by side: wrap fewer, and return the \
         same ones from each call of inner() and page_devices()"
    )]
    TooMany {
        /// The most devices that may be attached together.
        most: usize,
    },
    /// The system refused random numbers for the key of an encrypted device, or memory that stays out of core
    /// dumps and children.
    #[cfg(feature = "encrypt")]
    #[error("no key for the device: {operation} failed: {}", Said(*kind, *code))]
    Key {
        /// The system's call: "getrandom", "mmap" or "madvise".
        operation: &'static str,
        /// The kind of the error.
        kind: std::io::ErrorKind,
        /// The system's error number, if there is one.
        code: Option<i32>,
    },
    /// There is no memory to attach the device.
    #[error("no memory to attach a device; free memory and retry")]
    OutOfMemory,
}

/// The most devices that may be attached together: a device and all that it wraps. This bound ends the search
/// if each device wraps a new one, without end.
const MOST: usize = 1024;

/// The devices in use in one process.
struct Register {
    maker: Maker,
    /// Addresses of the devices.
    attached: Mutex<Vec<usize>>,
    /// The register of a forked child.
    next: OnceBox<Register>,
}

impl Register {
    fn new() -> Box<Register> {
        let attached = Mutex::default();
        Box::new(Register { maker: Maker::here(), attached, next: OnceBox::new() })
    }

    /// Returns this process's register, and makes it if there is none. Waits for no other thread, so it works in
    /// a forked child, too, whatever the parent's threads were doing at the fork.
    fn here() -> &'static Register {
        static FIRST: OnceBox<Register> = OnceBox::new();
        let mut register = FIRST.get_or_init(Register::new);
        while !register.maker.is_here() {
            register = register.next.get_or_init(Register::new);
        }
        register
    }

    fn with<T>(&self, change: impl FnOnce(&mut Vec<usize>) -> T) -> T {
        change(&mut self.attached.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A device and all that it wraps, attached until this is dropped.
#[derive(Debug)]
pub(crate) struct Attached {
    devices: Leaked<Devices>,
    geometry: Geometry,
}

/// A device and all that it wraps.
#[derive(Debug, Default)]
struct Devices {
    /// The first one wraps all others.
    of_segments: Vec<Arc<dyn SwapDevice>>,
    of_pages: Vec<Arc<dyn PageSwapDevice>>,
}

/// Returns what tells devices apart, whichever their traits.
fn address<D: ?Sized>(device: &Arc<D>) -> usize {
    Arc::as_ptr(device).cast::<()>().addr()
}

/// Makes a call to a device. Turns a panic into [`AttachError::Panicked`].
pub(super) fn guarded<T>(
    operation: &'static str,
    call: impl FnOnce() -> T,
) -> Result<T, AttachError> {
    caught(call).ok_or(AttachError::Panicked { operation })
}

/// Adds those of `inner` that `known` does not hold yet. `others` devices are held elsewhere.
fn add<D: ?Sized>(
    known: &mut Vec<Arc<D>>,
    others: usize,
    inner: &[Arc<D>],
) -> Result<(), AttachError> {
    for device in inner {
        if known.iter().all(|known| address(known) != address(device)) {
            if known.len() + others >= MOST {
                return Err(AttachError::TooMany { most: MOST });
            }
            known.try_reserve(1).map_err(|_| AttachError::OutOfMemory)?;
            known.push(device.clone());
        }
    }
    Ok(())
}

impl Devices {
    /// Adds the devices that the first one wraps, directly or through others.
    fn add_wrapped(&mut self) -> Result<(), AttachError> {
        let Devices { of_segments, of_pages } = self;
        let mut next = 0;
        while let Some(outer) = of_segments.get(next).cloned() {
            add(of_segments, of_pages.len(), guarded("inner", || outer.inner())?)?;
            let inner = guarded("page_devices", || outer.page_devices())?;
            add(of_pages, of_segments.len(), inner)?;
            next += 1;
        }
        let mut next = 0;
        while let Some(outer) = of_pages.get(next).cloned() {
            add(of_pages, of_segments.len(), guarded("inner", || outer.inner())?)?;
            next += 1;
        }
        Ok(())
    }

    fn addresses(&self) -> impl Iterator<Item = usize> {
        self.of_segments.iter().map(address).chain(self.of_pages.iter().map(address))
    }

    /// Lists all devices as attached. After an error none of them is listed.
    fn list(&self) -> Result<(), AttachError> {
        Register::here().with(|attached| {
            if self.addresses().any(|address| attached.contains(&address)) {
                return Err(AttachError::InUse);
            }
            let all = self.of_segments.len() + self.of_pages.len();
            attached.try_reserve(all).map_err(|_| AttachError::OutOfMemory)?;
            attached.extend(self.addresses());
            Ok(())
        })
    }

    /// Drops the devices one by one. Their destructors are user code and may panic: a second panic during an unwind
    /// would abort the process.
    fn let_go(self) {
        for device in self.of_segments {
            dropped(device);
        }
        for device in self.of_pages {
            dropped(device);
        }
    }
}

impl Attached {
    /// Attaches a device and all that it wraps until the result is dropped.
    ///
    /// # Errors
    /// [`AttachError::InUse`] if one of the devices is attached already; [`AttachError::Geometry`] if a store
    /// cannot use the device's sizes; [`AttachError::TooMany`] if the device wraps too many;
    /// [`AttachError::Panicked`] if one of them panics; [`AttachError::OutOfMemory`] if there is no memory to
    /// attach them.
    pub(crate) fn attach(device: Arc<dyn SwapDevice>) -> Result<Self, AttachError> {
        let mut devices = Devices::default();
        if devices.of_segments.try_reserve(1).is_err() {
            dropped(device);
            return Err(AttachError::OutOfMemory);
        }
        devices.of_segments.push(device);
        match Self::note(&mut devices) {
            Ok(geometry) => Ok(Attached { devices: Leaked::new(devices), geometry }),
            Err(refused) => {
                devices.let_go();
                Err(refused)
            }
        }
    }

    /// Completes `devices`, checks the sizes of the first one and returns them, and lists all as attached. After an
    /// error none of them is listed.
    fn note(devices: &mut Devices) -> Result<Geometry, AttachError> {
        devices.add_wrapped()?;
        let geometry = guarded("geometry", || devices.of_segments[0].geometry())?;
        if !geometry.is_valid() {
            return Err(AttachError::Geometry { geometry });
        }
        devices.list()?;
        Ok(geometry)
    }

    /// Returns the device that was given to `attach`, not one that it wraps.
    #[inline]
    pub(crate) fn device(&self) -> &dyn SwapDevice {
        &*self.devices.of_segments[0]
    }

    /// Returns the sizes that the device had when it was attached.
    #[inline]
    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Returns whether this is the process that attached the device.
    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        self.devices.is_here()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if !self.is_here() {
            return;
        }
        let devices = core::mem::take(&mut *self.devices);
        Register::here().with(|attached| {
            attached.retain(|known| devices.addresses().all(|address| address != *known));
        });
        // Only now: while an address is listed, no other device may get it.
        devices.let_go();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::device::{
        DeviceError, FaultySwapDevice, MemorySwapDevice, NullSwapDevice, PageDevice,
        ThrottledSwapDevice,
    };
    use core::time::Duration;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    fn attach(device: &Arc<dyn SwapDevice>) -> Result<Attached, AttachError> {
        Attached::attach(device.clone())
    }

    #[test]
    fn a_device_is_attached_once_at_a_time() {
        // The type is zero-sized, yet each value in an `Arc` has its own address.
        #[derive(Debug)]
        struct Nothing;
        impl SwapDevice for Nothing {
            fn geometry(&self) -> Geometry {
                Geometry::of_pages(0)
            }
            fn write_segment(&self, _: u64, _: &[u8]) -> Result<(), DeviceError> {
                Ok(())
            }
            fn read(&self, segment: u64, _: usize, _: &mut [u8]) -> Result<(), DeviceError> {
                Err(DeviceError::Missing { segment })
            }
        }
        let devices: [Arc<dyn SwapDevice>; 4] = [
            Arc::new(NullSwapDevice::new(1)),
            Arc::new(NullSwapDevice::new(1)),
            Arc::new(Nothing),
            Arc::new(Nothing),
        ];
        let mut attached: Vec<_> = devices.iter().map(|device| attach(device).unwrap()).collect();
        for device in &devices {
            assert_eq!(attach(device).unwrap_err(), AttachError::InUse);
        }
        drop(attached.remove(1));
        drop(attach(&devices[1]).unwrap());
        let _again = attach(&devices[1]).unwrap();
        assert_eq!(attach(&devices[0]).unwrap_err(), AttachError::InUse);
    }

    #[test]
    fn two_wrappers_of_one_device_are_one_device() {
        let memory: Arc<dyn SwapDevice> = Arc::new(MemorySwapDevice::new(1));
        let slow = || Arc::new(ThrottledSwapDevice::new(memory.clone(), Duration::ZERO));
        let outer = |inner: Arc<dyn SwapDevice>| -> Arc<dyn SwapDevice> {
            Arc::new(FaultySwapDevice::new(inner))
        };
        let (one, other) = (outer(slow()), outer(slow()));
        let attached = attach(&one).unwrap();
        assert_eq!(attach(&other).unwrap_err(), AttachError::InUse);
        assert_eq!(attach(&memory).unwrap_err(), AttachError::InUse);
        drop(attached);
        let bare = attach(&memory).unwrap();
        assert_eq!(attach(&one).unwrap_err(), AttachError::InUse);
        drop(bare);
        assert!(attach(&other).is_ok());
    }

    /// A device that wraps the given number of other `Endless` devices, of segments or of pages. They are made on
    /// demand.
    #[derive(Debug, Default)]
    struct Endless {
        of_segments: usize,
        of_pages: usize,
        segments: OnceLock<Vec<Arc<dyn SwapDevice>>>,
        pages: OnceLock<Vec<Arc<dyn PageSwapDevice>>>,
    }

    impl Endless {
        fn new(of_segments: usize, of_pages: usize) -> Endless {
            Endless { of_segments, of_pages, ..Endless::default() }
        }

        fn pages(&self) -> &[Arc<dyn PageSwapDevice>] {
            let another =
                |_| -> Arc<dyn PageSwapDevice> { Arc::new(Endless::new(0, self.of_pages)) };
            self.pages.get_or_init(|| (0..self.of_pages).map(another).collect())
        }
    }

    impl SwapDevice for Endless {
        fn geometry(&self) -> Geometry {
            Geometry::of_pages(8)
        }
        fn write_segment(&self, _: u64, _: &[u8]) -> Result<(), DeviceError> {
            Ok(())
        }
        fn read(&self, segment: u64, _: usize, _: &mut [u8]) -> Result<(), DeviceError> {
            Err(DeviceError::Missing { segment })
        }
        fn inner(&self) -> &[Arc<dyn SwapDevice>] {
            let another = |_| -> Arc<dyn SwapDevice> {
                Arc::new(Endless::new(self.of_segments, self.of_pages))
            };
            self.segments.get_or_init(|| (0..self.of_segments).map(another).collect())
        }
        fn page_devices(&self) -> &[Arc<dyn PageSwapDevice>] {
            self.pages()
        }
    }

    impl PageSwapDevice for Endless {
        fn capacity(&self) -> u64 {
            8
        }
        fn write_page(&self, _: u64, _: &crate::Page) -> Result<(), DeviceError> {
            Ok(())
        }
        fn read_page(&self, segment: u64, _: &mut crate::Page) -> Result<(), DeviceError> {
            Err(DeviceError::Missing { segment })
        }
        fn inner(&self) -> &[Arc<dyn PageSwapDevice>] {
            self.pages()
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "compares a thousand devices with each other, many times")]
    fn a_wrapper_that_wraps_without_end_is_refused() {
        for (of_segments, of_pages) in [(1, 0), (2, 0), (MOST, 0), (0, 1), (0, MOST), (1, 1)] {
            let endless: Arc<dyn SwapDevice> = Arc::new(Endless::new(of_segments, of_pages));
            let refused = attach(&endless).unwrap_err();
            assert_eq!(refused, AttachError::TooMany { most: MOST });
            assert!(refused.to_string().contains("1024"), "{refused}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "compares a thousand devices with each other, twice")]
    fn devices_of_segments_and_of_pages_count_together() {
        let pages: Vec<_> = (0..MOST).map(|_| Odd::new(&[], &[])).collect();
        let pages: Vec<_> = pages.iter().collect();
        let (fits, more): (Arc<dyn SwapDevice>, Arc<dyn SwapDevice>) =
            (Odd::new(&pages[1..], &[]), Odd::new(&pages, &[]));
        assert!(attach(&fits).is_ok());
        assert_eq!(attach(&more).unwrap_err(), AttachError::TooMany { most: MOST });
    }

    /// A device that keeps nothing. A test says how it behaves when it is attached.
    #[derive(Debug)]
    struct Odd {
        geometry: Mutex<Geometry>,
        /// The method that panics.
        panics: Mutex<&'static str>,
        asked: AtomicUsize,
        pages: Vec<Arc<dyn PageSwapDevice>>,
        wrapped_pages: Vec<Arc<dyn PageSwapDevice>>,
    }

    impl Odd {
        fn new(pages: &[&Arc<Odd>], wrapped_pages: &[&Arc<Odd>]) -> Arc<Odd> {
            let devices = |of: &[&Arc<Odd>]| {
                of.iter().map(|device| -> Arc<dyn PageSwapDevice> { (*device).clone() }).collect()
            };
            Arc::new(Odd {
                geometry: Mutex::new(Geometry::of_pages(64)),
                panics: Mutex::default(),
                asked: AtomicUsize::new(0),
                pages: devices(pages),
                wrapped_pages: devices(wrapped_pages),
            })
        }

        fn step(&self, method: &str) {
            if *self.panics.lock().unwrap() == method {
                std::panic::resume_unwind(Box::new(()));
            }
        }
    }

    impl SwapDevice for Odd {
        fn geometry(&self) -> Geometry {
            self.asked.fetch_add(1, SeqCst);
            self.step("geometry");
            *self.geometry.lock().unwrap()
        }
        fn write_segment(&self, _: u64, _: &[u8]) -> Result<(), DeviceError> {
            Ok(())
        }
        fn read(&self, segment: u64, _: usize, _: &mut [u8]) -> Result<(), DeviceError> {
            Err(DeviceError::Missing { segment })
        }
        fn inner(&self) -> &[Arc<dyn SwapDevice>] {
            self.step("inner");
            &[]
        }
        fn page_devices(&self) -> &[Arc<dyn PageSwapDevice>] {
            self.step("page_devices");
            &self.pages
        }
    }

    impl PageSwapDevice for Odd {
        fn capacity(&self) -> u64 {
            self.step("capacity");
            64
        }
        fn write_page(&self, _: u64, _: &crate::Page) -> Result<(), DeviceError> {
            Ok(())
        }
        fn read_page(&self, segment: u64, _: &mut crate::Page) -> Result<(), DeviceError> {
            Err(DeviceError::Missing { segment })
        }
        fn inner(&self) -> &[Arc<dyn PageSwapDevice>] {
            self.step("inner");
            &self.wrapped_pages
        }
    }

    fn adapter(device: &Arc<Odd>) -> Arc<dyn SwapDevice> {
        Arc::new(PageDevice(device.clone()))
    }

    #[test]
    fn two_adapters_of_one_device_of_pages_are_one_device() {
        let pages = Odd::new(&[], &[]);
        let wrapper = Odd::new(&[], &[&pages]);
        let deep = Odd::new(&[], &[&wrapper]);
        let faulty: Arc<dyn SwapDevice> = Arc::new(FaultySwapDevice::new(adapter(&pages)));
        let several: Arc<dyn SwapDevice> = Odd::new(&[&Odd::new(&[], &[]), &pages], &[]);
        let all =
            [adapter(&pages), adapter(&pages), adapter(&wrapper), adapter(&deep), faulty, several];
        for (number, one) in all.iter().enumerate() {
            let attached = attach(one).unwrap();
            for other in &all {
                assert_eq!(attach(other).unwrap_err(), AttachError::InUse, "{number}");
            }
            // As a device of segments it is the same device, too.
            let itself: Arc<dyn SwapDevice> = pages.clone();
            assert_eq!(attach(&itself).unwrap_err(), AttachError::InUse, "{number}");
            drop(attached);
        }
        let (_one, _other) =
            (attach(&all[0]).unwrap(), attach(&adapter(&Odd::new(&[], &[]))).unwrap());
    }

    #[test]
    fn sizes_are_asked_once_and_kept() {
        let odd = Odd::new(&[], &[]);
        let device: Arc<dyn SwapDevice> = odd.clone();
        let attached = attach(&device).unwrap();
        *odd.geometry.lock().unwrap() = Geometry::of_pages(8);
        assert_eq!(attached.geometry(), Geometry::of_pages(64));
        assert_eq!((odd.asked.load(SeqCst), attached.device().geometry().segments), (1, 4));
    }

    #[test]
    fn a_device_of_sizes_that_a_store_cannot_use_is_refused_and_free() {
        let odd = Odd::new(&[], &[]);
        let device: Arc<dyn SwapDevice> = odd.clone();
        let fine = Geometry { segments: 9, segment_bytes: 65536, block_bytes: 512 };
        for (segment_bytes, block_bytes) in [(4096, 512), (12345, 1024), (524_288, 1), (65536, 0)] {
            let geometry = Geometry { segment_bytes, block_bytes, ..fine };
            *odd.geometry.lock().unwrap() = geometry;
            let refused = attach(&device).unwrap_err();
            assert_eq!(refused, AttachError::Geometry { geometry });
            let said = refused.to_string();
            let sizes =
                format!("segments of {segment_bytes} bytes and blocks of {block_bytes} bytes");
            assert!(said.contains(&sizes) && said.contains("8192 to 262144"), "{said}");
        }
        *odd.geometry.lock().unwrap() = fine;
        assert_eq!(attach(&device).unwrap().geometry(), fine);
        assert_eq!(Arc::strong_count(&odd), 2);
    }

    #[test]
    fn a_device_that_panics_when_it_is_attached_is_refused_and_free() {
        let pages = Odd::new(&[], &[]);
        let (odd, wraps) = (Odd::new(&[&pages], &[]), adapter(&pages));
        let device: Arc<dyn SwapDevice> = odd.clone();
        let check = |odd: &Odd, device: &Arc<dyn SwapDevice>, method, operation| {
            *odd.panics.lock().unwrap() = method;
            let refused = attach(device).unwrap_err();
            assert_eq!(refused, AttachError::Panicked { operation });
            assert!(refused.to_string().contains(&format!("{operation}()")), "{refused}");
            *odd.panics.lock().unwrap() = "";
            assert!(attach(device).is_ok());
        };
        for method in ["geometry", "inner", "page_devices"] {
            check(&odd, &device, method, method);
        }
        check(&pages, &wraps, "capacity", "geometry");
        check(&pages, &wraps, "inner", "inner");
        check(&pages, &device, "inner", "inner");
    }

    #[test]
    fn destructors_that_panic_end_nothing() {
        #[derive(Debug)]
        struct Bomb;
        impl PageSwapDevice for Bomb {
            fn capacity(&self) -> u64 {
                64
            }
            fn write_page(&self, _: u64, _: &crate::Page) -> Result<(), DeviceError> {
                Ok(())
            }
            fn read_page(&self, segment: u64, _: &mut crate::Page) -> Result<(), DeviceError> {
                Err(DeviceError::Missing { segment })
            }
        }
        impl Drop for Bomb {
            fn drop(&mut self) {
                std::panic::resume_unwind(Box::new(()));
            }
        }
        let attached = Attached::attach(Arc::new(PageDevice(Arc::new(Bomb)))).unwrap();
        let unwound = caught(|| {
            let _attached = attached;
            std::panic::resume_unwind(Box::new("another"));
        });
        assert_eq!(unwound, None);
    }

    #[test]
    fn who_attaches_keeps_the_device_and_lets_it_go() {
        let device: Arc<dyn SwapDevice> = Arc::new(NullSwapDevice::new(1));
        let attached = attach(&device).unwrap();
        assert_eq!(Arc::strong_count(&device), 2);
        assert!(attach(&device).is_err() && attached.is_here());
        assert_eq!(Arc::strong_count(&device), 2);
        drop(attached);
        assert_eq!(Arc::strong_count(&device), 1);
    }
}
