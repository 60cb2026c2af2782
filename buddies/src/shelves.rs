//! The lists of pages. Pages with room are on lists by the number of their free chunks. All pages with
//! objects are on the LRU. While an allocation or reclaim holds a page, the page is off all lists.
//!
//! The pool lock guards the shelves. A record of type `T` is stored with the links of each page.

use core::ops::{Index, IndexMut};

use crate::chunks::CHUNKS;
use crate::lists::{Link, Linked, List};
use crate::records::Records;

/// The lists that a page is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shelf {
    /// On no list.
    Off,
    /// On the LRU and on the list of pages with this number of free chunks, 1 to 63.
    Unbuddied(u8),
    /// Only on the LRU, because no object fits in the page.
    Full,
}

#[derive(Debug)]
enum LruList {}
#[derive(Debug)]
enum UnbuddiedList {}

#[derive(Debug)]
struct Shelved<T> {
    lru: Link,
    unbuddied: Link,
    /// The time on the clock when the page was last put at the front of the LRU.
    stamp: u64,
    shelf: Shelf,
    record: T,
}

impl<T> Linked<LruList> for Shelved<T> {
    fn link(&mut self) -> &mut Link {
        &mut self.lru
    }
}

impl<T> Linked<UnbuddiedList> for Shelved<T> {
    fn link(&mut self) -> &mut Link {
        &mut self.unbuddied
    }
}

/// The lists of pages, with a record of type `T` for each page.
#[derive(Debug)]
pub(crate) struct Shelves<T> {
    pages: Records<Shelved<T>>,
    /// Page numbers without memory that may be used again. Such a page is on no unbuddied list, so this
    /// list uses the same link.
    vacant: List<UnbuddiedList>,
    lru: List<LruList>,
    /// Pages with room. `unbuddied[n]` has the pages with `n` free chunks.
    unbuddied: [List<UnbuddiedList>; CHUNKS],
    /// Bit `n` is set if `unbuddied[n]` is not empty.
    occupied: u64,
    /// The number of times that a page was put at the front of the LRU. This count serves as a clock.
    clock: u64,
}

impl<T> Shelves<T> {
    /// Makes shelves without pages.
    pub(crate) fn new() -> Self {
        Shelves {
            pages: Records::new(),
            vacant: List::EMPTY,
            lru: List::EMPTY,
            unbuddied: [List::EMPTY; CHUNKS],
            occupied: 0,
            clock: 0,
        }
    }

    /// The bytes of one page's record.
    pub(crate) const RECORD_BYTES: usize = size_of::<Shelved<T>>();

    /// Makes room for one more page number. If there is no memory, the error is the number of bytes
    /// refused.
    pub(crate) fn reserve(&mut self) -> Result<(), usize> {
        self.pages.reserve()
    }

    /// Adds the next page number. Its page is off all lists. Call `reserve` first.
    pub(crate) fn add(&mut self, record: T) {
        let shelved =
            Shelved { lru: Link::NONE, unbuddied: Link::NONE, stamp: 0, shelf: Shelf::Off, record };
        let added = self.pages.push(shelved);
        debug_assert!(added, "no room was reserved");
    }

    /// Returns the number of page numbers.
    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Returns the bytes of all records.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.pages.memory_bytes()
    }

    /// Moves a page to another shelf. If the page was off all lists, it becomes the newest of the LRU. If
    /// it stays on the LRU, it keeps its age.
    pub(crate) fn put(&mut self, page: u32, to: Shelf) {
        let from = core::mem::replace(&mut self.pages[page].shelf, to);
        if let Shelf::Unbuddied(free) = from {
            let list = &mut self.unbuddied[usize::from(free)];
            list.unlink(&mut self.pages, page);
            if list.first().is_none() {
                self.occupied &= !(1 << free);
            }
        }
        if from != Shelf::Off && to == Shelf::Off {
            self.lru.unlink(&mut self.pages, page);
        }
        if let Shelf::Unbuddied(free) = to {
            debug_assert!((1..CHUNKS).contains(&usize::from(free)));
            self.unbuddied[usize::from(free)].push_front(&mut self.pages, page);
            self.occupied |= 1 << free;
        }
        if from == Shelf::Off && to != Shelf::Off {
            self.push_lru(page);
        }
    }

    /// Makes a page the newest of the LRU. The page must be on the LRU.
    pub(crate) fn touch(&mut self, page: u32) {
        debug_assert_ne!(self.pages[page].shelf, Shelf::Off);
        self.lru.unlink(&mut self.pages, page);
        self.push_lru(page);
    }

    fn push_lru(&mut self, page: u32) {
        self.pages[page].stamp = self.clock;
        self.clock += 1;
        self.lru.push_front(&mut self.pages, page);
    }

    /// Finds the pages with at least `chunks` free chunks, and returns one of those with the fewest.
    /// Returns `None` if there is no such page.
    pub(crate) fn tightest(&self, chunks: usize) -> Option<u32> {
        let fitting = self.occupied & u64::MAX.checked_shl(chunks as u32).unwrap_or(0);
        if fitting == 0 {
            return None;
        }
        self.unbuddied[fitting.trailing_zeros() as usize].first()
    }

    /// Returns the time on the LRU's clock. Every page that is put at the front from now on gets this time
    /// or a later one.
    pub(crate) fn now(&self) -> u64 {
        self.clock
    }

    /// Returns the oldest page of the LRU. Returns `None` if this page was put there at or after the time
    /// `before`, or if the LRU is empty.
    pub(crate) fn oldest(&self, before: u64) -> Option<u32> {
        self.lru.last().filter(|&page| self.pages[page].stamp < before)
    }

    /// Keeps a page number for later use. The page must be off all lists.
    pub(crate) fn push_vacant(&mut self, page: u32) {
        debug_assert_eq!(self.pages[page].shelf, Shelf::Off);
        self.vacant.push_front(&mut self.pages, page);
    }

    /// Takes a page number that was kept for later use. Returns `None` if there is none.
    pub(crate) fn take_vacant(&mut self) -> Option<u32> {
        let page = self.vacant.first()?;
        self.vacant.unlink(&mut self.pages, page);
        Some(page)
    }
}

impl<T> Default for Shelves<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Index<u32> for Shelves<T> {
    type Output = T;
    fn index(&self, page: u32) -> &T {
        &self.pages[page].record
    }
}

impl<T> IndexMut<u32> for Shelves<T> {
    fn index_mut(&mut self, page: u32) -> &mut T {
        &mut self.pages[page].record
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn with_pages(count: u32) -> Shelves<u32> {
        let mut shelves = Shelves::new();
        for page in 0..count {
            shelves.reserve().unwrap();
            shelves.add(page * 10);
        }
        shelves
    }

    #[test]
    fn the_tightest_room_comes_first() {
        let mut shelves = with_pages(4);
        for (page, free) in [(0, 40), (1, 20), (2, 63), (3, 20)] {
            shelves.put(page, Shelf::Unbuddied(free));
        }
        assert_eq!(shelves.tightest(1), Some(3), "the last one put there");
        shelves.put(3, Shelf::Off);
        assert_eq!(shelves.tightest(20), Some(1));
        shelves.put(1, Shelf::Full);
        assert_eq!(shelves.tightest(20), Some(0));
        assert_eq!((shelves.tightest(41), shelves.tightest(64)), (Some(2), None));
        assert_eq!((shelves[2], shelves.pages[2].shelf), (20, Shelf::Unbuddied(63)));
    }

    #[test]
    fn the_lru_has_what_is_on_a_shelf_oldest_first() {
        let mut shelves = with_pages(3);
        for page in 0..3 {
            shelves.put(page, Shelf::Unbuddied(8));
        }
        shelves.put(0, Shelf::Full);
        assert_eq!(shelves.oldest(u64::MAX), Some(0), "a page that changes its list keeps its age");
        shelves.touch(0);
        assert_eq!(shelves.oldest(u64::MAX), Some(1));
        let now = shelves.now();
        shelves.put(1, Shelf::Off);
        shelves.put(1, Shelf::Full);
        assert_eq!(shelves.oldest(now), Some(2));
        shelves.put(2, Shelf::Off);
        assert_eq!(shelves.oldest(now), Some(0));
        shelves.put(0, Shelf::Off);
        assert_eq!((shelves.oldest(now), shelves.oldest(u64::MAX)), (None, Some(1)));
    }

    #[test]
    fn page_numbers_and_their_records_are_counted() {
        let mut shelves = with_pages(0);
        assert_eq!((shelves.len(), shelves.memory_bytes()), (0, 0));
        shelves.reserve().unwrap();
        let reserved = shelves.memory_bytes();
        assert!(reserved >= 64 * size_of::<Shelved<u32>>(), "{reserved}");
        for page in 0..2 {
            shelves.add(page);
        }
        assert_eq!(shelves.len(), 2);
        assert_eq!(shelves.memory_bytes(), reserved);
    }

    #[test]
    fn vacant_numbers_serve_again() {
        let mut shelves = with_pages(2);
        assert_eq!(shelves.take_vacant(), None);
        shelves.push_vacant(1);
        assert_eq!((shelves.take_vacant(), shelves.take_vacant()), (Some(1), None));
    }
}
