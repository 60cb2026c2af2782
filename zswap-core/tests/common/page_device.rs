//! A device of pages in memory.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zswap_core::Page;
use zswap_core::device::{DeviceError, PageSwapDevice};

/// Keeps pages in memory, by slot. Fails the test if a slot that holds a page is written.
#[derive(Debug)]
pub(crate) struct MemoryPages {
    capacity: u64,
    pages: Mutex<BTreeMap<u64, Box<Page>>>,
}

impl MemoryPages {
    pub(crate) fn new(capacity: u64) -> Self {
        MemoryPages { capacity, pages: Mutex::default() }
    }

    /// Returns the number of slots that hold a page.
    pub(crate) fn pages(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Box<Page>>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PageSwapDevice for MemoryPages {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn write_page(&self, slot: u64, page: &Page) -> Result<(), DeviceError> {
        assert!(slot < self.capacity, "slot {slot} of {}", self.capacity);
        let older = self.lock().insert(slot, Box::new(*page));
        assert!(older.is_none(), "slot {slot} is written twice");
        Ok(())
    }

    fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError> {
        let pages = self.lock();
        let held = pages.get(&slot).ok_or(DeviceError::Missing { segment: slot })?;
        page.copy_from_slice(&**held);
        Ok(())
    }

    fn discard(&self, slot: u64) {
        assert!(slot < self.capacity, "slot {slot} of {}", self.capacity);
        self.lock().remove(&slot);
    }
}
