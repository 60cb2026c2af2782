//! Swap devices, to which a store or disk writes pages back.

mod attach;
mod faulty;
mod file;
mod memory;
mod null;
mod throttled;

pub use attach::AttachError;
pub(crate) use attach::Attached;
pub use faulty::FaultySwapDevice;
pub use file::{FileDeviceError, FileSwapDevice};
pub use memory::MemorySwapDevice;
pub use null::NullSwapDevice;
pub use throttled::ThrottledSwapDevice;

use core::fmt;
use std::io;
use std::sync::Arc;

use crate::Page;

/// Errors of a [`SwapDevice`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The system call failed or was cut short.
    #[error("{operation} of slot {slot} failed: {}", Said(*kind, *code))]
    Io {
        /// "read" or "write".
        operation: &'static str,
        /// The slot.
        slot: u64,
        /// The kind of failure; a full disk is `StorageFull`.
        kind: io::ErrorKind,
        /// The system's error number, if it gave one.
        code: Option<i32>,
    },
    /// There is no such slot.
    #[error("slot {slot} is beyond the device's {capacity} slots")]
    OutOfRange {
        /// The slot.
        slot: u64,
        /// Slots of the device.
        capacity: u64,
    },
    /// The slot holds no page: no page was written, or the device did not keep the page.
    #[error("slot {slot} holds no page")]
    Missing {
        /// The slot.
        slot: u64,
    },
    /// The slot does not hold the page that was written there.
    #[error(
        "slot {slot} does not hold the page that was written there: something else changed or truncated \
         the device's storage; let nothing but the device write to it"
    )]
    Changed {
        /// The slot.
        slot: u64,
    },
    /// The slot lies beyond this process's file size limit.
    #[error(
        "slot {slot} lies beyond the {limit} bytes that this process may write to a file: raise \
         RLIMIT_FSIZE (ulimit -f), or use a device of fewer slots"
    )]
    FileSizeLimit {
        /// The slot.
        slot: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Every slot is taken.
    #[error("all {slots} slots of the device are taken")]
    Full {
        /// Slots of the device.
        slots: u64,
    },
    /// There is no memory to record what a slot holds, or, in a device in memory, to keep the page.
    #[error("no memory to record what a slot of the device holds; free memory and retry")]
    OutOfMemory,
    /// The device panicked.
    #[error("the device panicked in the {operation} of slot {slot}")]
    Panicked {
        /// "read" or "write".
        operation: &'static str,
        /// The slot.
        slot: u64,
    },
    /// This process is a forked child of the process that made the device. Only the process that made it may use
    /// it.
    #[error(
        "the device belongs to the process that made it, and this is a forked child: make another device \
         in the child"
    )]
    Forked,
}

impl DeviceError {
    /// Wraps an error of the system. Allocates nothing.
    pub fn io(operation: &'static str, slot: u64, error: &io::Error) -> Self {
        DeviceError::Io { operation, slot, kind: error.kind(), code: error.raw_os_error() }
    }
}

/// Displays the system's message for the error number, or the error's kind if there is no number.
struct Said(io::ErrorKind, Option<i32>);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(code) => io::Error::from_raw_os_error(code).fmt(f),
            None => self.0.fmt(f),
        }
    }
}

/// A device of numbered slots, each of which holds one page. The store that uses the device allocates the
/// slots. The store discards a slot before it writes the slot again. It neither writes nor discards a slot
/// that is being read.
///
/// A device belongs to one store at a time. Building a store attaches the device, and dropping the store
/// detaches it. Attaching fails with [`AttachError::InUse`] if the device is attached already.
///
/// Calls may block. zswap-core holds no entry lock during a call; zram holds the lock of the page that it
/// reads or writes. Calls come from any thread and may overlap. Calls for the same slot overlap only if
/// all of them are reads. A call may fail. It may also panic, which the store treats as an error
/// ([`DeviceError::Panicked`]). In both cases the page stays where it was. In a child after `fork` the
/// store does not call the device.
///
/// No method and no destructor of a device may store pages to, or load pages from, the store that the
/// device is attached to. That store may be waiting for this call to return, and may need the device for
/// the other page, too.
///
/// ```
/// use std::sync::Mutex;
/// use zpage::device::{DeviceError, SwapDevice};
/// use zpage::{PAGE_SIZE, Page};
///
/// /// A device of one slot.
/// #[derive(Debug)]
/// struct OneSlot(Mutex<Option<Page>>);
///
/// impl SwapDevice for OneSlot {
///     fn capacity(&self) -> u64 {
///         1
///     }
///     fn write_page(&self, _slot: u64, page: &Page) -> Result<(), DeviceError> {
///         *self.0.lock().unwrap() = Some(*page);
///         Ok(())
///     }
///     fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError> {
///         *page = self.0.lock().unwrap().ok_or(DeviceError::Missing { slot })?;
///         Ok(())
///     }
/// }
///
/// let device = OneSlot(Mutex::new(None));
/// device.write_page(0, &[7; PAGE_SIZE])?;
/// let mut page = [0; PAGE_SIZE];
/// device.read_page(0, &mut page)?;
/// assert_eq!(page, [7; PAGE_SIZE]);
/// # Ok::<(), DeviceError>(())
/// ```
pub trait SwapDevice: Send + Sync + fmt::Debug {
    /// Returns the number of slots. Slots are numbered from 0. A store uses only the first 2^32. The result must
    /// not change.
    fn capacity(&self) -> u64;

    /// Writes a page to a slot. After an error the slot's content is unspecified.
    ///
    /// # Errors
    /// Any [`DeviceError`]. The page then stays in memory.
    fn write_page(&self, slot: u64, page: &Page) -> Result<(), DeviceError>;

    /// Reads the page that was last written to a slot. After an error the content of `page` is unspecified.
    ///
    /// # Errors
    /// Any [`DeviceError`]; usually [`DeviceError::Missing`] if the slot holds no page. A device must fail
    /// rather than return a page that was not written to the slot.
    fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError>;

    /// Hints that the page of a slot is not needed any more. Does nothing by default.
    fn discard(&self, slot: u64) {
        let _ = slot;
    }

    /// Returns the devices on which this device keeps its pages, if it is a wrapper; none by default. A store
    /// attaches them together with the wrapper, so that no other store can use them. The result must not
    /// change.
    fn inner(&self) -> &[Arc<dyn SwapDevice>] {
        &[]
    }

    /// Returns the heap bytes that the device uses to keep track of its slots; 0 by default.
    fn memory_bytes(&self) -> usize {
        0
    }
}

/// Checks that the slot is below the capacity. If it is not, returns [`DeviceError::OutOfRange`].
fn check(slot: u64, capacity: u64) -> Result<(), DeviceError> {
    if slot < capacity { Ok(()) } else { Err(DeviceError::OutOfRange { slot, capacity }) }
}
