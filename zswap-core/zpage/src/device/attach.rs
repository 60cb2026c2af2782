//! The list of the devices in use in this process. It keeps two stores from using the same device.
//!
//! A store allocates a device's slots from 0, so two stores on one device would overwrite each other's
//! pages. A device does not know its stores, so the process keeps a list of the attached devices' addresses.
//! [`Attached`] keeps its devices alive, so no other device gets a listed address. A wrapper names the devices
//! that it wraps ([`SwapDevice::inner`]) and is attached together with them.
//!
//! A child after `fork` makes its own list, because the parent's list may stay locked for ever. It can start
//! empty, because the parent's stores do nothing in the child ([`zpool_base::fork`]).
//!
//! Lock: the list's mutex. Nothing else is called or locked under it.

use std::sync::{Arc, Mutex, PoisonError};

use once_cell::race::OnceBox;
use zpool_base::fork::{Leaked, Maker};
use zpool_base::unwind::{caught, dropped};

use super::SwapDevice;

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
    /// The device panicked in `capacity()` or `inner()`.
    #[error("the device panicked in {operation}")]
    Panicked {
        /// The method that panicked.
        operation: &'static str,
    },
    /// The device wraps too many devices, perhaps without end.
    #[error(
        "the device wraps {most} devices or more, nested or side by side: wrap fewer, and return the \
         same ones from each call of inner()"
    )]
    TooMany {
        /// The most devices that may be attached together.
        most: usize,
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
pub(crate) struct Attached(Leaked<Vec<Arc<dyn SwapDevice>>>);

fn address(device: &Arc<dyn SwapDevice>) -> usize {
    Arc::as_ptr(device).cast::<()>().addr()
}

impl Attached {
    pub(crate) fn attach(device: Arc<dyn SwapDevice>) -> Result<Self, AttachError> {
        let mut all: Vec<Arc<dyn SwapDevice>> = Vec::new();
        if all.try_reserve(1).is_err() {
            dropped(device);
            return Err(AttachError::OutOfMemory);
        }
        all.push(device);
        match Self::note(&mut all) {
            Ok(()) => Ok(Attached(Leaked::new(all))),
            Err(refused) => {
                // Dropped one by one, for the reason given in `Attached::drop`.
                for device in all {
                    dropped(device);
                }
                Err(refused)
            }
        }
    }

    /// Adds the devices that `all[0]` wraps, directly or through others, to `all`, and lists all of them as
    /// attached. After an error none of them is listed.
    fn note(all: &mut Vec<Arc<dyn SwapDevice>>) -> Result<(), AttachError> {
        let mut next = 0;
        while next < all.len() {
            let outer = all[next].clone();
            let panicked = AttachError::Panicked { operation: "inner" };
            for inner in caught(|| outer.inner()).ok_or(panicked)? {
                // A device that is wrapped twice is attached once.
                if all.iter().all(|known| address(known) != address(inner)) {
                    if all.len() == MOST {
                        return Err(AttachError::TooMany { most: MOST });
                    }
                    all.try_reserve(1).map_err(|_| AttachError::OutOfMemory)?;
                    all.push(inner.clone());
                }
            }
            next += 1;
        }
        Register::here().with(|attached| {
            if all.iter().any(|device| attached.contains(&address(device))) {
                return Err(AttachError::InUse);
            }
            attached.try_reserve(all.len()).map_err(|_| AttachError::OutOfMemory)?;
            attached.extend(all.iter().map(address));
            Ok(())
        })
    }

    /// Returns the device that was given to `attach`, not one that it wraps.
    #[inline]
    pub(crate) fn device(&self) -> &dyn SwapDevice {
        &*self.0[0]
    }

    /// Returns whether this is the process that attached the device.
    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        self.0.is_here()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if !self.is_here() {
            return;
        }
        let all = core::mem::take(&mut *self.0);
        Register::here().with(|attached| {
            attached.retain(|known| all.iter().all(|device| address(device) != *known));
        });
        // Dropped only now: while an address is listed, no other device may get it. The destructors are
        // user code and may panic, so each runs separately: a second panic during an unwind would abort
        // the process.
        for device in all {
            dropped(device);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::device::{FaultySwapDevice, MemorySwapDevice, NullSwapDevice, ThrottledSwapDevice};
    use core::time::Duration;

    fn attach(device: &Arc<dyn SwapDevice>) -> Result<Attached, AttachError> {
        Attached::attach(device.clone())
    }

    #[test]
    fn a_device_is_attached_once_at_a_time() {
        // The type is zero-sized, yet each value in an `Arc` has its own address.
        #[derive(Debug)]
        struct Nothing;
        impl SwapDevice for Nothing {
            fn capacity(&self) -> u64 {
                0
            }
            fn write_page(&self, _: u64, _: &crate::Page) -> Result<(), super::super::DeviceError> {
                Ok(())
            }
            fn read_page(
                &self,
                _: u64,
                _: &mut crate::Page,
            ) -> Result<(), super::super::DeviceError> {
                Ok(())
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

    /// A device that wraps the given number of other `Endless` devices. They are made on demand.
    #[derive(Debug)]
    struct Endless(usize, std::sync::OnceLock<Vec<Arc<dyn SwapDevice>>>);

    impl SwapDevice for Endless {
        fn capacity(&self) -> u64 {
            1
        }
        fn write_page(&self, _: u64, _: &crate::Page) -> Result<(), super::super::DeviceError> {
            Ok(())
        }
        fn read_page(&self, _: u64, _: &mut crate::Page) -> Result<(), super::super::DeviceError> {
            Ok(())
        }
        fn inner(&self) -> &[Arc<dyn SwapDevice>] {
            let another =
                |_| -> Arc<dyn SwapDevice> { Arc::new(Endless(self.0, Default::default())) };
            self.1.get_or_init(|| (0..self.0).map(another).collect())
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "compares a thousand devices with each other, three times")]
    fn a_wrapper_that_wraps_without_end_is_refused() {
        for wide in [1, 2, MOST] {
            let endless: Arc<dyn SwapDevice> = Arc::new(Endless(wide, Default::default()));
            let refused = attach(&endless).unwrap_err();
            assert_eq!(refused, AttachError::TooMany { most: MOST });
            assert!(refused.to_string().contains("1024"), "{refused}");
        }
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
