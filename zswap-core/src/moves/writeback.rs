//! Writeback moves pages that were not loaded recently to a device.
//!
//! A clock finds such pages: its hand goes round over the entries that hold an object. A page that was loaded
//! since the hand last passed it gets a second chance: it stays until the hand comes again. Other pages are
//! written back. After [`SECOND_CHANCES`] second chances in a row, the next page is written back even if it
//! was loaded. So a walk soon finds pages to write back, even if all pages are in use.
//!
//! Objects leave their pools as they are, without decompression. They are copied into a segment of the device,
//! which is written with one call while no lock is held ([`crate::moves::outgoing`]). An entry names its object on the
//! device only after the write has succeeded. So the page can be loaded at any moment, and a failed write leaves
//! it in place. If the entry is overwritten during the write, the new page stays.

use crate::counters::Counter;
use crate::error::WritebackError;
use crate::moves::outgoing::{Added, Outgoing};
use crate::moves::walk::{Step, Visited};
use crate::nesting::Nested;
use crate::{SwapEntry, Zswap};
use zpage::device::DeviceError;
use zpage::segments::Segments;

/// The most second chances that are given in a row. After that, the next page is written back even if it was
/// loaded.
pub(crate) const SECOND_CHANCES: usize = 64;

/// The least number of pages that a store at its limit writes back at a time.
const ROOM: usize = 32;

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

/// How much is written back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Amount {
    /// This many pages. The last segment may be written with few.
    Pages(usize),
    /// A full segment.
    Segment,
    /// Full segments with at least [`ROOM`] pages; fewer pages, if there are no more in the pools.
    Room,
    /// At most this many pages: fewer, if one full segment was written and the rest would not fill another.
    FullSegments(usize),
}

impl Amount {
    fn is_reached(self, writer: &Writer<'_>) -> bool {
        match self {
            Amount::Pages(pages) => writer.pages() >= pages,
            Amount::Segment => writer.full > 0,
            Amount::Room => writer.full > 0 && writer.moved >= ROOM,
            Amount::FullSegments(pages) => {
                let rest = pages.saturating_sub(writer.pages());
                let between = writer.outgoing.is_none() && writer.full > 0;
                rest == 0 || between && rest < writer.moved / writer.full
            }
        }
    }
}

impl Zswap {
    /// Writes up to `pages` pages back to the device, and returns how many. Continues where the last call
    /// ended, and goes around at most twice. The first round leaves most of the pages that were loaded since
    /// a walk last passed them; the second round writes them back if they were not loaded again. Skips
    /// same-filled pages and pages that are already on the device.
    ///
    /// The last segment is written as it is, however few pages are in it, and takes a whole segment of the device
    /// until it is cleaned. So prefer few large amounts, or [`Zswap::shrink_by_segment`].
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
    /// * [`WritebackError::DeviceFull`] if no segment is free and cleaning frees none, [`WritebackError::Device`] if a
    ///   write fails, [`WritebackError::Load`] if a page cannot be read. The page that could not be written back stays in
    ///   place, and pages that were written back before it stay on the device.
    /// * [`WritebackError::Reentrant`] if devices that call stores are nested too deeply;
    ///   [`WritebackError::Forked`] in a child after `fork`.
    ///
    /// # Blocking
    /// Blocks in the device, also to clean it, and for other threads that use its last free segments.
    pub fn shrink(&self, pages: usize) -> Result<usize, WritebackError> {
        if !self.is_here() {
            return Err(WritebackError::Forked);
        }
        self.write_back(Amount::Pages(pages))
    }

    /// Writes one full segment of pages back to the device, and returns how many pages. Does what
    /// [`Zswap::shrink`] does otherwise. The segment is not full if too few pages are in the pools.
    ///
    /// # Errors
    /// Those of [`Zswap::shrink`].
    ///
    /// # Blocking
    /// Blocks as [`Zswap::shrink`] does.
    pub fn shrink_by_segment(&self) -> Result<usize, WritebackError> {
        if !self.is_here() {
            return Err(WritebackError::Forked);
        }
        self.write_back(Amount::Segment)
    }

    /// Writes `amount` back. Returns the number of pages, or the error that ended the writeback early.
    fn write_back(&self, amount: Amount) -> Result<usize, WritebackError> {
        let written = self.write_back_some(amount, Unreadable::Ends, &|| false);
        written.error.map_or(Ok(written.pages), Err)
    }

    /// Does what [`Zswap::shrink`] does, but writes back `amount`. Checks `stop` before each page, and ends if it
    /// returns true; then pages that are not in a full segment stay. `unreadable` says what to do if a page cannot be
    /// read. Returns the number of pages written back, and any error that ended the writeback.
    pub(crate) fn write_back_some(
        &self,
        amount: Amount,
        unreadable: Unreadable,
        stop: &dyn Fn() -> bool,
    ) -> WrittenBack {
        let mut done = WrittenBack::default();
        let Some(_nested) = Nested::enter() else {
            done.error = Some(WritebackError::Reentrant);
            return done;
        };
        let Some(segments) = self.device() else {
            done.error = Some(WritebackError::NoDevice);
            return done;
        };
        let mut visited = Visited::default();
        let mut writer = Writer { store: self, segments, outgoing: None, moved: 0, full: 0 };
        let mut spared = 0;
        for _round in 0..2 {
            done.unreadable = 0;
            let walked = self.walk(&self.cursors.shrink, &mut visited, |entry| {
                if amount.is_reached(&writer) || stop() {
                    return Ok(Step::StopBefore);
                }
                match writer.add(entry, spared >= SECOND_CHANCES, amount) {
                    Ok(Added::Yes) => spared = 0,
                    Ok(Added::Spared) => spared += 1,
                    Ok(Added::PassedBy) => {}
                    Ok(Added::NoRoom) => return Ok(Step::StopBefore),
                    Err(error @ WritebackError::Load(_)) if unreadable == Unreadable::PassedBy => {
                        done.unreadable += 1;
                        done.passed_by = Some(error);
                    }
                    Err(error) => return Err(error),
                }
                Ok(Step::On)
            });
            done.error = walked.err();
            if stop() || amount == Amount::Room && writer.full > 0 {
                // The pages in an unfinished segment stay where they are.
                writer.outgoing = None;
            }
            // The pages that were added before an error are written, too.
            done.error = done.error.or(writer.write().err());
            if done.error.is_some() || amount.is_reached(&writer) || stop() {
                break;
            }
        }
        done.pages = writer.moved;
        self.counters.add(Counter::ClockEntries, visited.entries as i64);
        self.counters.add(Counter::ClockLeaves, visited.leaves as i64);
        done
    }

    /// Waits until all pages that were written back are on the device's storage. The store does not need this:
    /// its pages do not outlive it. A program that is about to unplug or suspend the device may.
    ///
    /// # Errors
    /// [`WritebackError::NoDevice`] if the store has no device; [`WritebackError::Flush`] if the device fails;
    /// [`WritebackError::Forked`] in a child after `fork`.
    ///
    /// # Blocking
    /// Blocks in the device.
    pub fn flush_device(&self) -> Result<(), WritebackError> {
        if !self.is_here() {
            return Err(WritebackError::Forked);
        }
        let segments = self.backing.as_ref().ok_or(WritebackError::NoDevice)?;
        segments.flush().map_err(|source| WritebackError::Flush { source })
    }

    /// Switches writeback on or off. Pages that are on the device can still be loaded, and come back as the promotion
    /// policy says; its segments are still cleaned.
    pub fn set_writeback_enabled(&self, enabled: bool) {
        self.writeback.set(enabled);
    }

    /// Returns the device's segments, if there is a device and writeback is on.
    pub(crate) fn device(&self) -> Option<&Segments> {
        self.backing.as_ref().filter(|_| self.writeback.get())
    }

    /// Turns the device's error into an error of writeback. Notes that the device failed, unless it reports
    /// that it is full. A full device counts as working, so the store tries it again without a pause. A device
    /// may report this although the store knows of free segments.
    pub(crate) fn not_written(&self, entry: SwapEntry, source: DeviceError) -> WritebackError {
        if let DeviceError::Full { segments } = source {
            return WritebackError::DeviceFull { segments };
        }
        self.device_health.failed();
        WritebackError::Device { entry, source }
    }
}

/// Fills segments with pages and writes them, one after another.
struct Writer<'s> {
    store: &'s Zswap,
    segments: &'s Segments,
    /// The segment that is being filled.
    outgoing: Option<Outgoing<'s>>,
    /// Pages whose entries name the device now.
    moved: usize,
    /// Segments that were written because they were full.
    full: usize,
}

impl<'s> Writer<'s> {
    /// Returns the number of pages that were moved, or are in the segment that is being filled.
    fn pages(&self) -> usize {
        self.moved + self.outgoing.as_ref().map_or(0, Outgoing::len)
    }

    /// Adds the page of an entry. If the segment is full, writes it first. Returns `NoRoom` if `amount` is reached
    /// then.
    fn add(
        &mut self,
        entry: SwapEntry,
        in_use_too: bool,
        amount: Amount,
    ) -> Result<Added, WritebackError> {
        loop {
            let mut outgoing = match self.outgoing.take() {
                Some(outgoing) => outgoing,
                None => Outgoing::begin(self.store, self.segments)
                    .map_err(|source| self.store.not_written(entry, source))?,
            };
            let added = outgoing.add(entry, in_use_too);
            self.outgoing = Some(outgoing);
            if added != Ok(Added::NoRoom) {
                return added;
            }
            // A page always has room in an empty segment, so this ends.
            self.full += 1;
            self.write()?;
            if amount.is_reached(self) {
                return added;
            }
        }
    }

    /// Writes the segment that is being filled, if it has a page.
    fn write(&mut self) -> Result<(), WritebackError> {
        let Some(outgoing) = self.outgoing.take().filter(|outgoing| outgoing.len() > 0) else {
            return Ok(());
        };
        let moved =
            outgoing.write().map_err(|(entry, error)| self.store.not_written(entry, error))?;
        self.store.device_health.succeeded();
        self.moved += moved;
        self.store.counters.add(Counter::WrittenBackPages, moved as i64);
        self.store.turnover.note(moved, self.store.pooled_pages());
        Ok(())
    }
}

impl Zswap {
    /// Returns about how many pages are in the pools.
    pub(crate) fn pooled_pages(&self) -> u64 {
        let elsewhere = self.counters.get(Counter::SameFilledPages)
            + self.backing.as_ref().map_or(0, |segments| segments.figures().objects);
        self.counters.get(Counter::StoredPages).saturating_sub(elsewhere)
    }
}
