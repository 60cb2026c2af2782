//! Writeback: the pages that were not loaded for longest go to a device.
//!
//! The LRU is a clock: a hand goes round over the entries that hold an object; a page that was loaded
//! since it came by has a second chance, the others are written back. After [`SECOND_CHANCES`] chances in
//! a row the next page goes all the same, so that a walk over pages in use ends soon, too. A page is
//! written to a slot with nothing locked, and its entry names the slot only after the write succeeded
//! ([`crate::moves::relocate`]): a page is in one place at any moment, an overwrite meanwhile is kept, and a
//! write that fails leaves the page where it was.

use crate::counters::Counter;
use crate::entry::word::Content;
use crate::error::WritebackError;
use crate::moves::relocate::{NewCopy, Relocated, Wanted};
use crate::moves::walk::{Step, Visited};
use crate::nesting::Nested;
use crate::{PAGE_SIZE, Page, SwapEntry, Zswap};
use zpage::device::DeviceError;
use zpage::device_slots::Slots;

/// Second chances given in a row; the entry after them is written back whether it was loaded or not.
pub(crate) const SECOND_CHANCES: usize = 64;

/// What writing pages back came to.
#[derive(Debug, Default)]
pub(crate) struct WrittenBack {
    pub(crate) pages: usize,
    /// Pages passed by in a round because they could not be read.
    pub(crate) unreadable: usize,
    /// Why the last of them could not be.
    pub(crate) passed_by: Option<WritebackError>,
    /// What ended it early.
    pub(crate) error: Option<WritebackError>,
}

/// What becomes of a walk that comes upon a page that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unreadable {
    /// It ends with the error.
    Ends,
    /// The page is passed by.
    PassedBy,
}

impl Zswap {
    /// Writes up to `pages` pages back to the device, those first that were not loaded since the last
    /// call came by; how many. Goes on where the last call ended, and goes around twice at most, the
    /// second time over pages that had their second chance. Entries without pool memory are skipped.
    ///
    /// # Errors
    /// [`WritebackError::NoDevice`] if the store has no device, or writeback is switched off;
    /// [`WritebackError::DeviceFull`], [`WritebackError::Device`], [`WritebackError::Load`]: the page that
    /// it was about stays where it was, pages before it stay written back.
    ///
    /// # Blocking
    /// In the device, for each page.
    pub fn shrink(&self, pages: usize) -> Result<usize, WritebackError> {
        if !self.is_here() {
            return Err(WritebackError::Forked);
        }
        let written = self.write_back_some(pages, Unreadable::Ends, &|| false);
        match written.error {
            None => Ok(written.pages),
            Some(error) => Err(error),
        }
    }

    /// As [`Zswap::shrink`]: pages written back, and what was the end of it. Stops after the page at hand
    /// when `stop` says so.
    pub(crate) fn write_back_some(
        &self,
        pages: usize,
        unreadable: Unreadable,
        stop: &dyn Fn() -> bool,
    ) -> WrittenBack {
        let mut done = WrittenBack::default();
        let Some(_nested) = Nested::enter() else {
            done.error = Some(WritebackError::Reentrant);
            return done;
        };
        let Some(slots) = self.slots() else {
            done.error = Some(WritebackError::NoDevice);
            return done;
        };
        let mut page = [0; PAGE_SIZE];
        let mut visited = Visited::default();
        let mut spared = 0;
        for _round in 0..2 {
            done.unreadable = 0;
            let walked = self.walk(&self.cursors.shrink, &mut visited, |entry| {
                if done.pages == pages || stop() {
                    return Ok(Step::StopBefore);
                }
                match self.write_back(slots, entry, &mut page, spared >= SECOND_CHANCES) {
                    Ok(Relocated::Moved) => {
                        done.pages += 1;
                        spared = 0;
                    }
                    Ok(Relocated::Spared) => spared += 1,
                    Ok(Relocated::NoneBetter | Relocated::PassedBy) => {}
                    Err(error @ WritebackError::Load(_)) if unreadable == Unreadable::PassedBy => {
                        done.unreadable += 1;
                        done.passed_by = Some(error);
                    }
                    Err(error) => return Err(error),
                }
                Ok(Step::On)
            });
            done.error = walked.err();
            if done.error.is_some() || done.pages == pages || stop() {
                break;
            }
        }
        self.counters.add(Counter::ClockEntries, visited.entries as i64);
        self.counters.add(Counter::ClockLeaves, visited.leaves as i64);
        done
    }

    /// Switches writeback on or off. Pages that are on the device stay there.
    pub fn set_writeback_enabled(&self, enabled: bool) {
        self.writeback.set(enabled);
    }

    /// The device's slots, if pages may go there.
    pub(crate) fn slots(&self) -> Option<&Slots> {
        self.backing.as_ref().filter(|_| self.writeback.get())
    }

    /// A page did not get to the device. One that is full, of which the device itself may have another
    /// idea than the store, does not fail: it is tried again at once, as soon as there is a page to write.
    fn not_written(&self, entry: SwapEntry, source: DeviceError) -> WritebackError {
        if let DeviceError::Full { slots } = source {
            return WritebackError::DeviceFull { slots };
        }
        self.device_health.failed();
        WritebackError::Device { entry, source }
    }

    /// Writes the page of one entry back, also one that was loaded if `in_use_too`.
    fn write_back(
        &self,
        slots: &Slots,
        entry: SwapEntry,
        page: &mut Page,
        in_use_too: bool,
    ) -> Result<Relocated, WritebackError> {
        let relocated = self.relocate::<WritebackError>(
            entry,
            page,
            |word, _pool| {
                if word.is_referenced() && !in_use_too { Wanted::SecondChance } else { Wanted::Yes }
            },
            |page, _footprint| {
                let failed = |source| self.not_written(entry, source);
                let slot = slots.take().map_err(failed)?;
                slot.write(page).map_err(failed)?;
                self.device_health.succeeded();
                Ok(NewCopy::Of(Content::OnDevice(slot.keep())))
            },
        )?;
        if relocated == Relocated::Moved {
            self.counters.add(Counter::WrittenBackPages, 1);
        }
        Ok(relocated)
    }
}
