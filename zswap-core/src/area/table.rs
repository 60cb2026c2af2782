//! Finds the area of an entry.
//!
//! A `swap_type` starts UNUSED. Its first store makes it SHARED: its pages are in the pools that all such types
//! share. Or [`Areas::add`] makes it OWN first: it has an area of its own. A type that is SHARED or OWN stays so.
//! So an entry's area is the same from the entry's first page on, and the pool numbers in its words keep their
//! meaning.
//!
//! A thread must find the area *after* it has read the word that names a pool, or has locked the entry. Then it
//! sees the area of the thread that stored the page: that thread found the area before it wrote the word.

// Always std's, not loom's: 256 of loom's atomics would be in every model. All accesses are SeqCst.
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst};

use once_cell::race::OnceBox;

use crate::SwapEntry;
use crate::area::Area;
use crate::counters::{Counter, sum};
use crate::entry::OFFSET_BITS;

const TYPES: usize = 256;
const UNUSED: u8 = 0;
const SHARED: u8 = 1;
const OWN: u8 = 2;

/// The areas of a store.
pub(crate) struct Areas {
    /// The area of the types without one of their own. Boxed, so that a store is small: it is moved while it is built.
    shared: Box<Area>,
    kinds: Box<[AtomicU8]>,
    /// The number of OWN types.
    added: AtomicUsize,
    /// The areas of the OWN types. Each is set before its type becomes OWN. A place may be filled although its
    /// type is SHARED: then its area came too late, and nobody uses it.
    own: Box<[OnceBox<Area>]>,
}

/// The type has an area already, or pages in the shared one.
pub(crate) struct Taken;

impl Areas {
    pub(crate) fn new(shared: Box<Area>) -> Self {
        Areas {
            shared,
            kinds: (0..TYPES).map(|_| AtomicU8::new(UNUSED)).collect(),
            added: AtomicUsize::new(0),
            own: (0..TYPES).map(|_| OnceBox::new()).collect(),
        }
    }

    /// Returns the area that all types without one of their own share.
    pub(crate) fn shared(&self) -> &Area {
        &self.shared
    }

    /// Returns the area of an entry that may hold a page.
    #[inline]
    pub(crate) fn of(&self, entry: SwapEntry) -> &Area {
        self.own(entry.swap_type()).unwrap_or(&self.shared)
    }

    /// Returns the area of an entry that is about to get a page. From now on, its type keeps that area.
    #[inline]
    pub(crate) fn settle(&self, entry: SwapEntry) -> &Area {
        let kind = &self.kinds[usize::from(entry.swap_type())];
        if kind.load(SeqCst) == UNUSED {
            // If this fails, the type was settled meanwhile.
            let _ = kind.compare_exchange(UNUSED, SHARED, SeqCst, SeqCst);
        }
        self.of(entry)
    }

    /// Returns the type's own area, if it has one.
    #[inline]
    pub(crate) fn own(&self, swap_type: u8) -> Option<&Area> {
        let at = usize::from(swap_type);
        if self.kinds[at].load(SeqCst) != OWN {
            return None;
        }
        self.own[at].get()
    }

    /// Returns whether the type may get an area of its own.
    pub(crate) fn is_free(&self, swap_type: u8) -> bool {
        self.kinds[usize::from(swap_type)].load(SeqCst) == UNUSED
    }

    /// Gives the type an area of its own.
    pub(crate) fn add(&self, swap_type: u8, area: Area) -> Result<(), Taken> {
        let at = usize::from(swap_type);
        self.own[at].set(Box::new(area)).map_err(|_| Taken)?;
        // Counted first: whoever sees the type OWN must see that there are such types. A count that is too high does no
        // harm.
        self.added.fetch_add(1, SeqCst);
        let now = self.kinds[at].compare_exchange(UNUSED, OWN, SeqCst, SeqCst);
        now.map(drop).map_err(|_| Taken)
    }

    /// Returns all areas, the shared one first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Area> {
        // Most stores have one area.
        let types = if self.has_own() { TYPES } else { 0 };
        let own = (0..types).filter_map(|swap_type| self.own(swap_type as u8));
        core::iter::once(self.shared()).chain(own)
    }

    fn has_own(&self) -> bool {
        self.added.load(SeqCst) > 0
    }

    /// Returns the first key of an area that is not below `key`; `None` if there is none.
    pub(crate) fn first_key(&self, area: &Area, key: u64) -> Option<u64> {
        let start = |swap_type: u8| u64::from(swap_type) << OFFSET_BITS;
        let here = (key >> OFFSET_BITS) as u8;
        match area.swap_type {
            Some(swap_type) if here < swap_type => Some(start(swap_type)),
            Some(swap_type) => (here == swap_type).then_some(key),
            None if !self.has_own() || self.own(here).is_none() => Some(key),
            None => (here..=u8::MAX).find(|swap_type| self.own(*swap_type).is_none()).map(start),
        }
    }

    /// Returns the sum of a counter over all areas; 0 if it is below zero.
    pub(crate) fn count(&self, counter: Counter) -> u64 {
        sum(self.all().map(|area| &area.counters), counter)
    }

    /// Returns the bytes of the areas and their tables, beside the pools.
    pub(crate) fn memory_bytes(&self) -> usize {
        let tables = size_of_val(&*self.kinds) + size_of_val(&*self.own);
        tables + self.all().map(Area::memory_bytes).sum::<usize>()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Zswap;

    #[test]
    fn keys_of_an_area_are_found_from_any_key() {
        let store = Zswap::builder().build().unwrap();
        for swap_type in [0, 1, 7, 255] {
            store.add_area(swap_type, crate::AreaSettings::default()).unwrap();
        }
        let areas = &store.areas;
        let at = |swap_type: u64, offset: u64| swap_type << OFFSET_BITS | offset;
        let first = |swap_type: Option<u8>, key| {
            let area = swap_type.map_or(areas.shared(), |own| areas.own(own).unwrap());
            areas.first_key(area, key)
        };
        assert_eq!(first(Some(7), 0), Some(at(7, 0)));
        assert_eq!(first(Some(7), at(7, 3)), Some(at(7, 3)));
        assert_eq!((first(Some(7), at(8, 0)), first(Some(255), u64::MAX)), (None, Some(u64::MAX)));
        assert_eq!((first(None, 0), first(None, at(1, 9))), (Some(at(2, 0)), Some(at(2, 0))));
        assert_eq!(
            (first(None, at(6, 1)), first(None, at(7, 1))),
            (Some(at(6, 1)), Some(at(8, 0)))
        );
        assert_eq!(first(None, at(255, 0)), None);
    }
}
