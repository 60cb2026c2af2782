//! The places of the three buddies in a page, and the search for room for a new object.
//!
//! Chunks are numbered from 0 to 63. The *first* buddy begins at chunk 0, and the *last* ends at chunk 63.
//! The *middle* may be anywhere between them, and is moved if it is in the way. An object of 64 chunks
//! counts as a first buddy. It is alone in its page, which is then called *headless*.

use buddies::{CHUNKS, Layout, MiddleAt, PageLocks, Room};

const FIRST: usize = 0;
const MIDDLE: usize = 1;
const LAST: usize = 2;

/// The objects of a page.
#[derive(Debug)]
pub(crate) struct Trio {
    /// The number of chunks of each buddy, or 0 if there is no object.
    chunks: [u8; 3],
    /// The chunk at which the middle buddy begins. If there is no middle buddy, the number has no meaning.
    middle_at: u8,
}

impl Trio {
    fn taken(&self, nth: usize) -> bool {
        self.chunks[nth] != 0
    }

    /// Returns the number of free chunks before the middle object and after it. There must be a middle
    /// object.
    fn gaps(&self) -> (usize, usize) {
        let [first, middle, last] = self.chunks.map(usize::from);
        let at = usize::from(self.middle_at);
        (at - first, CHUNKS - last - at - middle)
    }

    fn free_chunks(&self) -> usize {
        CHUNKS - self.chunks.iter().copied().map(usize::from).sum::<usize>()
    }

    /// Whether all objects lie inside the page and do not overlap.
    fn is_sound(&self) -> bool {
        let [first, middle, last] = self.chunks.map(usize::from);
        let at = usize::from(self.middle_at);
        first + last <= CHUNKS && (middle == 0 || at >= first && at + middle + last <= CHUNKS)
    }
}

// SAFETY: `room` returns only chunks that are free once the middle object has moved. Debug builds check
// this with `is_sound` whenever an object is placed or moved. The first buddy begins at chunk 0, and the
// last ends at chunk 63. The middle one is where it was last put or moved.
unsafe impl Layout<3> for Trio {
    const NAME: &'static str = "z3fold";
    const EMPTY: Self = Trio { chunks: [0; 3], middle_at: 0 };
    type Locks = PageLocks;
    type Middle = MiddleAt;

    fn is_empty(&self) -> bool {
        self.chunks == [0; 3]
    }

    fn is_headless(&self) -> bool {
        usize::from(self.chunks[FIRST]) == CHUNKS
    }

    fn largest(&self, moves: bool) -> usize {
        if !self.chunks.contains(&0) {
            0
        } else if moves || !self.taken(MIDDLE) {
            self.free_chunks()
        } else {
            let (before, after) = self.gaps();
            let before = if self.taken(FIRST) { 0 } else { before };
            let after = if self.taken(LAST) { 0 } else { after };
            before.max(after)
        }
    }

    /// Finds room for an object of `chunks` chunks, but does not take it. Returns `None` if there is none.
    /// The room requires a move of the middle object only if there is no other room.
    fn room(&self, chunks: usize) -> Option<Room> {
        if chunks == 0 || chunks > self.largest(true) {
            return None;
        }
        let at_end = (CHUNKS - chunks) as u8;
        let room = |nth, at| Some(Room { nth, at, move_middle_to: None });
        if !self.taken(MIDDLE) {
            return match (self.taken(FIRST), self.taken(LAST)) {
                (false, _) => room(FIRST, 0),
                (true, false) => room(LAST, at_end),
                (true, true) => room(MIDDLE, self.chunks[FIRST]),
            };
        }
        let (before, after) = self.gaps();
        let [first, middle, last] = self.chunks;
        let fits_first = first == 0 && chunks <= before;
        let fits_last = last == 0 && chunks <= after;
        match (fits_first, fits_last) {
            (true, true) if after < before => room(LAST, at_end),
            (true, _) => room(FIRST, 0),
            (false, true) => room(LAST, at_end),
            // The middle object must move as far to the other side as possible, so that all free chunks are
            // in one gap.
            (false, false) if last == 0 => {
                Some(Room { nth: LAST, at: at_end, move_middle_to: Some(first) })
            }
            (false, false) => {
                let to = CHUNKS as u8 - last - middle;
                Some(Room { nth: FIRST, at: 0, move_middle_to: Some(to) })
            }
        }
    }

    fn occupy(&mut self, room: Room, chunks: usize) {
        debug_assert!(!self.taken(room.nth));
        self.chunks[room.nth] = chunks as u8;
        if room.nth == MIDDLE {
            self.middle_at = room.at;
        }
        debug_assert!(self.is_sound(), "{self:?}");
    }

    fn set_middle_at(&mut self, at: u8) {
        self.middle_at = at;
        debug_assert!(self.is_sound(), "{self:?}");
    }

    fn vacate(&mut self, nth: usize) {
        debug_assert!(self.taken(nth));
        self.chunks[nth] = 0;
    }

    #[inline]
    fn start(nth: usize, chunks: usize, middle_at: u8) -> usize {
        match nth {
            FIRST => 0,
            MIDDLE => usize::from(middle_at),
            _ => CHUNKS - chunks,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use zpool_base::sync::test_rng::Rng;

    fn with(objects: &[(usize, usize, u8)]) -> Trio {
        let mut page = Trio::EMPTY;
        for (nth, chunks, at) in objects {
            page.occupy(Room { nth: *nth, at: *at, move_middle_to: None }, *chunks);
        }
        page
    }

    #[test]
    fn first_then_last_then_middle() {
        let mut page = Trio::EMPTY;
        for (nth, at) in [(FIRST, 0), (LAST, 54), (MIDDLE, 10)] {
            let room = page.room(10).unwrap();
            assert_eq!(room, Room { nth, at, move_middle_to: None });
            page.occupy(room, 10);
        }
        assert_eq!((page.room(1), page.largest(true)), (None, 0), "a fourth object in a page");
    }

    #[test]
    fn the_middle_makes_way_and_no_further_than_needed() {
        // If there is room on either side, the middle object is not moved.
        let page = with(&[(MIDDLE, 10, 30)]);
        assert_eq!(page.room(24).map(|r| (r.nth, r.move_middle_to)), Some((LAST, None)));
        assert_eq!(page.room(30).map(|r| (r.nth, r.move_middle_to)), Some((FIRST, None)));
        assert_eq!(page.room(31).map(|r| (r.nth, r.move_middle_to)), Some((LAST, Some(0))));
        assert_eq!((page.largest(true), page.largest(false)), (54, 30));
        // The object gets the smaller of the two gaps. If they are equal, it gets the first.
        for (middle_at, nth) in [(20, FIRST), (27, FIRST), (28, LAST)] {
            let page = with(&[(MIDDLE, 10, middle_at)]);
            assert_eq!(page.room(20).map(|r| (r.nth, r.move_middle_to)), Some((nth, None)));
        }
        let page = with(&[(FIRST, 5, 0), (MIDDLE, 10, 30)]);
        assert_eq!(page.room(25).map(|r| (r.nth, r.move_middle_to)), Some((LAST, Some(5))));
        assert_eq!((page.largest(true), page.largest(false)), (49, 24));
        let page = with(&[(LAST, 5, 59), (MIDDLE, 10, 30)]);
        assert_eq!(page.room(31).map(|r| (r.nth, r.move_middle_to)), Some((FIRST, Some(49))));
        assert_eq!((page.room(50), page.largest(false)), (None, 30));
    }

    #[test]
    fn whatever_fits_in_the_free_chunks_finds_room() {
        let mut rng = Rng::new(3);
        let mut page = Trio::EMPTY;
        for _ in 0..if cfg!(miri) { 300 } else { 100_000 } {
            let nth = rng.below(3);
            if page.taken(nth) && rng.below(2) == 0 {
                page.vacate(nth);
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
            page.occupy(room, chunks);
            assert!(page.is_sound(), "{page:?}");
            let start = Trio::start(room.nth, chunks, page.middle_at);
            assert_eq!(start, usize::from(room.at), "{page:?}");
        }
    }

    #[test]
    fn objects_that_overlap_are_told() {
        let page = |chunks: [u8; 3], middle_at| Trio { chunks, middle_at };
        // These objects touch or have gaps between them. If there is no middle object, `middle_at` has no
        // meaning.
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
        let mut page = with(&[(FIRST, 3, 0), (MIDDLE, 5, 10), (LAST, 7, 57)]);
        assert_eq!((page.chunks, page.free_chunks(), page.gaps()), ([3, 5, 7], 49, (7, 42)));
        assert_eq!((page.is_empty(), page.is_headless()), (false, false));
        for nth in [FIRST, MIDDLE, LAST] {
            page.vacate(nth);
        }
        assert!(page.is_empty() && page.room(0).is_none());
        assert_eq!(page.largest(false), 64);
        assert!(!with(&[(FIRST, 63, 0)]).is_headless());
        let whole = with(&[(FIRST, 64, 0)]);
        assert!(whole.is_headless() && whole.room(1).is_none());
    }
}
