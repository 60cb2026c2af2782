//! Devices of pages, and the adapter that makes a device of segments of one.

use core::fmt;
use std::sync::Arc;

use zpool_base::unwind::caught;

use super::{DeviceError, Geometry, SwapDevice};
use crate::{PAGE_SIZE, Page};

/// A device of numbered slots, each of which holds one page. To use it, pass
/// `Arc::new(PageDevice(Arc::new(device)))` to the builder of a store: [`PageDevice`] makes a device of segments of
/// it. A device that can write many pages with one call implements [`SwapDevice`] instead.
///
/// # What the adapter does
/// * It writes a slot once. Before it writes the slot again, it discards it. It may also discard a slot that was
///   not written, or whose write failed.
/// * It reads only slots that it has written, and neither writes nor discards a slot that is being read.
/// * It passes only slots below the capacity.
///
/// # What may fail
/// A call may fail, with any [`DeviceError`]. The field `segment` of the error holds the slot's number; the adapter
/// replaces it with the number of the segment. A call may also panic, which the store treats as an error.
///
/// Calls may block. Calls come from any thread and may overlap. Calls for the same slot overlap only if all of them
/// are reads. In a child after `fork` the store does not call the device.
///
/// A device belongs to one store at a time: two adapters around one device are not attached at the same time.
///
/// No method and no destructor of a device may store pages to, or load pages from, the store that the device is
/// attached to.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use zpage::device::{DeviceError, PageDevice, PageSwapDevice, SwapDevice};
/// use zpage::{PAGE_SIZE, Page};
///
/// /// A device of two slots.
/// #[derive(Debug, Default)]
/// struct TwoSlots(Mutex<[Option<Page>; 2]>);
///
/// impl PageSwapDevice for TwoSlots {
///     fn capacity(&self) -> u64 {
///         2
///     }
///     fn write_page(&self, slot: u64, page: &Page) -> Result<(), DeviceError> {
///         self.0.lock().unwrap()[slot as usize] = Some(*page);
///         Ok(())
///     }
///     fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError> {
///         let held = self.0.lock().unwrap()[slot as usize];
///         *page = held.ok_or(DeviceError::Missing { segment: slot })?;
///         Ok(())
///     }
/// }
///
/// let device: Arc<dyn SwapDevice> = Arc::new(PageDevice(Arc::new(TwoSlots::default())));
/// device.write_segment(0, &[7; 2 * PAGE_SIZE])?;
/// # Ok::<(), DeviceError>(())
/// ```
pub trait PageSwapDevice: Send + Sync + fmt::Debug {
    /// Returns the number of slots. Slots are numbered from 0. The result must not change. [`PageDevice`] says how
    /// many of the slots are used.
    fn capacity(&self) -> u64;

    /// Writes a page to a slot. After an error the slot's content is unspecified.
    ///
    /// # Errors
    /// Any [`DeviceError`]. The pages of the segment then stay in memory.
    fn write_page(&self, slot: u64, page: &Page) -> Result<(), DeviceError>;

    /// Reads the page that was last written to a slot. After an error the content of `page` is unspecified.
    ///
    /// # Errors
    /// Any [`DeviceError`]; usually [`DeviceError::Missing`] if the slot holds no page.
    fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError>;

    /// Hints that the page of a slot is not needed any more. The slot may hold no page. Does nothing by default.
    fn discard(&self, slot: u64) {
        let _ = slot;
    }

    /// Returns the devices on which this device keeps its pages, if it is a wrapper; none by default. A store
    /// attaches them together with the wrapper, so that no other store can use them. The result must not
    /// change.
    fn inner(&self) -> &[Arc<dyn PageSwapDevice>] {
        &[]
    }

    /// Returns the heap bytes that the device uses to keep track of its slots; 0 by default.
    fn memory_bytes(&self) -> usize {
        0
    }
}

/// Makes a device of segments of a device of pages.
///
/// A segment consists of consecutive slots: 16, or fewer if the device has fewer than 64 slots
/// ([`Geometry::of_pages`]). Slots that fill no segment are not used; of a device of one slot, none is. A store uses
/// at most 2^29 slots. A block is a page: the store writes and reads whole pages.
///
/// Each page is written and read by a call of its own. A write stops at the first page that fails; the pages before
/// it are written. Discarding a segment discards all of its slots, whether they were written or not: to know the
/// written ones, the adapter would have to keep a number for each segment. If the device panics as it discards a
/// slot, the adapter still discards the others. The adapter itself keeps nothing, takes no memory, and asks the
/// device for its capacity in each call.
///
/// `Send` and `Sync`. `flush` does nothing.
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::{Arc, Mutex};
/// use zpage::device::{DeviceError, PageDevice, PageSwapDevice, SwapDevice};
/// use zpage::{PAGE_SIZE, Page};
///
/// #[derive(Debug, Default)]
/// struct Pages(Mutex<HashMap<u64, Page>>);
///
/// impl PageSwapDevice for Pages {
///     fn capacity(&self) -> u64 {
///         1000
///     }
///     fn write_page(&self, slot: u64, page: &Page) -> Result<(), DeviceError> {
///         self.0.lock().unwrap().insert(slot, *page);
///         Ok(())
///     }
///     fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError> {
///         let held = self.0.lock().unwrap().get(&slot).copied();
///         *page = held.ok_or(DeviceError::Missing { segment: slot })?;
///         Ok(())
///     }
/// }
///
/// let device = PageDevice(Arc::new(Pages::default()));
/// assert_eq!(device.geometry().segments, 1000 / 16);
/// let mut pages = [7; 2 * PAGE_SIZE];
/// pages[PAGE_SIZE..].fill(8);
/// device.write_segment(3, &pages)?;
/// let mut page = [0; PAGE_SIZE];
/// device.read(3, PAGE_SIZE, &mut page)?;
/// assert_eq!(page, [8; PAGE_SIZE]);
/// # Ok::<(), DeviceError>(())
/// ```
#[derive(Debug)]
pub struct PageDevice(pub Arc<dyn PageSwapDevice>);

/// Returns the first slot of a range. The segment and the offset were checked.
fn first_slot(geometry: Geometry, segment: u64, offset: usize) -> u64 {
    segment * (geometry.segment_bytes / PAGE_SIZE) as u64 + (offset / PAGE_SIZE) as u64
}

impl SwapDevice for PageDevice {
    fn geometry(&self) -> Geometry {
        Geometry { block_bytes: PAGE_SIZE, ..Geometry::of_pages(self.0.capacity()) }
    }

    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let geometry = self.geometry();
        geometry.check(segment, 0, bytes.len())?;
        let (mut rest, mut at) = (bytes, 0);
        while let Some((page, later)) = rest.split_first_chunk() {
            let written = self.0.write_page(first_slot(geometry, segment, at), page);
            written.map_err(|error| error.in_segment(segment, at))?;
            (rest, at) = (later, at + PAGE_SIZE);
        }
        Ok(())
    }

    fn read(&self, segment: u64, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let geometry = self.geometry();
        geometry.check(segment, offset, bytes.len())?;
        let (mut rest, mut at) = (bytes, offset);
        while let Some((page, later)) = rest.split_first_chunk_mut() {
            let read = self.0.read_page(first_slot(geometry, segment, at), page);
            read.map_err(|error| error.in_segment(segment, at))?;
            (rest, at) = (later, at + PAGE_SIZE);
        }
        Ok(())
    }

    fn discard(&self, segment: u64) {
        let geometry = self.geometry();
        if geometry.check(segment, 0, 0).is_err() {
            return;
        }
        for at in (0..geometry.segment_bytes).step_by(PAGE_SIZE) {
            // A panic must not keep the other slots: each is discarded before it is written again.
            let _ = caught(|| self.0.discard(first_slot(geometry, segment, at)));
        }
    }

    fn page_devices(&self) -> &[Arc<dyn PageSwapDevice>] {
        core::slice::from_ref(&self.0)
    }

    fn memory_bytes(&self) -> usize {
        self.0.memory_bytes()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
