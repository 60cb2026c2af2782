//! The states of pages, and the only function that changes them. The pool lock guards the states.
//!
//! ```text
//!                     ┌───────── an allocation ─────────┐
//!            attach   ▼                                 │
//!   Vacant ─────▶ Unbuddied(free) ──────▶ Allocating ───┤
//!     ▲           │   ▲    ▲                            ▼
//!     │           │   │    └──────────── free ────── Buddied
//!     │           ▼   │ reclaim done                 │    ▲
//!     │        Reclaiming ◀──────────────────────────┘    │
//!     │           │   ▲ └─────────── reclaim done ────────┘
//!     │           │   └─ Headless ◀─ attach
//!     └─ Leaving ◀┘  (and from every listed state, when the last object goes)
//! ```
//! | state | LRU | unbuddied list | held by | meaning |
//! |---|---|---|---|---|
//! | Vacant | no | no | nobody | the page number has no memory |
//! | Unbuddied(n) | yes | list `n` | the lists | an object of up to `n` chunks may fit |
//! | Buddied | yes | no | the lists | no object fits at the moment |
//! | Headless | yes | no | the lists | one object fills the page |
//! | Allocating | no | no | an allocation | no other allocation finds it; a free leaves it to the allocation |
//! | Reclaiming | no | no | reclaim | no allocation finds it; a free leaves it to reclaim |
//! | Leaving | no | no | nobody | it has no objects; giving up its last reference frees it |
//!
//! The holder of a page has one reference (`Page::kref`) and passes it on to the next holder. The state
//! decides who puts the page back on a list. It does not decide who frees the page: the thread that puts
//! the last reference does that.
//!
//! With [`OneLock`](crate::OneLock), no page is ever Allocating: an allocation keeps the lock until the
//! page that it found has the object. So the page goes from Unbuddied directly to its next state.
//!
//! The pool lock guards the lists. With [`OneLock`](crate::OneLock), it also guards the pages (`locks.rs`).
//! The only outside code that runs under it is the heap allocator, when page numbers are added.

use crate::shelves::{Shelf, Shelves};

/// The state of a page. The table at the top of this file explains the states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PageState {
    Vacant,
    Unbuddied(u8),
    Buddied,
    Headless,
    Allocating,
    Reclaiming,
    Leaving,
}

/// The thread that wants to move a page to the state that fits its objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Who {
    /// A thread that freed an object and does not hold the page.
    Freer,
    /// The holder of the page: an allocation, or reclaim.
    Holder,
}

#[derive(Debug)]
struct Record<R> {
    state: PageState,
    page: R,
}

/// All lists of a pool, with a value of type `R` for each page.
#[derive(Debug)]
pub struct Lists<R> {
    shelves: Shelves<Record<R>>,
    reclaimed: u64,
}

impl<R> Lists<R> {
    pub(crate) fn new() -> Self {
        Lists { shelves: Shelves::new(), reclaimed: 0 }
    }

    /// The bytes of one page's record.
    pub(crate) const RECORD_BYTES: usize = Shelves::<Record<R>>::RECORD_BYTES;

    /// Returns the number of pages that reclaim has freed.
    pub(crate) fn reclaimed(&self) -> u64 {
        self.reclaimed
    }

    pub(crate) fn count_reclaimed(&mut self) {
        self.reclaimed += 1;
    }

    /// Returns the bytes of all records.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.shelves.memory_bytes()
    }

    /// Returns the part of the page's state that is kept in its record.
    pub(crate) fn page(&mut self, page: u32) -> &mut R {
        &mut self.shelves[page].page
    }

    /// Adds a page number with a record, and returns the number. If there is no memory, the error is the
    /// number of bytes that were refused.
    pub(crate) fn new_number(&mut self, record: R) -> Result<u32, usize> {
        self.shelves.reserve()?;
        self.shelves.add(Record { state: PageState::Vacant, page: record });
        Ok((self.shelves.len() - 1) as u32)
    }

    /// Puts back a vacant page number that was taken but not used.
    pub(crate) fn put_vacant(&mut self, page: u32) {
        debug_assert_eq!(self.shelves[page].state, PageState::Vacant);
        self.shelves.push_vacant(page);
    }

    /// Takes a page number that may be used again. Returns `None` if there is none.
    pub(crate) fn take_vacant(&mut self) -> Option<u32> {
        self.shelves.take_vacant()
    }

    /// Returns the time on the LRU's clock.
    pub(crate) fn now(&self) -> u64 {
        self.shelves.now()
    }

    /// Returns the page with the tightest room for `chunks` chunks, or `None` if no page has room. The page
    /// stays on its list.
    pub(crate) fn tightest(&self, chunks: usize) -> Option<u32> {
        self.shelves.tightest(chunks)
    }

    /// Moves a page to the state `to` and makes it the newest of the LRU. `tightest` must have found the
    /// page just before.
    pub(crate) fn move_to_front(&mut self, page: u32, to: PageState) {
        debug_assert_ne!(to, PageState::Leaving, "an allocation gave it an object");
        self.set_state(page, to);
        self.shelves.touch(page);
    }

    /// Takes the page with the tightest room off its lists, for an allocation. Returns `None` if no page has
    /// room.
    pub(crate) fn take_for_alloc(&mut self, chunks: usize) -> Option<u32> {
        let page = self.shelves.tightest(chunks)?;
        self.set_state(page, PageState::Allocating);
        Some(page)
    }

    /// Takes the oldest page off its lists, for reclaim. Returns `None` if no page of the LRU was put there
    /// before the time `before`.
    pub(crate) fn take_for_reclaim(&mut self, before: u64) -> Option<u32> {
        let page = self.shelves.oldest(before)?;
        self.set_state(page, PageState::Reclaiming);
        Some(page)
    }

    /// Moves a vacant page to the state `to`, after it has got memory and an object.
    pub(crate) fn attach(&mut self, page: u32, to: PageState) {
        self.set_state(page, to);
    }

    /// Moves a page to the state `to`, which its objects determine, and returns true. But if `who` is a
    /// freer and an allocation or reclaim holds the page, returns false. Then the holder moves the page
    /// later.
    pub(crate) fn settle(&mut self, page: u32, who: Who, to: PageState) -> bool {
        let held =
            matches!(self.shelves[page].state, PageState::Allocating | PageState::Reclaiming);
        if who == Who::Freer && held {
            return false;
        }
        self.set_state(page, to);
        true
    }

    /// Makes a page without references vacant. If `usable` is true, its number may be used again. Call this
    /// after the memory was taken out of the descriptor.
    pub(crate) fn detach(&mut self, page: u32, usable: bool) {
        self.set_state(page, PageState::Vacant);
        if usable {
            self.shelves.push_vacant(page);
        }
    }

    /// Changes the state of a page and updates the lists. Debug builds check that this transition is
    /// allowed. No other function changes a state.
    fn set_state(&mut self, page: u32, to: PageState) {
        use PageState::{Allocating, Buddied, Headless, Leaving, Reclaiming, Unbuddied, Vacant};
        let from = core::mem::replace(&mut self.shelves[page].state, to);
        debug_assert!(
            match from {
                Vacant => matches!(to, Unbuddied(_) | Buddied | Headless),
                Unbuddied(_) => {
                    matches!(to, Unbuddied(_) | Buddied | Allocating | Reclaiming | Leaving)
                }
                Buddied => matches!(to, Unbuddied(_) | Buddied | Reclaiming | Leaving),
                Headless => matches!(to, Reclaiming | Leaving),
                Allocating => matches!(to, Unbuddied(_) | Buddied | Leaving),
                Reclaiming => matches!(to, Unbuddied(_) | Buddied | Headless | Leaving),
                Leaving => to == Vacant,
            },
            "page {page}: {from:?} to {to:?} is no transition"
        );
        let shelf = match to {
            Vacant | Allocating | Reclaiming | Leaving => Shelf::Off,
            Unbuddied(free) => Shelf::Unbuddied(free),
            Buddied | Headless => Shelf::Full,
        };
        self.shelves.put(page, shelf);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn with_pages(states: &[PageState]) -> Lists<()> {
        let mut lists = Lists::new();
        for (page, state) in states.iter().enumerate() {
            assert_eq!(lists.new_number(()), Ok(page as u32));
            lists.attach(page as u32, *state);
        }
        lists
    }

    #[test]
    fn a_page_that_an_allocation_took_is_left_to_it() {
        let mut lists = with_pages(&[PageState::Unbuddied(9)]);
        assert_eq!(lists.take_for_alloc(9), Some(0));
        assert_eq!(lists.take_for_alloc(1), None, "taken twice");
        assert_eq!(lists.take_for_reclaim(u64::MAX), None, "reclaim must not find it either");
        assert!(!lists.settle(0, Who::Freer, PageState::Leaving));
        assert!(lists.settle(0, Who::Holder, PageState::Unbuddied(3)));
        assert_eq!(lists.take_for_alloc(4), None);
        assert!(lists.settle(0, Who::Freer, PageState::Leaving));
        lists.detach(0, true);
        assert_eq!(lists.take_vacant(), Some(0));
    }

    #[test]
    fn reclaim_takes_each_page_once_oldest_first_headless_ones_too() {
        let listed = [PageState::Unbuddied(9), PageState::Headless, PageState::Buddied];
        let mut lists = with_pages(&listed);
        let before = lists.now();
        let mut seen = Vec::new();
        while let Some(page) = lists.take_for_reclaim(before) {
            assert!(!lists.settle(page, Who::Freer, PageState::Leaving), "left to reclaim");
            assert!(lists.settle(page, Who::Holder, listed[page as usize]));
            seen.push(page);
        }
        assert_eq!(seen, [0, 1, 2]);
        assert_eq!(Lists::<()>::new().take_for_reclaim(u64::MAX), None, "the LRU may be empty");
    }

    #[test]
    fn pages_and_their_records_are_counted() {
        let mut lists = Lists::new();
        assert_eq!((lists.reclaimed(), lists.memory_bytes()), (0, 0));
        assert_eq!([(); 3].map(|()| lists.new_number(())), [Ok(0), Ok(1), Ok(2)]);
        let reserved = lists.memory_bytes();
        assert!(reserved >= 3 * size_of::<Record<()>>(), "{reserved}");
        lists.put_vacant(1);
        assert_eq!((lists.take_vacant(), lists.take_vacant()), (Some(1), None));
        for page in 0..3 {
            lists.attach(page, PageState::Buddied);
        }
        assert_eq!(lists.memory_bytes(), reserved);
        for page in 0..2 {
            assert_eq!(lists.take_for_reclaim(lists.now()), Some(page));
            assert!(lists.settle(page, Who::Holder, PageState::Leaving));
            lists.detach(page, true);
            lists.count_reclaimed();
        }
        assert_eq!(lists.reclaimed(), 2);
        assert_eq!((lists.take_vacant(), lists.take_vacant()), (Some(1), Some(0)));
        assert_eq!(lists.take_vacant(), None);
    }

    #[test]
    fn a_number_that_is_used_up_does_not_serve_again() {
        let mut lists = with_pages(&[PageState::Buddied]);
        lists.settle(0, Who::Freer, PageState::Leaving);
        lists.detach(0, false);
        assert_eq!(lists.take_vacant(), None);
    }

    #[test]
    #[should_panic(expected = "is no transition")]
    #[cfg(debug_assertions)]
    fn a_wrong_transition_is_told() {
        let mut lists = with_pages(&[PageState::Headless]);
        lists.settle(0, Who::Holder, PageState::Unbuddied(3));
    }
}
