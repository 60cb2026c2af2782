//! Fault injection: a device that fails chosen reads and writes.

use std::io;
use std::sync::Arc;
// These are from std even under loom: they are switches for tests, and no modelled protocol depends on them.
use std::sync::atomic::{AtomicU64, Ordering};

use super::{DeviceError, SwapDevice};
use crate::Page;

/// Wraps a device and fails chosen reads or writes, as a full disk or a bad sector does.
///
/// `Send` and `Sync`.
///
/// ```
/// use std::sync::Arc;
/// use zpage::PAGE_SIZE;
/// use zpage::device::{FaultySwapDevice, MemorySwapDevice, SwapDevice};
///
/// let device = FaultySwapDevice::new(Arc::new(MemorySwapDevice::new(8)));
/// device.fail_writes(1, 1);
/// assert!(device.write_page(0, &[7; PAGE_SIZE]).is_ok());
/// assert!(device.write_page(1, &[7; PAGE_SIZE]).is_err());
/// assert!(device.write_page(1, &[7; PAGE_SIZE]).is_ok());
/// ```
#[derive(Debug)]
pub struct FaultySwapDevice {
    inner: Arc<dyn SwapDevice>,
    writes: Faults,
    reads: Faults,
}

/// How many of the next calls succeed (`after`), and how many calls after those fail (`fail`).
#[derive(Debug, Default)]
struct Faults {
    after: AtomicU64,
    fail: AtomicU64,
}

impl Faults {
    fn set(&self, after: u64, fail: u64) {
        self.after.store(after, Ordering::SeqCst);
        self.fail.store(fail, Ordering::SeqCst);
    }

    fn strikes(&self) -> bool {
        let less = |n: u64| n.checked_sub(1);
        let count =
            |word: &AtomicU64| word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok();
        !count(&self.after) && count(&self.fail)
    }
}

impl FaultySwapDevice {
    /// Wraps `inner`. At first, no call fails.
    pub fn new(inner: Arc<dyn SwapDevice>) -> Self {
        FaultySwapDevice { inner, writes: Faults::default(), reads: Faults::default() }
    }

    /// Lets the next `after` writes succeed and makes the `count` writes after them fail with `StorageFull`. A
    /// write that fails writes the first half of the page and fills the rest of the slot with zeros.
    pub fn fail_writes(&self, after: u64, count: u64) {
        self.writes.set(after, count);
    }

    /// Lets the next `after` reads succeed and makes the `count` reads after them fail with `UnexpectedEof`.
    pub fn fail_reads(&self, after: u64, count: u64) {
        self.reads.set(after, count);
    }
}

impl SwapDevice for FaultySwapDevice {
    fn capacity(&self) -> u64 {
        self.inner.capacity()
    }

    fn write_page(&self, slot: u64, page: &Page) -> Result<(), DeviceError> {
        if self.writes.strikes() {
            // Only the first half of the page arrives, as in a write that is cut short.
            let mut half = *page;
            half[page.len() / 2..].fill(0);
            let _ = self.inner.write_page(slot, &half);
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(DeviceError::io("write", slot, &full));
        }
        self.inner.write_page(slot, page)
    }

    fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError> {
        if self.reads.strikes() {
            page[..100].fill(0xEE);
            let cut = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(DeviceError::io("read", slot, &cut));
        }
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
