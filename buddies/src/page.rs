//! The objects of a page and its reference count. The page's lock guards both.
//!
//! # What keeps a page
//! The reference count `kref` keeps a page. Each object in the page has one reference: while it is written,
//! while it is live, and while it is still read after it was freed. Readers have no reference of their own.
//! The *holder* of the page has one more reference. The holder is the lists, a running allocation, or
//! reclaim. `get` takes a reference, and `put` gives it up. The put that brings the count to 0 frees the
//! page. Only this count keeps a page. A place on a list does not.

use crate::chunks::CHUNKS;
use crate::layout::{Layout, Room};
use crate::states::PageState;

/// The objects of a page, and its reference count.
#[derive(Debug)]
pub(crate) struct Page<L, const N: usize> {
    objects: L,
    kref: u8,
    /// True if a buddy has used its last generation. Then the page takes no new object, and its number is
    /// never used again.
    retired: bool,
}

impl<L: Layout<N>, const N: usize> Page<L, N> {
    /// A page without objects and references.
    pub(crate) const NEW: Self = Page { objects: L::EMPTY, kref: 0, retired: false };

    pub(crate) fn is_retired(&self) -> bool {
        self.retired
    }

    /// Takes a reference.
    pub(crate) fn get(&mut self) {
        self.kref += 1;
    }

    /// Gives up a reference. Returns true if it was the last one. Then the caller must free the page.
    #[must_use]
    pub(crate) fn put(&mut self) -> bool {
        debug_assert!(self.kref > 0, "a page's reference was put too often");
        self.kref -= 1;
        debug_assert!(self.kref > 0 || self.objects.is_empty(), "freed with objects in it");
        self.kref == 0
    }

    /// Finds room for an object of `chunks` chunks, but does not take it. Returns `None` if there is none.
    #[inline]
    pub(crate) fn room(&self, chunks: usize) -> Option<Room> {
        if self.retired { None } else { self.objects.room(chunks) }
    }

    /// Records that the middle object was moved to chunk `at`.
    pub(crate) fn set_middle_at(&mut self, at: u8) {
        self.objects.set_middle_at(at);
    }

    /// Gives `room` to an object of `chunks` chunks, and takes a reference for the object.
    pub(crate) fn occupy(&mut self, room: Room, chunks: usize) {
        debug_assert!(!self.retired);
        self.objects.occupy(room, chunks);
        self.get();
    }

    /// Frees an object's room, but keeps the object's reference. `usable` is false if the buddy has used
    /// its last generation.
    pub(crate) fn vacate(&mut self, nth: usize, usable: bool) {
        self.objects.vacate(nth);
        self.retired |= !usable;
    }

    /// Returns the state that the page should have when no allocation and no reclaim holds it. The state
    /// depends on the page's objects. `moves` is false if the middle object cannot be moved now.
    pub(crate) fn resting_state(&self, moves: bool) -> PageState {
        let largest = if self.retired { 0 } else { self.objects.largest(moves) };
        match largest {
            0 if self.objects.is_headless() => PageState::Headless,
            0 if self.objects.is_empty() => PageState::Leaving,
            0 => PageState::Buddied,
            CHUNKS => PageState::Leaving,
            free => PageState::Unbuddied(free as u8),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{NoMiddle, OneLock};

    /// A layout of two objects. The second follows directly after the first.
    #[derive(Debug)]
    struct Row([usize; 2]);

    // SAFETY: these tests have no memory behind the layout.
    unsafe impl Layout<2> for Row {
        const NAME: &'static str = "row";
        const EMPTY: Self = Row([0; 2]);
        type Locks = OneLock;
        type Middle = NoMiddle;
        fn is_empty(&self) -> bool {
            self.0 == [0; 2]
        }
        fn is_headless(&self) -> bool {
            self.0[0] == CHUNKS
        }
        fn largest(&self, moves: bool) -> usize {
            let free = CHUNKS - self.0[0] - self.0[1];
            if self.0[1] != 0 || !moves { 0 } else { free }
        }
        fn room(&self, chunks: usize) -> Option<Room> {
            let nth = usize::from(self.0[0] != 0);
            let room = Room { nth, at: self.0[0] as u8, move_middle_to: None };
            (chunks <= self.largest(true)).then_some(room)
        }
        fn occupy(&mut self, room: Room, chunks: usize) {
            self.0[room.nth] = chunks;
        }
        fn vacate(&mut self, nth: usize) {
            self.0[nth] = 0;
        }
        fn start(_nth: usize, _chunks: usize, _middle_at: u8) -> usize {
            0
        }
    }

    fn with(objects: &[usize]) -> Page<Row, 2> {
        let mut page = Page::NEW;
        for chunks in objects {
            let room = page.room(*chunks).unwrap();
            page.occupy(room, *chunks);
        }
        page
    }

    #[test]
    fn the_last_reference_frees() {
        let mut page = with(&[64]);
        page.get();
        assert!(page.room(1).is_none());
        page.vacate(0, true);
        assert!(!page.put() && page.put());
    }

    #[test]
    #[should_panic(expected = "freed with objects in it")]
    #[cfg(debug_assertions)]
    fn a_page_with_an_object_is_not_freed() {
        let _ = with(&[3]).put();
    }

    #[test]
    fn a_retired_page_takes_no_object() {
        let mut page = with(&[3, 3]);
        page.vacate(1, false);
        assert!(page.is_retired() && page.room(1).is_none() && !page.put());
        assert_eq!(page.resting_state(true), PageState::Buddied);
        page.vacate(0, true);
        assert!(page.is_retired(), "it stays retired");
        assert_eq!(page.resting_state(true), PageState::Leaving);
    }

    #[test]
    fn a_page_rests_where_its_objects_say() {
        assert_eq!(with(&[]).resting_state(true), PageState::Leaving);
        assert_eq!(with(&[3]).resting_state(true), PageState::Unbuddied(61));
        assert_eq!(with(&[3]).resting_state(false), PageState::Buddied);
        assert_eq!(with(&[3, 4]).resting_state(true), PageState::Buddied);
        assert_eq!(with(&[64]).resting_state(true), PageState::Headless);
    }
}
