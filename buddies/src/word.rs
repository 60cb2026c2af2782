//! The object word: one atomic that holds everything that other threads need to know about a buddy.
//!
//! ```text
//!  63 62 61    60 59      44 43            24 23          0
//! +-----+--------+----------+----------------+-------------+
//! |  M  | state  | length-1 | generation     | readers     |
//! |     |  (2)   |   (16)   |     (20)       |    (24)     |
//! +-----+--------+----------+----------------+-------------+
//! ```
//! M is bit 62, MOVING. It is set while a thread moves the object's bytes. Only middle objects are ever
//! moved.
//!
//! | state | meaning | who may change the upper bits |
//! |---|---|---|
//! | FREE | no object | the allocation that took the buddy's room under the page's lock |
//! | OWNED | being written or being freed | its only owner |
//! | LIVE | an object with a handle | the thread whose CAS in `free` or `try_move` succeeds |
//! | PARKED | freed while being read; waits for its readers | the thread whose CAS in `try_own` succeeds |
//!
//! The *upper bits* are all bits except the reader count.
//!
//! Generation, state and reader count are in one word. So no other thread can intervene between the check
//! that this is the right object and the pin. `pin` adds a reader and then checks the word as it was before
//! the addition. If that word has another generation or state, the pin fails and subtracts its reader
//! again. Such a *passing reader* may appear in any state. So every change of the upper bits is a
//! read-modify-write (RMW) that keeps the count.
//!
//! # Why no parked object is lost
//! The thread that turns {PARKED, 0 readers} into OWNED owns the space. `free` leaves an object PARKED only
//! if the word that it replaced had readers. Each reader, even a passing one, subtracts itself by an RMW on
//! the same word. If it was the last reader, it tries to own the space. So after the word became PARKED,
//! the count reaches 0 at least once, and the thread that brings it to 0 tries. If its try fails, either
//! another thread owns the space, or a passing reader has come. In the second case, the passing reader will
//! try when it subtracts itself.
//!
//! # Moving
//! A live object without readers may be moved inside its page. `try_move` sets M by a CAS on {LIVE, 0
//! readers}. Readers that come while M is set are counted. So `end_move` clears M by an RMW, which keeps
//! the count. These readers wait until M is clear, and only then read where the object is. A thread that
//! moves an object and a thread that frees it take the same lock, so nobody frees an object that is being
//! moved.
//!
//! # Why no reader sees another object's bytes
//! The bytes of a buddy are written only in state OWNED or while M is set. A LIVE or PARKED word becomes
//! OWNED, and M is set, only by a CAS on a value with 0 readers. This CAS ends a chain of RMWs on the word,
//! so its Acquire synchronizes with the Release of every earlier `unpin`.

use crate::sync::atomic::{AtomicU64, Ordering};
use zpool_api::SlotRef;

const GENERATION_SHIFT: u32 = 24;
const LEN_SHIFT: u32 = 44;
const STATE_SHIFT: u32 = 60;
const MOVING: u64 = 1 << 62;
const READERS_MASK: u64 = (1 << GENERATION_SHIFT) - 1;

/// The greatest number of readers of one object: half of what the count can hold. The other half is a
/// reserve, because threads may exceed the limit for a moment. `pin` checks the count before it adds to it,
/// so each thread between the check and the addition may exceed the limit by one. Each passing reader also
/// adds one until it subtracts itself again.
pub const READER_LIMIT: u64 = 1 << 23;

/// The greatest number of threads that a system can have at the same time: Linux's largest `pid_max`, 2^22.
const MOST_THREADS: u64 = 1 << 22;

const _: () = assert!(READER_LIMIT + MOST_THREADS <= READERS_MASK, "the reader count could carry");

/// The state of a buddy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum State {
    /// No object.
    Free = 0,
    /// Being written, or being freed.
    Owned = 1,
    /// An object with a handle.
    Live = 2,
    /// Freed while being read. Waits for its readers.
    Parked = 3,
}

/// A value of the object word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    /// Makes a word without readers. `len` must be 1 to 65536 bytes. If the buddy is free, `len` has no
    /// meaning.
    pub(crate) fn new(state: State, generation: u32, len: usize) -> Self {
        debug_assert!(generation <= SlotRef::MAX_GENERATION && (1..=65536).contains(&len));
        let len = (len as u64 - 1) & 0xffff;
        let generation = u64::from(generation & SlotRef::MAX_GENERATION);
        Word(((state as u64) << STATE_SHIFT) | (len << LEN_SHIFT) | generation << GENERATION_SHIFT)
    }

    /// Returns the buddy's state.
    pub(crate) fn state(self) -> State {
        match (self.0 >> STATE_SHIFT) & 3 {
            0 => State::Free,
            1 => State::Owned,
            2 => State::Live,
            _ => State::Parked,
        }
    }

    /// Returns the generation of the object. If the buddy is free, returns the generation of its next
    /// object.
    pub(crate) fn generation(self) -> u32 {
        (self.0 >> GENERATION_SHIFT) as u32 & SlotRef::MAX_GENERATION
    }

    /// Returns the length of the object in bytes.
    pub(crate) fn bytes(self) -> usize {
        ((self.0 >> LEN_SHIFT) & 0xffff) as usize + 1
    }

    /// Returns the number of readers. Passing readers count, too.
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

/// The reason why a pin failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PinError {
    /// There is no live object with this generation. The failed pin counted as a reader for a moment. If it
    /// was the last reader of a parked object, this thread may now own that object's space. Then the value
    /// is `Some`.
    NotLive(Option<Word>),
    /// The object has [`READER_LIMIT`] readers.
    TooManyReaders,
}

/// Who owns the space of an object after a successful `free`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Freed {
    /// The caller. The object has no readers.
    Owned(Word),
    /// Nobody yet. The last reader will own the space when its read ends.
    Parked(Word),
}

/// The atomic that holds a [`Word`].
#[derive(Debug)]
pub(crate) struct ObjWord(AtomicU64);

impl ObjWord {
    /// Makes the word of a free buddy. The buddy's first object will have this generation.
    pub(crate) fn new(generation: u32) -> Self {
        ObjWord(AtomicU64::new(Word::new(State::Free, generation, 1).0))
    }

    /// Returns a snapshot of the word. The upper bits are exact if the caller owns the word. Any other
    /// caller must check them again.
    pub(crate) fn peek(&self) -> Word {
        // Relaxed: a caller acts on the value only if it owns the word, holds the page's lock, or uses an RMW
        // that checks the value again.
        Word(self.0.load(Ordering::Relaxed))
    }

    /// Adds a reader if the object with this generation is live. Returns the word as it was before the
    /// addition.
    #[inline]
    pub(crate) fn pin(&self, generation: u32) -> Result<Word, PinError> {
        let seen = self.peek();
        if !seen.is_live(generation) {
            return Err(PinError::NotLive(None));
        }
        if seen.readers() >= READER_LIMIT {
            return Err(PinError::TooManyReaders);
        }
        // Acquire pairs with the Release of `publish` and `end_move`, so the object's bytes are visible.
        let found = Word(self.0.fetch_add(1, Ordering::Acquire));
        if found.is_live(generation) { Ok(found) } else { Err(PinError::NotLive(self.unpin())) }
    }

    /// Subtracts a reader. If it was the last reader of a parked object, tries to own the object's space.
    /// Returns the word if this thread now owns the space, otherwise `None`.
    #[inline]
    pub(crate) fn unpin(&self) -> Option<Word> {
        // Release pairs with the Acquire of `try_own`, `free` and `try_move`: this reader's last access to
        // the bytes comes before the next owner's or mover's writes.
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
        // Acquire pairs with the Release of every `unpin` in the chain of RMWs that this CAS ends. Relaxed
        // on failure: then another thread owns the space or will try to.
        self.0
            .compare_exchange(parked.0, owned.0, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(|_| owned)
    }

    /// Frees the object with this generation, and returns who owns its space now. Returns `None` if there
    /// is no live object with this generation.
    pub(crate) fn free(&self, generation: u32) -> Option<Freed> {
        let mut seen = self.peek();
        loop {
            if !seen.is_live(generation) {
                return None;
            }
            debug_assert!(!seen.is_moving(), "freed while it was moved");
            let idle = seen.readers() == 0;
            let next = seen.with_state(if idle { State::Owned } else { State::Parked });
            // Acquire pairs with the Release of `unpin`, as in `try_own`, and with the Release of `publish`.
            // Relaxed on failure: the value is only used for the next try.
            match self.0.compare_exchange_weak(seen.0, next.0, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) if idle => return Some(Freed::Owned(next)),
                Ok(_) => return Some(Freed::Parked(next)),
                Err(now) => seen = Word(now),
            }
        }
    }

    /// Sets M on a live object without readers. From now on, new readers wait until the move of the
    /// object's bytes ends. Returns false if the object is not live or has readers. The caller must hold
    /// the page's lock. A thread that frees the object takes this lock, too.
    pub(crate) fn try_move(&self) -> bool {
        let seen = self.peek();
        if seen.state() != State::Live || seen.readers() != 0 {
            return false;
        }
        // Acquire pairs with the Release of `publish` and of the last `unpin`. Relaxed on failure: a reader
        // has come, and the object stays where it is.
        let moving = seen.0 | MOVING;
        self.0.compare_exchange(seen.0, moving, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Clears M and so ends the move that `try_move` began.
    pub(crate) fn end_move(&self) {
        // This is an RMW, because the word counts waiting readers. Release pairs with the Acquire of `pin`
        // and of `now`, so a reader sees the moved bytes and their new place.
        let before = Word(self.0.fetch_and(!MOVING, Ordering::Release));
        debug_assert!(before.is_moving());
    }

    /// Returns the current word. Meant for a reader that waits until a move ends.
    pub(crate) fn now(&self) -> Word {
        // Acquire pairs with the Release of `end_move`.
        Word(self.0.load(Ordering::Acquire))
    }

    /// Changes the word from FREE to OWNED, for an object of `len` bytes. Only the thread that took the
    /// buddy's room under the page's lock may call it.
    pub(crate) fn claim(&self, len: usize) {
        let now = self.peek();
        debug_assert_eq!(now.state(), State::Free);
        // Relaxed: the room was taken under the page's lock, which orders this owner after the previous
        // one.
        self.change(now, Word::new(State::Owned, now.generation(), len), Ordering::Relaxed);
    }

    /// Changes the word from OWNED to LIVE and returns it. Only the owner may call it, after it has written
    /// the bytes.
    pub(crate) fn publish(&self) -> Word {
        let now = self.peek();
        debug_assert_eq!(now.state(), State::Owned);
        // Release pairs with the Acquire of `pin`.
        let live = now.with_state(State::Live);
        self.change(now, live, Ordering::Release);
        live
    }

    /// Changes the word from OWNED to FREE. Only the owner may call it, under the page's lock. `published`
    /// says whether the object ever had a handle. If it had, its generation is used up. Returns false if
    /// the slot has no generation left. Then the slot must never be used again.
    #[must_use]
    pub(crate) fn release(&self, published: bool) -> bool {
        let now = self.peek();
        debug_assert_eq!(now.state(), State::Owned);
        let next = now.generation() + u32::from(published);
        let usable = next <= SlotRef::MAX_GENERATION;
        let generation = next.min(SlotRef::MAX_GENERATION);
        // Relaxed: the page's lock orders the next owner after this one. If this was the last generation, a
        // stale handle may have the same generation as the word. But the word then stays FREE for ever, so
        // the handle does not match.
        self.change(now, Word::new(State::Free, generation, 1), Ordering::Relaxed);
        usable
    }

    /// Changes the upper bits. At this moment only the caller may change them. Keeps the reader count.
    fn change(&self, from: Word, to: Word, order: Ordering) {
        let delta = to.upper().wrapping_sub(from.upper());
        let before = Word(self.0.fetch_add(delta, order));
        debug_assert_eq!(before.upper(), from.upper(), "the upper bits had two owners");
    }

    /// Sets the reader count. Meant for counts that a test cannot reach with real guards.
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
            let generation = if i < 8 {
                SlotRef::MAX_GENERATION
            } else {
                rng.below(SlotRef::MAX_GENERATION as usize) as u32
            };
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
        assert!(!word.try_move(), "moved a free buddy");
        word.claim(9);
        assert!(!word.try_move(), "moved an object that is being written");
        word.publish();
        word.pin(1).unwrap();
        assert!(!word.try_move(), "moved an object that is being read");
        assert_eq!(word.unpin(), None);
        assert!(word.try_move() && word.peek().is_moving());
        assert!(
            word.pin(1).is_ok_and(Word::is_moving),
            "a reader must be counted, and learn that it has to wait"
        );
        word.end_move();
        assert!(!word.now().is_moving() && word.now().readers() == 1);
    }

    #[test]
    fn a_word_in_a_message_tells_its_fields() {
        let word = live(3, 100);
        let pinned = word.pin(3).unwrap();
        let text = format!("{pinned:?} {:?}", word.peek());
        for part in ["state: Live", "generation: 3", "bytes: 100", "readers: 0", "readers: 1"] {
            assert!(text.contains(part), "{text}");
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
        let word = live(SlotRef::MAX_GENERATION, 4);
        assert!(matches!(word.free(SlotRef::MAX_GENERATION), Some(Freed::Owned(_))));
        assert!(!word.release(true), "a used-up generation must retire the slot");
        assert_eq!(word.pin(SlotRef::MAX_GENERATION), Err(PinError::NotLive(None)));
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
