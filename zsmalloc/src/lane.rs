//! The zspage lock, an object's part of it: one atomic word that its readers, its freer and a
//! mover meet on.
//!
//! ```text
//!    15     14     13       12     11         0
//! +--------+------+--------+--------+------------+
//! | QUEUED | USED | PARKED | WRITER | readers 12 |
//! +--------+------+--------+--------+------------+
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
//! the class lock. PARKED: freed while read; set under the class lock. QUEUED: parked, without the
//! reader that left it last, and on the pool's queue of places to reclaim (`left.rs`). A *passing*
//! reader, whose object turns out to be gone, may show up in the count of any lane at any time, so
//! every change is a read-modify-write that keeps the count.
//!
//! # What a counted reader keeps
//! A place that is USED, not write-locked, and has a reader stays USED until that reader has gone: a
//! mover needs a word without readers, `free` parks it, and reclaiming needs no readers. While any
//! place of it is USED a zspage stays in its class, and while any USED place has a reader it stays on
//! its pages. So for a reader that finds its lane USED and without a writer, counted itself, class
//! and base are fixed until it goes, whatever they were when it chose the lane.
//!
//! # Why no parked object is lost
//! The place falls to whoever clears {USED, PARKED, 0 readers}, under the class lock. `free` leaves
//! it parked only when the value that its own RMW replaced had readers. Each of them takes itself
//! off by an RMW on the same word, sees PARKED then, and if it was the last tries to clear it, or to
//! set QUEUED, after which whoever takes it off the queue tries. If that try fails, somebody else
//! has cleared or queued it, or another reader came, who will try in turn. Readers of neighbours do
//! not count, so none can keep it waiting.
//!
//! # What a caller promises
//! Taking a lane is safe, since the word decides who gets it: `read_lock`, `claim`, `write_trylock`,
//! `enqueue`, `reclaim`, `dequeue`. Letting go of one is not: whoever ends a lock that is another's
//! gives that one's bytes away. Where the word shows that nobody can have had it, that panics.
//!
//! # Why the count never carries
//! A reader adds itself by a CAS from a word that has fewer than [`READER_LIMIT`] readers, and only
//! the writer of a place that was nobody's adds itself beyond.

use crate::sync::Watched;
use crate::sync::atomic::{AtomicU16, Ordering};

const QUEUED: u16 = 1 << 15;
const USED: u16 = 1 << 14;
const PARKED: u16 = 1 << 13;
const WRITER: u16 = 1 << 12;
const READERS: u16 = WRITER - 1;

/// Most readers of one object, passing ones included.
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

/// A lane's word as a reader found it that is counted in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found(u16);

impl Found {
    /// Whether a writer is to be waited for.
    #[inline]
    pub(crate) fn has_writer(self) -> bool {
        self.0 & WRITER != 0
    }

    /// Whether the place is taken, so that the reader keeps its zspage in its class and on its pages.
    #[inline]
    pub(crate) fn is_held(self) -> bool {
        self.0 & (USED | WRITER) == USED
    }
}

/// One object's part of its zspage's lock.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    word: AtomicU16,
    /// Stands for the object's bytes under the model checker.
    pub(crate) bytes: Watched,
}

impl Lane {
    /// Adds a reader; the word that it added itself to. A reader that waits for a writer stays
    /// counted, so no other writer overtakes it.
    #[inline]
    pub(crate) fn read_lock(&self) -> Result<Found, TooManyReaders> {
        // Relaxed: a first guess for the CAS.
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & READERS >= READER_LIMIT {
                return Err(TooManyReaders);
            }
            // Acquire pairs with the Release of `claim`, `free`, `release_moved` and `write_unlock`:
            // whoever comes after them sees the zspage's class and base, what became of the slot, and
            // where the object is. Relaxed on failure: another guess.
            let (acquire, guess) = (Ordering::Acquire, Ordering::Relaxed);
            match self.word.compare_exchange_weak(word, word + 1, acquire, guess) {
                Ok(found) => return Ok(Found(found)),
                Err(now) => word = now,
            }
        }
    }

    /// The word as it is now. For a reader that is counted in it.
    pub(crate) fn look(&self) -> Found {
        // Acquire pairs as that of `read_lock`.
        Found(self.word.load(Ordering::Acquire))
    }

    /// Takes a reader off; true if that left a parked object to this thread, to `reclaim` or to
    /// `enqueue` it.
    ///
    /// # Safety
    /// The caller is counted here, as a reader or as the writer of the object, and looks at the bytes no
    /// more.
    #[inline]
    #[must_use]
    pub(crate) unsafe fn read_unlock(&self) -> bool {
        // Release pairs with the Acquire of `free`, `reclaim` and `write_trylock`: this reader's
        // last look at the bytes comes before they are written or moved.
        let before = self.word.fetch_sub(1, Ordering::Release);
        assert!(before & READERS > 0, "unlock without a reader: {before:#06x}");
        before & (READERS | PARKED | QUEUED) == PARKED | 1
    }

    /// Takes a free place for an object that is to be written, its writer counted as a reader: it
    /// must neither move nor be reclaimed meanwhile. Under the class lock.
    pub(crate) fn claim(&self) {
        // The class lock orders this after the last use of the place. Release pairs with the Acquire
        // of `read_lock`: a stale reader in this lane sees the class that its zspage has now, and
        // that the object which it looks for has left the zspage.
        let before = self.word.fetch_add(USED + 1, Ordering::Release);
        assert!(before & !READERS == 0, "claimed while {before:#06x}");
    }

    /// Whether the place is taken. Under the class lock.
    pub(crate) fn is_used(&self) -> bool {
        // Relaxed: changed under the class lock only.
        self.word.load(Ordering::Relaxed) & USED != 0
    }

    /// Frees the place of an object whose slot was invalidated before, or leaves that to its last
    /// reader.
    ///
    /// # Safety
    /// Under the class lock, of an object that nobody finds any more, and that the caller alone frees.
    pub(crate) unsafe fn free(&self) -> Freed {
        // Release pairs with the Acquire of `read_lock`: a reader that comes later sees that the
        // slot has changed. Acquire pairs with the Release of `read_unlock`. Relaxed on failure:
        // what follows looks again.
        let (both, look) = (Ordering::AcqRel, Ordering::Relaxed);
        if self.word.compare_exchange(USED, 0, both, look).is_ok() {
            return Freed::Now;
        }
        // AcqRel as above. The count that it replaced decides: a reader in it will see PARKED.
        let before = self.word.fetch_or(PARKED, both);
        assert!(before & !READERS == USED, "freed while {before:#06x}");
        if before & READERS != 0 || !self.reclaim() { Freed::Parked } else { Freed::Now }
    }

    /// Clears a parked place without readers; false if somebody else has, or will. Under the class
    /// lock.
    pub(crate) fn reclaim(&self) -> bool {
        // AcqRel and Relaxed as in `free`.
        let (both, look) = (Ordering::AcqRel, Ordering::Relaxed);
        self.word.compare_exchange(USED | PARKED, 0, both, look).is_ok()
    }

    /// Makes a parked place without readers the queue's; false if it is somebody else's by now. Its
    /// bytes are then the caller's, to link it with.
    pub(crate) fn enqueue(&self) -> bool {
        // Acquire pairs with the Release of `read_unlock`: the readers' last looks at the bytes come
        // before the link is written there. A failure is not acted on.
        let (acquire, look) = (Ordering::Acquire, Ordering::Relaxed);
        let queued = USED | PARKED | QUEUED;
        self.word.compare_exchange(USED | PARKED, queued, acquire, look).is_ok()
    }

    /// Clears a queued place, or takes it off the queue for the passing readers that are in it; true
    /// if it was cleared. Under the class lock.
    pub(crate) fn dequeue(&self) -> bool {
        // AcqRel and Relaxed as in `free`.
        let (both, look) = (Ordering::AcqRel, Ordering::Relaxed);
        if self.word.compare_exchange(USED | PARKED | QUEUED, 0, both, look).is_ok() {
            return true;
        }
        // AcqRel as above. The count that it replaced decides, as in `free`: a reader in it will see
        // PARKED alone.
        let before = self.word.fetch_and(!QUEUED, both);
        assert!(
            before & !READERS == USED | PARKED | QUEUED,
            "taken off the queue while {before:#06x}"
        );
        before & READERS == 0 && self.reclaim()
    }

    /// Locks out readers of a live object that has none. Under the class lock.
    pub(crate) fn write_trylock(&self) -> bool {
        // Acquire pairs with the Release of `read_unlock`; a failure is not acted on.
        let (acquire, look) = (Ordering::Acquire, Ordering::Relaxed);
        self.word.compare_exchange(USED, USED | WRITER, acquire, look).is_ok()
    }

    /// Lets readers in again: the object keeps its place.
    ///
    /// # Safety
    /// The caller has won `write_trylock`, and the object's bytes are where its readers look for them.
    pub(crate) unsafe fn write_unlock(&self) {
        // An RMW, since waiting readers are counted in the word. Release pairs with `read_lock`
        // and `look`.
        let before = self.word.fetch_and(!WRITER, Ordering::Release);
        assert!(before & WRITER != 0, "a write lock ends that nobody holds: {before:#06x}");
    }

    /// Frees the place of an object that was moved elsewhere, which ends the write lock.
    ///
    /// # Safety
    /// Under the class lock. The caller has won `write_trylock`, and pointed the object's slot elsewhere.
    pub(crate) unsafe fn release_moved(&self) {
        // As `write_unlock`: waiting readers then see that the slot points elsewhere.
        let before = self.word.fetch_and(!(WRITER | USED), Ordering::Release);
        assert!(before & (WRITER | USED) == WRITER | USED, "moved unlocked: {before:#06x}");
    }

    /// Whether it is a live object's that nobody reads, as it was a moment ago.
    pub(crate) fn is_idle(&self) -> bool {
        // Relaxed: a guess.
        self.word.load(Ordering::Relaxed) == USED
    }

    /// Whether a writer holds it. Under the class lock.
    pub(crate) fn is_write_locked(&self) -> bool {
        // Relaxed: changed under the class lock only.
        self.word.load(Ordering::Relaxed) & WRITER != 0
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn set_readers_for_test(&self, readers: u16) {
        self.word.store(USED | readers, Ordering::SeqCst);
    }
}

/// Lanes taken by hand: the test is the reader, the freer or the mover itself.
#[cfg(test)]
impl Lane {
    pub(crate) fn read_unlock_for_test(&self) -> bool {
        // SAFETY: the test counted itself.
        unsafe { self.read_unlock() }
    }

    pub(crate) fn free_for_test(&self) -> Freed {
        // SAFETY: the test's object, to which no slot leads.
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
        // The next object's place, with the passing reader in it.
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
            // Passing readers leave it to the queue, and the queue to them if they are there.
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

    /// However many threads are between a look at the count and their addition to it.
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
