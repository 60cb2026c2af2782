//! Writes pages back to a device. From then on they are read from the device.
//!
//! The slot's lock is held throughout, so other threads find the page in one place, in memory or on the device.

use core::ops::Range;

use zpage::PAGE_SIZE;
use zpage::device::DeviceError;

use crate::Zram;
use crate::error::ZramError;
use crate::word::{Content, Word};

/// Tells [`Zram::writeback`] which pages to write, and how many at most. Without a filter, it selects all pages
/// that have an object.
///
/// ```
/// use zram::Writeback;
///
/// let idle_pages_of_the_first_gib = Writeback::new().idle().pages(0..1 << 18).max_pages(1000);
/// # let _ = idle_pages_of_the_first_gib;
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[must_use = "has no effect until Zram::writeback takes it"]
pub struct Writeback {
    idle: bool,
    huge: bool,
    incompressible: bool,
    ranges: Vec<Range<u64>>,
    max_pages: Option<u64>,
}

impl Writeback {
    /// Selects all pages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Selects only pages that are marked idle.
    pub fn idle(mut self) -> Self {
        self.idle = true;
        self
    }

    /// Selects only huge pages, which are stored uncompressed.
    pub fn huge(mut self) -> Self {
        self.huge = true;
        self
    }

    /// Selects only incompressible pages: [`Zram::recompress`] has tried the algorithm of the highest priority,
    /// and the page did not get smaller.
    pub fn incompressible(mut self) -> Self {
        self.incompressible = true;
        self
    }

    /// Selects only pages in this range. Pages are counted from 0. Further calls add further ranges.
    pub fn pages(mut self, range: Range<u64>) -> Self {
        self.ranges.push(range);
        self
    }

    /// Stops after writing this number of pages.
    pub fn max_pages(mut self, pages: u64) -> Self {
        self.max_pages = Some(pages);
        self
    }
}

/// What [`Zram::writeback`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct WrittenBack {
    /// Pages that the call moved to the device.
    pub written: u64,
    /// Whether the call stopped because it reached [`Writeback::max_pages`] or the disk's writeback limit.
    /// Selected pages may remain in memory.
    pub budget_used_up: bool,
}

impl Zram {
    /// Writes the pages that `what` selects to the device, and frees their memory.
    ///
    /// Stops at the first error. The page that failed is unchanged; the pages before it stay on the device.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zram::device::MemorySwapDevice;
    /// use zram::{Writeback, Zram};
    ///
    /// let device = Arc::new(MemorySwapDevice::new(256));
    /// let disk = Zram::builder().disksize(1 << 20).backing_device(device).build()?;
    /// disk.write(0, b"some bytes")?;
    /// disk.mark_idle();
    /// assert_eq!(disk.writeback(&Writeback::new().idle())?.written, 1);
    ///
    /// let mut back = [0; 10];
    /// disk.read(0, &mut back)?;
    /// assert_eq!(&back, b"some bytes");
    /// assert_eq!((disk.bd_stat().bd_count, disk.bd_stat().bd_reads), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ZramError::NoDevice`] if the disk was built without
    /// [`backing_device`](crate::ZramBuilder::backing_device); [`ZramError::DeviceFull`] if the device has no
    /// free slot; [`ZramError::Device`], [`ZramError::Pool`] or [`ZramError::Codec`] if the device, the backend
    /// or a codec fails; [`ZramError::Reentrant`] if called from inside a codec or backend.
    ///
    /// # Blocking
    /// Sleeps in the codec and the device while it holds the lock of one page.
    pub fn writeback(&self, what: &Writeback) -> Result<WrittenBack, ZramError> {
        if self.backing.is_none() {
            return Err(ZramError::NoDevice);
        }
        let mut done = WrittenBack::default();
        if what.ranges.is_empty() {
            self.write_back_all(self.table.made(), what, &mut done)?;
        } else {
            for range in &what.ranges {
                let range = range.start..range.end.min(self.table.slots());
                self.write_back_all(range, what, &mut done)?;
            }
        }
        Ok(done)
    }

    /// Sets how many more pages [`Zram::writeback`] may write, over all calls; `None` removes the limit.
    ///
    /// ```
    /// let disk = zram::Zram::builder().disksize(1 << 20).build()?;
    /// assert_eq!(disk.writeback_limit(), None);
    /// disk.set_writeback_limit(Some(1000));
    /// assert_eq!(disk.writeback_limit(), Some(1000));
    /// # Ok::<(), zram::BuildError>(())
    /// ```
    pub fn set_writeback_limit(&self, pages: Option<u64>) {
        self.counts.set_writeback_limit(pages);
    }

    /// Returns how many more pages [`Zram::writeback`] may write; `None` if there is no limit.
    pub fn writeback_limit(&self) -> Option<u64> {
        self.counts.writeback_limit()
    }

    fn write_back_all(
        &self,
        pages: impl Iterator<Item = u64>,
        what: &Writeback,
        done: &mut WrittenBack,
    ) -> Result<(), ZramError> {
        for index in pages {
            let within = what.max_pages.is_none_or(|most| done.written < most);
            if !within || self.writeback_limit() == Some(0) {
                done.budget_used_up = true;
                break;
            }
            if self.write_back_page(index, what)? {
                done.written += 1;
            }
        }
        Ok(())
    }

    fn write_back_page(&self, index: u64, what: &Writeback) -> Result<bool, ZramError> {
        let slots = self.backing.as_ref().ok_or(ZramError::NoDevice)?;
        let Some(slot) = self.table.lock(index) else { return Ok(false) };
        let word = slot.word();
        let Content::Object { bits, priority, huge } = word.content() else { return Ok(false) };
        let left_out = what.idle && !word.is_idle()
            || what.huge && !huge
            || what.incompressible && !word.is_incompressible();
        if left_out || !self.counts.take_writeback() {
            return Ok(false);
        }
        // If the page is not written, dropping this gives it back to the budget.
        let budget = Budget(self);
        let mut page = [0; PAGE_SIZE];
        self.read_object(index, bits, priority, huge, &mut page)?;
        let to = slots.take().map_err(|source| match source {
            DeviceError::Full { slots } => ZramError::DeviceFull { slots },
            source => ZramError::Device { index, source },
        })?;
        to.write(&page).map_err(|source| ZramError::Device { index, source })?;
        let new = Word::new(Content::OnDevice(to.keep()));
        core::mem::forget(budget);
        self.counts.device_writes.add(1);
        self.exchange(slot, new);
        Ok(true)
    }
}

/// One page of the disk's writeback budget. Dropping this gives the page back to the budget, also in a panic.
struct Budget<'a>(&'a Zram);

impl Drop for Budget<'_> {
    fn drop(&mut self) {
        self.0.counts.give_writeback_back();
    }
}
