//! The chunk at which a page's middle object begins. It is kept beside the object words and can be read
//! without a lock.
//!
//! It changes when room is taken for a middle object, before the object's word is OWNED. It also changes
//! while that word is MOVING. So a thread that pins the word, waits until it is not MOVING, and then reads
//! the chunk gets the place of that object.

use crate::sync::atomic::{AtomicU8, Ordering};

/// The middle object's number among its page's buddies.
pub(crate) const MIDDLE: usize = 1;

/// A cell for the chunk at which the middle object begins. Not meant to be implemented outside this crate.
pub trait Middle: Default + Send + Sync + 'static {
    /// Whether pages may have a middle object, which is number 1 and may be moved.
    const MOVES: bool;

    /// Returns the middle object's chunk.
    fn get(&self) -> u8;

    /// Sets the middle object's chunk. Under the page's lock.
    fn set(&self, at: u8);
}

/// Pages have no middle object, and no object is moved.
#[derive(Debug, Default)]
pub struct NoMiddle(());

impl Middle for NoMiddle {
    const MOVES: bool = false;

    #[inline]
    fn get(&self) -> u8 {
        0
    }

    #[inline]
    fn set(&self, _at: u8) {}
}

/// The middle object is number 1 and may be moved.
#[derive(Debug)]
pub struct MiddleAt(AtomicU8);

impl Default for MiddleAt {
    fn default() -> Self {
        MiddleAt(AtomicU8::new(0))
    }
}

impl Middle for MiddleAt {
    const MOVES: bool = true;

    #[inline]
    fn get(&self) -> u8 {
        // Relaxed: the chunk was stored before the word became OWNED, or by a mover before it ended its move.
        // The caller has read that value of the word, or a later one, with Acquire. Or it is itself the owner
        // or the mover.
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    fn set(&self, at: u8) {
        // Relaxed: published with the word, by the Release of `publish` or `end_move`.
        self.0.store(at, Ordering::Relaxed);
    }
}
