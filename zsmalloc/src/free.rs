//! Freeing: frees live objects by their handles, and ends reservations that were never published.
//!
//! Under the class lock the slot is invalidated, then the lane is cleared, or parked for its last
//! reader. If the zspage has no object left, it is detached, and its run is returned once the lock is dropped.
//!
//! # What is compared, and why ABA cannot happen
//! `free` compares the zspage's class and the slot's word under the class lock. The class, and the
//! word of a published object, change only under that lock, so both are exact. It does not matter
//! if the zspage was in another class before the lock was taken, because the slot is compared
//! afterwards. `commit` and `abort` compare nothing: their caller reserved the slot and is counted
//! in the lane, so the zspage stays in its class.

use zpool_api::{Handle, SlotRef, ZpoolError};

use crate::class::{ClassGuard, Place};
use crate::lane::Freed;
use crate::shared::{Core, object_at};
use crate::slot::Location;
use crate::sync::yield_now;
use crate::zspage::Zspage;

/// The place and the length of an object whose slot is reserved but not published.
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
        // This comes last, because the provider may panic.
        self.tidy_up();
        freed
    }

    /// Frees the object of this slot and generation. Returns None if there is no such object.
    pub(crate) fn free_slot(&self, at: SlotRef) -> Option<()> {
        let slot = self.slots.get(at.slot())?;
        loop {
            let word = slot.load();
            let location = word.object(at.generation())?;
            let z = self.zspages.at(location.zspage);
            // Class and slot are exact under the lock, since neither changes without it. If the slot
            // still leads here, it was set after the zspage entered this class (`read.rs`).
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

    /// Frees the place of an object whose slot was just invalidated. If the object is being read,
    /// parks the place for its last reader.
    fn free_object(&self, mut locked: ClassGuard<'_>, location: Location, z: &Zspage) {
        let (index, len) = object_at(locked.size, location);
        locked.count_bytes(-(len as isize));
        let own = self.routes.class_of(len);
        self.routes.unroute(own, usize::from(locked.number));
        let lane = self.lane(z, index);
        // SAFETY: the class lock is held, and this call has invalidated the slot.
        if unsafe { lane.free() } == Freed::Parked {
            self.accounts.count_parked();
            return;
        }
        lane.bytes.write();
        // SAFETY: `free` has just cleared the lane, under the lock of the zspage's class.
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

    /// Returns the place and the length of an object that `reserve` began and nobody has published.
    #[expect(
        clippy::expect_used,
        reason = "the slot of a live guard is reserved, and its lane is USED"
    )]
    pub(crate) fn unpublished(&self, slot: u32) -> Unpublished {
        let location = self.slots.at(slot).reserved().expect("a write guard's slot is reserved");
        // The class is exact, since the writer is counted in a USED lane.
        let class = self.zspages.at(location.zspage).class();
        let class = self.class(class.expect("a zspage with a USED lane is in a class"));
        let (index, len) = object_at(&class.size, location);
        Unpublished { place: Place { zspage: location.zspage, index }, len }
    }

    /// Ends a reservation that was not published. Does not call the provider, because the caller may
    /// hold a lock, or the provider may have panicked. If the zspage becomes empty, a later call
    /// returns its run.
    ///
    /// # Safety
    /// The caller reserved the slot, and will neither write the bytes nor publish them.
    #[expect(clippy::expect_used, reason = "the writer is counted in a USED lane")]
    pub(crate) unsafe fn give_up(&self, slot: u32) {
        let Unpublished { place, len } = self.unpublished(slot);
        let z = self.zspages.at(place.zspage);
        let locked = self.lock_class_of(z);
        let mut locked = locked.expect("a zspage with a USED lane stays in its class");
        locked.count_bytes(-(len as isize));
        // No handle was ever issued for this generation, so the slot can use it again.
        self.keep_slot(&mut locked, slot);
        let lane = self.lane(z, place.index);
        // SAFETY: the caller is the writer, is counted in the lane, and is done.
        let last = unsafe { lane.read_unlock() };
        assert!(!last, "a reserved object is parked before it is freed");
        // SAFETY: the class lock is held. No handle leads to the slot, which the caller gives up.
        match unsafe { lane.free() } {
            Freed::Now => {
                // SAFETY: `free` has just cleared the lane, under the lock of the zspage's class.
                let detached = unsafe { locked.obj_free(place.zspage, z, place.index) };
                drop(locked);
                if let Some(detached) = detached {
                    self.leave(detached);
                }
            }
            // A passing reader is counted, so it will free the place.
            Freed::Parked => self.accounts.count_parked(),
        }
    }
}
