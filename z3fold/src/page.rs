//! A page and the objects in it: what the page lock guards.
//!
//! Chunks run from 0 to 63. The *first* buddy begins at chunk 0, the *last* ends at chunk 63, the
//! *middle* is anywhere between them. An object of all 64 chunks is alone in its page, which is
//! *headless* then, and counts as a first buddy.
//!
//! Page lock: everything in one page; outside of the pool lock, which is taken under it to put the
//! page on the right list. No page provider call, no system call and no user code runs under it; at
//! most one object, of less than a page, is moved.

use buddies::CHUNKS;

/// Where in its page an object is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Buddy {
    First = 0,
    Middle = 1,
    Last = 2,
}

impl Buddy {
    pub(crate) const ALL: [Buddy; 3] = [Buddy::First, Buddy::Middle, Buddy::Last];
}

/// A buddy of a page, as the slot number of handles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    pub(crate) page: u32,
    pub(crate) buddy: Buddy,
}

impl Slot {
    /// Page numbers that fit in a slot number.
    pub(crate) const MAX_PAGES: usize = 1 << 30;

    pub(crate) fn number(self) -> u32 {
        self.page << 2 | self.buddy as u32
    }

    /// None for a number that is no slot's.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        let buddy = *Buddy::ALL.get(number as usize & 3)?;
        Some(Slot { page: number >> 2, buddy })
    }
}

/// Room for an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Room {
    pub(crate) buddy: Buddy,
    /// Where the middle object has to be moved first.
    pub(crate) move_middle_to: Option<u8>,
    /// Chunk at which the object begins.
    pub(crate) at: u8,
}

/// A page's objects, and who keeps its memory.
#[derive(Debug)]
pub(crate) struct Page {
    /// Chunks of each buddy in use, 0 for none.
    chunks: [u8; 3],
    /// Chunk at which the middle buddy begins.
    middle_at: u8,
    /// The page's reference count: one of each buddy in use (being written, alive, or read after its
    /// free: a reader's reference is its object's), and one of whoever holds the page: the lists, a
    /// running allocation, or reclaim. The put that brings it to 0 frees the page.
    kref: u8,
    /// A buddy's generations are used up: the page takes no new object, and its number is not
    /// used again.
    retired: bool,
}

impl Page {
    /// No objects, no reference.
    pub(crate) const NEW: Page = Page { chunks: [0; 3], middle_at: 0, kref: 0, retired: false };

    fn taken(&self, buddy: Buddy) -> bool {
        self.chunks[buddy as usize] != 0
    }

    pub(crate) fn chunks(&self, buddy: Buddy) -> usize {
        usize::from(self.chunks[buddy as usize])
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired
    }

    /// No object in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks == [0; 3]
    }

    pub(crate) fn is_headless(&self) -> bool {
        self.chunks(Buddy::First) == CHUNKS
    }

    /// Free chunks before and after the middle object.
    fn gaps(&self) -> (usize, usize) {
        let [first, middle, last] = self.chunks.map(usize::from);
        let at = usize::from(self.middle_at);
        (at - first, CHUNKS - last - at - middle)
    }

    fn free_chunks(&self) -> usize {
        CHUNKS - self.chunks.iter().copied().map(usize::from).sum::<usize>()
    }

    /// Chunks of the largest object that fits, 0 for none: with the middle object moved if it
    /// `moves`.
    pub(crate) fn largest(&self, moves: bool) -> usize {
        let all = Buddy::ALL.iter().all(|buddy| self.taken(*buddy));
        if self.retired || all {
            0
        } else if moves || !self.taken(Buddy::Middle) {
            self.free_chunks()
        } else {
            let (before, after) = self.gaps();
            let before = if self.taken(Buddy::First) { 0 } else { before };
            let after = if self.taken(Buddy::Last) { 0 } else { after };
            before.max(after)
        }
    }

    /// Room for an object of `chunks` chunks, where the middle one is moved only if it must be.
    pub(crate) fn room(&self, chunks: usize) -> Option<Room> {
        if chunks == 0 || chunks > self.largest(true) {
            return None;
        }
        let at_end = (CHUNKS - chunks) as u8;
        let room = |buddy, at| Some(Room { buddy, at, move_middle_to: None });
        if !self.taken(Buddy::Middle) {
            return match (self.taken(Buddy::First), self.taken(Buddy::Last)) {
                (false, _) => room(Buddy::First, 0),
                (true, false) => room(Buddy::Last, at_end),
                (true, true) => room(Buddy::Middle, self.chunks[Buddy::First as usize]),
            };
        }
        let (before, after) = self.gaps();
        let [first, middle, last] = self.chunks;
        let fits_first = first == 0 && chunks <= before;
        let fits_last = last == 0 && chunks <= after;
        match (fits_first, fits_last) {
            (true, true) if after < before => room(Buddy::Last, at_end),
            (true, _) => room(Buddy::First, 0),
            (false, true) => room(Buddy::Last, at_end),
            // As far to the other side as it goes: all that is free is one gap then.
            (false, false) if last == 0 => {
                Some(Room { buddy: Buddy::Last, at: at_end, move_middle_to: Some(first) })
            }
            (false, false) => {
                let to = CHUNKS as u8 - last - middle;
                Some(Room { buddy: Buddy::First, at: 0, move_middle_to: Some(to) })
            }
        }
    }

    /// The middle object was moved.
    pub(crate) fn set_middle_at(&mut self, at: u8) {
        self.middle_at = at;
        debug_assert!(self.is_sound(), "{self:?}");
    }

    /// Takes room for an object, with a reference of its own.
    pub(crate) fn occupy(&mut self, buddy: Buddy, chunks: usize, at: u8) {
        debug_assert!(!self.taken(buddy) && !self.retired);
        self.chunks[buddy as usize] = chunks as u8;
        if buddy == Buddy::Middle {
            self.middle_at = at;
        }
        self.get();
        debug_assert!(self.is_sound(), "{self:?}");
    }

    /// Ends an object's use of its room, but not its reference. `usable` is false when the buddy's
    /// generations are used up.
    pub(crate) fn vacate(&mut self, buddy: Buddy, usable: bool) {
        debug_assert!(self.taken(buddy));
        self.chunks[buddy as usize] = 0;
        self.retired |= !usable;
    }

    /// Takes a reference.
    pub(crate) fn get(&mut self) {
        self.kref += 1;
    }

    /// Gives a reference up; true if it was the last one, and the page is the caller's to free.
    #[must_use]
    pub(crate) fn put(&mut self) -> bool {
        debug_assert!(self.kref > 0, "a reference too many was put");
        self.kref -= 1;
        debug_assert!(self.kref > 0 || self.is_empty(), "freed with objects in it");
        self.kref == 0
    }

    /// No two objects overlap.
    fn is_sound(&self) -> bool {
        let [first, middle, last] = self.chunks.map(usize::from);
        let at = usize::from(self.middle_at);
        first + last <= CHUNKS && (middle == 0 || at >= first && at + middle + last <= CHUNKS)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use zpool_base::sync::test_rng::Rng;

    fn with(objects: &[(Buddy, usize, u8)]) -> Page {
        let mut page = Page::NEW;
        for (buddy, chunks, at) in objects {
            page.occupy(*buddy, *chunks, *at);
        }
        page
    }

    #[test]
    fn slots_round_trip() {
        for number in 0..100 {
            match Slot::from_number(number) {
                Some(slot) => assert_eq!(slot.number(), number),
                None => assert_eq!(number % 4, 3),
            }
        }
        let last = Slot { page: (Slot::MAX_PAGES - 1) as u32, buddy: Buddy::Last };
        assert_eq!(Slot::from_number(last.number()), Some(last));
    }

    #[test]
    fn first_then_last_then_middle() {
        let mut page = Page::NEW;
        for (buddy, at) in [(Buddy::First, 0), (Buddy::Last, 54), (Buddy::Middle, 10)] {
            let room = page.room(10).unwrap();
            assert_eq!(room, Room { buddy, at, move_middle_to: None });
            page.occupy(buddy, 10, room.at);
        }
        assert_eq!((page.room(1), page.largest(true)), (None, 0), "three a page, never more");
    }

    #[test]
    fn the_middle_makes_way_and_no_further_than_needed() {
        use Buddy::{First, Last, Middle};
        // Room on one side or the other needs no move.
        let page = with(&[(Middle, 10, 30)]);
        assert_eq!(page.room(24).map(|r| (r.buddy, r.move_middle_to)), Some((Last, None)));
        assert_eq!(page.room(30).map(|r| (r.buddy, r.move_middle_to)), Some((First, None)));
        assert_eq!(page.room(31).map(|r| (r.buddy, r.move_middle_to)), Some((Last, Some(0))));
        assert_eq!((page.largest(true), page.largest(false)), (54, 30));
        // The smaller gap of two, the first of two alike.
        for (middle_at, buddy) in [(20, First), (27, First), (28, Last)] {
            let page = with(&[(Middle, 10, middle_at)]);
            assert_eq!(page.room(20).map(|r| (r.buddy, r.move_middle_to)), Some((buddy, None)));
        }
        let page = with(&[(First, 5, 0), (Middle, 10, 30)]);
        assert_eq!(page.room(25).map(|r| (r.buddy, r.move_middle_to)), Some((Last, Some(5))));
        assert_eq!((page.largest(true), page.largest(false)), (49, 24));
        let page = with(&[(Last, 5, 59), (Middle, 10, 30)]);
        assert_eq!(page.room(31).map(|r| (r.buddy, r.move_middle_to)), Some((First, Some(49))));
        assert_eq!((page.room(50), page.largest(false)), (None, 30));
    }

    #[test]
    fn whatever_fits_in_the_free_chunks_finds_room() {
        let mut rng = Rng::new(3);
        let mut page = Page::NEW;
        for _ in 0..if cfg!(miri) { 300 } else { 100_000 } {
            let buddy = Buddy::ALL[rng.below(3)];
            if page.taken(buddy) && rng.below(2) == 0 {
                page.vacate(buddy, true);
                assert_eq!(page.put(), page.kref == 0);
                continue;
            }
            let chunks = 1 + rng.below(CHUNKS - 1);
            let room = page.room(chunks);
            assert_eq!(room.is_some(), chunks <= page.largest(true), "{chunks} in {page:?}");
            let unmoved = room.is_some_and(|room| room.move_middle_to.is_none());
            assert_eq!(unmoved, chunks <= page.largest(false), "{chunks} in {page:?}");
            let Some(room) = room else { continue };
            if let Some(to) = room.move_middle_to {
                page.set_middle_at(to);
            }
            page.occupy(room.buddy, chunks, room.at);
            assert!(page.is_sound(), "{page:?}");
        }
    }

    #[test]
    fn objects_that_overlap_are_told() {
        let page = |chunks: [u8; 3], middle_at| Page { chunks, middle_at, ..Page::NEW };
        // Side by side, with nothing free or with a gap; where no middle is means nothing.
        for (chunks, at) in
            [([20, 14, 30], 20), ([20, 0, 44], 63), ([0, 64, 0], 0), ([5, 9, 7], 48)]
        {
            assert!(page(chunks, at).is_sound(), "{chunks:?} at {at}");
        }
        for (chunks, at) in [
            ([20, 0, 45], 0),
            ([20, 14, 30], 19),
            ([20, 14, 30], 21),
            ([0, 10, 0], 55),
            ([10, 10, 0], 9),
            ([0, 10, 10], 45),
        ] {
            assert!(!page(chunks, at).is_sound(), "{chunks:?} at {at}");
        }
    }

    #[test]
    fn what_is_in_a_page_is_told() {
        let mut page = with(&[(Buddy::First, 3, 0), (Buddy::Middle, 5, 10), (Buddy::Last, 7, 57)]);
        assert_eq!(Buddy::ALL.map(|buddy| page.chunks(buddy)), [3, 5, 7]);
        assert_eq!((page.free_chunks(), page.gaps()), (49, (7, 42)));
        assert_eq!((page.is_empty(), page.is_headless(), page.is_retired()), (false, false, false));
        for buddy in Buddy::ALL {
            page.vacate(buddy, true);
        }
        assert!(page.is_empty() && page.room(0).is_none());
        assert_eq!((page.largest(false), page.kref), (64, 3));
        assert!(!with(&[(Buddy::First, 63, 0)]).is_headless());
    }

    #[test]
    fn the_last_reference_frees() {
        let mut page = with(&[(Buddy::First, 64, 0)]);
        page.get();
        assert!(page.is_headless() && page.room(1).is_none());
        page.vacate(Buddy::First, true);
        assert!(!page.put() && page.put());
    }

    #[test]
    fn a_retired_page_takes_no_object() {
        let mut page = with(&[(Buddy::First, 3, 0), (Buddy::Last, 3, 61)]);
        page.vacate(Buddy::First, false);
        assert!(page.is_retired() && page.room(1).is_none() && !page.put());
    }
}
