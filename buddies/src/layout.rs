//! How a page's 64 chunks are shared out among its buddies: the one thing in which zbud and z3fold
//! differ, and what the engine asks for it.
//!
//! Buddies of a page have numbers from 0; number 0 is the first, which begins at chunk 0. A buddy keeps
//! its number, and so its handle, as long as it lives, also when its bytes are moved. The middle one, which
//! may be moved, is number 1 (`middle.rs`).

use core::fmt::Debug;

use crate::locks::Locking;
use crate::middle::Middle;

/// Room for an object in a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// The buddy that the object becomes.
    pub nth: usize,
    /// Chunk at which it begins.
    pub at: u8,
    /// Where the middle object has to be moved first.
    pub move_middle_to: Option<u8>,
}

impl Room {
    /// Room in a page without objects.
    pub(crate) const FIRST: Room = Room { nth: 0, at: 0, move_middle_to: None };
}

/// The objects of one page: at most `N`.
///
/// # Safety
/// No room may overlap the rooms of the objects in the page, once the middle one is where the room asks for
/// it to be moved, and each is inside of the 64 chunks. [`Layout::start`] must give the chunk of the room
/// that the object was given, or where it was moved since.
pub unsafe trait Layout<const N: usize>: Debug + Send + Sync + Sized + 'static {
    /// The backend's registry name.
    const NAME: &'static str;

    /// No object.
    const EMPTY: Self;

    /// Which locks guard a page: [`OneLock`](crate::OneLock) or [`PageLocks`](crate::PageLocks).
    type Locks: Locking;

    /// What readers are told of the middle object's place: [`NoMiddle`](crate::NoMiddle) or
    /// [`MiddleAt`](crate::MiddleAt).
    type Middle: Middle;

    /// Whether there is no object.
    fn is_empty(&self) -> bool;

    /// Whether one object takes all 64 chunks.
    fn is_headless(&self) -> bool;

    /// Chunks of the largest object that fits, 0 for none: with the middle object moved if it `moves`.
    fn largest(&self, moves: bool) -> usize;

    /// Room for an object of `chunks` chunks.
    fn room(&self, chunks: usize) -> Option<Room>;

    /// An object of `chunks` chunks takes the room.
    fn occupy(&mut self, room: Room, chunks: usize);

    /// The object was moved. Only a layout whose rooms ask for a move has a middle one.
    fn set_middle_at(&mut self, at: u8) {
        let _ = at;
    }

    /// An object gives its room up.
    fn vacate(&mut self, nth: usize);

    /// Chunk at which an object of `chunks` chunks begins, when the middle one begins at `middle_at`.
    fn start(nth: usize, chunks: usize, middle_at: u8) -> usize;
}

/// A buddy of a page, as the slot number of handles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot<const N: usize> {
    pub(crate) page: u32,
    /// Less than `N`.
    pub(crate) nth: u8,
}

impl<const N: usize> Slot<N> {
    const NTH_BITS: u32 = N.next_power_of_two().trailing_zeros();

    /// Page numbers that fit in a slot number.
    pub(crate) const MAX_PAGES: usize = 1 << (32 - Self::NTH_BITS);

    /// Of a buddy that a layout named.
    #[inline]
    pub(crate) fn new(page: u32, nth: usize) -> Self {
        assert!(nth < N, "a layout's rooms are those of its buddies");
        debug_assert!((page as usize) < Self::MAX_PAGES);
        Slot { page, nth: nth as u8 }
    }

    pub(crate) fn number(self) -> u32 {
        self.page << Self::NTH_BITS | u32::from(self.nth)
    }

    /// None for a number that is no slot's.
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
