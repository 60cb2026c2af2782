//! A device that keeps nothing.

use super::{DeviceError, SwapDevice, check};
use crate::Page;

/// Takes any page and keeps none: for measuring what writeback itself costs. A page that was written
/// back here is lost, and its load is [`DeviceError::Missing`].
///
/// `Send` and `Sync`.
#[derive(Debug)]
pub struct NullSwapDevice {
    capacity: u64,
}

impl NullSwapDevice {
    /// A device of so many slots.
    pub fn new(capacity: u64) -> Self {
        NullSwapDevice { capacity }
    }
}

impl SwapDevice for NullSwapDevice {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn write_page(&self, slot: u64, _page: &Page) -> Result<(), DeviceError> {
        check(slot, self.capacity)
    }

    fn read_page(&self, slot: u64, _page: &mut Page) -> Result<(), DeviceError> {
        check(slot, self.capacity)?;
        Err(DeviceError::Missing { slot })
    }
}
