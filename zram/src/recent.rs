//! Decompressed pages that were read in part lately, so that the next parts of a large unit cost no decompression.
//!
//! A page has one place, by its number. The place's lock is held from before a page is read from its slot until its copy
//! is in the place. A thread that changes a slot forgets the page afterwards, before its call returns. So a copy that was
//! read before the change is forgotten, and one that is read later is of the new content: no read that begins after a
//! write has returned finds what was there before.
//!
//! Lock: the place's mutex. A slot's lock is taken under it, and codec and device run under it; it is never taken under a
//! slot's lock. The caller's memory is not touched under it.

use core::fmt;

use zpage::PAGE_SIZE;

use crate::error::ZramError;
use crate::page_buffer::zeroed;
use zpool_base::sync::Mutex;

/// The pages that are kept at most.
const PLACES: usize = 16;

#[derive(Default)]
struct Recent {
    /// The page that `bytes` is a copy of, if any.
    index: Option<u64>,
    /// As long as a page, or empty.
    bytes: Vec<u8>,
}

/// See the head of this file.
pub(crate) struct RecentPages(Box<[Mutex<Recent>]>);

impl RecentPages {
    /// Makes places for the pages of a disk with this unit: none for pages of 4096 bytes.
    pub(crate) fn new(unit: usize) -> Self {
        let places = if unit > PAGE_SIZE { PLACES } else { 0 };
        RecentPages((0..places).map(|_| Mutex::new(Recent::default())).collect())
    }

    /// Returns whether pages of this unit are kept.
    #[inline]
    pub(crate) fn is_for(&self, unit: usize) -> bool {
        unit > PAGE_SIZE
    }

    fn place(&self, index: u64) -> Option<&Mutex<Recent>> {
        self.0.get((index % PLACES as u64) as usize)
    }

    /// Fills `to` with a part of a page, from its byte `start` on. If the page is not here, `read` reads it.
    pub(crate) fn read(
        &self,
        index: u64,
        unit: usize,
        start: usize,
        to: &mut [u8],
        read: impl FnOnce(&mut [u8]) -> Result<(), ZramError>,
    ) -> Result<(), ZramError> {
        let Some(place) = self.place(index) else { return Ok(()) };
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
        {
            let mut recent = place.lock();
            let Recent { index: held, bytes } = &mut *recent;
            if *held != Some(index) {
                *held = None;
                if bytes.is_empty() {
                    *bytes = zeroed(unit).ok_or_else(no_memory)?;
                }
                read(bytes)?;
                *held = Some(index);
            }
            part.copy_from_slice(&bytes[start..start + to.len()]);
        }
        to.copy_from_slice(part);
        Ok(())
    }

    /// Forgets a page. Called after its slot was changed, with no slot locked.
    #[inline]
    pub(crate) fn forget(&self, index: u64) {
        if let Some(place) = self.place(index) {
            let mut recent = place.lock();
            if recent.index == Some(index) {
                recent.index = None;
            }
        }
    }

    /// Returns the heap bytes of the copies.
    pub(crate) fn memory_bytes(&self) -> usize {
        let copies = self.0.iter().map(|place| place.lock().bytes.capacity());
        copies.fold(size_of_val(&*self.0), usize::saturating_add)
    }
}

impl fmt::Debug for RecentPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecentPages").field("places", &self.0.len()).finish_non_exhaustive()
    }
}
