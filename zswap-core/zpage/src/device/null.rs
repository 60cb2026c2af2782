//! A device that keeps nothing.

use super::{DeviceError, SwapDevice, check};
use crate::Page;

/// Accepts any page and keeps none, to measure the cost of writeback itself. A page that is written back
/// here is lost: its read fails with [`DeviceError::Missing`].
///
/// `Send` and `Sync`.
///
/// ```
/// use zpage::PAGE_SIZE;
/// use zpage::device::{DeviceError, NullSwapDevice, SwapDevice};
///
/// let device = NullSwapDevice::new(8);
/// device.write_page(3, &[7; PAGE_SIZE])?;
/// let lost = device.read_page(3, &mut [0; PAGE_SIZE]);
/// assert_eq!(lost, Err(DeviceError::Missing { slot: 3 }));
/// # Ok::<(), DeviceError>(())
/// ```
#[derive(Debug)]
pub struct NullSwapDevice {
    capacity: u64,
}

impl NullSwapDevice {
    /// Makes a device of `capacity` slots.
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
