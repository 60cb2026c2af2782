//! Reading without a lock: from a handle to a pinned object.
//!
//! A reader loads the slot's word, takes a guess at the class of the zspage that it names, and from
//! both the lane, in which it counts itself. Whatever it has loaded until then may be stale, and each
//! of the words may have changed and come back: compaction can move an object away and back, and its
//! zspage can have served another class meanwhile. So nothing of it is trusted for being equal to
//! what it was. What is trusted are things that cannot change any more:
//!
//! 1. The lane is USED and has no writer, with this reader counted in it. From here on the zspage
//!    stays in its class, on its pages (`lane.rs`), whatever happened before.
//! 2. The class is loaded, and it is the one that the lane was chosen by.
//! 3. The slot is loaded, and its word is the one that the lane was chosen by.
//!
//! # Why the guard is right then
//! Call a zspage's time in one class, from `attach` to its detachment, a *term*, and the one that 1.
//! pins *T*. T began before the claim of this lane (Release), which the reader's own RMW has acquired,
//! and ends after the reader has gone: so 2. loads T's class, not a former one that has come back.
//! 3. loads a word that some `publish` or `move_to` has stored; say the object was then in term *S*.
//! S cannot be after T, which has not ended. S cannot be before T: an object leaves a zspage, and its
//! slot changes, before the term ends; the next term begins after that (class lock, then the lock of
//! the vacant descriptors, then the next class lock), and the claim after that; the reader would have
//! seen the change. So S is T: class, index and lane are the object's own. And the object is still
//! there: to leave, it must be freed, or moved, by an RMW on this very lane. One that came before the
//! reader's RMW has changed the slot before it (a mover: before it let the lane go, and the reader
//! waited for that), so the reader would have seen another word. One that comes after it finds the
//! reader counted, and a mover gives up, and a free parks.
//!
//! The base is loaded last, and is T's: a migration that the reader did not wait for found it counted.
//!
//! A reader takes no lock and calls no provider, except that it waits for a mover by the class lock.
//! If it passed through a lane and left a parked object without readers, it queues the place
//! (`reclaim.rs`).

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

/// Looks at a lane before its reader sleeps: a mover is done in microseconds. None under the model
/// checker, where looking in vain teaches nothing.
const SPINS: u32 = if MODEL { 0 } else { 64 };

/// Why there is no guard.
#[derive(Debug)]
enum PinError {
    /// No live object.
    NotLive,
    /// The lane is full of readers.
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
            // Without a class the zspage is vacant, so the slot has changed or is about to be seen so.
            if let Some(class) = number.map(|class| self.class(class)) {
                // Any number, if class and location are of two terms; `lane_number` copes.
                let index = class.size.index_of(location.last);
                let at = LaneRef { zspage: location.zspage, lane: z.lane_number(index) };
                let lane = self.zspages.lane_at(at.lane);
                hooks::at(Point::ClassLoaded);
                if let Ok(mut found) = lane.read_lock() {
                    if found.has_writer() {
                        found = self.wait_for_writer(lane, class);
                    }
                    hooks::at(Point::LaneLocked);
                    // The order matters: the head of the file.
                    let same_class = found.is_held() && z.class() == number;
                    hooks::at(Point::ClassCompared);
                    if same_class && slot.load() == word {
                        lane.bytes.read();
                        // SAFETY: this reader is counted in the lane; then class and slot were found
                        // to be what the lane was chosen by: the proof at the head of the file.
                        return Ok(unsafe { self.guard(z, at, class, location) });
                    }
                    // SAFETY: counted above.
                    unsafe { self.pass(at) };
                } else if slot.load() == word && z.class() == number {
                    // A full lane that is another object's by now would say nothing of this one.
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

    /// The guard of a pinned object.
    ///
    /// # Safety
    /// The caller is counted in the lane, which is the one of the object at `location`, in a zspage of
    /// this class, and leaves the count to the guard.
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
        // after it was: the bytes stay, unchanged (invariant 1 of the pool), and the run with them
        // (invariant 2).
        unsafe { ObjRead::from_pin(bytes, self, lane.to_bits()) }
    }

    /// A writer moves the object: a few kilobytes at most, under the class lock. Spins briefly, lets
    /// others run, then sleeps until the lock is free: the writer may have lost its processor.
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

    /// Takes a reader off that has no guard.
    ///
    /// # Safety
    /// The caller is counted in the lane.
    #[cold]
    unsafe fn pass(&self, at: LaneRef) {
        // SAFETY: by the caller's promise.
        if unsafe { self.zspages.lane_at(at.lane).read_unlock() } {
            hooks::at(Point::LeftParked);
            self.queue_parked(at);
        }
    }

    /// Takes a reader off, or the writer of a published object, and frees the place if the object was
    /// parked and this was the last.
    ///
    /// # Safety
    /// The caller is counted in the lane, and looks at the object no more.
    #[inline]
    pub(crate) unsafe fn unlock_reader(&self, at: LaneRef) {
        // SAFETY: by the caller's promise.
        if unsafe { self.zspages.lane_at(at.lane).read_unlock() } {
            hooks::at(Point::LeftParked);
            self.reclaim_parked(at);
        }
    }
}

impl ObjPin for Core {
    /// Takes the class lock if the object was freed meanwhile and this was its last reader, and never
    /// calls the provider: what came free waits for the next call that may (`reclaim.rs`). In a child of
    /// the pool's process it changes a count, in memory of the child's own, and nothing else.
    #[inline]
    fn unpin(&self, token: u64) {
        let at = LaneRef::from_bits(token);
        if MODEL {
            self.zspages.lane_at(at.lane).bytes.read();
        }
        // SAFETY: the token is that of a guard, which counted its reader and ends here.
        unsafe { self.unlock_reader(at) };
    }
}
