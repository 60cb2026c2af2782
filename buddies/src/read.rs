//! Reads: an object is pinned by its word, and no lock is taken.
//!
//! But one: a reader that finds its object being moved waits, at last for the page's lock. Whoever ends the
//! last read of a freed object leaves the object on the pool's stack: readers take no lock and call no
//! provider.

use zpool_api::{Handle, ObjPin, ObjRead, SlotRef, ZpoolError};

use crate::core::Core;
use crate::desc::Buddy;
use crate::layout::{Layout, Slot};
use crate::middle::Middle;
use crate::sync::{MODEL, yield_now};
use crate::word::{PinError, READER_LIMIT, State, Word};

/// Looks at a word before its reader sleeps: a mover is done in microseconds. None under the model
/// checker, where looking in vain teaches nothing.
const SPINS: u32 = if MODEL { 0 } else { 64 };

impl<L: Layout<N>, const N: usize> Core<L, N> {
    /// Pins an object.
    #[inline]
    pub(crate) fn read(&self, handle: Handle) -> Result<ObjRead<'_>, ZpoolError> {
        self.read_object(self.slot_of(handle)?).map_err(|error| match error {
            PinError::NotLive(_) => ZpoolError::invalid(handle),
            PinError::TooManyReaders => {
                ZpoolError::TooManyReaders { handle: handle.as_u64(), limit: READER_LIMIT }
            }
        })
    }

    /// Pins the object of this slot and generation.
    #[inline]
    fn read_object(&self, at: SlotRef) -> Result<ObjRead<'_>, PinError> {
        let buddy = self.find(at.slot()).ok_or(PinError::NotLive(None))?;
        match buddy.word().pin(at.generation()) {
            Ok(word) => {
                if L::Middle::MOVES && word.is_moving() {
                    self.wait_for_mover(buddy);
                }
                buddy.watched().read();
                // SAFETY: pinned, hence LIVE or PARKED until `unpin`.
                let bytes = unsafe { buddy.bytes(word.bytes(), self.chunk_size) };
                // SAFETY: the word is pinned and not being moved, so it stays LIVE or PARKED until
                // `unpin`, and its bytes immutable (invariant 2); the object's reference keeps the
                // page attached (invariant 1).
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

    /// Pins the `nth` object of a page if it is live, whatever its generation. For reclaim.
    pub(crate) fn read_current(&self, page: u32, nth: usize) -> Option<(Handle, ObjRead<'_>)> {
        let buddy = Buddy { slot: Slot::new(page, nth), desc: self.desc(page) };
        let word = buddy.word().peek();
        if word.state() != State::Live {
            return None;
        }
        let handle = self.handle(buddy, word.generation());
        Some((handle, self.read(handle).ok()?))
    }

    /// The object is being moved: a few kilobytes at most, under the page's lock. Spins briefly, lets
    /// others run, then sleeps until the lock is free: the mover may have lost its processor.
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

    /// A parked object fell to this thread, a last reader, which leaves it on the stack.
    #[cold]
    fn leave_parked(&self, buddy: Buddy<'_, L, N>, owned: Word) {
        debug_assert_eq!(owned.state(), State::Owned);
        buddy.watched().write();
        self.parked.sub(1);
        // SAFETY: OWNED by this thread since the CAS that gave it `owned`.
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
