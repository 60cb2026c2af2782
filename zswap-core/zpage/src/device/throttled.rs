//! A wrapper that makes a device slow.

use core::time::Duration;
use std::sync::Arc;

use super::{DeviceError, Geometry, SwapDevice};

/// Wraps a device and sleeps before each read and write, to test stores on a slow device.
///
/// `Send` and `Sync`.
///
/// ```
/// use std::sync::Arc;
/// use std::time::{Duration, Instant};
/// use zpage::device::{MemorySwapDevice, SwapDevice, ThrottledSwapDevice};
///
/// let delay = Duration::from_millis(1);
/// let device = ThrottledSwapDevice::new(Arc::new(MemorySwapDevice::new(64)), delay);
/// let begin = Instant::now();
/// device.write_segment(0, b"packed pages")?;
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
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        std::thread::sleep(self.delay);
        self.inner.write_segment(segment, bytes)
    }

    fn read(&self, segment: u64, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        std::thread::sleep(self.delay);
        self.inner.read(segment, offset, bytes)
    }

    fn discard(&self, segment: u64) {
        self.inner.discard(segment);
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.inner.flush()
    }

    fn inner(&self) -> &[Arc<dyn SwapDevice>] {
        core::slice::from_ref(&self.inner)
    }

    fn memory_bytes(&self) -> usize {
        self.inner.memory_bytes()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::device::{FaultySwapDevice, MemorySwapDevice};
    use std::time::Instant;

    #[test]
    fn each_read_and_write_takes_the_delay_and_reaches_the_device() {
        let delay = Duration::from_millis(5);
        let memory = Arc::new(MemorySwapDevice::new(100));
        let faulty = Arc::new(FaultySwapDevice::new(memory.clone()));
        let device = ThrottledSwapDevice::new(faulty.clone(), delay);
        assert_eq!(device.geometry(), memory.geometry());
        let begin = Instant::now();
        device.write_segment(1, b"packed pages").unwrap();
        let written = begin.elapsed();
        let mut back = [0; 5];
        device.read(1, 7, &mut back).unwrap();
        assert!(written >= delay && begin.elapsed() >= 2 * delay);
        assert_eq!((&back, memory.segments()), (b"pages", 1));
        faulty.fail_flushes(0, 1);
        assert!(device.flush().is_err() && device.flush().is_ok());
        device.discard(1);
        assert_eq!(memory.segments(), 0);
    }
}
