//! A wrapper that makes a device slow.

use core::time::Duration;
use std::sync::Arc;

use super::{DeviceError, SwapDevice};
use crate::Page;

/// Wraps a device and sleeps before each read and write, to test stores on a slow device.
///
/// `Send` and `Sync`.
///
/// ```
/// use std::sync::Arc;
/// use std::time::{Duration, Instant};
/// use zpage::PAGE_SIZE;
/// use zpage::device::{MemorySwapDevice, SwapDevice, ThrottledSwapDevice};
///
/// let delay = Duration::from_millis(1);
/// let device = ThrottledSwapDevice::new(Arc::new(MemorySwapDevice::new(8)), delay);
/// let begin = Instant::now();
/// device.write_page(0, &[7; PAGE_SIZE])?;
/// assert!(begin.elapsed() >= delay);
/// # Ok::<(), zpage::device::DeviceError>(())
/// ```
#[derive(Debug)]
pub struct ThrottledSwapDevice {
    inner: Arc<dyn SwapDevice>,
    delay: Duration,
}

impl ThrottledSwapDevice {
    /// Wraps `inner` and delays each read and write by `delay`.
    pub fn new(inner: Arc<dyn SwapDevice>, delay: Duration) -> Self {
        ThrottledSwapDevice { inner, delay }
    }
}

impl SwapDevice for ThrottledSwapDevice {
    fn capacity(&self) -> u64 {
        self.inner.capacity()
    }

    fn write_page(&self, slot: u64, page: &Page) -> Result<(), DeviceError> {
        std::thread::sleep(self.delay);
        self.inner.write_page(slot, page)
    }

    fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError> {
        std::thread::sleep(self.delay);
        self.inner.read_page(slot, page)
    }

    fn discard(&self, slot: u64) {
        self.inner.discard(slot);
    }

    fn inner(&self) -> &[Arc<dyn SwapDevice>] {
        core::slice::from_ref(&self.inner)
    }

    fn memory_bytes(&self) -> usize {
        self.inner.memory_bytes()
    }
}
