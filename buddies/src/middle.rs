//! The chunk at which the middle object of a page begins. It is stored next to the object words and can be
//! read without a lock.
//!
//! The chunk changes when room is taken for a middle object, before the object's word is OWNED. It also
//! changes while this word is MOVING. So a thread gets the right place if it pins the word, waits until the
//! word is not MOVING, and then reads the chunk.

use crate::sync::atomic::{AtomicU8, Ordering};

/// The number of the middle object among the buddies of its page.
pub(crate) const MIDDLE: usize = 1;

/// Stores the chunk at which the middle object begins. Not meant to be implemented outside this crate.
pub trait Middle: Default + Send + Sync + 'static {
    /// Whether pages may have a middle object. It has number 1 and may be moved.
    const MOVES: bool;

    /// Returns the chunk at which the middle object begins.
    fn get(&self) -> u8;

    /// Sets the chunk at which the middle object begins. The caller holds the page's lock.
    fn set(&self, at: u8);
}

/// For layouts without a middle object, in which no object is ever moved.
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

/// For layouts in which object 1 is the middle object and may be moved.
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
        // Relaxed: the chunk was stored before the word became OWNED, or by a mover before it ended its
        // move. The caller has read the word with Acquire after that, or it is the owner or the mover
        // itself.
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    fn set(&self, at: u8) {
        // Relaxed: the Release of `publish` or `end_move` publishes the chunk with the word.
        self.0.store(at, Ordering::Relaxed);
    }
}
