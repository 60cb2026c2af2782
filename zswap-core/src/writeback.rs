//! Writeback: the pages that were not loaded for longest go to a device.
//!
//! The LRU is a clock: a hand goes round over the entries; a page that was loaded since it came by has
//! a second chance, the others are written back. A page is read as a load reads it and written to a
//! slot with nothing locked; then its entry is locked, and names the slot instead of the object if it
//! still holds the very object that was read, else the slot is given up. So a page is in one place at
//! any moment, an overwrite meanwhile wins, and a write that fails leaves the page where it was.

use crate::counters::Counter;
use crate::device::DeviceError;
use crate::error::WritebackError;
use crate::limits::Admission;
use crate::rehome::Wanted;
use crate::slots::Slots;
use crate::word::{Content, Word};
use crate::{Page, SwapEntry, Zswap};

/// Pages written back at once by a store that finds the pools full.
const ROOM: usize = 32;
/// How often it tries: objects that go need not leave a page empty.
const ROUNDS: usize = 8;

impl Zswap {
    /// Writes up to `pages` pages back to the device, those first that were not loaded since the last
    /// call came by; how many. Goes on where the last call ended, and goes around twice at most, the
    /// second time over pages that had their second chance.
    ///
    /// Blocks in the device. An error leaves the page that it was about where it was; pages before it
    /// stay written back. [`WritebackError::NoDevice`] if the store has none, or writeback is switched
    /// off.
    pub fn shrink(&self, pages: usize) -> Result<usize, WritebackError> {
        match self.write_back_some(pages) {
            (written, None) => Ok(written),
            (_, Some(error)) => Err(error),
        }
    }

    /// As [`Zswap::shrink`]: pages written back, and the error that was the end of it, if any.
    pub(crate) fn write_back_some(&self, pages: usize) -> (usize, Option<WritebackError>) {
        let Some(slots) = self.slots() else { return (0, Some(WritebackError::NoDevice)) };
        let mut written = 0;
        for _round in 0..2 {
            let walked = self.walk(&self.cursors.shrink, |entry, page| {
                if written == pages {
                    return Ok(false);
                }
                written += usize::from(self.write_back(slots, entry, page)?);
                Ok::<bool, WritebackError>(true)
            });
            if walked.is_err() || written == pages {
                return (written, walked.err());
            }
        }
        (written, None)
    }

    /// Switches writeback on or off. Pages that are on the device stay there.
    pub fn set_writeback_enabled(&self, enabled: bool) {
        self.writeback.set(enabled);
    }

    /// The device's slots, if pages may go there.
    fn slots(&self) -> Option<&Slots> {
        self.backing.as_ref().filter(|_| self.writeback.get())
    }

    fn write_back(
        &self,
        slots: &Slots,
        entry: SwapEntry,
        page: &mut Page,
    ) -> Result<bool, WritebackError> {
        let wanted = |word: Word, _pool| {
            if word.is_referenced() { Wanted::SecondChance } else { Wanted::Yes }
        };
        let Some((old, _len)) = self.read_to_move(entry, page, wanted)? else {
            return Ok(false);
        };
        let slot = slots.take().map_err(|source| match source {
            DeviceError::Full { slots } => WritebackError::DeviceFull { slots },
            source => WritebackError::Device { entry, source },
        })?;
        slot.write(page).map_err(|source| WritebackError::Device { entry, source })?;
        let slot = slot.keep();
        let replaced =
            self.replace_if_same(entry, old, |word| word.moved_to(Content::OnDevice(slot)));
        self.discard(if replaced { old.content() } else { Content::OnDevice(slot) });
        if replaced {
            self.counters.add(Counter::WrittenBackPages, 1);
        }
        Ok(replaced)
    }

    /// Writes some pages back, for a store that found no memory; whether any went.
    pub(crate) fn make_room(&self) -> bool {
        self.write_back_some(ROOM).0 > 0
    }

    /// Whether the pools take another page; at the limit some are written back first.
    pub(crate) fn admit(&self) -> bool {
        let Some(limits) = &self.limits else { return true };
        let others = || self.pools.all().iter().skip(1).map(|pool| pool.resident_bytes()).sum();
        match limits.admit(self.pools.current().resident_bytes(), others) {
            Admission::Open => return true,
            Admission::Closed => return false,
            Admission::Full => {}
        }
        self.counters.add(Counter::PoolLimitHit, 1);
        let mut went = false;
        for _round in 0..ROUNDS {
            // Whatever the error: what counts is how many pages went.
            let (written, _error) = self.write_back_some(ROOM);
            went |= written > 0;
            if limits.judge(self.pools.resident_bytes()) == Admission::Open {
                return true;
            }
            if written == 0 {
                break;
            }
        }
        limits.close();
        if !went {
            self.counters.add(Counter::RejectReclaimFail, 1);
        }
        false
    }
}
