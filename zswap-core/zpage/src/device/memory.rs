//! A device in memory, for tests.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zpool_base::fork::Leaked;

use super::{DeviceError, SwapDevice, check};
use crate::Page;

/// Keeps pages uncompressed in memory. For tests: it saves no memory.
///
/// `Send` and `Sync`; one mutex guards all slots. In a child after `fork` each call fails with
/// [`DeviceError::Forked`], the device holds no page, and dropping it does nothing.
///
/// ```
/// use zpage::PAGE_SIZE;
/// use zpage::device::{MemorySwapDevice, SwapDevice};
///
/// let device = MemorySwapDevice::new(8);
/// device.write_page(3, &[7; PAGE_SIZE])?;
/// let mut page = [0; PAGE_SIZE];
/// device.read_page(3, &mut page)?;
/// assert_eq!((page, device.pages()), ([7; PAGE_SIZE], 1));
/// # Ok::<(), zpage::device::DeviceError>(())
/// ```
#[derive(Debug)]
pub struct MemorySwapDevice {
    capacity: u64,
    /// Pages by slot.
    pages: Leaked<Mutex<Pages>>,
}

type Pages = HashMap<u64, Box<[u8]>>;

impl MemorySwapDevice {
    /// Makes a device of `capacity` slots. A slot takes memory only while it holds a page.
    pub fn new(capacity: u64) -> Self {
        MemorySwapDevice { capacity, pages: Leaked::default() }
    }

    /// Returns the number of slots that hold a page; 0 in a child after `fork`.
    pub fn pages(&self) -> usize {
        self.lock().map_or(0, |pages| pages.len())
    }

    fn lock(&self) -> Result<MutexGuard<'_, Pages>, DeviceError> {
        if !self.pages.is_here() {
            // A thread of the parent may have held the lock at the fork.
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
        let mut copy = Vec::new();
        copy.try_reserve_exact(page.len()).map_err(|_| DeviceError::OutOfMemory)?;
        copy.extend_from_slice(page);
        let mut pages = self.lock()?;
        pages.try_reserve(1).map_err(|_| DeviceError::OutOfMemory)?;
        let older = pages.insert(slot, copy.into_boxed_slice());
        drop(pages);
        drop(older);
        Ok(())
    }

    fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError> {
        check(slot, self.capacity)?;
        let pages = self.lock()?;
        page.copy_from_slice(pages.get(&slot).ok_or(DeviceError::Missing { slot })?);
        Ok(())
    }

    fn discard(&self, slot: u64) {
        let Ok(mut pages) = self.lock() else { return };
        let gone = pages.remove(&slot);
        drop(pages);
        drop(gone);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::PAGE_SIZE;

    #[test]
    fn a_slot_far_behind_the_others_costs_no_more_than_another_one() {
        let device = MemorySwapDevice::new(u64::MAX);
        let mut back = [0; PAGE_SIZE];
        for slot in [0, u64::MAX - 1] {
            device.write_page(slot, &[7; PAGE_SIZE]).unwrap();
            device.read_page(slot, &mut back).unwrap();
            assert_eq!(back, [7; PAGE_SIZE]);
        }
        device.write_page(0, &[8; PAGE_SIZE]).unwrap();
        let places = device.lock().unwrap().capacity();
        assert!(device.pages() == 2 && places < 100, "{places}");
        device.discard(0);
        assert_eq!(device.read_page(0, &mut back), Err(DeviceError::Missing { slot: 0 }));
        assert_eq!(device.pages(), 1);
    }
}
