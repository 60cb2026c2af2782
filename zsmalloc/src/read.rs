//! Reading without a lock: from a handle to a pinned object.
//!
//! A reader loads the slot's word and guesses the class of the zspage that the word names. From both
//! it derives a lane, in which it counts itself. All that it has loaded so far may be stale, and each
//! word may have changed and changed back: compaction can move an object away and back, and its
//! zspage can have served another class in between. So equality with an earlier load proves nothing
//! by itself. The proof rests on three observations, which a counted reader makes in this order:
//!
//! 1. This reader is counted in the lane, and the lane is USED and has no writer. From here on the
//!    zspage stays in its class and on its pages (`lane.rs`), whatever happened before.
//! 2. The class is loaded again, and is still the one that led to the lane.
//! 3. The slot is loaded again, and its word is still the one that led to the lane.
//!
//! # Why the guard is valid
//! A *term* is the time that a zspage spends in one class, from `attach` to detachment. Let *T* be
//! the term that step 1 pins. T began before this lane was claimed. The claim is a Release, and the
//! reader's RMW has acquired it. T ends after the reader leaves. So step 2 loads the class of T, not
//! that of an earlier term.
//!
//! Step 3 loads a word that some `publish` or `move_to` stored. Let *S* be the term that the object
//! was in at that store. S is not after T, since T has not ended. Suppose that S is before T. An
//! object leaves a zspage, and its slot changes, before the term ends. The next term begins after
//! that, and this lane is claimed after that. (The class lock, the lock of the vacant descriptors
//! and the next class lock order these events.) So the reader would have seen the slot's change.
//! Hence S is T: class, index and lane are the object's own.
//!
//! The object is also still there. It can leave only by a free or a move, and each of these makes
//! an RMW on this lane. If that RMW came before the reader's, the slot was changed even before
//! that: a free invalidates the slot before it clears or parks the lane, and a mover, for which the
//! reader waits, changes the slot before it releases the lane. So the reader would have seen
//! another word. If the RMW comes after the reader's, it finds the reader counted: a mover gives
//! up, and a free parks.
//!
//! The base is loaded last, and stays valid while the reader is counted. A migration either ended
//! before the load, because the reader waited for it, or finds the reader counted and gives up.
//!
//! Pinning an object calls no provider and takes no lock, except that a reader that waits for a
//! mover may take the class lock. If a passing reader is the last to leave a parked object, it
//! queues the place (`reclaim.rs`).

use core::ptr::NonNull;

use zpool_api::{Handle, ObjPin, ObjRead, SlotRef, ZpoolError};

use crate::class::Class;
use crate::hooks::{self, Point};
use crate::lane::{Found, Lane, READER_LIMIT};
use crate::shared::{Core, NAME, object_at};
use crate::slot::Location;
use crate::sync::{MODEL, yield_now};
use crate::zspage::Zspage;
use crate::zspages::LaneRef;

/// How often a reader checks a lane before it sleeps: a mover finishes in microseconds. 0 under the
/// model checker, where spinning explores nothing new.
const SPINS: u32 = if MODEL { 0 } else { 64 };

/// Why pinning failed.
#[derive(Debug)]
enum PinError {
    /// The handle names no live object.
    NotLive,
    /// The lane's count of readers is at its limit.
    TooManyReaders,
    /// Another process made the pool.
    Forked,
}

impl Core {
    pub(crate) fn read(&self, handle: Handle) -> Result<ObjRead<'_>, ZpoolError> {
        let bits = handle.bits_of(self.tag).ok_or_else(|| ZpoolError::invalid(handle))?;
        self.pin(SlotRef::from_bits(bits)).map_err(|error| match error {
            PinError::NotLive => ZpoolError::invalid(handle),
            PinError::Forked => ZpoolError::Forked { backend: NAME },
            PinError::TooManyReaders => {
                let limit = u64::from(READER_LIMIT);
                ZpoolError::TooManyReaders { handle: handle.as_u64(), limit }
            }
        })
    }

    /// Pins the object of this slot and generation.
    #[inline]
    fn pin(&self, at: SlotRef) -> Result<ObjRead<'_>, PinError> {
        if !self.maker.is_here() {
            return Err(PinError::Forked);
        }
        let slot = self.slots.get(at.slot()).ok_or(PinError::NotLive)?;
        let mut word = slot.load();
        loop {
            let location = word.object(at.generation()).ok_or(PinError::NotLive)?;
            let z = self.zspages.at(location.zspage);
            hooks::at(Point::SlotLoaded);
            let number = z.class();
            // Without a class the zspage is vacant. Then the slot has changed, as a later load will show.
            if let Some(class) = number.map(|class| self.class(class)) {
                // If class and location are from two terms, the index is arbitrary: `lane_number` clamps it.
                let index = class.size.index_of(location.last);
                let at = LaneRef { zspage: location.zspage, lane: z.lane_number(index) };
                let lane = self.zspages.lane_at(at.lane);
                hooks::at(Point::ClassLoaded);
                if let Ok(mut found) = lane.read_lock() {
                    if found.has_writer() {
                        found = self.wait_for_writer(lane, class);
                    }
                    hooks::at(Point::LaneLocked);
                    // The order matters: see the head of the file.
                    let same_class = found.is_held() && z.class() == number;
                    hooks::at(Point::ClassCompared);
                    if same_class && slot.load() == word {
                        lane.bytes.read();
                        // SAFETY: this reader is counted in the lane. After that, class and slot were
                        // still the ones that led to the lane. The head of the file proves that this
                        // suffices.
                        return Ok(unsafe { self.guard(z, at, class, location) });
                    }
                    // SAFETY: `read_lock` above counted this reader.
                    unsafe { self.pass(at) };
                } else if slot.load() == word && z.class() == number {
                    // The full lane is this object's only if slot and class are unchanged.
                    return Err(PinError::TooManyReaders);
                }
            }
            let again = slot.load();
            if again == word {
                yield_now();
            }
            word = again;
        }
    }

    /// Builds the guard of a pinned object.
    ///
    /// # Safety
    /// The caller is counted in the lane of the object at `location`, in a zspage of this class,
    /// and hands its count over to the guard.
    #[inline]
    unsafe fn guard(
        &self,
        z: &Zspage,
        lane: LaneRef,
        class: &Class,
        location: Location,
    ) -> ObjRead<'_> {
        let (index, len) = object_at(&class.size, location);
        let start = class.size.start_of(index) + class.size.header();
        // SAFETY: the object is in its zspage's run, where the slot says (invariant 3 of the pool).
        let bytes = unsafe { z.base().add(start) };
        let bytes = NonNull::slice_from_raw_parts(bytes, len);
        // SAFETY: this reader is counted in the object's lane until `unpin`, and the slot led here
        // afterwards: the bytes stay unchanged (invariant 1 of the pool), and the run stays
        // (invariant 2).
        unsafe { ObjRead::from_pin(bytes, self, lane.to_bits()) }
    }

    /// Waits until the lane has no writer, and returns its word. A writer copies at most 64 KiB under
    /// the class lock. This call spins briefly, then yields, then sleeps on the class lock, because the
    /// writer may have been preempted.
    #[cold]
    fn wait_for_writer(&self, lane: &Lane, class: &Class) -> Found {
        for round in 0..SPINS {
            let found = lane.look();
            if !found.has_writer() {
                return found;
            }
            if round < SPINS / 2 { core::hint::spin_loop() } else { yield_now() }
        }
        loop {
            let found = lane.look();
            if !found.has_writer() {
                return found;
            }
            drop(class.lock());
        }
    }

    /// Takes a passing reader, which gets no guard, off a lane. If it was the last reader of a
    /// parked object, queues the place.
    ///
    /// # Safety
    /// The caller is counted in the lane.
    #[cold]
    unsafe fn pass(&self, at: LaneRef) {
        // SAFETY: the caller is counted in the lane, as this function requires.
        if unsafe { self.zspages.lane_at(at.lane).read_unlock() } {
            hooks::at(Point::LeftParked);
            self.queue_parked(at);
        }
    }

    /// Takes a reader, or the writer of a published object, off a lane. Frees the place if the
    /// object was parked and this was its last reader.
    ///
    /// # Safety
    /// The caller is counted in the lane and will not access the object again.
    #[inline]
    pub(crate) unsafe fn unlock_reader(&self, at: LaneRef) {
        // SAFETY: the caller is counted in the lane, as this function requires.
        if unsafe { self.zspages.lane_at(at.lane).read_unlock() } {
            hooks::at(Point::LeftParked);
            self.reclaim_parked(at);
        }
    }
}

impl ObjPin for Core {
    /// Takes the class lock if the object was freed meanwhile and this was its last reader. Never
    /// calls the provider: a run that becomes free waits for a later call (`reclaim.rs`). In a
    /// forked child it only changes a count, in the child's own memory.
    #[inline]
    fn unpin(&self, token: u64) {
        let at = LaneRef::from_bits(token);
        if MODEL {
            self.zspages.lane_at(at.lane).bytes.read();
        }
        // SAFETY: the token is from a guard, which counted its reader and ends here.
        unsafe { self.unlock_reader(at) };
    }
}
