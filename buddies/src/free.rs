//! Frees: an object gives its room and its reference up, and the last reference frees the page.
//!
//! * free: the word LIVE → OWNED → FREE, or → PARKED and later, by the last reader, → OWNED. That one
//!   leaves the object on the pool's stack (`left.rs`); the next call that may block takes it off and → FREE.
//! * OWNED → FREE and the room's end are one step under the page's lock. The page goes where its objects
//!   say, unless an allocation or reclaim holds it; without objects it leaves the lists. The last reference
//!   frees the page, with nothing locked.

use core::ptr::NonNull;

use zpool_api::{Handle, SlotRef, ZpoolError};

use crate::core::{Core, Held};
use crate::desc::Buddy;
use crate::layout::Layout;
use crate::left::Leaves;
use crate::locks::HeldPage;
use crate::middle::Middle;
use crate::states::{PageState, Who};
use crate::word::Freed;

/// A page whose last reference is gone: its memory is to be given back, once nothing is locked.
#[must_use = "the page's memory must go back to the provider"]
pub(crate) struct Unreferenced {
    page: u32,
    /// Whether its number may serve again.
    usable: bool,
}

impl<L: Layout<N>, const N: usize> Core<L, N> {
    /// Frees an object.
    pub(crate) fn free(&self, handle: Handle) -> Result<(), ZpoolError> {
        self.free_object(self.slot_of(handle)?).ok_or_else(|| ZpoolError::invalid(handle))
    }

    fn free_object(&self, at: SlotRef) -> Option<()> {
        let buddy = self.find(at.slot())?;
        let word = buddy.word();
        let (freed, unreferenced) = if L::Middle::MOVES {
            // The mover is locked out.
            let mut held = self.lock(buddy.slot.page, buddy.desc);
            let freed = word.free(at.generation())?;
            let is_owned = matches!(freed, Freed::Owned(_));
            (freed, if is_owned { self.give_up(buddy, &mut held, true) } else { None })
        } else {
            // The lock is for the room only.
            let freed = word.free(at.generation())?;
            let is_owned = matches!(freed, Freed::Owned(_));
            (freed, if is_owned { self.lock_and_give_up(buddy, true) } else { None })
        };
        let (Freed::Owned(last) | Freed::Parked(last)) = freed;
        self.objects.sub(1);
        self.object_bytes.sub(last.bytes() as u64);
        match freed {
            Freed::Owned(_) => self.give_back(unreferenced),
            Freed::Parked(_) => self.parked.add(1),
        }
        Some(())
    }

    /// The word's owner gives the room and its reference up: OWNED → FREE. `published` as in
    /// `ObjWord::release`. Under the page's lock.
    #[inline]
    fn give_up(
        &self,
        buddy: Buddy<'_, L, N>,
        held: &mut Held<'_, L, N>,
        published: bool,
    ) -> Option<Unreferenced> {
        buddy.watched().write();
        let usable = buddy.word().release(published);
        let page = held.page();
        page.vacate(usize::from(buddy.slot.nth), usable);
        let last = page.put();
        assert!(!last, "whoever holds the page, or the lists, have a reference");
        let to = page.resting_state(true);
        self.settle(buddy.slot.page, held, Who::Freer, to)
    }

    // Always, here and below: a call more is 2 % of an allocation and a free.
    #[inline(always)]
    fn lock_and_give_up(&self, buddy: Buddy<'_, L, N>, published: bool) -> Option<Unreferenced> {
        let mut held = self.lock(buddy.slot.page, buddy.desc);
        self.give_up(buddy, &mut held, published)
    }

    /// The word's owner, who has nothing locked, ends the object. Calls the provider.
    pub(crate) fn give_up_now(&self, buddy: Buddy<'_, L, N>, published: bool) {
        let unreferenced = self.lock_and_give_up(buddy, published);
        self.give_back(unreferenced);
    }

    /// Puts a page where it belongs. A page without objects is nobody's any more: the reference of
    /// whoever held it is put. Under the page's lock.
    #[inline(always)]
    pub(crate) fn settle(
        &self,
        page: u32,
        held: &mut Held<'_, L, N>,
        who: Who,
        to: PageState,
    ) -> Option<Unreferenced> {
        if !held.lists(|lists| lists.settle(page, who, to)) || to != PageState::Leaving {
            return None;
        }
        let guarded = held.page();
        let last = guarded.put();
        last.then(|| Unreferenced { page, usable: !guarded.is_retired() })
    }

    /// Gives the memory of a page without references back and lets its number serve again. With nothing
    /// locked; calls the provider.
    #[inline]
    pub(crate) fn give_back(&self, unreferenced: Option<Unreferenced>) {
        if let Some(Unreferenced { page, usable }) = unreferenced {
            let base = self.desc(page).detach();
            self.lists.lock().detach(page, usable);
            if let Some(base) = base {
                // SAFETY: attached, and no word of it is OWNED, LIVE or PARKED, so nobody touches it
                // (invariant 1); it was taken out, so it is given back once.
                unsafe { self.source.give_back(base) };
            }
        }
    }

    /// Gives up what readers left. With nothing locked.
    #[inline]
    pub(crate) fn finish_left(&self) {
        self.left.finish(self);
    }
}

// SAFETY: the bytes of an OWNED object, at least a chunk of 64 or more. They do not move: a mover moves
// LIVE objects only.
unsafe impl<L: Layout<N>, const N: usize> Leaves for Core<L, N> {
    fn link(&self, slot: u32) -> NonNull<[u8; 8]> {
        let buddy = self.known(slot);
        let len = buddy.word().peek().bytes();
        // SAFETY: OWNED by the pusher, and on the stack by the stack.
        unsafe { buddy.bytes(len, self.chunk_size) }.cast()
    }

    fn finish(&self, slot: u32) {
        self.give_up_now(self.known(slot), true);
    }
}
