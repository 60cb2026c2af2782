//! Writeback moves pages that were not loaded recently to a device.
//!
//! A clock finds such pages: its hand goes round over the entries that hold an object. A page that was loaded
//! since the hand last passed it gets a second chance: it stays until the hand comes again. Other pages are
//! written back. After [`SECOND_CHANCES`] second chances in a row, the next page is written back even if it
//! was loaded. So a walk soon finds pages to write back, even if all pages are in use.
//!
//! A page is written to a slot while no lock is held. Its entry names the slot only after the write has
//! succeeded ([`crate::moves::relocate`]). So the page can be loaded at any moment, and a failed write leaves
//! it in place. If the entry is overwritten during the write, the new page stays.

use crate::counters::Counter;
use crate::entry::word::Content;
use crate::error::WritebackError;
use crate::moves::relocate::{NewCopy, Relocated, Wanted};
use crate::moves::walk::{Step, Visited};
use crate::nesting::Nested;
use crate::{PAGE_SIZE, Page, SwapEntry, Zswap};
use zpage::device::DeviceError;
use zpage::device_slots::Slots;

/// The most second chances that are given in a row. After that, the next page is written back even if it was
/// loaded.
pub(crate) const SECOND_CHANCES: usize = 64;

/// The result of writing pages back.
#[derive(Debug, Default)]
pub(crate) struct WrittenBack {
    pub(crate) pages: usize,
    /// Pages that the last round skipped because they could not be read.
    pub(crate) unreadable: usize,
    /// The error of the unreadable page that was skipped last.
    pub(crate) passed_by: Option<WritebackError>,
    /// The error that ended the writeback early, if any.
    pub(crate) error: Option<WritebackError>,
}

/// What writeback does when a page cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unreadable {
    /// It ends with the error.
    Ends,
    /// It skips the page.
    PassedBy,
}

impl Zswap {
    /// Writes up to `pages` pages back to the device, and returns how many. Continues where the last call
    /// ended, and goes around at most twice. The first round leaves most of the pages that were loaded since
    /// a walk last passed them; the second round writes them back if they were not loaded again. Skips
    /// same-filled pages and pages that are already on the device.
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
    ///   [`WritebackError::Load`] if a page cannot be read. The page that could not be written back stays in
    ///   place, and pages that were written back before it stay on the device.
    /// * [`WritebackError::Reentrant`] if devices that call stores are nested too deeply;
    ///   [`WritebackError::Forked`] in a child after `fork`.
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

    /// Does what [`Zswap::shrink`] does, but checks `stop` before each page, and ends if it returns true.
    /// `unreadable` says what to do if a page cannot be read. Returns the number of pages written back, and
    /// any error that ended the writeback.
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

    /// Turns the device's error into an error of writeback. Notes that the device failed, unless it reports
    /// that it is full. A full device counts as working, so the store tries it again without a pause. A device
    /// may report this although the store knows of free slots.
    fn not_written(&self, entry: SwapEntry, source: DeviceError) -> WritebackError {
        if let DeviceError::Full { slots } = source {
            return WritebackError::DeviceFull { slots };
        }
        self.device_health.failed();
        WritebackError::Device { entry, source }
    }

    /// Writes the page of one entry back, using `page` as a buffer. If the page was loaded since the clock
    /// last passed it and `in_use_too` is false, gives it a second chance instead.
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
