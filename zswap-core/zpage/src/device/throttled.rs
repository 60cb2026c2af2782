//! A device that takes its time.

use core::time::Duration;
use std::sync::Arc;

use super::{DeviceError, SwapDevice};
use crate::Page;

/// Another device, slower: each read and write sleeps first. For tests of a device that is slower
/// than the stores.
///
/// `Send` and `Sync`.
#[derive(Debug)]
pub struct ThrottledSwapDevice {
    inner: Arc<dyn SwapDevice>,
    delay: Duration,
}

impl ThrottledSwapDevice {
    /// `inner`, each read and write of it `delay` later.
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
