//! A device in memory, for tests.

use std::sync::{Mutex, MutexGuard, PoisonError};

use zpool_base::fork::Leaked;

use super::{DeviceError, SwapDevice, check};
use crate::Page;

/// Keeps pages in memory as they are. For tests: it saves nothing.
///
/// `Send` and `Sync`; one mutex. In a child after `fork` each call is [`DeviceError::Forked`], no page is
/// there, and dropping the device does nothing.
#[derive(Debug)]
pub struct MemorySwapDevice {
    capacity: u64,
    /// By slot, up to the highest that was written.
    pages: Leaked<Mutex<Pages>>,
}

type Pages = Vec<Option<Box<[u8]>>>;

impl MemorySwapDevice {
    /// A device of `capacity` slots, none of which takes memory until it, or one behind it, is written.
    pub fn new(capacity: u64) -> Self {
        MemorySwapDevice { capacity, pages: Leaked::default() }
    }

    /// Slots that hold a page.
    pub fn pages(&self) -> usize {
        self.lock().map_or(0, |pages| pages.iter().flatten().count())
    }

    fn lock(&self) -> Result<MutexGuard<'_, Pages>, DeviceError> {
        if !self.pages.is_here() {
            // A thread of the parent's may hold it for ever.
            return Err(DeviceError::Forked);
        }
        Ok(self.pages.lock().unwrap_or_else(PoisonError::into_inner))
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
        let mut pages = self.lock()?;
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
        let pages = self.lock()?;
        let at = usize::try_from(slot).ok().and_then(|at| pages.get(at)?.as_deref());
        page.copy_from_slice(at.ok_or(DeviceError::Missing { slot })?);
        Ok(())
    }

    fn discard(&self, slot: u64) {
        let Ok(mut pages) = self.lock() else { return };
        let gone = usize::try_from(slot).ok().and_then(|at| pages.get_mut(at)?.take());
        drop(pages);
        drop(gone);
    }
}
