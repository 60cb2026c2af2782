//! The pages' records, and the one function that moves a page between states. Everything here is
//! guarded by the pool lock.
//!
//! # States
//! ```text
//!            attach                    alloc / free
//!   Vacant ─────────▶ Unbuddied(free) ◀────────────▶ Buddied
//!     ▲ ▲                   │   ▲                    │    ▲
//!     │ └── last user gone ─┤   │                    │    │
//!     │                     ▼   │ reclaim done       ▼    │
//!     └──────────────────── Reclaiming ◀──────────────────┘
//! ```
//! | state | LRU | unbuddied list | meaning |
//! |---|---|---|---|
//! | Vacant | no | no | no page attached |
//! | Unbuddied(n) | yes | list `n` | one buddy in use, `n` free chunks for another |
//! | Buddied | yes | no | two buddies, or no chunk free, or a buddy slot is used up |
//! | Reclaiming | no | no | reclaim looks at it; no alloc finds it |
//!
//! # Who keeps a page
//! `users` counts the buddies in use (allocated, live or parked) and a running reclaim. The put
//! that brings it to 0 detaches the page. No list membership stands in for that count.

use buddies::{CHUNKS, Shelf, Shelves};

/// Which end of its page an object is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Buddy {
    First = 0,
    Last = 1,
}

impl Buddy {
    pub(crate) const BOTH: [Buddy; 2] = [Buddy::First, Buddy::Last];
}

/// A buddy of a page, as the slot number of handles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    pub(crate) page: u32,
    pub(crate) buddy: Buddy,
}

impl Slot {
    /// Page numbers that fit in a slot number.
    pub(crate) const MAX_PAGES: usize = 1 << 31;

    pub(crate) fn number(self) -> u32 {
        self.page << 1 | self.buddy as u32
    }

    pub(crate) fn from_number(number: u32) -> Self {
        let buddy = if number & 1 == 0 { Buddy::First } else { Buddy::Last };
        Slot { page: number >> 1, buddy }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PageState {
    Vacant,
    Unbuddied(u8),
    Buddied,
    Reclaiming,
}

/// What the pool lock guards of one page, beside the lists that it is on.
#[derive(Debug)]
struct PageRecord {
    state: PageState,
    /// Chunks of each buddy in use, 0 for none.
    chunks: [u8; 2],
    /// Buddies in use, and a running reclaim.
    users: u8,
    /// A buddy's generations are used up: the page takes no new object, and its number is not
    /// used again.
    retired: bool,
}

impl PageRecord {
    const NEW: PageRecord =
        PageRecord { state: PageState::Vacant, chunks: [0, 0], users: 0, retired: false };

    /// The state that the buddies in use ask for, reclaim aside.
    fn resting_state(&self) -> PageState {
        if self.users == 0 {
            return PageState::Vacant;
        }
        let free = CHUNKS - usize::from(self.chunks[0]) - usize::from(self.chunks[1]);
        if self.retired || free == 0 || (self.chunks[0] != 0) == (self.chunks[1] != 0) {
            PageState::Buddied
        } else {
            PageState::Unbuddied(free as u8)
        }
    }
}

/// A page whose last user is gone: its memory is to be given back, once the lock is dropped.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the page's memory must go back to the provider"]
pub(crate) struct Detached(pub(crate) u32);

/// All records and lists of a pool: what its lock guards.
#[derive(Debug)]
pub(crate) struct Pages {
    shelves: Shelves<PageRecord>,
    reclaimed: u64,
}

impl Pages {
    pub(crate) fn new() -> Self {
        Pages { shelves: Shelves::new(), reclaimed: 0 }
    }

    /// Pages that reclaim has freed.
    pub(crate) fn reclaimed(&self) -> u64 {
        self.reclaimed
    }

    /// Bytes of the records.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.shelves.memory_bytes()
    }

    /// Takes the tightest room for `chunks` chunks in a page that has one object.
    pub(crate) fn take_room(&mut self, chunks: usize) -> Option<Slot> {
        let page = self.shelves.tightest(chunks)?;
        let buddy = match self.shelves[page].chunks[0] {
            0 => Buddy::First,
            _ => Buddy::Last,
        };
        let slot = Slot { page, buddy };
        self.occupy(slot, chunks);
        Some(slot)
    }

    /// Attaches fresh memory to `page`, a vacant one, for an object of `chunks` chunks.
    pub(crate) fn attach(&mut self, page: u32, chunks: usize) -> Slot {
        let slot = Slot { page, buddy: Buddy::First };
        self.occupy(slot, chunks);
        slot
    }

    fn occupy(&mut self, slot: Slot, chunks: usize) {
        let record = &mut self.shelves[slot.page];
        debug_assert!(record.chunks[slot.buddy as usize] == 0 && !record.retired);
        record.chunks[slot.buddy as usize] = chunks as u8;
        record.users += 1;
        let to = record.resting_state();
        self.set_state(slot.page, to);
        self.shelves.touch(slot.page);
    }

    /// Ends a buddy's use of its page. `usable` is false when its generations are used up.
    pub(crate) fn vacate(&mut self, slot: Slot, usable: bool) -> Option<Detached> {
        let record = &mut self.shelves[slot.page];
        debug_assert!(record.chunks[slot.buddy as usize] != 0);
        record.chunks[slot.buddy as usize] = 0;
        record.retired |= !usable;
        if record.state == PageState::Reclaiming {
            // Reclaim's own use keeps the page, and keeps it off the lists until it ends.
            record.users -= 1;
            return None;
        }
        self.put(slot.page)
    }

    /// Gives one use of the page up; the last one detaches it.
    fn put(&mut self, page: u32) -> Option<Detached> {
        let record = &mut self.shelves[page];
        record.users -= 1;
        let to = record.resting_state();
        self.set_state(page, to);
        (to == PageState::Vacant).then_some(Detached(page))
    }

    /// The page number of a detached page may serve again, unless it is retired. To be called
    /// once its memory is on its way back to the provider.
    pub(crate) fn recycle(&mut self, page: u32) {
        let record = &self.shelves[page];
        debug_assert_eq!(record.state, PageState::Vacant);
        if !record.retired {
            self.shelves.push_vacant(page);
        }
    }

    /// A page number that may serve again.
    pub(crate) fn take_vacant(&mut self) -> Option<u32> {
        self.shelves.take_vacant()
    }

    /// Makes room for the record of one more page number. On failure gives the bytes refused.
    pub(crate) fn reserve(&mut self) -> Result<(), usize> {
        self.shelves.reserve()
    }

    /// Adds the record of page number `page`, the next one; `reserve` came before.
    pub(crate) fn add_record(&mut self, page: u32) {
        debug_assert_eq!(self.shelves.len(), page as usize);
        self.shelves.add(PageRecord::NEW);
    }

    /// The clock now: pages put on the LRU from here on have at least this stamp.
    pub(crate) fn now(&self) -> u64 {
        self.shelves.now()
    }

    /// Takes the oldest page for reclaim, if it was put on the LRU before `before`.
    pub(crate) fn begin_reclaim(&mut self, before: u64) -> Option<u32> {
        let page = self.shelves.oldest(before)?;
        self.shelves[page].users += 1;
        self.set_state(page, PageState::Reclaiming);
        Some(page)
    }

    /// Ends reclaim's use of a page. A page that stays counts as new.
    pub(crate) fn end_reclaim(&mut self, page: u32) -> Option<Detached> {
        debug_assert_eq!(self.shelves[page].state, PageState::Reclaiming);
        let detached = self.put(page);
        self.reclaimed += u64::from(detached.is_some());
        detached
    }

    /// The one place where a page changes state: checks the transition and keeps the lists true.
    fn set_state(&mut self, page: u32, to: PageState) {
        use PageState::{Buddied, Reclaiming, Unbuddied, Vacant};
        let from = core::mem::replace(&mut self.shelves[page].state, to);
        debug_assert!(
            match (from, to) {
                (Vacant, Unbuddied(_) | Buddied) => true,
                (Unbuddied(_), Buddied | Reclaiming | Vacant) => true,
                (Buddied, Unbuddied(_) | Reclaiming | Vacant) => true,
                (Reclaiming, Unbuddied(_) | Buddied | Vacant) => true,
                // A retired page stays Buddied while its buddies come to an end.
                (Buddied, Buddied) => self.shelves[page].retired,
                _ => false,
            },
            "page {page}: {from:?} to {to:?} is no transition"
        );
        let shelf = match to {
            Vacant | Reclaiming => Shelf::Off,
            Unbuddied(free) => Shelf::Unbuddied(free),
            Buddied => Shelf::Full,
        };
        self.shelves.put(page, shelf);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn with_pages(n: u32) -> Pages {
        let mut pages = Pages::new();
        for page in 0..n {
            pages.reserve().unwrap();
            pages.add_record(page);
        }
        pages
    }

    fn slot(page: u32, buddy: Buddy) -> Slot {
        Slot { page, buddy }
    }

    #[test]
    fn slots_round_trip() {
        for number in [0, 1, 2, 3, u32::MAX - 1, u32::MAX] {
            assert_eq!(Slot::from_number(number).number(), number);
        }
    }

    #[test]
    fn records_are_counted() {
        let mut pages = with_pages(0);
        assert_eq!(pages.memory_bytes(), 0);
        pages = with_pages(2);
        let reserved = pages.memory_bytes();
        assert!(reserved >= 2 * size_of::<PageRecord>(), "{reserved}");
        let first = pages.attach(0, 64);
        let other = pages.attach(1, 63);
        assert_eq!(pages.memory_bytes(), reserved);
        assert_eq!(pages.vacate(first, true), Some(Detached(0)));
        assert_eq!(pages.take_room(1), Some(slot(1, Buddy::Last)), "a chunk is free");
        assert_eq!(pages.vacate(other, true), None);
    }

    #[test]
    fn a_page_that_reclaim_ends_is_found_as_before() {
        let mut pages = with_pages(1);
        let first = pages.attach(0, 8);
        assert_eq!(pages.take_room(9), Some(slot(0, Buddy::Last)));
        assert_eq!(pages.begin_reclaim(pages.now()), Some(0));
        assert_eq!(pages.vacate(first, true), None);
        assert_eq!(pages.end_reclaim(0), None);
        assert_eq!(pages.reclaimed(), 0);
        assert_eq!(pages.take_room(56), None);
        assert_eq!(pages.take_room(55), Some(first));
    }

    #[test]
    fn the_tightest_room_is_taken() {
        let mut pages = with_pages(3);
        for (page, chunks) in [(0, 10), (1, 40), (2, 25)] {
            pages.attach(page, chunks);
        }
        assert_eq!(pages.take_room(55), None);
        assert_eq!(pages.take_room(30), Some(slot(2, Buddy::Last)));
        assert_eq!(pages.take_room(24), Some(slot(1, Buddy::Last)));
        assert_eq!(pages.take_room(1), Some(slot(0, Buddy::Last)));
        assert_eq!(pages.take_room(1), None, "two objects a page, never more");
    }

    #[test]
    fn a_freed_first_buddy_is_room_again() {
        let mut pages = with_pages(1);
        let first = pages.attach(0, 30);
        let last = pages.take_room(34).unwrap();
        assert_eq!(pages.vacate(first, true), None);
        assert_eq!(pages.take_room(31), None);
        assert_eq!(pages.take_room(30), Some(first));
        assert_eq!(pages.vacate(last, true), None);
        assert_eq!(pages.vacate(first, true), Some(Detached(0)));
        assert_eq!(pages.shelves.tightest(1), None);
    }

    #[test]
    fn a_retired_page_takes_no_object_and_its_number_is_not_reused() {
        let mut pages = with_pages(2);
        let first = pages.attach(0, 8);
        let last = pages.take_room(8).unwrap();
        assert_eq!(pages.vacate(first, false), None);
        assert_eq!(pages.take_room(1), None);
        assert_eq!(pages.vacate(last, true), Some(Detached(0)));
        pages.recycle(0);
        assert_eq!(pages.take_vacant(), None);
        let only = pages.attach(1, 8);
        assert_eq!(pages.vacate(only, true), Some(Detached(1)));
        pages.recycle(1);
        assert_eq!(pages.take_vacant(), Some(1));
    }

    #[test]
    fn reclaim_takes_each_page_once_oldest_first() {
        let mut pages = with_pages(3);
        for page in 0..3 {
            pages.attach(page, 60);
        }
        assert!(pages.take_room(4).is_some_and(|s| s.page == 2));
        let before = pages.now();
        let mut seen = Vec::new();
        while let Some(page) = pages.begin_reclaim(before) {
            seen.push(page);
            assert_eq!(pages.end_reclaim(page), None);
        }
        assert_eq!(seen, [0, 1, 2]);
        assert_eq!(pages.begin_reclaim(before), None);
        assert_eq!(pages.reclaimed(), 0);
    }

    #[test]
    fn a_page_under_reclaim_is_kept_by_reclaim_alone() {
        let mut pages = with_pages(1);
        let only = pages.attach(0, 8);
        assert_eq!(pages.begin_reclaim(pages.now()), Some(0));
        assert_eq!(pages.take_room(8), None, "no alloc finds it");
        assert_eq!(pages.begin_reclaim(pages.now()), None, "no second reclaim either");
        assert_eq!(pages.vacate(only, true), None, "reclaim still uses it");
        assert_eq!(pages.end_reclaim(0), Some(Detached(0)));
        assert_eq!(pages.reclaimed(), 1);
    }
}
