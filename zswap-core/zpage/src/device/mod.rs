//! Where pages go when the store runs full: a device of page slots.

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
    /// The system refused, or did less than it was asked for.
    #[error("{operation} of slot {slot} failed: {}", Said(*kind, *code))]
    Io {
        /// "read" or "write".
        operation: &'static str,
        /// The slot.
        slot: u64,
        /// What kind of failure; disk full is `StorageFull`.
        kind: io::ErrorKind,
        /// The system's own number for it, if it comes from there.
        code: Option<i32>,
    },
    /// There is no such slot.
    #[error("slot {slot} is beyond the device's {capacity}")]
    OutOfRange {
        /// The slot.
        slot: u64,
        /// Slots that there are.
        capacity: u64,
    },
    /// Nothing was written to the slot, or it was not kept.
    #[error("slot {slot} holds no page")]
    Missing {
        /// The slot.
        slot: u64,
    },
    /// What is in the slot is not what was written there.
    #[error(
        "slot {slot} does not hold the page that was written there: somebody else changed, truncated \
         or replaced what the device keeps its pages in"
    )]
    Changed {
        /// The slot.
        slot: u64,
    },
    /// The slot lies beyond what this process may write to a file.
    #[error(
        "slot {slot} lies beyond the {limit} bytes that this process may write to a file: raise \
         RLIMIT_FSIZE (ulimit -f), or use a device of fewer slots"
    )]
    FileSizeLimit {
        /// The slot.
        slot: u64,
        /// The limit, bytes.
        limit: u64,
    },
    /// Every slot is taken.
    #[error("all {slots} slots of the device are taken")]
    Full {
        /// Slots that there are.
        slots: u64,
    },
    /// No memory to note what is in a slot.
    #[error("no memory to note what a slot of the device holds; free memory and retry")]
    OutOfMemory,
    /// The device panicked.
    #[error("the device panicked in the {operation} of slot {slot}")]
    Panicked {
        /// "read" or "write".
        operation: &'static str,
        /// The slot.
        slot: u64,
    },
    /// This process is a child of the one that made the device, which is the only one that may use it.
    #[error(
        "the device belongs to the process that made it, and this is a child of that after fork"
    )]
    Forked,
}

impl DeviceError {
    /// An error of the system's. Allocates nothing.
    pub fn io(operation: &'static str, slot: u64, error: &io::Error) -> Self {
        DeviceError::Io { operation, slot, kind: error.kind(), code: error.raw_os_error() }
    }
}

/// What the system says of an error, in its own words where it has a number.
struct Said(io::ErrorKind, Option<i32>);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(code) => io::Error::from_raw_os_error(code).fmt(f),
            None => self.0.fmt(f),
        }
    }
}

/// A device of numbered slots, each of one page. The store gives the slots out: one that is written is
/// not written again until it was discarded, and one that is being read is neither.
///
/// A device belongs to one store at a time: it is attached when the store is built, which is an error
/// ([`AttachError`]) if it is attached already, and free again when the store is dropped.
///
/// Calls may block; no lock is held while they are made. They come from any thread, several at a time
/// for different slots. A call may fail, or panic, which is [`DeviceError::Panicked`] to the store: the
/// page then stays where it was. In a child after `fork` no call is made.
///
/// No method, and no destructor, may store into the store that the device is attached to, or load from
/// it: that store waits for the call, and what it would do for another page may need the device again.
/// Use another store, or none.
pub trait SwapDevice: Send + Sync + fmt::Debug {
    /// Slots, numbered from 0; at most 2^32 are used. Constant.
    fn capacity(&self) -> u64;

    /// Writes a page. After an error the slot means nothing.
    fn write_page(&self, slot: u64, page: &Page) -> Result<(), DeviceError>;

    /// Reads the page last written to a slot. After an error `page` is unspecified.
    fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError>;

    /// The page of a slot is not needed any more. A hint: nothing fails.
    fn discard(&self, slot: u64) {
        let _ = slot;
    }

    /// The devices that this one keeps its pages on, for a wrapper: they are attached to a store with
    /// it, so that no other store gets one of them. Constant.
    fn inner(&self) -> &[Arc<dyn SwapDevice>] {
        &[]
    }

    /// Heap bytes of what the device notes about its slots.
    fn memory_bytes(&self) -> usize {
        0
    }
}

/// Refuses slots that there are not.
fn check(slot: u64, capacity: u64) -> Result<(), DeviceError> {
    if slot < capacity { Ok(()) } else { Err(DeviceError::OutOfRange { slot, capacity }) }
}
