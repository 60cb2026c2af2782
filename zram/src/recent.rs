//! Decompressed pages that were read in part lately, so that the next parts of a large unit cost no decompression.
//!
//! A page has one place and one generation, by its number. A thread that changes a slot raises the page's generation
//! before it unlocks the slot. A reader reads the generation before it looks for a copy, and so before it reads the
//! slot. A copy has the generation from before it was read, and is used only while the generation is the same. A
//! generation has 64 bits and only grows, so it does not recur. So once a slot is unlocked with new content, no read
//! finds the copy of the old one.
//!
//! Lock: the place's mutex. It is only tried: a thread that finds it locked reads the page without a place. So nobody
//! waits for a codec or a device that works on another page, and a codec that reads the disk cannot wait for itself. A
//! slot's lock is taken under it, and codec and device run under it. The caller's memory is not touched under it.

use core::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use zpage::PAGE_SIZE;

use crate::error::ZramError;
use crate::page_buffer::zeroed;
use zpool_base::sync::Mutex;

/// The pages that are kept at most.
const PLACES: usize = 16;

/// More than places, so that a write seldom invalidates the copy of another page.
const GENERATIONS: usize = 256;

#[derive(Default)]
struct Recent {
    /// The page that `bytes` is a copy of, and its generation before it was read.
    copied: Option<(u64, u64)>,
    /// As long as a page, or empty.
    bytes: Vec<u8>,
    /// How often the copies had been dropped when this one was made.
    era: u64,
}

/// See the head of this file.
#[derive(Default)]
pub(crate) struct RecentPages {
    places: Box<[Mutex<Recent>]>,
    generations: Box<[AtomicU64]>,
    /// How often the copies were dropped.
    clears: AtomicU64,
    /// The heap bytes of the copies.
    bytes: AtomicUsize,
}

/// Where a part was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// In the copy of a page. Its slot was not looked up.
    Copy,
    /// In the page, which was read from its slot.
    Slot,
    /// Nowhere: the place is in use. The caller reads the page.
    Nowhere,
}

impl RecentPages {
    /// Makes places for the pages of a disk with this unit: none for pages of 4096 bytes.
    pub(crate) fn new(unit: usize) -> Self {
        if unit <= PAGE_SIZE {
            return RecentPages::default();
        }
        RecentPages {
            places: (0..PLACES).map(|_| Mutex::new(Recent::default())).collect(),
            generations: (0..GENERATIONS).map(|_| AtomicU64::new(0)).collect(),
            ..RecentPages::default()
        }
    }

    /// Returns whether pages are kept.
    #[inline]
    pub(crate) fn is_in_use(&self) -> bool {
        !self.places.is_empty()
    }

    /// Fills `to` with a part of a page, from its byte `start` on. If the page is not here, `read` reads it.
    ///
    /// # Errors
    /// Those of `read`; [`ZramError::Buffer`].
    ///
    /// # Panics
    /// Panics if no pages are kept.
    pub(crate) fn read(
        &self,
        index: u64,
        unit: usize,
        start: usize,
        to: &mut [u8],
        read: impl FnOnce(&mut [u8]) -> Result<(), ZramError>,
    ) -> Result<Found, ZramError> {
        assert!(self.is_in_use(), "a part was looked up in a disk that keeps no pages");
        let no_memory = || ZramError::Buffer { index, bytes: unit };
        // The caller's memory may raise a fault whose handler takes long: it is written when the lock is free again.
        let (mut few, mut many);
        let part: &mut [u8] = if to.len() <= PAGE_SIZE {
            few = [0; PAGE_SIZE];
            &mut few[..to.len()]
        } else {
            many = zeroed(to.len()).ok_or_else(no_memory)?;
            &mut many
        };
        let place = &self.places[(index % PLACES as u64) as usize];
        let (found, era) = {
            let Some(mut recent) = place.try_lock() else { return Ok(Found::Nowhere) };
            let era = self.clears.load(SeqCst);
            self.drop_copy_before(era, &mut recent);
            let found = self.find(index, unit, &mut recent, read);
            if found.is_ok() {
                part.copy_from_slice(&recent.bytes[start..start + to.len()]);
            }
            (found, era)
        };
        // Copies may have been dropped while this one was in use.
        self.drop_later(place, era);
        let found = found?;
        to.copy_from_slice(part);
        Ok(found)
    }

    /// Reads a page into its place, unless its copy is there.
    fn find(
        &self,
        index: u64,
        unit: usize,
        recent: &mut Recent,
        read: impl FnOnce(&mut [u8]) -> Result<(), ZramError>,
    ) -> Result<Found, ZramError> {
        let Recent { copied, bytes, .. } = recent;
        // Before the slot is read: a change of it that this read does not see raises the generation afterwards.
        let present = (index, self.generation(index).load(SeqCst));
        if *copied == Some(present) {
            return Ok(Found::Copy);
        }
        *copied = None;
        if bytes.is_empty() {
            *bytes = zeroed(unit).ok_or(ZramError::Buffer { index, bytes: unit })?;
            self.bytes.fetch_add(bytes.capacity(), SeqCst);
        }
        read(bytes)?;
        *copied = Some(present);
        Ok(Found::Slot)
    }

    fn generation(&self, index: u64) -> &AtomicU64 {
        &self.generations[(index % GENERATIONS as u64) as usize]
    }

    /// Invalidates the copy of a page. Called with the page's slot locked, after its content was changed or before.
    #[inline]
    pub(crate) fn forget(&self, index: u64) {
        if self.is_in_use() {
            self.generation(index).fetch_add(1, SeqCst);
        }
    }

    /// Drops all copies. One that is in use is dropped when its user has finished.
    pub(crate) fn clear(&self) {
        self.clears.fetch_add(1, SeqCst);
        for place in &self.places {
            // Whatever the copy's era: it is before the present one.
            self.drop_later(place, u64::MAX);
        }
    }

    /// Drops the copy of a place if copies were dropped since the time `era`, for which the caller has done so. If
    /// another thread has the place, that thread does it.
    fn drop_later(&self, place: &Mutex<Recent>, mut era: u64) {
        loop {
            let now = self.clears.load(SeqCst);
            if now == era {
                return;
            }
            let Some(mut recent) = place.try_lock() else { return };
            // Read again under the lock: a thread that finds the place locked from now on relies on the check after it.
            era = self.clears.load(SeqCst);
            self.drop_copy_before(era, &mut recent);
        }
    }

    /// Drops a copy that was made before the copies were dropped for the time `era`.
    fn drop_copy_before(&self, era: u64, recent: &mut Recent) {
        if recent.era < era {
            self.bytes.fetch_sub(recent.bytes.capacity(), SeqCst);
            *recent = Recent { era, ..Recent::default() };
        }
    }

    /// Returns the heap bytes of the copies.
    pub(crate) fn memory_bytes(&self) -> usize {
        let fixed = size_of_val(&*self.places) + size_of_val(&*self.generations);
        fixed.saturating_add(self.bytes.load(SeqCst))
    }
}

impl fmt::Debug for RecentPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecentPages").field("places", &self.places.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{Found, PLACES, RecentPages};
    use crate::error::ZramError;

    const UNIT: usize = 8192;

    /// Reads a byte of a page whose slot has the content `content`.
    fn read(pages: &RecentPages, index: u64, content: u8) -> (Found, u8) {
        let mut byte = [0];
        let found = pages.read(index, UNIT, 5000, &mut byte, |page| {
            page.fill(content);
            Ok(())
        });
        (found.unwrap(), byte[0])
    }

    #[test]
    fn a_copy_is_used_until_its_slot_changes() {
        let pages = RecentPages::new(UNIT);
        assert_eq!(read(&pages, 3, 1), (Found::Slot, 1));
        assert_eq!(read(&pages, 3, 2), (Found::Copy, 1));
        // Another page of the same place, with a generation of its own.
        pages.forget(3 + PLACES as u64);
        assert_eq!(read(&pages, 3, 2), (Found::Copy, 1));
        pages.forget(3);
        assert_eq!(read(&pages, 3, 2), (Found::Slot, 2));
        assert_eq!(read(&pages, 3 + PLACES as u64, 7), (Found::Slot, 7));
        assert_eq!(read(&pages, 3, 3), (Found::Slot, 3));
    }

    #[test]
    fn a_slot_that_changes_while_it_is_read_leaves_no_copy() {
        let pages = RecentPages::new(UNIT);
        let mut byte = [0];
        pages
            .read(3, UNIT, 0, &mut byte, |page| {
                // The old content is pinned here, and another thread changes the slot.
                pages.forget(3);
                page.fill(1);
                Ok(())
            })
            .unwrap();
        assert_eq!(read(&pages, 3, 2), (Found::Slot, 2));
    }

    #[test]
    fn nobody_waits_for_a_place() {
        let pages = RecentPages::new(UNIT);
        let mut byte = [0];
        let found = pages.read(3, UNIT, 0, &mut byte, |page| {
            // As a codec does that reads the disk, and a thread that writes it meanwhile.
            assert_eq!(pages.read(3, UNIT, 0, &mut [0], |_| unreachable!()), Ok(Found::Nowhere));
            pages.forget(3 + PLACES as u64);
            assert!(pages.memory_bytes() > UNIT);
            pages.clear();
            page.fill(1);
            Ok(())
        });
        assert_eq!((found, byte), (Ok(Found::Slot), [1]));
        assert!(pages.memory_bytes() < UNIT, "the copy in use was dropped afterwards");
        assert_eq!(read(&pages, 3, 2), (Found::Slot, 2));
    }

    #[test]
    fn a_read_that_fails_leaves_no_copy() {
        let pages = RecentPages::new(UNIT);
        let error = ZramError::Reentrant { index: 3 };
        let failed = pages.read(3, UNIT, 0, &mut [0], |page| {
            page.fill(9);
            Err(error.clone())
        });
        assert_eq!(failed, Err(error.clone()));
        assert_eq!(read(&pages, 3, 2), (Found::Slot, 2));
        pages.clear();
        assert_eq!(read(&pages, 3, 4), (Found::Slot, 4));
        // It leaves no memory either, if the copies are dropped meanwhile.
        let failed = pages.read(4, UNIT, 0, &mut [0], |page| {
            page.fill(9);
            pages.clear();
            Err(error.clone())
        });
        assert_eq!(failed, Err(error));
        assert!(pages.memory_bytes() < UNIT);
    }

    #[test]
    fn copies_that_several_threads_drop_are_gone() {
        let pages = RecentPages::new(UNIT);
        std::thread::scope(|scope| {
            for thread in 0..3_u64 {
                let pages = &pages;
                scope.spawn(move || {
                    for n in 0..if cfg!(miri) { 20 } else { 2000 } {
                        let _ = pages.read(n % 2, UNIT, 0, &mut [0], |_| Ok(()));
                        if n % 3 == thread {
                            pages.clear();
                        }
                    }
                    pages.clear();
                });
            }
        });
        assert!(pages.memory_bytes() < UNIT, "{}", pages.memory_bytes());
    }
}
