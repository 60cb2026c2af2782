//! The zspage lock, an object's part of it: one atomic word that its readers, its freer and a
//! mover meet on.
//!
//! ```text
//!  15   14     13       12     11         0
//! +---+------+--------+--------+------------+
//! | 0 | USED | PARKED | WRITER | readers 12 |
//! +---+------+--------+--------+------------+
//! ```
//!
//! A zspage is locked object by object, so that a guard that is never dropped holds up its own
//! object and nothing else. The rules are those of the kernel's zspage lock:
//! * readers are held up by a writer only, and never by other readers;
//! * a reader may sleep while it holds the lock; it may only ever wait for a writer, which does not;
//! * a writer has a try-lock only. Whoever asks for it handles failure, and announces nothing before
//!   the lock is won. It is taken, held and let go under the class lock, and while it is held no
//!   call is made that can block, no page is faulted in, and a bounded number of bytes is moved.
//!
//! USED: the place is taken: an object is being written, lives, or is parked. Set and cleared under
//! the class lock. PARKED: freed while read; set under the class lock. A *passing* reader, whose
//! object turns out to be gone, may show up in the count of any lane at any time, so every change is
//! a read-modify-write that keeps the count.
//!
//! # Why no parked object is lost
//! The place falls to whoever clears {USED, PARKED, 0 readers}, under the class lock. `free` leaves
//! it parked only when the value that its own RMW replaced had readers. Each of them takes itself
//! off by an RMW on the same word, sees PARKED then, and if it was the last tries to clear it. If
//! that try fails, somebody else has cleared it, or another reader came, who will try in turn.
//! Readers of neighbours do not count, so none can keep it waiting.

use crate::sync::Watched;
use crate::sync::atomic::{AtomicU16, Ordering};

const USED: u16 = 1 << 14;
const PARKED: u16 = 1 << 13;
const WRITER: u16 = 1 << 12;
const READERS: u16 = WRITER - 1;

/// Most readers of one object: half of what the count can hold. The other half is for passing
/// readers of as many threads, so that the count never wraps.
pub(crate) const READER_LIMIT: u16 = 1 << 11;

/// The count of readers is at its limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyReaders;

/// What `free` did.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Freed {
    /// Nobody reads it: the place is free.
    Now,
    /// Its last reader will free the place.
    Parked,
}

/// One object's part of its zspage's lock.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    word: AtomicU16,
    /// Stands for the object's bytes under the model checker.
    pub(crate) bytes: Watched,
}

impl Lane {
    /// Adds a reader; tells whether there is a writer to be waited for. A reader that waits stays
    /// counted, so no other writer overtakes it.
    #[inline]
    pub(crate) fn read_lock(&self) -> Result<bool, TooManyReaders> {
        // Relaxed: a look at the count, which the limit leaves room to be wrong about.
        if self.word.load(Ordering::Relaxed) & READERS >= READER_LIMIT {
            return Err(TooManyReaders);
        }
        // Acquire pairs with the Release of `free`, `release_moved` and `write_unlock`: whoever
        // comes after them sees what became of the slot and where the object is.
        Ok(self.word.fetch_add(1, Ordering::Acquire) & WRITER != 0)
    }

    /// Whether a writer holds it.
    pub(crate) fn has_writer(&self) -> bool {
        // Acquire pairs with the Release of `release_moved` and `write_unlock`.
        self.word.load(Ordering::Acquire) & WRITER != 0
    }

    /// Takes a reader off; true if that left a parked object to this thread.
    #[inline]
    #[must_use]
    pub(crate) fn read_unlock(&self) -> bool {
        // Release pairs with the Acquire of `free`, `reclaim` and `write_trylock`: this reader's
        // last look at the bytes comes before they are written or moved.
        let before = self.word.fetch_sub(1, Ordering::Release);
        debug_assert!(before & READERS > 0, "unlock without a reader: {before:#06x}");
        before & (READERS | PARKED) == PARKED | 1
    }

    /// Takes a free place for an object that is to be written, its writer counted as a reader: it
    /// must neither move nor be reclaimed meanwhile. Under the class lock.
    pub(crate) fn claim(&self) {
        // Relaxed: the class lock orders this after the last use of the place.
        let before = self.word.fetch_add(USED + 1, Ordering::Relaxed);
        debug_assert!(before & !READERS == 0, "claimed while {before:#06x}");
    }

    /// Whether the place is taken. Under the class lock.
    pub(crate) fn is_used(&self) -> bool {
        // Relaxed: changed under the class lock only.
        self.word.load(Ordering::Relaxed) & USED != 0
    }

    /// Frees the place of an object whose slot was invalidated before, or leaves that to its last
    /// reader. Under the class lock.
    pub(crate) fn free(&self) -> Freed {
        // Release pairs with the Acquire of `read_lock`: a reader that comes later sees that the
        // slot has changed. Acquire pairs with the Release of `read_unlock`. Relaxed on failure:
        // what follows looks again.
        let (both, look) = (Ordering::AcqRel, Ordering::Relaxed);
        if self.word.compare_exchange(USED, 0, both, look).is_ok() {
            return Freed::Now;
        }
        // AcqRel as above. The count that it replaced decides: a reader in it will see PARKED.
        let before = self.word.fetch_or(PARKED, both);
        debug_assert!(before & (USED | PARKED | WRITER) == USED, "freed while {before:#06x}");
        if before & READERS != 0 || !self.reclaim() { Freed::Parked } else { Freed::Now }
    }

    /// Clears a parked place without readers; false if somebody else has, or will. Under the class
    /// lock.
    pub(crate) fn reclaim(&self) -> bool {
        // AcqRel and Relaxed as in `free`.
        let (both, look) = (Ordering::AcqRel, Ordering::Relaxed);
        self.word.compare_exchange(USED | PARKED, 0, both, look).is_ok()
    }

    /// Locks out readers of a live object that has none. Under the class lock.
    pub(crate) fn write_trylock(&self) -> bool {
        // Acquire pairs with the Release of `read_unlock`; a failure is not acted on.
        let (acquire, look) = (Ordering::Acquire, Ordering::Relaxed);
        self.word.compare_exchange(USED, USED | WRITER, acquire, look).is_ok()
    }

    /// Lets readers in again: the object keeps its place.
    pub(crate) fn write_unlock(&self) {
        // An RMW, since waiting readers are counted in the word. Release pairs with `read_lock`
        // and `has_writer`.
        let before = self.word.fetch_and(!WRITER, Ordering::Release);
        debug_assert!(before & WRITER != 0);
    }

    /// Frees the place of an object that was moved elsewhere, which ends the write lock.
    pub(crate) fn release_moved(&self) {
        // As `write_unlock`: waiting readers then see that the slot points elsewhere.
        let before = self.word.fetch_and(!(WRITER | USED), Ordering::Release);
        debug_assert!(before & (WRITER | USED) == WRITER | USED);
    }

    /// Keeps a number in a lane that is no object's. Under the class lock.
    pub(crate) fn note(&self, number: u16) {
        // Relaxed: read under the class lock.
        self.word.store(number, Ordering::Relaxed);
    }

    /// The number kept. Under the class lock.
    pub(crate) fn noted(&self) -> u16 {
        // Relaxed: as in `note`.
        self.word.load(Ordering::Relaxed)
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn set_readers_for_test(&self, readers: u16) {
        self.word.store(USED | readers, Ordering::SeqCst);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_unread_object_is_freed_at_once() {
        let lane = Lane::default();
        lane.claim();
        assert!(lane.is_used() && !lane.read_unlock());
        assert_eq!(lane.free(), Freed::Now);
        assert!(!lane.is_used());
    }

    #[test]
    fn a_read_object_is_left_to_its_last_reader() {
        let lane = Lane::default();
        lane.claim();
        assert_eq!(lane.read_lock(), Ok(false));
        assert_eq!(lane.free(), Freed::Parked);
        assert!(!lane.reclaim() && lane.is_used());
        assert!(!lane.read_unlock());
        assert!(lane.read_unlock(), "the last one");
        assert!(lane.reclaim() && !lane.reclaim());
    }

    #[test]
    fn a_writer_needs_an_object_without_readers() {
        let lane = Lane::default();
        assert!(!lane.write_trylock(), "no object");
        lane.claim();
        assert!(!lane.write_trylock(), "being written");
        assert!(!lane.read_unlock());
        assert!(!lane.has_writer());
        assert!(lane.write_trylock() && !lane.write_trylock());
        assert_eq!(lane.read_lock(), Ok(true), "a reader waits, counted");
        assert!(lane.has_writer() && lane.is_used());
        lane.write_unlock();
        assert!(!lane.has_writer() && !lane.write_trylock());
        assert!(!lane.read_unlock());
        assert!(lane.write_trylock());
        lane.release_moved();
        assert!(!lane.is_used());
    }

    #[test]
    fn a_mover_leaves_waiting_readers_in_the_count() {
        let lane = Lane::default();
        lane.claim();
        assert!(!lane.read_unlock());
        assert!(lane.write_trylock());
        assert_eq!(lane.read_lock(), Ok(true));
        lane.release_moved();
        assert!(!lane.has_writer() && !lane.is_used());
        // The next object's place, with the passing reader in it.
        lane.claim();
        assert!(!lane.read_unlock());
        assert!(!lane.write_trylock(), "the reader is still counted");
        assert_eq!(lane.free(), Freed::Parked);
        assert!(lane.read_unlock() && lane.reclaim());
    }

    #[test]
    fn a_lane_of_no_object_keeps_a_number() {
        let lane = Lane::default();
        lane.note(0xfff7);
        assert_eq!(lane.noted(), 0xfff7);
    }

    #[test]
    fn readers_saturate() {
        let lane = Lane::default();
        lane.claim();
        for _ in 1..READER_LIMIT {
            lane.read_lock().unwrap();
        }
        assert_eq!(lane.read_lock(), Err(TooManyReaders));
    }
}
