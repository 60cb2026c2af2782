//! Where pages go when the store runs full: a device of page slots.

mod faulty;
mod file;
mod memory;
mod null;
mod throttled;

pub use faulty::FaultySwapDevice;
pub use file::FileSwapDevice;
pub use memory::MemorySwapDevice;
pub use null::NullSwapDevice;
pub use throttled::ThrottledSwapDevice;

use core::fmt;
use std::io;

use crate::Page;

/// Errors of a [`SwapDevice`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The system refused, or did less than it was asked for.
    #[error("{operation} of slot {slot} failed: {message}")]
    Io {
        /// "read" or "write".
        operation: &'static str,
        /// The slot.
        slot: u64,
        /// What kind of failure; disk full is `StorageFull`.
        kind: io::ErrorKind,
        /// What the system said.
        message: String,
    },
    /// The device's own code panicked.
    #[error("the device panicked in the {operation} of slot {slot}")]
    Panicked {
        /// "read", "write" or "discard".
        operation: &'static str,
        /// The slot.
        slot: u64,
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
}

impl DeviceError {
    /// An error of the system's.
    pub fn io(operation: &'static str, slot: u64, error: &io::Error) -> Self {
        DeviceError::Io { operation, slot, kind: error.kind(), message: error.to_string() }
    }
}

/// A device of numbered slots, each of one page. The store gives the slots out: one that is written is
/// not written again until it was discarded, and one that is being read is neither.
///
/// Calls may block; no lock is held while they are made. They come from any thread, several at a time
/// for different slots. A call may fail, or panic: the page then stays where it was.
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
}

/// Refuses slots that there are not.
fn check(slot: u64, capacity: u64) -> Result<(), DeviceError> {
    if slot < capacity { Ok(()) } else { Err(DeviceError::OutOfRange { slot, capacity }) }
}
