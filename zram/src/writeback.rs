//! Writes pages back to a device. From then on they are read from the device.
//!
//! Objects go to the device as they are, without decompression, and are packed into segments (`outgoing.rs`). No
//! slot is locked while the device writes, so a page in a segment that is being written can be read, written and
//! discarded; it then stays where it was.

use core::ops::Range;

use zpool_api::Handle;

use crate::Zram;
use crate::error::ZramError;
use crate::outgoing::{Budget, Leaving, Writer};
use crate::word::Content;

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
    /// Pages are written as they are compressed, and a page that is stored uncompressed with its 4096 bytes. Many
    /// share a segment of the device, which is written with one call. The last segment may be written with few
    /// pages. A page that is written, discarded or recompressed during that call stays in memory, and does not count
    /// as written.
    ///
    /// Stops at the first error. The page that failed, and those that were to be written with it, are unchanged; the
    /// pages before them are on the device.
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
    /// * [`ZramError::NoDevice`] if the disk was built without
    ///   [`backing_device`](crate::ZramBuilder::backing_device).
    /// * [`ZramError::DeviceFull`] if no segment of the device is free and cleaning frees none.
    /// * [`ZramError::Device`] if the device fails: with the first page of the segment that was to be written.
    /// * [`ZramError::Pool`] if the backend fails.
    ///
    /// # Blocking
    /// Blocks in the device with no page locked. Waits for the lock of each page that another thread writes in part
    /// or recompresses, and for a thread that cleans the device.
    pub fn writeback(&self, what: &Writeback) -> Result<WrittenBack, ZramError> {
        let segments = self.backing.as_ref().ok_or(ZramError::NoDevice)?;
        let mut writer = Writer::new(self, segments);
        let walked = self.write_back_all(what, &mut writer);
        // The pages that were packed before an error are written, too.
        let last = writer.write();
        let budget_used_up = walked?;
        last?;
        Ok(WrittenBack { written: writer.written(), budget_used_up })
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

    /// Packs the pages that `what` selects, and writes each segment that is full. Returns whether a budget was used
    /// up.
    fn write_back_all<'z>(
        &'z self,
        what: &Writeback,
        writer: &mut Writer<'z>,
    ) -> Result<bool, ZramError> {
        if what.ranges.is_empty() {
            return self.write_back_each(self.table.made(), what, writer);
        }
        for range in &what.ranges {
            let range = range.start..range.end.min(self.table.slots());
            if self.write_back_each(range, what, writer)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn write_back_each<'z>(
        &'z self,
        pages: impl Iterator<Item = u64>,
        what: &Writeback,
        writer: &mut Writer<'z>,
    ) -> Result<bool, ZramError> {
        let is_used_up = |writer: &Writer<'_>| {
            what.max_pages.is_some_and(|most| writer.taken() >= most)
                || self.writeback_limit() == Some(0)
        };
        for index in pages {
            if is_used_up(writer) {
                // Pages that do not arrive are given back to the budgets.
                writer.write()?;
                if is_used_up(writer) {
                    return Ok(true);
                }
            }
            // Ranges may overlap.
            if what.ranges.len() > 1 && writer.holds(index) {
                continue;
            }
            if let Some(page) = self.leave(index, what)? {
                writer.add(page)?;
            }
        }
        Ok(false)
    }

    /// Pins the object of a page. Returns `None` if the page is not selected or has no object, or if the budget is
    /// used up.
    fn leave(&self, index: u64, what: &Writeback) -> Result<Option<Leaving<'_>>, ZramError> {
        let Some(slot) = self.table.lock(index) else { return Ok(None) };
        let (word, content) = (slot.word(), slot.word().content());
        let Content::Object { bits, priority, huge } = content else { return Ok(None) };
        let left_out = what.idle && !word.is_idle()
            || what.huge && !huge
            || what.incompressible && !word.is_incompressible();
        if left_out {
            return Ok(None);
        }
        let Some(budget) = Budget::take(self) else { return Ok(None) };
        let object = self.zpool.obj_read_begin(Handle::new(self.tag, bits));
        drop(slot);
        let object = object.map_err(|source| ZramError::Pool { index, source })?;
        Ok(Some(Leaving { index, content, priority, object, budget }))
    }
}
