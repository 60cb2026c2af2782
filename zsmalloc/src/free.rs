//! Freeing: a live object by its handle, and a reservation that nobody published.
//!
//! Under the class lock the slot is invalidated, then the lane cleared, or parked for its last reader.
//! A zspage that has no object then is detached, and its run given back once the lock is dropped.
//!
//! # What is compared, and why it cannot have recurred
//! `free` compares the zspage's class and the slot's word under the class lock: both change under it
//! only, so they are exact, and a zspage whose class it is cannot have been another's in between that
//! matters: the slot is compared after the lock was taken. `commit` and `abort` compare nothing: the
//! slot is reserved by the caller, whose count in the lane keeps the zspage.

use zpool_api::{Handle, SlotRef, ZpoolError};

use crate::class::{ClassGuard, Place};
use crate::class_table::HEADER;
use crate::lane::Freed;
use crate::shared::{Core, object_at};
use crate::slot::Location;
use crate::sync::yield_now;
use crate::zspage::Zspage;

/// What a slot leads to that was reserved and not published.
pub(crate) struct Unpublished {
    pub(crate) place: Place,
    pub(crate) len: usize,
}

impl Core {
    pub(crate) fn free(&self, handle: Handle) -> Result<(), ZpoolError> {
        self.check_maker()?;
        let invalid = || ZpoolError::invalid(handle);
        let bits = handle.bits_of(self.tag).ok_or_else(invalid)?;
        let freed = self.free_slot(SlotRef::from_bits(bits)).ok_or_else(invalid);
        // Last, since the provider may panic.
        self.tidy_up();
        freed
    }

    /// Frees the object of this slot and generation; None if there is none.
    pub(crate) fn free_slot(&self, at: SlotRef) -> Option<()> {
        let slot = self.slots.get(at.slot())?;
        loop {
            let word = slot.load();
            let location = word.object(at.generation())?;
            let z = self.zspages.at(location.zspage);
            // Under the lock both are exact: a zspage leaves its class and a slot changes under it
            // only. A slot that still leads here does so in the zspage's present term.
            if let Some(mut locked) = self.lock_class_of(z) {
                if slot.load() == word {
                    let usable = slot.invalidate();
                    if usable {
                        self.keep_slot(&mut locked, at.slot());
                    }
                    self.free_object(locked, location, z);
                    return Some(());
                }
            }
            yield_now();
        }
    }

    /// The slot is invalid now. Frees the place, or leaves that to its last reader.
    fn free_object(&self, mut locked: ClassGuard<'_>, location: Location, z: &Zspage) {
        let (index, len) = object_at(locked.size, location);
        locked.count_bytes(-(len as isize));
        let own = self.routes.own_class((len + HEADER).min(self.page_size()));
        self.routes.unroute(own, usize::from(locked.number));
        let lane = self.lane(z, index);
        // SAFETY: under the class lock, and the slot is invalid, by this call.
        if unsafe { lane.free() } == Freed::Parked {
            self.accounts.count_parked();
            return;
        }
        lane.bytes.write();
        // SAFETY: `free` has cleared the lane just now, of a zspage of the class locked.
        let detached = unsafe { locked.obj_free(location.zspage, z, index) };
        let class = locked.number;
        let holes = locked.inner.holes;
        drop(locked);
        if let Some(detached) = detached {
            self.give_back(detached);
        } else if holes > 0 && self.accounts.too_many_holes() {
            self.give_back_holes(class);
        }
    }

    /// The place of a slot that `reserve` gave out and nobody published.
    #[expect(
        clippy::expect_used,
        reason = "slots of guards that live are reserved, in a USED lane"
    )]
    pub(crate) fn unpublished(&self, slot: u32) -> Unpublished {
        let location = self.slots.at(slot).reserved().expect("a write guard's slot is reserved");
        // Exact: the writer is counted in a USED lane.
        let class = self.zspages.at(location.zspage).class();
        let class = self.class(class.expect("a zspage with a USED lane is in a class"));
        let (index, len) = object_at(&class.size, location);
        Unpublished { place: Place { zspage: location.zspage, index }, len }
    }

    /// Ends a reservation that was not published. What comes free waits for a call that may call the
    /// provider: this may run under a caller's lock, or because the provider panicked.
    ///
    /// # Safety
    /// The caller reserved the slot, and neither writes the bytes nor publishes them any more.
    #[expect(clippy::expect_used, reason = "the writer is counted in a USED lane")]
    pub(crate) unsafe fn give_up(&self, slot: u32) {
        let Unpublished { place, len } = self.unpublished(slot);
        let z = self.zspages.at(place.zspage);
        let locked = self.lock_class_of(z);
        let mut locked = locked.expect("a zspage with a USED lane stays in its class");
        locked.count_bytes(-(len as isize));
        // No handle was ever given out for this generation: it serves again.
        self.keep_slot(&mut locked, slot);
        let lane = self.lane(z, place.index);
        // SAFETY: the writer is counted, and is the caller, who is done.
        let last = unsafe { lane.read_unlock() };
        assert!(!last, "an object is parked by whoever frees it, and this one is freed below");
        // SAFETY: under the class lock. No handle leads to the slot, which the caller gives up.
        match unsafe { lane.free() } {
            Freed::Now => {
                // SAFETY: `free` has cleared the lane just now, of a zspage of the class locked.
                let detached = unsafe { locked.obj_free(place.zspage, z, place.index) };
                drop(locked);
                if let Some(detached) = detached {
                    self.leave(detached);
                }
            }
            // A passing reader: the place is left to it.
            Freed::Parked => self.accounts.count_parked(),
        }
    }
}
