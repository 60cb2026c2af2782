//! Pages written to a device, and read from there from then on.
//!
//! The slot's lock is held throughout, so the page is in one place at any moment.

use core::ops::Range;

use zpage::{DeviceError, PAGE_SIZE};

use crate::Zram;
use crate::error::ZramError;
use crate::word::{Content, Word};

/// Which pages are written back, and how many. Without a filter: all that are objects.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[must_use = "says what Zram::writeback is to do"]
pub struct Writeback {
    idle: bool,
    huge: bool,
    incompressible: bool,
    ranges: Vec<Range<u64>>,
    max_pages: Option<u64>,
}

impl Writeback {
    /// All pages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only pages marked idle.
    pub fn idle(mut self) -> Self {
        self.idle = true;
        self
    }

    /// Only huge pages: those that are kept as they are.
    pub fn huge(mut self) -> Self {
        self.huge = true;
        self
    }

    /// Only pages that no algorithm of the disk makes smaller.
    pub fn incompressible(mut self) -> Self {
        self.incompressible = true;
        self
    }

    /// Only these pages, counted from 0. May be given several times.
    pub fn pages(mut self, range: Range<u64>) -> Self {
        self.ranges.push(range);
        self
    }

    /// At most so many pages.
    pub fn max_pages(mut self, pages: u64) -> Self {
        self.max_pages = Some(pages);
        self
    }
}

/// What [`Zram::writeback`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct WrittenBack {
    /// Pages that are on the device now.
    pub written: u64,
    /// There may be more: the budget of the call or of the disk was used up.
    pub budget_used_up: bool,
}

impl Zram {
    /// Writes pages to the device, and frees their memory. Sleeps in codec and device, under the lock of
    /// the page at hand.
    ///
    /// An error leaves that page as it was; pages before it stay on the device. [`ZramError::NoDevice`]
    /// without [`backing_device`](crate::ZramBuilder::backing_device).
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

    /// Pages that may still be written back, ever; none for no limit.
    pub fn set_writeback_limit(&self, pages: Option<u64>) {
        self.counts.set_writeback_limit(pages);
    }

    /// What is left of [`Zram::set_writeback_limit`].
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
        // Given back unless the page went.
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

/// A page's part of the disk's budget; given back when dropped, also by a panic.
struct Budget<'a>(&'a Zram);

impl Drop for Budget<'_> {
    fn drop(&mut self) {
        self.0.counts.give_writeback_back();
    }
}
