//! The object word: one atomic that is a buddy's whole public state.
//!
//! ```text
//!  63 62 61    60 59      44 43            24 23          0
//! +-----+--------+----------+----------------+-------------+
//! |  M  | state  | length-1 | generation     | readers     |
//! |     |  (2)   |   (16)   |     (20)       |    (24)     |
//! +-----+--------+----------+----------------+-------------+
//! ```
//! M is bit 62: somebody moves the object's bytes. Only middle objects are moved.
//!
//! | state | meaning | who may change the upper bits |
//! |---|---|---|
//! | FREE | no object | who took its room, under the page's lock |
//! | OWNED | being written, or being taken apart | its one owner |
//! | LIVE | an object with a handle | whoever wins the CAS of `free` |
//! | PARKED | freed while read; waits for the readers | whoever wins the CAS of `try_own` |
//!
//! Generation, state and reader count are one word, so there is no moment between "is this the
//! object?" and "it is pinned": `pin` adds a reader and looks at what it added it to. A pin that
//! finds another generation or state takes its reader off again. Such a passing reader may show in
//! any state, so every change of the upper bits is a read-modify-write that keeps the count.
//!
//! # Why no parked object is lost
//! The space goes to whoever turns {PARKED, 0 readers} into OWNED. `free` leaves an object PARKED
//! only when the value it replaced had readers; each of them, passing ones too, takes itself off
//! by an RMW on the same word and tries to own the space when it was the last. The count reaches 0
//! after PARKED was set at least once, and the one who brings it there tries. If that try fails,
//! somebody else owns it or a passing reader came, who will try in turn.
//!
//! # Moving
//! A live object without readers may be moved inside its page: `try_move` sets M by a CAS on {LIVE, 0
//! readers}, `end_move` clears it by an RMW, since readers that came meanwhile are counted. They wait
//! until it is clear before they ask where the object is. The mover and the freer share a lock of the
//! page, so nobody frees an object that is being moved.
//!
//! # Why no reader sees another's bytes
//! Bytes are written in state OWNED only. OWNED is reached from LIVE or PARKED by a CAS on a value
//! with 0 readers, with Acquire, which reads the Release of the last `unpin` through the chain of
//! RMWs on this word.

use crate::sync::atomic::{AtomicU64, Ordering};
use zpool_api::handle::MAX_GENERATION;

const GENERATION_SHIFT: u32 = 24;
const LEN_SHIFT: u32 = 44;
const STATE_SHIFT: u32 = 60;
const MOVING: u64 = 1 << 62;
const READERS_MASK: u64 = (1 << GENERATION_SHIFT) - 1;

/// Most readers of one object: half of what the count can hold. `pin` checks the count, then adds to it,
/// so it may be exceeded by one for each thread between the two, and passing readers add one for each
/// thread between addition and subtraction. The other half of the count is room for them.
pub const READER_LIMIT: u64 = 1 << 23;

/// Threads that a system can have at once: Linux's greatest `pid_max`, 2^22.
const MOST_THREADS: u64 = 1 << 22;

const _: () = assert!(READER_LIMIT + MOST_THREADS <= READERS_MASK, "the reader count could carry");

/// What a buddy is at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum State {
    /// No object.
    Free = 0,
    /// Being written, or being taken apart.
    Owned = 1,
    /// An object with a handle.
    Live = 2,
    /// Freed while read; waits for its readers.
    Parked = 3,
}

/// A value of the object word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    /// `len` is 1 to 65536 bytes; of a free buddy it means nothing.
    pub(crate) fn new(state: State, generation: u32, len: usize) -> Self {
        debug_assert!(generation <= MAX_GENERATION && (1..=65536).contains(&len));
        let len = (len as u64 - 1) & 0xffff;
        let generation = u64::from(generation & MAX_GENERATION);
        Word(((state as u64) << STATE_SHIFT) | (len << LEN_SHIFT) | generation << GENERATION_SHIFT)
    }

    /// What the buddy is.
    pub(crate) fn state(self) -> State {
        match (self.0 >> STATE_SHIFT) & 3 {
            0 => State::Free,
            1 => State::Owned,
            2 => State::Live,
            _ => State::Parked,
        }
    }

    /// The object's generation, or the next one's.
    pub(crate) fn generation(self) -> u32 {
        (self.0 >> GENERATION_SHIFT) as u32 & MAX_GENERATION
    }

    /// Bytes of the object.
    pub(crate) fn bytes(self) -> usize {
        ((self.0 >> LEN_SHIFT) & 0xffff) as usize + 1
    }

    /// Readers, passing ones too.
    pub(crate) fn readers(self) -> u64 {
        self.0 & READERS_MASK
    }

    /// Whether the object's bytes are being moved.
    pub(crate) fn is_moving(self) -> bool {
        self.0 & MOVING != 0
    }

    fn is_live(self, generation: u32) -> bool {
        self.state() == State::Live && self.generation() == generation
    }

    fn upper(self) -> u64 {
        self.0 & !READERS_MASK
    }

    fn with_state(self, state: State) -> Self {
        Word((self.0 & !(3 << STATE_SHIFT)) | ((state as u64) << STATE_SHIFT))
    }
}

impl core::fmt::Debug for Word {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Word")
            .field("state", &self.state())
            .field("generation", &self.generation())
            .field("bytes", &self.bytes())
            .field("readers", &self.readers())
            .finish()
    }
}

/// Why a pin failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PinError {
    /// No live object of that generation. `Some` when taking the passing reader off again left a
    /// parked object to this thread.
    NotLive(Option<Word>),
    /// The object has as many readers as it can.
    TooManyReaders,
}

/// What a successful `free` leaves to its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Freed {
    /// Nobody reads it: the caller owns the space now.
    Owned(Word),
    /// It is read: the last reader will own the space.
    Parked(Word),
}

/// The atomic itself.
#[derive(Debug)]
pub(crate) struct ObjWord(AtomicU64);

impl ObjWord {
    /// A free one, whose first object will have this generation.
    pub(crate) fn new(generation: u32) -> Self {
        ObjWord(AtomicU64::new(Word::new(State::Free, generation, 1).0))
    }

    /// A snapshot, for the holder of the page's lock and for owners, whose upper bits nobody changes.
    pub(crate) fn peek(&self) -> Word {
        // Relaxed: a number to look at; whoever acts on it does so under the page's lock or through
        // a handle that is checked again by an RMW.
        Word(self.0.load(Ordering::Relaxed))
    }

    /// Adds a reader if the object of this generation is live.
    #[inline]
    pub(crate) fn pin(&self, generation: u32) -> Result<Word, PinError> {
        let seen = self.peek();
        if !seen.is_live(generation) {
            return Err(PinError::NotLive(None));
        }
        if seen.readers() >= READER_LIMIT {
            return Err(PinError::TooManyReaders);
        }
        // Acquire pairs with the Release of `publish`: the object's bytes are seen whole.
        let found = Word(self.0.fetch_add(1, Ordering::Acquire));
        if found.is_live(generation) { Ok(found) } else { Err(PinError::NotLive(self.unpin())) }
    }

    /// Takes a reader off. Gives the word when that left a parked object to this thread, which
    /// owns the space from then on.
    #[inline]
    pub(crate) fn unpin(&self) -> Option<Word> {
        // Release pairs with the Acquire of `try_own` and `free`: this reader's last look at the
        // bytes comes before whatever the next owner writes there.
        let before = Word(self.0.fetch_sub(1, Ordering::Release));
        debug_assert!(before.readers() > 0, "unpin without a reader: {before:?}");
        if before.readers() == 1 && before.state() == State::Parked {
            return self.try_own(Word(before.0 - 1));
        }
        None
    }

    fn try_own(&self, parked: Word) -> Option<Word> {
        debug_assert!(parked.state() == State::Parked && parked.readers() == 0);
        let owned = parked.with_state(State::Owned);
        // Acquire pairs with the Release of every `unpin` in the chain of RMWs that this CAS ends.
        // Relaxed on failure: somebody else owns it or will try.
        self.0
            .compare_exchange(parked.0, owned.0, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(|_| owned)
    }

    /// Ends the object of this generation, if it is live.
    pub(crate) fn free(&self, generation: u32) -> Option<Freed> {
        let mut seen = self.peek();
        loop {
            if !seen.is_live(generation) {
                return None;
            }
            debug_assert!(!seen.is_moving(), "freed while it was moved");
            let idle = seen.readers() == 0;
            let next = seen.with_state(if idle { State::Owned } else { State::Parked });
            // Acquire pairs with the Release of `unpin`, as in `try_own`, and with that of
            // `publish`. Relaxed on failure: the value is only compared again.
            match self.0.compare_exchange_weak(seen.0, next.0, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) if idle => return Some(Freed::Owned(next)),
                Ok(_) => return Some(Freed::Parked(next)),
                Err(now) => seen = Word(now),
            }
        }
    }

    /// Locks readers out of a live object that has none, to move its bytes. Under the lock that the
    /// object's freer takes, too.
    pub(crate) fn try_move(&self) -> bool {
        let seen = self.peek();
        if seen.state() != State::Live || seen.readers() != 0 {
            return false;
        }
        // Acquire pairs with the Release of `publish` and of the last `unpin`. Relaxed on failure:
        // a reader came, and the object stays.
        let moving = seen.0 | MOVING;
        self.0.compare_exchange(seen.0, moving, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Ends `try_move`.
    pub(crate) fn end_move(&self) {
        // An RMW, since readers that wait are counted in the word. Release pairs with the Acquire of
        // `pin` and of `now`: they find the bytes, and where they are.
        let before = Word(self.0.fetch_and(!MOVING, Ordering::Release));
        debug_assert!(before.is_moving());
    }

    /// The word now, for a reader that waits for a mover.
    pub(crate) fn now(&self) -> Word {
        // Acquire pairs with the Release of `end_move`.
        Word(self.0.load(Ordering::Acquire))
    }

    /// FREE to OWNED, for an object of `len` bytes. Only by who took the room, under the page's lock.
    pub(crate) fn claim(&self, len: usize) {
        let now = self.peek();
        debug_assert_eq!(now.state(), State::Free);
        // Relaxed: the page's lock, under which the room was taken, orders this owner after the last one.
        self.change(now, Word::new(State::Owned, now.generation(), len), Ordering::Relaxed);
    }

    /// OWNED to LIVE: the bytes are written. Only by the owner. Gives the generation.
    pub(crate) fn publish(&self) -> Word {
        let now = self.peek();
        debug_assert_eq!(now.state(), State::Owned);
        // Release pairs with the Acquire of `pin`.
        let live = now.with_state(State::Live);
        self.change(now, live, Ordering::Release);
        live
    }

    /// OWNED to FREE. Only by the owner, under the page's lock. `published` tells whether a handle
    /// was ever given out, which uses the generation up; false means the slot must be retired.
    #[must_use]
    pub(crate) fn release(&self, published: bool) -> bool {
        let now = self.peek();
        debug_assert_eq!(now.state(), State::Owned);
        let next = now.generation() + u32::from(published);
        let usable = next <= MAX_GENERATION;
        let generation = next.min(MAX_GENERATION);
        // Relaxed: the page's lock orders the next owner after this one. At the last generation the
        // state alone keeps stale handles out, for good.
        self.change(now, Word::new(State::Free, generation, 1), Ordering::Relaxed);
        usable
    }

    /// Changes the upper bits, which are the caller's, and keeps whatever count of passing readers
    /// there is.
    fn change(&self, from: Word, to: Word, order: Ordering) {
        let delta = to.upper().wrapping_sub(from.upper());
        let before = Word(self.0.fetch_add(delta, order));
        debug_assert_eq!(before.upper(), from.upper(), "the upper bits had two owners");
    }

    /// Sets the count of readers, which no test can reach by reading.
    #[doc(hidden)]
    pub(crate) fn set_readers_for_test(&self, readers: u64) {
        let now = self.peek();
        self.0.store(now.upper() | readers, Ordering::SeqCst);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use zpool_base::sync::test_rng::Rng;

    #[test]
    fn fields_round_trip() {
        let mut rng = Rng::new(5);
        for i in 0..if cfg!(miri) { 200 } else { 4000 } {
            let state = [State::Free, State::Owned, State::Live, State::Parked][i % 4];
            let generation =
                if i < 8 { MAX_GENERATION } else { rng.below(MAX_GENERATION as usize) as u32 };
            let len = [1, 65536, rng.below(65536) + 1][i % 3];
            let word = Word(Word::new(state, generation, len).0 + (rng.next() & READERS_MASK));
            assert_eq!((word.state(), word.generation(), word.bytes()), (state, generation, len));
            assert_eq!(word.upper() + word.readers(), word.0);
            let parked = word.with_state(State::Parked);
            assert_eq!(parked.state(), State::Parked);
            assert_eq!((parked.generation(), parked.bytes()), (generation, len));
            assert_eq!(parked.readers(), word.readers());
        }
    }

    fn live(generation: u32, len: usize) -> ObjWord {
        let word = ObjWord::new(generation);
        word.claim(len);
        word.publish();
        word
    }

    #[test]
    fn a_life_without_readers() {
        let word = live(1, 100);
        assert_eq!(word.pin(2), Err(PinError::NotLive(None)));
        assert_eq!(word.free(2), None);
        let Some(Freed::Owned(last)) = word.free(1) else { panic!("should be owned") };
        assert_eq!(last.bytes(), 100);
        assert_eq!(word.free(1), None);
        assert!(word.release(true));
        assert_eq!((word.peek().state(), word.peek().generation()), (State::Free, 2));
    }

    #[test]
    fn the_last_reader_owns_a_parked_object() {
        let word = live(1, 9);
        word.pin(1).unwrap();
        word.pin(1).unwrap();
        assert!(matches!(word.free(1), Some(Freed::Parked(_))));
        assert_eq!(word.free(1), None);
        assert_eq!(word.pin(1), Err(PinError::NotLive(None)));
        assert_eq!(word.unpin(), None);
        assert_eq!(word.unpin().map(Word::state), Some(State::Owned));
    }

    #[test]
    fn a_mover_needs_a_live_object_without_readers() {
        let word = ObjWord::new(1);
        assert!(!word.try_move(), "free");
        word.claim(9);
        assert!(!word.try_move(), "being written");
        word.publish();
        word.pin(1).unwrap();
        assert!(!word.try_move(), "read");
        assert_eq!(word.unpin(), None);
        assert!(word.try_move() && word.peek().is_moving());
        assert!(word.pin(1).is_ok_and(Word::is_moving), "a reader is counted, and waits");
        word.end_move();
        assert!(!word.now().is_moving() && word.now().readers() == 1);
    }

    #[test]
    fn a_word_in_a_message_tells_its_fields() {
        let word = live(3, 100);
        let pinned = word.pin(3).unwrap();
        let told = format!("{pinned:?} {:?}", word.peek());
        for part in ["state: Live", "generation: 3", "bytes: 100", "readers: 0", "readers: 1"] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn an_aborted_object_keeps_its_generation() {
        let word = ObjWord::new(3);
        word.claim(1);
        assert!(word.release(false));
        assert_eq!(word.peek().generation(), 3);
    }

    #[test]
    fn the_last_generation_ends_the_slot() {
        let word = live(MAX_GENERATION, 4);
        assert!(matches!(word.free(MAX_GENERATION), Some(Freed::Owned(_))));
        assert!(!word.release(true), "a used-up generation must retire the slot");
        assert_eq!(word.pin(MAX_GENERATION), Err(PinError::NotLive(None)));
    }

    #[test]
    fn reader_counts_saturate_with_an_error() {
        let word = live(1, 4);
        word.set_readers_for_test(READER_LIMIT - 1);
        word.pin(1).unwrap();
        assert_eq!(word.pin(1), Err(PinError::TooManyReaders));
        assert_eq!(word.peek().readers(), READER_LIMIT);
        assert_eq!(word.unpin(), None);
        word.pin(1).unwrap();
    }
}
