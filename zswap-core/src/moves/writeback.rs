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
//!
//! A page that the program's filter calls clean is dropped instead, and needs no device.

use crate::area::Area;
use crate::counters::{Counter, pooled_pages};
use crate::departure::Departure;
use crate::error::WritebackError;
use crate::moves::outgoing::{Leaving, Outgoing, Picked, pick};
use crate::moves::victims::{Exhausted, From};
use crate::moves::walk::{Step, Visited};
use crate::nesting::Nested;
use crate::{PAGE_SIZE, SwapEntry, Zswap};
use zpage::device::DeviceError;
use zpage::segments::Segments;

/// The most second chances that are given in a row. After that, the next page is written back even if it was
/// loaded.
pub(crate) const SECOND_CHANCES: usize = 64;

/// The least number of bytes of pages, before their compression, that a store at its limit writes back at a time.
const ROOM: usize = 32 * PAGE_SIZE;

/// The result of writing pages back.
#[derive(Debug, Default)]
pub(crate) struct WrittenBack {
    /// Pages that were written back, and clean pages that were dropped.
    pub(crate) pages: usize,
    /// Pages that the last round over each area skipped because they could not be read.
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

/// Whether pages may be written to the device. If not, only clean pages are dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Device {
    Used,
    Unused,
}

/// What became of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Added {
    Yes,
    /// The amount is reached without the page, which has no room in the segment.
    NoRoom,
    /// The page was loaded since the clock last passed it. Its second chance is used up.
    Spared,
    /// The entry holds no object, or its object may not be written back.
    PassedBy,
}

/// How much is written back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Amount {
    /// This many pages. The last segment may be written with few.
    Pages(usize),
    /// A full segment.
    Segment,
    /// Full segments with at least [`ROOM`] bytes of pages; fewer pages, if there are no more in the pools.
    Room,
    /// At most this many pages: fewer, if one full segment was written and the rest would not fill another.
    FullSegments(usize),
}

impl Amount {
    fn is_reached(self, writer: &Writer<'_>) -> bool {
        match self {
            Amount::Pages(pages) => writer.pages() >= pages,
            Amount::Segment => writer.made_room(),
            Amount::Room => writer.made_room() && writer.moved + writer.dropped >= writer.room,
            Amount::FullSegments(pages) => {
                let rest = pages.saturating_sub(writer.pages());
                let between = writer.outgoing.is_none() && writer.full > 0;
                rest == 0 || between && rest < writer.moved / writer.full
            }
        }
    }
}

impl Zswap {
    /// Writes up to `pages` pages back to the device, and returns how many. Pages that the filter
    /// ([`ZswapBuilder::clean_filter`](crate::ZswapBuilder::clean_filter)) calls clean are dropped instead, and
    /// count, too. Continues where the last call ended, and goes around at most twice. The first round leaves most of the pages that were loaded since
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
    /// * [`WritebackError::NoDevice`] if the store has no device, or writeback is switched off, and no clean page was
    ///   found.
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
        self.write_back(From::All, Amount::Pages(pages))
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
        self.write_back(From::All, Amount::Segment)
    }

    /// Writes `amount` back. Returns the number of pages, or the error that ended the writeback early.
    pub(crate) fn write_back(
        &self,
        from: From<'_>,
        amount: Amount,
    ) -> Result<usize, WritebackError> {
        let device = Device::Used;
        let written = self.write_back_some(from, device, amount, Unreadable::Ends, &|| false);
        written.error.map_or(Ok(written.pages), Err)
    }

    /// Does what [`Zswap::shrink`] does, but writes back `amount` of the areas `from`. Checks `stop` before each
    /// page, and ends if it returns true; then pages that are not in a full segment stay. `unreadable` says what to
    /// do if a page cannot be read. Returns the number of pages written back, and any error that ended the
    /// writeback.
    ///
    /// If pages may go from several areas, chooses the area again after each full segment.
    pub(crate) fn write_back_some(
        &self,
        from: From<'_>,
        device: Device,
        amount: Amount,
        unreadable: Unreadable,
        stop: &dyn Fn() -> bool,
    ) -> WrittenBack {
        let mut done = WrittenBack::default();
        let Some(_nested) =
            Nested::enter(core::ptr::from_ref(self).addr(), self.recipe.in_fault_handler)
        else {
            done.error = Some(WritebackError::Reentrant);
            return done;
        };
        let device_of = |area: &Area| self.device_of(area).filter(|_| device == Device::Used);
        // A store at its limit does not search all of its pages in vain again and again.
        let filters = |area: &Area| {
            self.clean_filter.is_some() && (amount != Amount::Room || area.clean_health.may_try())
        };
        let mut writer = Writer::new(self);
        writer.takes_turns = !matches!(from, From::Area(_)) && self.areas.all().nth(1).is_some();
        let mut exhausted = Exhausted::default();
        // Pages may be stored as fast as they are written back. Each of the first has its turn twice.
        let most = usize::try_from(self.pooled_pages()).unwrap_or(usize::MAX);
        writer.most = most.saturating_mul(2).saturating_add(writer.room);
        while let Some(area) =
            self.victim(from, &exhausted, |area| filters(area) || device_of(area).is_some())
        {
            let (dropped, stuck) = (writer.dropped, writer.stuck);
            writer.turn(device_of(area), filters(area));
            let all =
                self.write_back_area(area, amount, (unreadable, stop), &mut writer, &mut done);
            if writer.dropped > dropped {
                area.clean_health.succeeded();
            } else if writer.stuck > stuck {
                area.clean_health.failed();
            }
            if done.error.is_some() || amount.is_reached(&writer) || stop() {
                break;
            }
            if all {
                exhausted.add(area);
            } else if writer.full > writer.most {
                break;
            }
        }
        if done.error.is_none() {
            done.error = writer.finish(amount, stop).err();
        }
        done.pages = writer.moved + writer.dropped;
        if done.pages == 0 && !writer.had_device {
            // Without an area to write back, or with pages only that are not clean.
            let nothing = !writer.filtered || writer.stuck > 0;
            done.error = done.error.or(nothing.then_some(WritebackError::NoDevice));
        }
        done
    }

    /// Writes pages of one area back, and adds the result to `done`. Goes around at most twice. If areas take turns,
    /// ends after a full segment, and leaves the pages after it in an unfinished one. Returns whether it
    /// went around, so that the area has nothing more to give.
    fn write_back_area(
        &self,
        area: &Area,
        amount: Amount,
        (unreadable, stop): (Unreadable, &dyn Fn() -> bool),
        writer: &mut Writer<'_>,
        done: &mut WrittenBack,
    ) -> bool {
        let mut visited = Visited::default();
        let (mut spared, mut any_spared, mut seen) = (0, false, 0);
        let (unreadable_before, full_before) = (done.unreadable, writer.full);
        let is_done = |writer: &Writer<'_>| amount.is_reached(writer) || stop();
        let had_turn = |writer: &Writer<'_>| writer.takes_turns && writer.full > full_before;
        for round in 0..2 {
            done.unreadable = unreadable_before;
            let walked = self.walk(area, &area.cursors.shrink, &mut visited, |entry| {
                seen += 1;
                if is_done(writer) || had_turn(writer) || seen > writer.most {
                    return Ok(Step::StopBefore);
                }
                match writer.add(entry, spared >= SECOND_CHANCES, amount) {
                    Ok(Added::Yes) => spared = 0,
                    Ok(Added::Spared) => (spared, any_spared) = (spared + 1, true),
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
            if done.error.is_none() && writer.takes_turns && !is_done(writer) {
                if had_turn(writer) || !any_spared || round == 1 {
                    break;
                }
                // The unfinished segment stays. `add` passes by the pages that are in it.
                continue;
            }
            // The pages that were added before an error are written, too.
            done.error = done.error.take().or(writer.finish(amount, stop).err());
            if done.error.is_some() || is_done(writer) {
                break;
            }
        }
        area.counters.add(Counter::ClockEntries, visited.entries as i64);
        area.counters.add(Counter::ClockLeaves, visited.leaves as i64);
        // It went around, so there is nothing left to visit.
        !had_turn(writer)
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

    /// Returns the device's segments, if there is a device and the area's pages may be written to it.
    pub(crate) fn device_of(&self, area: &Area) -> Option<&Segments> {
        self.backing.as_ref().filter(|_| self.writeback.get() && area.writeback.get())
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

/// Fills segments with pages and writes them, one after another. Drops clean pages.
struct Writer<'s> {
    store: &'s Zswap,
    /// Whether the filter is asked about the pages that are added next.
    filters: bool,
    /// Whether it was asked about pages of any area.
    filtered: bool,
    /// The device, if the pages that are added next may be written to it.
    segments: Option<&'s Segments>,
    /// Whether pages of any area could be written.
    had_device: bool,
    /// The segment that is being filled.
    outgoing: Option<Outgoing<'s>>,
    /// Pages whose entries name the device now.
    moved: usize,
    /// Segments that were written because they were full.
    full: usize,
    /// Whether areas take turns.
    takes_turns: bool,
    /// If more pages leave, they are stored as fast as they leave.
    most: usize,
    /// Clean pages that were dropped.
    dropped: usize,
    /// Pages that are not clean and may not be written.
    stuck: usize,
    /// The least number of pages that make room: [`ROOM`] bytes of them.
    room: usize,
}

impl<'s> Writer<'s> {
    fn new(store: &'s Zswap) -> Self {
        Writer {
            store,
            filters: false,
            filtered: false,
            segments: None,
            had_device: false,
            takes_turns: false,
            most: usize::MAX,
            outgoing: None,
            moved: 0,
            full: 0,
            dropped: 0,
            stuck: 0,
            room: (ROOM / store.unit).max(1),
        }
    }

    /// Turns to the pages of another area. `segments` is the device that they may be written to.
    fn turn(&mut self, segments: Option<&'s Segments>, filters: bool) {
        (self.segments, self.filters) = (segments, filters);
        self.filtered |= filters;
        self.had_device |= segments.is_some();
    }

    /// Returns the number of pages that were moved or dropped, or are in the segment that is being filled.
    fn pages(&self) -> usize {
        self.moved + self.dropped + self.outgoing.as_ref().map_or(0, Outgoing::len)
    }

    /// Returns whether a full segment was written, or about as many clean pages were dropped.
    fn made_room(&self) -> bool {
        self.full > 0 || self.dropped >= self.room
    }

    /// Adds the page of an entry, or drops it if it is clean. If the segment is full, writes it first. Returns
    /// `NoRoom` if `amount` is reached then.
    fn add(
        &mut self,
        entry: SwapEntry,
        in_use_too: bool,
        amount: Amount,
    ) -> Result<Added, WritebackError> {
        let has = |outgoing: &Outgoing<'_>| outgoing.has(entry);
        if self.takes_turns && self.outgoing.as_ref().is_some_and(has) {
            return Ok(Added::PassedBy);
        }
        let page = match pick(self.store, entry, in_use_too)? {
            Picked::Page(page) => page,
            Picked::Spared => return Ok(Added::Spared),
            Picked::PassedBy => return Ok(Added::PassedBy),
        };
        if self.filters && self.store.is_clean(entry) {
            let Leaving { word, object, .. } = page;
            if !self.store.drop_if_same(entry, word, object, Departure::DroppedClean) {
                return Ok(Added::PassedBy);
            }
            self.store.areas.of(entry).counters.add(Counter::DroppedCleanPages, 1);
            self.dropped += 1;
            return Ok(Added::Yes);
        }
        match self.segments {
            Some(segments) => self.append(page, segments, amount),
            None => {
                self.stuck += 1;
                Ok(Added::PassedBy)
            }
        }
    }

    /// Adds a page to the segment that is being filled. If that has no room for it, writes it and begins another.
    fn append(
        &mut self,
        mut page: Leaving<'s>,
        segments: &'s Segments,
        amount: Amount,
    ) -> Result<Added, WritebackError> {
        loop {
            let mut outgoing = match self.outgoing.take() {
                Some(outgoing) => outgoing,
                None => Outgoing::begin(self.store, segments)
                    .map_err(|source| self.store.not_written(page.entry, source))?,
            };
            let left = outgoing.add(page);
            self.outgoing = Some(outgoing);
            match left? {
                None => return Ok(Added::Yes),
                Some(left) => page = left,
            }
            // A page always has room in an empty segment, so this ends.
            self.full += 1;
            self.write()?;
            if amount.is_reached(self) {
                return Ok(Added::NoRoom);
            }
        }
    }

    /// Writes the segment that is being filled, if it has a page. But if room was made without it, or `stop` returns
    /// true, its pages stay where they are.
    fn finish(&mut self, amount: Amount, stop: &dyn Fn() -> bool) -> Result<(), WritebackError> {
        if stop() || amount == Amount::Room && self.made_room() {
            self.outgoing = None;
        }
        self.write()
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
        self.store.turnover.note(moved, self.store.pooled_pages());
        Ok(())
    }
}

impl Zswap {
    /// Returns about how many pages are in the pools.
    pub(crate) fn pooled_pages(&self) -> u64 {
        pooled_pages(|counter| self.areas.count(counter))
    }
}
