//! Freeing: releases an object's room and its reference. The thread that puts (gives up) the last reference
//! frees the page.
//!
//! * The word goes LIVE → OWNED → FREE. But if the object is being read, the word goes LIVE → PARKED. The
//!   last reader makes it OWNED and leaves the object on the pool's stack (`left.rs`). The next call that
//!   may block takes the object off the stack and makes the word FREE.
//! * The word becomes FREE and the room is released in one step, under the page's lock. Then the page moves
//!   to the list that fits its objects. If it has no objects, it leaves the lists. But if an allocation or
//!   reclaim holds the page, the holder does this later. The thread that puts the last reference frees the
//!   page. It holds no lock while it does so.

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

/// A page whose last reference was given up. Its memory must be returned while no lock is held.
#[must_use = "the page's memory must return to the provider"]
pub(crate) struct Unreferenced {
    page: u32,
    /// Whether the page's number may be used again.
    usable: bool,
}

impl<L: Layout<N>, const N: usize> Core<L, N> {
    /// Frees the object that `handle` names. Fails with `InvalidHandle` if it names no live object.
    pub(crate) fn free(&self, handle: Handle) -> Result<(), ZpoolError> {
        self.free_object(self.slot_of(handle)?).ok_or_else(|| ZpoolError::invalid(handle))
    }

    fn free_object(&self, at: SlotRef) -> Option<()> {
        let buddy = self.find(at.slot())?;
        let word = buddy.word();
        let (freed, unreferenced) = if L::Middle::MOVES {
            // The lock is taken before the word changes, so that no other thread moves the object in
            // between.
            let mut held = self.lock(buddy.slot.page, buddy.desc);
            let freed = word.free(at.generation())?;
            let is_owned = matches!(freed, Freed::Owned(_));
            (freed, if is_owned { self.give_up(buddy, &mut held, true) } else { None })
        } else {
            // Objects do not move, so only releasing the room needs the lock.
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

    /// Releases the room and the reference of an object that the caller owns: OWNED → FREE. `published`
    /// means the same as in `ObjWord::release`. Returns the page if its last reference was put. The caller
    /// holds the page's lock.
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
        assert!(
            !last,
            "an object's reference was the last, but the lists or a holder must have one"
        );
        let to = page.resting_state(true);
        self.settle(buddy.slot.page, held, Who::Freer, to)
    }

    // `inline(always)`, here and below: without it, an allocation and a free together take 2 % longer.
    #[inline(always)]
    fn lock_and_give_up(&self, buddy: Buddy<'_, L, N>, published: bool) -> Option<Unreferenced> {
        let mut held = self.lock(buddy.slot.page, buddy.desc);
        self.give_up(buddy, &mut held, published)
    }

    /// Frees an object that the caller owns. Calls the provider, so the caller must hold no lock.
    pub(crate) fn give_up_now(&self, buddy: Buddy<'_, L, N>, published: bool) {
        let unreferenced = self.lock_and_give_up(buddy, published);
        self.give_back(unreferenced);
    }

    /// Puts a page on the list that fits its state `to`. If the page is leaving, takes it off the lists and
    /// gives up its holder's reference. Returns the page if that was the last reference. Does nothing if
    /// `who` is the freer and an allocation or reclaim holds the page: then that holder does this later.
    /// The caller holds the page's lock.
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

    /// Returns the memory of a page without references to the provider, and makes the page's number
    /// available again. Does nothing for `None`. Calls the provider, so the caller must hold no lock.
    #[inline]
    pub(crate) fn give_back(&self, unreferenced: Option<Unreferenced>) {
        if let Some(Unreferenced { page, usable }) = unreferenced {
            let base = self.desc(page).detach();
            self.lists.lock().detach(page, usable);
            if let Some(base) = base {
                // SAFETY: the page was attached. None of its words is OWNED, LIVE or PARKED, so nobody
                // touches the page (invariant 1 of `desc.rs`). `detach` has taken the pointer out, so the
                // page is given back only once.
                unsafe { self.source.give_back(base) };
            }
        }
    }

    /// Frees the objects that readers left to the pool. The caller must hold no lock.
    #[inline]
    pub(crate) fn finish_left(&self) {
        self.left.finish(self);
    }
}

// SAFETY: `link` returns the bytes of an OWNED object. Such an object has at least one chunk, of 64 bytes
// or more. Its bytes do not move, because only LIVE objects are moved.
unsafe impl<L: Layout<N>, const N: usize> Leaves for Core<L, N> {
    fn link(&self, slot: u32) -> NonNull<[u8; 8]> {
        let buddy = self.known(slot);
        let len = buddy.word().peek().bytes();
        // SAFETY: the word is OWNED. Before the push, the pushing thread owns it. After the push, the stack
        // owns it.
        unsafe { buddy.bytes(len, self.chunk_size) }.cast()
    }

    fn finish(&self, slot: u32) {
        self.give_up_now(self.known(slot), true);
    }
}
