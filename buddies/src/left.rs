//! A lock-free stack of freed objects that their last readers left. Calls that may use the provider empty
//! it.
//!
//! A read guard may be dropped anywhere, even under another component's lock. So its drop may neither wait
//! nor call the page provider. The last reader of a freed object owns the object (`word.rs`). This reader
//! does not free the object, but pushes it on this stack. The next call of the pool that may block takes
//! all objects off the stack and frees them ([`Left::finish`]).
//!
//! The link to the next object is in the first bytes of the object itself. A buddy has at least one chunk
//! of 64 bytes, and only its owner uses these bytes. So the stack costs one word per pool, and a push needs
//! no memory.
//!
//! # Why ABA is harmless
//! Only `push` compares the head. After `push` has read the head, and before its CAS, the object at the
//! head may have been taken and pushed again. Then the head has the same value, although another object is
//! below it. This does no harm: the link of the pushed object only has to name the object that is at the
//! head when the CAS succeeds, and it does. Which object is below that one does not matter. A taker does
//! not compare the head, but swaps it.

use core::ptr::NonNull;

use crate::sync::MODEL;
use crate::sync::atomic::{AtomicU64, Ordering};
use zpool_base::unwind::in_destructor;

/// The head of an empty stack.
const NONE: u64 = 0;

/// Gives access to the objects on the stack, by slot number.
///
/// # Safety
/// `link` must return the object's own memory: at least 8 writable bytes that nobody else uses while the
/// object is on the stack.
pub(crate) unsafe trait Leaves {
    /// Returns the first bytes of an object that is on the stack or is about to be pushed.
    fn link(&self, slot: u32) -> NonNull<[u8; 8]>;

    /// Frees the object. May call the page provider, so the caller must hold no lock.
    fn finish(&self, slot: u32);
}

/// The stack. `Send` and `Sync`.
#[derive(Debug)]
pub(crate) struct Left(AtomicU64);

impl Left {
    /// Makes an empty stack.
    pub(crate) fn new() -> Self {
        Left(AtomicU64::new(NONE))
    }

    /// Pushes an object that the caller owns. Takes no lock and calls no provider.
    ///
    /// # Safety
    /// The caller must own the object, whose word is OWNED, and must push it only once. After that, the
    /// object belongs to the stack.
    pub(crate) unsafe fn push<P: Leaves>(&self, pool: &P, slot: u32) {
        let link = pool.link(slot);
        // This guess is nearly always right. If it is wrong, the failed CAS returns the right head.
        let mut head = NONE;
        loop {
            // SAFETY: `link` is 8 writable bytes (`Leaves::link`) of an object that only the caller owns.
            unsafe { link.as_ptr().write_unaligned(head.to_ne_bytes()) };
            let new = u64::from(slot) + 1;
            // Release pairs with the Acquire of `finish_all`: the link is visible to the taker, and the
            // last reader's accesses to the object come before the taker's. Relaxed on failure: the value
            // found is only the next guess.
            match self.0.compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Frees all objects on the stack. Each of them costs about as much as a `free`; an empty stack costs
    /// one load. If the provider panics, the remaining objects stay on the stack for the next call. The
    /// caller must hold no lock.
    #[inline]
    pub(crate) fn finish<P: Leaves>(&self, pool: &P) {
        // Relaxed: the load only decides whether to try. Under the model checker this always tries. After
        // such a load, the checker would not explore every order of the swap.
        if MODEL || self.0.load(Ordering::Relaxed) != NONE {
            self.finish_all(pool);
        }
    }

    #[cold]
    fn finish_all<P: Leaves>(&self, pool: &P) {
        // Acquire pairs with the Release of `push`. The swap ends a chain of RMWs that contains every push.
        // So all links are visible, and the readers' last accesses come before the space is used again.
        let mut rest = Rest { left: self, pool, head: self.0.swap(NONE, Ordering::Acquire) };
        while let Some(slot) = rest.next() {
            pool.finish(slot);
        }
    }
}

impl Default for Left {
    fn default() -> Self {
        Self::new()
    }
}

/// The objects of a taken stack that are not freed yet. After a panic, the drop pushes them again.
struct Rest<'a, P: Leaves> {
    left: &'a Left,
    pool: &'a P,
    head: u64,
}

impl<P: Leaves> Rest<'_, P> {
    fn next(&mut self) -> Option<u32> {
        let slot = self.head.checked_sub(1)? as u32;
        let link = self.pool.link(slot);
        // SAFETY: `link` is 8 readable bytes (`Leaves::link`), which `push` has written. Since the swap,
        // only this thread uses them.
        self.head = u64::from_ne_bytes(unsafe { link.as_ptr().read_unaligned() });
        Some(slot)
    }
}

impl<P: Leaves> Drop for Rest<'_, P> {
    fn drop(&mut self) {
        in_destructor(|| {
            while let Some(slot) = self.next() {
                // SAFETY: the swap took the object off the stack, and the object is not freed yet. So this
                // thread owns it.
                unsafe { self.left.push(self.pool, slot) };
            }
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::cell::{Cell, UnsafeCell};
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    struct Toy {
        bytes: Vec<UnsafeCell<[u8; 8]>>,
        finished: Cell<Vec<u32>>,
        panics_at: Cell<Option<u32>>,
    }

    // SAFETY: each slot has a cell of its own, which nobody else touches.
    unsafe impl Leaves for Toy {
        fn link(&self, slot: u32) -> NonNull<[u8; 8]> {
            NonNull::new(self.bytes[slot as usize].get()).unwrap()
        }
        fn finish(&self, slot: u32) {
            let mut finished = self.finished.take();
            finished.push(slot);
            self.finished.set(finished);
            if self.panics_at.get() == Some(slot) {
                resume_unwind(Box::new(slot));
            }
        }
    }

    fn toy() -> Toy {
        let bytes = (0..8).map(|_| UnsafeCell::default()).collect();
        Toy { bytes, finished: Cell::default(), panics_at: Cell::new(None) }
    }

    #[test]
    fn all_that_is_left_is_given_up_once() {
        let (left, toy) = (Left::new(), toy());
        left.finish(&toy);
        for round in 1..4 {
            for slot in [0, 7, round] {
                // SAFETY: the slot is not on the stack at this moment.
                unsafe { left.push(&toy, slot) };
            }
            left.finish(&toy);
            left.finish(&toy);
            assert_eq!(toy.finished.take(), [round, 7, 0]);
        }
    }

    #[test]
    fn a_panic_leaves_the_rest() {
        let (left, toy) = (Left::new(), toy());
        for slot in 0..5 {
            // SAFETY: each slot is pushed only once.
            unsafe { left.push(&toy, slot) };
        }
        toy.panics_at.set(Some(3));
        assert!(catch_unwind(AssertUnwindSafe(|| left.finish(&toy))).is_err());
        assert_eq!(toy.finished.take(), [4, 3]);
        left.finish(&toy);
        let mut rest = toy.finished.take();
        rest.sort_unstable();
        assert_eq!(rest, [0, 1, 2]);
    }
}
