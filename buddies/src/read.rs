//! Reads: a reader pins the object's word and takes no lock.
//!
//! There is one exception: if a reader finds its object being moved, it waits for the end of the move. If
//! that takes long, it waits for the page's lock. The last reader of a freed object leaves the object on
//! the pool's stack, because ending a read must neither block nor call the provider.

use zpool_api::{Handle, ObjPin, ObjRead, SlotRef, ZpoolError};

use crate::core::Core;
use crate::desc::Buddy;
use crate::layout::{Layout, Slot};
use crate::middle::Middle;
use crate::sync::{MODEL, yield_now};
use crate::word::{PinError, READER_LIMIT, State, Word};

/// The number of times that a reader loads the word of an object that is being moved, before it waits for
/// the lock. A move takes microseconds. 0 under the model checker, because repeated loads would explore
/// nothing new.
const SPINS: u32 = if MODEL { 0 } else { 64 };

impl<L: Layout<N>, const N: usize> Core<L, N> {
    /// Pins an object and returns the read guard. Fails like [`zpool_api::Zpool::obj_read_begin`].
    #[inline]
    pub(crate) fn read(&self, handle: Handle) -> Result<ObjRead<'_>, ZpoolError> {
        self.read_object(self.slot_of(handle)?).map_err(|error| match error {
            PinError::NotLive(_) => ZpoolError::invalid(handle),
            PinError::TooManyReaders => {
                ZpoolError::TooManyReaders { handle: handle.as_u64(), limit: READER_LIMIT }
            }
        })
    }

    /// Pins the object with this slot and generation. If the pin fails and this thread now owns a parked
    /// object, leaves that object to the pool.
    #[inline]
    fn read_object(&self, at: SlotRef) -> Result<ObjRead<'_>, PinError> {
        let buddy = self.find(at.slot()).ok_or(PinError::NotLive(None))?;
        match buddy.word().pin(at.generation()) {
            Ok(word) => {
                if L::Middle::MOVES && word.is_moving() {
                    self.wait_for_mover(buddy);
                }
                buddy.watched().read();
                // SAFETY: the word is pinned, so it stays LIVE or PARKED until `unpin`.
                let bytes = unsafe { buddy.bytes(word.bytes(), self.chunk_size) };
                // SAFETY: the word is pinned and not MOVING. So it stays LIVE or PARKED until `unpin`, and
                // the bytes do not change (invariant 2 of `desc.rs`). The object's reference keeps the page
                // attached (invariant 1).
                Ok(unsafe { ObjRead::from_pin(bytes, self, u64::from(buddy.slot.number())) })
            }
            Err(error) => {
                if let PinError::NotLive(Some(owned)) = error {
                    self.leave_parked(buddy, owned);
                }
                Err(error)
            }
        }
    }

    /// Pins the `nth` object of a page, whatever its generation, and returns its handle and the guard.
    /// Returns `None` if this object is not live or has too many readers. Used by reclaim.
    pub(crate) fn read_current(&self, page: u32, nth: usize) -> Option<(Handle, ObjRead<'_>)> {
        let buddy = Buddy { slot: Slot::new(page, nth), desc: self.desc(page) };
        let word = buddy.word().peek();
        if word.state() != State::Live {
            return None;
        }
        let handle = self.handle(buddy, word.generation());
        Some((handle, self.read(handle).ok()?))
    }

    /// Waits until the object is not being moved. A move copies less than a page, under the page's lock.
    /// First spins, then yields, and then waits for the page's lock, because the mover may have been
    /// preempted.
    #[cold]
    fn wait_for_mover(&self, buddy: Buddy<'_, L, N>) {
        let word = buddy.word();
        for round in 0..SPINS {
            if !word.now().is_moving() {
                return;
            }
            if round < SPINS / 2 { core::hint::spin_loop() } else { yield_now() }
        }
        while word.now().is_moving() {
            drop(self.lock(buddy.slot.page, buddy.desc));
        }
    }

    /// Leaves a parked object on the stack. This thread was the object's last reader, so it owns the
    /// object.
    #[cold]
    fn leave_parked(&self, buddy: Buddy<'_, L, N>, owned: Word) {
        debug_assert_eq!(owned.state(), State::Owned);
        buddy.watched().write();
        self.parked.sub(1);
        // SAFETY: this thread has owned the word since the CAS that returned `owned`.
        unsafe { self.left.push(self, buddy.slot.number()) };
    }
}

impl<L: Layout<N>, const N: usize> ObjPin for Core<L, N> {
    #[inline]
    fn unpin(&self, token: u64) {
        if !self.source.is_here() {
            return;
        }
        let buddy = self.known(token as u32);
        buddy.watched().read();
        if let Some(owned) = buddy.word().unpin() {
            self.leave_parked(buddy, owned);
        }
    }
}
