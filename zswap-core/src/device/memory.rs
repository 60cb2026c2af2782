//! A device in memory, for tests.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{DeviceError, SwapDevice, check};
use crate::Page;

/// Keeps pages in memory as they are. For tests: it saves nothing.
///
/// `Send` and `Sync`; one mutex.
#[derive(Debug)]
pub struct MemorySwapDevice {
    capacity: u64,
    pages: Mutex<BTreeMap<u64, Box<Page>>>,
}

impl MemorySwapDevice {
    /// A device of so many slots, none of which takes memory until it is written.
    pub fn new(capacity: u64) -> Self {
        MemorySwapDevice { capacity, pages: Mutex::new(BTreeMap::new()) }
    }

    /// Slots that hold a page.
    pub fn pages(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Box<Page>>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SwapDevice for MemorySwapDevice {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn write_page(&self, slot: u64, page: &Page) -> Result<(), DeviceError> {
        check(slot, self.capacity)?;
        self.lock().insert(slot, Box::new(*page));
        Ok(())
    }

    fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError> {
        check(slot, self.capacity)?;
        *page = **self.lock().get(&slot).ok_or(DeviceError::Missing { slot })?;
        Ok(())
    }

    fn discard(&self, slot: u64) {
        self.lock().remove(&slot);
    }
}
