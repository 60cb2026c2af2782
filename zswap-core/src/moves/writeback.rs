//! Writeback moves pages that were not loaded recently to a device.
//!
//! A clock finds such pages: a hand goes round over the entries that hold an object. A page that was loaded
//! since the hand last passed it gets a second chance; other pages are written back. After [`SECOND_CHANCES`]
//! second chances in a row, the next page is written back even if it was loaded. So a walk ends soon, even over
//! pages in use.
//!
//! A page is written to a slot while nothing is locked. Its entry names the slot only after the write has
//! succeeded ([`crate::moves::relocate`]). So a page is in one place at any moment, an overwrite meanwhile is
//! kept, and a failed write leaves the page in place.

use crate::counters::Counter;
use crate::entry::word::Content;
use crate::error::WritebackError;
use crate::moves::relocate::{NewCopy, Relocated, Wanted};
use crate::moves::walk::{Step, Visited};
use crate::nesting::Nested;
use crate::{PAGE_SIZE, Page, SwapEntry, Zswap};
use zpage::device::DeviceError;
use zpage::device_slots::Slots;

/// The most second chances given in a row. The next page is written back even if it was loaded.
pub(crate) const SECOND_CHANCES: usize = 64;

/// The result of writing pages back.
#[derive(Debug, Default)]
pub(crate) struct WrittenBack {
    pub(crate) pages: usize,
    /// Pages skipped in the last round because they could not be read.
    pub(crate) unreadable: usize,
    /// The error of the page that was skipped last.
    pub(crate) passed_by: Option<WritebackError>,
    /// The error that ended the writeback early.
    pub(crate) error: Option<WritebackError>,
}

/// What a walk does with a page that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unreadable {
    /// The walk ends with the error.
    Ends,
    /// The walk skips the page.
    PassedBy,
}

impl Zswap {
    /// Writes up to `pages` pages back to the device; returns how many. Continues where the last call ended, and
    /// goes around at most twice. In the first round, most pages that were loaded since a walk last passed them
    /// get a second chance; the second round writes them back. Skips entries without pool memory.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zswap_core::device::MemorySwapDevice;
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().swap_device(Arc::new(MemorySwapDevice::new(1000))).build()?;
    /// let (entry, mut page) = (SwapEntry::new(0, 1)?, core::array::from_fn(|i| (i % 251) as u8));
    /// store.store(entry, &page)?;
    /// assert_eq!(store.shrink(10)?, 1);
    /// store.load(entry, &mut page)?;
    /// assert_eq!(store.stats().device_loads, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// * [`WritebackError::NoDevice`] if the store has no device, or writeback is switched off.
    /// * [`WritebackError::DeviceFull`] if every slot is taken, [`WritebackError::Device`] if a write fails,
    ///   [`WritebackError::Load`] if a page cannot be read. That page stays in place; pages that were written
    ///   back before it stay on the device.
    /// * [`WritebackError::Reentrant`] if a device calls this nested too deep; [`WritebackError::Forked`] in a
    ///   child after `fork`.
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

    /// Does what [`Zswap::shrink`] does, but stops after the current page when `stop` returns true. Returns the
    /// number of pages written back and the error that ended it, if any.
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

    /// Returns the device's slots, if there is a device and writeback is on.
    pub(crate) fn slots(&self) -> Option<&Slots> {
        self.backing.as_ref().filter(|_| self.writeback.get())
    }

    /// Turns the error of a page that did not get to the device into one of writeback, and notes that the
    /// device failed. A device that is full has not failed, even if it has fewer slots than the store assumes:
    /// the store tries it again with the next page to write.
    fn not_written(&self, entry: SwapEntry, source: DeviceError) -> WritebackError {
        if let DeviceError::Full { slots } = source {
            return WritebackError::DeviceFull { slots };
        }
        self.device_health.failed();
        WritebackError::Device { entry, source }
    }

    /// Writes the page of one entry back. If the page is in use, does so only if `in_use_too`; otherwise gives
    /// the page its second chance.
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
