//! A device in memory, for tests.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{DeviceError, SwapDevice, check};
use crate::Page;

/// Keeps pages in memory as they are. For tests: it saves nothing.
///
/// `Send` and `Sync`; one mutex.
#[derive(Debug)]
pub struct MemorySwapDevice {
    capacity: u64,
    /// By slot, up to the highest that was written.
    pages: Mutex<Vec<Option<Box<[u8]>>>>,
}

impl MemorySwapDevice {
    /// A device of `capacity` slots, none of which takes memory until it, or one behind it, is written.
    pub fn new(capacity: u64) -> Self {
        MemorySwapDevice { capacity, pages: Mutex::default() }
    }

    /// Slots that hold a page.
    pub fn pages(&self) -> usize {
        self.lock().iter().flatten().count()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Box<[u8]>>>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SwapDevice for MemorySwapDevice {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn write_page(&self, slot: u64, page: &Page) -> Result<(), DeviceError> {
        check(slot, self.capacity)?;
        let at = usize::try_from(slot).map_err(|_| DeviceError::OutOfMemory)?;
        let mut copy = Vec::new();
        copy.try_reserve_exact(page.len()).map_err(|_| DeviceError::OutOfMemory)?;
        copy.extend_from_slice(page);
        let mut pages = self.lock();
        if at >= pages.len() {
            let more = at - pages.len() + 1;
            pages.try_reserve(more).map_err(|_| DeviceError::OutOfMemory)?;
            pages.resize_with(at + 1, || None);
        }
        pages[at] = Some(copy.into_boxed_slice());
        Ok(())
    }

    fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError> {
        check(slot, self.capacity)?;
        let pages = self.lock();
        let at = usize::try_from(slot).ok().and_then(|at| pages.get(at)?.as_deref());
        page.copy_from_slice(at.ok_or(DeviceError::Missing { slot })?);
        Ok(())
    }

    fn discard(&self, slot: u64) {
        let mut pages = self.lock();
        let gone = usize::try_from(slot).ok().and_then(|at| pages.get_mut(at)?.take());
        drop(pages);
        drop(gone);
    }
}
