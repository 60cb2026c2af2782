//! The places of the two buddies in a page. The *first* begins at chunk 0, and the *last* ends at chunk 63.
//! Neither of them ever moves.

use buddies::{CHUNKS, Layout, NoMiddle, OneLock, Room};

const FIRST: usize = 0;
const LAST: usize = 1;

/// The number of chunks of each buddy, or 0 if there is no object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pair([u8; 2]);

impl Pair {
    fn free_chunks(&self) -> usize {
        let [first, last] = self.0.map(usize::from);
        CHUNKS - first - last
    }
}

// SAFETY: the objects are at the two ends of the page. `room` ensures that together they have at most 64
// chunks. So they lie inside the page and do not overlap.
unsafe impl Layout<2> for Pair {
    const NAME: &'static str = "zbud";
    const EMPTY: Self = Pair([0; 2]);
    type Locks = OneLock;
    type Middle = NoMiddle;

    fn is_empty(&self) -> bool {
        self.0 == [0; 2]
    }

    fn is_headless(&self) -> bool {
        usize::from(self.0[FIRST]) == CHUNKS
    }

    fn largest(&self, _moves: bool) -> usize {
        if self.0[FIRST] == 0 || self.0[LAST] == 0 { self.free_chunks() } else { 0 }
    }

    fn room(&self, chunks: usize) -> Option<Room> {
        if chunks == 0 || chunks > self.largest(true) {
            return None;
        }
        let (nth, at) = match self.0[FIRST] {
            0 => (FIRST, 0),
            _ => (LAST, (CHUNKS - chunks) as u8),
        };
        Some(Room { nth, at, move_middle_to: None })
    }

    fn occupy(&mut self, room: Room, chunks: usize) {
        debug_assert!(self.0[room.nth] == 0 && chunks <= self.free_chunks());
        self.0[room.nth] = chunks as u8;
    }

    fn vacate(&mut self, nth: usize) {
        debug_assert!(self.0[nth] != 0);
        self.0[nth] = 0;
    }

    #[inline]
    fn start(nth: usize, chunks: usize, _middle_at: u8) -> usize {
        if nth == FIRST { 0 } else { CHUNKS - chunks }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn room(nth: usize, at: u8) -> Option<Room> {
        Some(Room { nth, at, move_middle_to: None })
    }

    #[test]
    fn first_then_last_never_more() {
        let mut pair = Pair::EMPTY;
        assert_eq!((pair.is_empty(), pair.largest(true)), (true, 64));
        assert_eq!((pair.room(0), pair.room(64), pair.room(65)), (None, room(FIRST, 0), None));
        pair.occupy(pair.room(10).unwrap(), 10);
        assert_eq!((pair.is_empty(), pair.is_headless(), pair.largest(true)), (false, false, 54));
        assert_eq!((pair.room(54), pair.room(55)), (room(LAST, 10), None));
        pair.occupy(pair.room(20).unwrap(), 20);
        assert_eq!((pair.largest(true), pair.room(1)), (0, None), "a third object in a page");
    }

    #[test]
    fn a_freed_first_buddy_is_room_again() {
        let mut pair = Pair([30, 34]);
        pair.vacate(FIRST);
        assert_eq!((pair.room(31), pair.room(30)), (None, room(FIRST, 0)));
        pair.vacate(LAST);
        assert!(pair.is_empty());
    }

    #[test]
    fn an_object_of_64_chunks_is_alone() {
        let mut pair = Pair::EMPTY;
        pair.occupy(pair.room(64).unwrap(), 64);
        assert_eq!((pair.is_headless(), pair.largest(true), pair.room(1)), (true, 0, None));
        assert!(!Pair([63, 0]).is_headless() && !Pair([32, 32]).is_headless());
    }

    #[test]
    fn objects_begin_where_they_were_given_room() {
        for chunks in 1..=64 {
            let whole = Pair::EMPTY.room(chunks).unwrap();
            assert_eq!(Pair::start(whole.nth, chunks, 0), usize::from(whole.at));
        }
        for (first, last) in [(1, 63), (32, 32), (63, 1), (10, 5)] {
            let beside = Pair([first, 0]).room(last).unwrap();
            let start = Pair::start(beside.nth, last, 0);
            assert_eq!((start, start >= usize::from(first)), (usize::from(beside.at), true));
        }
    }
}
