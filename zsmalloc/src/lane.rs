//! A lane is one object's part of the zspage lock: an atomic word on which the object's readers,
//! the thread that frees it, and a mover synchronise.
//!
//! ```text
//!    15     14     13       12     11         0
//! +--------+------+--------+--------+------------+
//! | QUEUED | USED | PARKED | WRITER | readers 12 |
//! +--------+------+--------+--------+------------+
//! ```
//!
//! A zspage is locked object by object, so that a guard that is never dropped blocks its own object
//! and nothing else. The kernel's rules for its zspage lock hold here, too:
//! * readers wait only for a writer, never for other readers;
//! * a reader may sleep while it holds the lock; a writer never sleeps;
//! * a writer never waits: it only tries to take the lock. Its caller handles failure, and announces
//!   nothing before it holds the lock. The lock is taken, held and released under the class lock.
//!   While it is held, no call that can block is made, no page is faulted in, and a bounded number
//!   of bytes is moved.
//!
//! * USED: the place is taken. Its object is being written, lives, or is parked. Set and cleared
//!   under the class lock.
//! * PARKED: the object was freed while it was being read. Set under the class lock.
//! * QUEUED: the place is parked and its last reader has left. It is on the pool's queue of places
//!   to reclaim (`left.rs`).
//!
//! A *passing* reader is a reader that finds its object freed or moved, and leaves the lane again.
//! Such a reader may be counted in any lane at any time, so every change is a read-modify-write
//! (RMW) that preserves the count.
//!
//! # What a counted reader guarantees
//! A place that is USED, not write-locked, and has a reader stays USED until that reader leaves: a
//! mover needs a word without readers, `free` parks the place, and `reclaim` fails while a reader is
//! counted. A zspage stays in its class while any of its places is USED, and on its pages while any
//! USED place has a reader. So a reader that is counted, and then finds its lane USED and without a
//! writer, can rely on class and base until it leaves, whatever they were when it chose the lane.
//!
//! # Why no parked object is lost
//! The thread that changes the word of a parked place without readers to 0, under the class lock,
//! gets the place. `free` sets PARKED by an RMW. If the replaced word had no readers, `free` tries
//! to clear the word itself. If it had readers, each of them takes itself off by an RMW on the same
//! word and then sees PARKED. The last one tries to clear the word, or it sets QUEUED. If it sets
//! QUEUED, the thread that takes the place off the queue tries to clear the word. If an attempt
//! fails, another thread has cleared or queued the place, or another reader has come and will try
//! when it leaves. Readers of neighbouring objects are counted in other lanes, so they cannot delay
//! this.
//!
//! # What a caller promises
//! Taking a lane is safe, since the word decides who gets it: `read_lock`, `claim`,
//! `write_trylock`, `enqueue`, `reclaim`, `dequeue`. Releasing one is unsafe: a caller that ends
//! another thread's lock gives away bytes that the other thread is using. If the word shows that
//! nobody can hold the lock, the release panics.
//!
//! # Why the count never carries
//! A reader adds itself by a CAS from a word that has fewer than [`READER_LIMIT`] readers. Only the
//! writer of a place that was free adds itself unconditionally.

use crate::sync::Watched;
use crate::sync::atomic::{AtomicU16, Ordering};

const QUEUED: u16 = 1 << 15;
const USED: u16 = 1 << 14;
const PARKED: u16 = 1 << 13;
const WRITER: u16 = 1 << 12;
const READERS: u16 = WRITER - 1;

/// The largest number of readers of one object, including passing ones.
pub(crate) const READER_LIMIT: u16 = 1 << 11;

/// The count of readers is at its limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyReaders;

/// The result of `free`.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Freed {
    /// Nobody reads the object: the place is free.
    Now,
    /// Its last reader will free the place.
    Parked,
}

/// A lane's word, as seen by a reader that is counted in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found(u16);

impl Found {
    /// Returns whether the reader must wait for a writer.
    #[inline]
    pub(crate) fn has_writer(self) -> bool {
        self.0 & WRITER != 0
    }

    /// Returns whether the place is taken and has no writer. If so, the reader keeps the zspage in its
    /// class and on its pages.
    #[inline]
    pub(crate) fn is_held(self) -> bool {
        self.0 & (USED | WRITER) == USED
    }
}

/// One object's part of its zspage's lock.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    word: AtomicU16,
    /// Represents the object's bytes under the model checker.
    pub(crate) bytes: Watched,
}

impl Lane {
    /// Adds a reader and returns the previous word. Fails if the count is at its limit. A reader
    /// that waits for a writer stays counted, so that no other writer can overtake it.
    #[inline]
    pub(crate) fn read_lock(&self) -> Result<Found, TooManyReaders> {
        // Relaxed: a first guess for the CAS.
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & READERS >= READER_LIMIT {
                return Err(TooManyReaders);
            }
            // Acquire pairs with the Release of `claim`, `free`, `release_moved` and
            // `write_unlock`: a reader that comes after them sees the zspage's class and base, the
            // slot's new word, and the object's new place. Relaxed on failure: the value is only another guess.
            let (acquire, guess) = (Ordering::Acquire, Ordering::Relaxed);
            match self.word.compare_exchange_weak(word, word + 1, acquire, guess) {
                Ok(found) => return Ok(Found(found)),
                Err(now) => word = now,
            }
        }
    }

    /// Loads the word for a reader that is counted in it.
    pub(crate) fn look(&self) -> Found {
        // Acquire pairs with the same stores as the Acquire of `read_lock`.
        Found(self.word.load(Ordering::Acquire))
    }

    /// Takes a reader off. Returns true if it was the last reader of a parked object: then this
    /// thread must `reclaim` or `enqueue` the place.
    ///
    /// # Safety
    /// The caller is counted here, as a reader or as the object's writer, and will not use the bytes again.
    #[inline]
    #[must_use]
    pub(crate) unsafe fn read_unlock(&self) -> bool {
        // Release pairs with the Acquire of `free`, `reclaim`, `enqueue` and `write_trylock`: this
        // reader's last access to the bytes comes before they are overwritten or moved.
        let before = self.word.fetch_sub(1, Ordering::Release);
        assert!(before & READERS > 0, "read_unlock without a reader: {before:#06x}");
        before & (READERS | PARKED | QUEUED) == PARKED | 1
    }

    /// Takes a free place for a new object, and counts the object's writer as a reader. Until the
    /// writer leaves, the object can neither move nor be reclaimed. The caller holds the class lock.
    pub(crate) fn claim(&self) {
        // The class lock orders the claim after the last use of the place. Release pairs with the
        // Acquire of `read_lock`: a reader that was led here by an outdated slot word then sees the
        // zspage's present class, and sees that the slot has changed.
        let before = self.word.fetch_add(USED + 1, Ordering::Release);
        assert!(before & !READERS == 0, "claim of a lane in use: {before:#06x}");
    }

    /// Returns whether the place is taken. The caller holds the class lock.
    pub(crate) fn is_used(&self) -> bool {
        // Relaxed: changed under the class lock only.
        self.word.load(Ordering::Relaxed) & USED != 0
    }

    /// Frees the place of an object whose slot was invalidated before. If readers are counted, parks
    /// the object instead: its last reader will free the place.
    ///
    /// # Safety
    /// The class lock is held, no handle or slot leads to the object, and only the caller frees it.
    pub(crate) unsafe fn free(&self) -> Freed {
        // Release pairs with the Acquire of `read_lock`: a later reader sees that the slot has
        // changed. Acquire pairs with the Release of `read_unlock`. Relaxed on failure: the next
        // RMW loads the word again.
        let (both, look) = (Ordering::AcqRel, Ordering::Relaxed);
        if self.word.compare_exchange(USED, 0, both, look).is_ok() {
            return Freed::Now;
        }
        // AcqRel as above. If the replaced word counts readers, those readers will see PARKED.
        let before = self.word.fetch_or(PARKED, both);
        assert!(before & !READERS == USED, "free without a live object: {before:#06x}");
        if before & READERS != 0 || !self.reclaim() { Freed::Parked } else { Freed::Now }
    }

    /// Clears a parked place without readers. Returns false if somebody else has cleared it, or will
    /// clear it. The caller holds the class lock.
    pub(crate) fn reclaim(&self) -> bool {
        // AcqRel and Relaxed as in `free`.
        let (both, look) = (Ordering::AcqRel, Ordering::Relaxed);
        self.word.compare_exchange(USED | PARKED, 0, both, look).is_ok()
    }

    /// Marks a parked place without readers as queued. Returns false if another thread has cleared
    /// or queued it, or if another reader has come. On success the caller may use the place's bytes
    /// for the link.
    pub(crate) fn enqueue(&self) -> bool {
        // Acquire pairs with the Release of `read_unlock`: the readers' last accesses to the bytes
        // come before the link is written there. On failure nothing is accessed.
        let (acquire, look) = (Ordering::Acquire, Ordering::Relaxed);
        let queued = USED | PARKED | QUEUED;
        self.word.compare_exchange(USED | PARKED, queued, acquire, look).is_ok()
    }

    /// If no reader is counted in a queued place, clears the place and returns true. Otherwise
    /// clears only QUEUED, leaves the place to the passing readers, and returns false. The caller
    /// holds the class lock.
    pub(crate) fn dequeue(&self) -> bool {
        // AcqRel and Relaxed as in `free`.
        let (both, look) = (Ordering::AcqRel, Ordering::Relaxed);
        if self.word.compare_exchange(USED | PARKED | QUEUED, 0, both, look).is_ok() {
            return true;
        }
        // AcqRel as above. If the replaced word counts readers, those readers will see PARKED without
        // QUEUED.
        let before = self.word.fetch_and(!QUEUED, both);
        assert!(
            before & !READERS == USED | PARKED | QUEUED,
            "dequeue of a lane that is not queued: {before:#06x}"
        );
        before & READERS == 0 && self.reclaim()
    }

    /// Takes the write lock of a live object without readers. New readers then wait. Returns false if
    /// the lock is not free for a writer. The caller holds the class lock.
    pub(crate) fn write_trylock(&self) -> bool {
        // Acquire pairs with the Release of `read_unlock`. On failure nothing is accessed.
        let (acquire, look) = (Ordering::Acquire, Ordering::Relaxed);
        self.word.compare_exchange(USED, USED | WRITER, acquire, look).is_ok()
    }

    /// Releases the write lock and lets readers in again: the object keeps its place.
    ///
    /// # Safety
    /// The caller took the lock with `write_trylock`, and the object's bytes are where its readers
    /// expect them.
    pub(crate) unsafe fn write_unlock(&self) {
        // An RMW, since waiting readers are counted in the word. Release pairs with the Acquire of
        // `read_lock` and `look`.
        let before = self.word.fetch_and(!WRITER, Ordering::Release);
        assert!(before & WRITER != 0, "write_unlock without a writer: {before:#06x}");
    }

    /// Frees the place of an object that was moved elsewhere, and so releases the write lock.
    ///
    /// # Safety
    /// The class lock is held. The caller took the write lock with `write_trylock`, and the
    /// object's slot already leads to the new place.
    pub(crate) unsafe fn release_moved(&self) {
        // Release as in `write_unlock`: waiting readers see that the slot leads elsewhere.
        let before = self.word.fetch_and(!(WRITER | USED), Ordering::Release);
        assert!(
            before & (WRITER | USED) == WRITER | USED,
            "release_moved without a writer: {before:#06x}"
        );
    }

    /// Returns whether the place holds a live object without readers. The answer is a guess.
    pub(crate) fn is_idle(&self) -> bool {
        // Relaxed: a guess.
        self.word.load(Ordering::Relaxed) == USED
    }

    /// Returns whether a writer holds the lane. The caller holds the class lock.
    pub(crate) fn is_write_locked(&self) -> bool {
        // Relaxed: changed under the class lock only.
        self.word.load(Ordering::Relaxed) & WRITER != 0
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn set_readers_for_test(&self, readers: u16) {
        self.word.store(USED | readers, Ordering::SeqCst);
    }
}

/// For tests that themselves act as the reader, as the thread that frees, or as the mover.
#[cfg(test)]
impl Lane {
    pub(crate) fn read_unlock_for_test(&self) -> bool {
        // SAFETY: the test counted itself.
        unsafe { self.read_unlock() }
    }

    pub(crate) fn free_for_test(&self) -> Freed {
        // SAFETY: the object is the test's, and no slot leads to it.
        unsafe { self.free() }
    }

    pub(crate) fn write_unlock_for_test(&self) {
        // SAFETY: the test has the write lock.
        unsafe { self.write_unlock() }
    }

    #[cfg(not(loom))]
    pub(crate) fn release_moved_for_test(&self) {
        // SAFETY: the test has the write lock, and no slot leads here.
        unsafe { self.release_moved() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_unread_object_is_freed_at_once() {
        let lane = Lane::default();
        lane.claim();
        assert!(lane.is_used() && !lane.read_unlock_for_test());
        assert_eq!(lane.free_for_test(), Freed::Now);
        assert!(!lane.is_used());
    }

    #[test]
    fn a_read_object_is_left_to_its_last_reader() {
        let lane = Lane::default();
        lane.claim();
        assert!(lane.read_lock().unwrap().is_held());
        assert_eq!(lane.free_for_test(), Freed::Parked);
        assert!(!lane.reclaim() && lane.is_used());
        assert!(!lane.read_unlock_for_test());
        assert!(lane.read_unlock_for_test(), "the last one");
        assert!(lane.reclaim() && !lane.reclaim());
    }

    #[test]
    fn a_writer_needs_an_object_without_readers() {
        let lane = Lane::default();
        assert!(!lane.write_trylock(), "no object");
        lane.claim();
        assert!(!lane.write_trylock(), "being written");
        assert!(!lane.read_unlock_for_test());
        assert!(!lane.look().has_writer());
        assert!(lane.write_trylock() && !lane.write_trylock());
        assert!(lane.read_lock().unwrap().has_writer(), "a reader waits, counted");
        assert!(lane.look().has_writer() && lane.is_used() && !lane.look().is_held());
        lane.write_unlock_for_test();
        assert!(lane.look().is_held() && !lane.write_trylock());
        assert!(!lane.read_unlock_for_test());
        assert!(lane.write_trylock());
        lane.release_moved_for_test();
        assert!(!lane.is_used());
    }

    #[test]
    fn a_mover_leaves_waiting_readers_in_the_count() {
        let lane = Lane::default();
        lane.claim();
        assert!(!lane.read_unlock_for_test());
        assert!(lane.write_trylock());
        assert!(lane.read_lock().unwrap().has_writer());
        lane.release_moved_for_test();
        assert!(!lane.look().has_writer() && !lane.look().is_held() && !lane.is_used());
        // The next object gets the place while the passing reader is still counted in it.
        lane.claim();
        assert!(!lane.read_unlock_for_test());
        assert!(!lane.write_trylock(), "the reader is still counted");
        assert_eq!(lane.free_for_test(), Freed::Parked);
        assert!(lane.read_unlock_for_test() && lane.reclaim());
    }

    #[test]
    fn a_queued_place_is_cleared_or_left_to_a_passing_reader() {
        for passing in [false, true] {
            let lane = Lane::default();
            lane.claim();
            assert!(!lane.enqueue(), "not parked");
            assert_eq!(lane.free_for_test(), Freed::Parked);
            assert!(!lane.enqueue(), "read");
            assert!(lane.read_unlock_for_test());
            assert!(lane.enqueue() && !lane.enqueue() && !lane.reclaim());
            // A reader that passes leaves a queued place alone. `dequeue` leaves the place to the
            // readers that are still counted.
            assert!(lane.read_lock().unwrap().is_held());
            if passing {
                assert!(!lane.dequeue() && lane.is_used());
                assert!(lane.read_unlock_for_test() && lane.reclaim());
            } else {
                assert!(!lane.read_unlock_for_test());
                assert!(lane.dequeue());
            }
            assert!(!lane.is_used());
        }
    }

    /// The limit holds even if many threads have loaded the count but have not added themselves yet.
    #[cfg(not(miri))]
    #[test]
    fn a_count_at_its_limit_is_never_exceeded() {
        let lane = Lane::default();
        lane.claim();
        for _ in 1..READER_LIMIT - 2 {
            lane.read_lock().unwrap();
        }
        let refused: usize = std::thread::scope(|scope| {
            let add = || (0..2000).filter(|_| lane.read_lock().is_err()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(add)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(refused, 4 * 2000 - 2);
        assert!(lane.look().is_held());
        for _ in 0..READER_LIMIT {
            assert!(!lane.read_unlock_for_test());
        }
        assert!(lane.write_trylock());
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

    #[test]
    fn a_lane_that_nobody_has_is_not_let_go() {
        let breaks: [fn(&Lane); 5] = [
            |lane| {
                let _ = lane.read_unlock_for_test();
            },
            |lane| {
                let _ = lane.free_for_test();
            },
            Lane::write_unlock_for_test,
            Lane::release_moved_for_test,
            |lane| {
                lane.claim();
                lane.claim();
            },
        ];
        for (number, broken) in breaks.into_iter().enumerate() {
            let lane = Lane::default();
            assert!(std::panic::catch_unwind(|| broken(&lane)).is_err(), "{number}");
        }
    }
}
