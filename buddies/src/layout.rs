//! The trait that defines how the buddies of a page share its 64 chunks. It is the only difference between
//! zbud and z3fold.
//!
//! The buddies of a page are numbered from 0. Number 0 is the first buddy, which begins at chunk 0. A buddy
//! keeps its number, and so its handle, for its whole life, even if its bytes are moved. Only the middle
//! buddy may be moved. It has number 1 (`middle.rs`).

use core::fmt::Debug;

use crate::locks::Locking;
use crate::middle::Middle;

/// Room for an object in a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// The number that the new buddy gets.
    pub nth: usize,
    /// The chunk at which the object begins.
    pub at: u8,
    /// The chunk to which the middle object must be moved first, or `None` if it may stay.
    pub move_middle_to: Option<u8>,
}

impl Room {
    /// The room for the first object of a page.
    pub(crate) const FIRST: Room = Room { nth: 0, at: 0, move_middle_to: None };
}

/// The objects of one page. There are at most `N` of them.
///
/// # Safety
/// A room must lie inside the 64 chunks. Once the middle object has been moved to `move_middle_to`, the
/// room must not overlap any object in the page. [`Layout::start`] must return the chunk at which an object
/// is: the chunk of its room, or the chunk to which it was moved.
pub unsafe trait Layout<const N: usize>: Debug + Send + Sync + Sized + 'static {
    /// The backend's name in the registry.
    const NAME: &'static str;

    /// A page without objects.
    const EMPTY: Self;

    /// Which locks guard a page: [`OneLock`](crate::OneLock) or [`PageLocks`](crate::PageLocks).
    type Locks: Locking;

    /// How readers find the middle object's place: [`NoMiddle`](crate::NoMiddle) or
    /// [`MiddleAt`](crate::MiddleAt).
    type Middle: Middle;

    /// Whether the page has no object.
    fn is_empty(&self) -> bool;

    /// Whether one object takes all 64 chunks.
    fn is_headless(&self) -> bool;

    /// Returns the number of chunks of the largest object that fits, or 0 if none fits. `moves` says
    /// whether the middle object may be moved to make room.
    fn largest(&self, moves: bool) -> usize;

    /// Finds room for an object of `chunks` chunks, but does not take it. Returns `None` if the object does
    /// not fit.
    fn room(&self, chunks: usize) -> Option<Room>;

    /// Gives `room` to an object of `chunks` chunks.
    fn occupy(&mut self, room: Room, chunks: usize);

    /// Records that the middle object was moved to chunk `at`. The default does nothing: only layouts that
    /// move objects need it.
    fn set_middle_at(&mut self, at: u8) {
        let _ = at;
    }

    /// Frees the room of the `nth` object.
    fn vacate(&mut self, nth: usize);

    /// Returns the chunk at which the `nth` object begins. The object has `chunks` chunks, and the middle
    /// object begins at `middle_at`.
    fn start(nth: usize, chunks: usize, middle_at: u8) -> usize;
}

/// Names a buddy by its page and by its number in the page. The two together make the slot number in the
/// buddy's handles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot<const N: usize> {
    pub(crate) page: u32,
    /// The number of the buddy in its page, less than `N`.
    pub(crate) nth: u8,
}

impl<const N: usize> Slot<N> {
    const NTH_BITS: u32 = N.next_power_of_two().trailing_zeros();

    /// The greatest number of pages in a pool: slot numbers have room for no more page numbers.
    pub(crate) const MAX_PAGES: usize = 1 << (32 - Self::NTH_BITS);

    /// Returns the slot of the `nth` buddy of a page.
    #[inline]
    pub(crate) fn new(page: u32, nth: usize) -> Self {
        assert!(nth < N, "a layout of {N} buddies gave room number {nth}");
        debug_assert!((page as usize) < Self::MAX_PAGES);
        Slot { page, nth: nth as u8 }
    }

    pub(crate) fn number(self) -> u32 {
        self.page << Self::NTH_BITS | u32::from(self.nth)
    }

    /// Returns the slot with this slot number, or `None` if no buddy can have it.
    #[inline]
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        let nth = (number & ((1 << Self::NTH_BITS) - 1)) as u8;
        (usize::from(nth) < N).then_some(Slot { page: number >> Self::NTH_BITS, nth })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn slots_round_trip() {
        for number in [0, 1, 2, 3, u32::MAX - 1, u32::MAX] {
            assert_eq!(Slot::<2>::from_number(number).map(Slot::number), Some(number));
        }
        for number in 0..100 {
            match Slot::<3>::from_number(number) {
                Some(slot) => assert_eq!(slot.number(), number),
                None => assert_eq!(number % 4, 3),
            }
        }
        let last = Slot::<3>::new((Slot::<3>::MAX_PAGES - 1) as u32, 2);
        assert_eq!(Slot::from_number(last.number()), Some(last));
        assert_eq!((Slot::<2>::MAX_PAGES, Slot::<3>::MAX_PAGES), (1 << 31, 1 << 30));
    }
}
