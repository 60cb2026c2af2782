//! The lock of an entry. It is a bit in the entry's word, and also guards the entry's checksum.
//!
//! # Rules
//! * The lock is held for a few dozen instructions, to read or replace the word and to pin its object or slot.
//!   It is never held during compression, decompression or device I/O. The only user code that runs under it
//!   is the backend's `obj_read_begin`. The only locks taken under it are the backend's and leaf mutexes, which
//!   are held as briefly.
//! * Order: the entry lock comes before the backend's locks. A thread that holds an entry lock never waits
//!   for an `AcompCtx`.
//! * A thread holds at most one entry lock.
//!
//! `word_lock.rs` of zpage says how a word is locked and how threads wait for it.

use zpage::word_lock::{Waiters, WordGuard, lock_word_if};
use zpool_base::lockdep::{self, Rank};

use crate::entry::word::Word;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A locked entry word. Dropping it writes the word back, unlocked.
#[derive(Debug)]
pub(crate) struct EntryGuard<'a> {
    guard: WordGuard<'a>,
    /// The checksum of the entry's page, in stores that keep checksums. Guarded by the lock.
    sum: Option<&'a AtomicU32>,
    _held: lockdep::Held,
}

/// Locks an entry word, and returns `None` if the word is dead. If another thread holds the lock, this thread
/// sleeps until it is released, which never takes long.
#[inline]
pub(crate) fn lock<'a>(word: &'a AtomicU64, waiters: &'a Waiters) -> Option<EntryGuard<'a>> {
    let held = lockdep::acquire(Rank::Entry);
    let guard = lock_word_if(word, waiters, |now| !Word::from_raw(now).is_dead())?;
    Some(EntryGuard { guard, sum: None, _held: held })
}

impl<'a> EntryGuard<'a> {
    /// Returns this guard with the place of the entry's checksum; `None` in a store without checksums.
    pub(crate) fn with_sum(self, sum: Option<&'a AtomicU32>) -> Self {
        EntryGuard { sum, ..self }
    }

    /// Returns the checksum of the entry's page; `None` in a store without checksums.
    pub(crate) fn sum(&self) -> Option<u32> {
        // Relaxed: only the lock's holder reads and writes it.
        self.sum.map(|sum| sum.load(Ordering::Relaxed))
    }

    /// Notes the checksum of the entry's page. Does nothing in a store without checksums, or if `value` is
    /// `None`.
    pub(crate) fn set_sum(&mut self, value: Option<u32>) {
        if let (Some(sum), Some(value)) = (self.sum, value) {
            // Relaxed: as in `sum`.
            sum.store(value, Ordering::Relaxed);
        }
    }

    /// Returns the word that the drop will write back, without its lock bit.
    pub(crate) fn word(&self) -> Word {
        Word::from_raw(self.guard.word())
    }

    /// Replaces the word, and returns the old one.
    pub(crate) fn replace(&mut self, word: Word) -> Word {
        Word::from_raw(self.guard.replace(word.raw()))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_dead_word_cannot_be_locked() {
        let word = AtomicU64::new(Word::DEAD.raw());
        assert!(lock(&word, &Waiters::new()).is_none());
    }
}
