//! The entry word: the 8 bytes that the store keeps for an entry.
//!
//! ```text
//!  63   62      61      60     59         58    57  56 55    52 51            0
//! +----+-------+-------+------+----------+-----+------+--------+---------------+
//! |live|waiters| locked| tried|referenced| raw | kind |pool id |    payload    |
//! +----+-------+-------+------+----------+-----+------+--------+---------------+
//! ```
//!
//! | kind | payload |
//! |---|---|
//! | `Empty` | 0 |
//! | `Stored` | the 52 bits of the handle that belong to the backend; the rest of the handle is the pool's tag |
//! | `SameFilled` | the pattern, packed by zpage's `same_filled.rs` |
//! | `OnDevice` | the object's address on the device (zpage's `segments/address.rs`), which has 54 bits: the pool id's lower bits belong to it |
//!
//! `raw` marks a stored page that is kept uncompressed, since it does not get smaller. `tried` marks a stored
//! page that recompression did not make smaller. `referenced` marks a page that was loaded since a clock last
//! passed it; for a page on the device, that it was loaded from there. Then the upper two bits of `pool id` say
//! when (`moves/promotion.rs`). `live` is set in every word of a node that is part of the index (`index/`). A word without
//! `live` is DEAD. DEAD is 0, so memory that was returned to the system reads as DEAD words. `lock.rs` has
//! the rules of the lock.

use zpage::segments::Address;
use zpage::word_lock::{LOCKED, WAITERS};
use zpool_api::BackendBits;

const PAYLOAD_BITS: u32 = 52;
const PAYLOAD_MASK: u64 = (1 << PAYLOAD_BITS) - 1;
const POOL_SHIFT: u32 = PAYLOAD_BITS;
const KIND_SHIFT: u32 = 56;
const RAW: u64 = 1 << 58;
const REFERENCED: u64 = 1 << 59;
const TRIED: u64 = 1 << 60;
/// The number of the while in which a page on the device was last loaded (`moves/promotion.rs`), above its address.
const SEEN_SHIFT: u32 = Address::BITS;
const _: () = assert!(SEEN_SHIFT + 2 == KIND_SHIFT);
/// Set in every word that is not DEAD. Only such a word can be locked.
pub(crate) const LIVE: u64 = 1 << 63;

/// A pool's number inside its store. It has 4 bits; 15 of the 16 values are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PoolId(u8);

impl PoolId {
    /// The most pools that may be alive at the same time.
    pub(crate) const LIMIT: usize = 15;

    /// Makes the number of the pool in place `place`, which must be below [`Self::LIMIT`].
    pub(crate) const fn from_index(place: usize) -> Self {
        assert!(place < Self::LIMIT, "a pool's place beyond the 15 that there are");
        PoolId(place as u8)
    }

    /// Returns the pool's place.
    ///
    /// # Panics
    /// If the number is 15. No word of an entry has this number.
    pub(crate) const fn index(self) -> usize {
        assert!(
            (self.0 as usize) < Self::LIMIT,
            "an entry's word names a pool that there cannot be"
        );
        self.0 as usize
    }
}

/// The content of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    Empty,
    /// An object of a pool. If `raw`, the object is the uncompressed page.
    Stored {
        pool: PoolId,
        bits: BackendBits,
        raw: bool,
    },
    /// The pattern of a same-filled page, packed by zpage's `same_filled.rs`.
    SameFilled(u64),
    /// An object on the device.
    OnDevice(Address),
}

/// A value of an entry word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    pub(crate) const EMPTY: Word = Word(LIVE);
    pub(crate) const DEAD: Word = Word(0);

    /// Makes a word that is neither locked nor referenced nor tried. Truncates a payload of more than 52
    /// bits.
    pub(crate) const fn new(content: Content) -> Self {
        match content {
            Content::Empty => Word::EMPTY,
            Content::Stored { pool, bits, raw } => {
                let flag = if raw { RAW } else { 0 };
                Word(LIVE | (1 << KIND_SHIFT) | flag | ((pool.0 as u64) << POOL_SHIFT) | bits.get())
            }
            Content::SameFilled(pattern) => {
                Word(LIVE | (2 << KIND_SHIFT) | (pattern & PAYLOAD_MASK))
            }
            Content::OnDevice(at) => Word(LIVE | (3 << KIND_SHIFT) | at.bits()),
        }
    }

    pub(crate) const fn from_raw(raw: u64) -> Self {
        Word(raw)
    }

    pub(crate) const fn raw(self) -> u64 {
        self.0
    }

    pub(crate) const fn content(self) -> Content {
        match (self.0 >> KIND_SHIFT) & 3 {
            1 => Content::Stored {
                pool: PoolId(((self.0 >> POOL_SHIFT) & 15) as u8),
                bits: BackendBits::truncate(self.0),
                raw: self.0 & RAW != 0,
            },
            2 => Content::SameFilled(self.0 & PAYLOAD_MASK),
            3 => Content::OnDevice(Address::from_bits(self.0)),
            _ => Content::Empty,
        }
    }

    pub(crate) const fn is_empty(self) -> bool {
        matches!(self.content(), Content::Empty)
    }

    /// Returns whether the content is an object of a pool.
    pub(crate) const fn is_stored(self) -> bool {
        matches!(self.content(), Content::Stored { .. })
    }

    pub(crate) const fn is_dead(self) -> bool {
        self.0 & LIVE == 0
    }

    pub(crate) const fn is_locked(self) -> bool {
        self.0 & LOCKED != 0
    }

    pub(crate) const fn has_waiters(self) -> bool {
        self.0 & WAITERS != 0
    }

    #[cfg(test)]
    pub(crate) const fn locked(self) -> Self {
        Word(self.0 | LOCKED)
    }

    #[cfg(test)]
    pub(crate) const fn with_waiters(self) -> Self {
        Word(self.0 | WAITERS)
    }

    pub(crate) const fn unlocked(self) -> Self {
        Word(self.0 & !(LOCKED | WAITERS))
    }

    /// Returns the word with the `referenced` bit set: the page was loaded, so the clock gives it a second
    /// chance.
    pub(crate) const fn referenced(self) -> Self {
        Word(self.0 | REFERENCED)
    }

    /// Returns the word with the `referenced` bit cleared: the page's second chance is used up.
    pub(crate) const fn unreferenced(self) -> Self {
        Word(self.0 & !REFERENCED)
    }

    /// Returns the word of a page on the device after it was loaded in the while of this number, modulo 4.
    pub(crate) const fn seen_in(self, number: u8) -> Self {
        Word(self.0 & !(3 << SEEN_SHIFT) | (number as u64 & 3) << SEEN_SHIFT | REFERENCED)
    }

    /// If the page is on the device, returns the number of the while in which it was last loaded, or `None` if it
    /// was not loaded since it is there.
    pub(crate) const fn seen_on_device(self) -> Option<Option<u8>> {
        match self.content() {
            Content::OnDevice(_) if self.is_referenced() => {
                Some(Some((self.0 >> SEEN_SHIFT & 3) as u8))
            }
            Content::OnDevice(_) => Some(None),
            _ => None,
        }
    }

    /// Returns the word of a page on the device after it was moved there to `at`.
    pub(crate) const fn with_address(self, at: Address) -> Self {
        let kept = REFERENCED | 3 << SEEN_SHIFT;
        Word(Word::new(Content::OnDevice(at)).0 | self.0 & kept)
    }

    /// Returns the word with the `tried` bit set: recompression did not make the page smaller.
    pub(crate) const fn tried(self) -> Self {
        Word(self.0 | TRIED)
    }

    pub(crate) const fn is_tried(self) -> bool {
        self.0 & TRIED != 0
    }

    /// Returns the word for the same page after it was moved to `content`. Keeps the bit `referenced` and
    /// clears `tried`.
    pub(crate) const fn moved_to(self, content: Content) -> Self {
        Word(Word::new(content).0 | self.0 & REFERENCED)
    }

    pub(crate) const fn is_referenced(self) -> bool {
        self.0 & REFERENCED != 0
    }
}

impl core::fmt::Debug for Word {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Word")
            .field("content", &self.content())
            .field("locked", &self.is_locked())
            .field("waiters", &self.has_waiters())
            .field("dead", &self.is_dead())
            .finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use zpool_base::sync::test_rng::Rng;

    #[test]
    fn every_field_round_trips_beside_every_other() {
        let mut rng = Rng::new(9);
        for i in 0..if cfg!(miri) { 200 } else { 4000usize } {
            let bits = [0, PAYLOAD_MASK, rng.next() & PAYLOAD_MASK][i % 3];
            let content = match i % 4 {
                0 => Content::Empty,
                1 => Content::SameFilled(bits),
                _ => Content::Stored {
                    pool: PoolId::from_index(i % PoolId::LIMIT),
                    bits: BackendBits::new(bits).unwrap(),
                    raw: i % 8 < 4,
                },
            };
            let word = Word::new(content);
            assert_eq!(word.content(), content);
            assert_eq!(Word::from_raw(word.raw()), word);
            assert!(!word.is_locked() && !word.has_waiters() && !word.is_dead());
            let locked = word.locked().with_waiters();
            assert!(locked.is_locked() && locked.has_waiters() && !locked.is_dead());
            assert_eq!(locked.content(), content);
            assert_eq!(locked.unlocked(), word);
            let referenced = word.referenced();
            assert!(referenced.is_referenced() && !word.is_referenced());
            assert_eq!(referenced.content(), content);
            assert_eq!(referenced.locked().unlocked(), referenced);
            assert_eq!(referenced.referenced(), referenced);
            assert_eq!(word.tried().tried(), word.tried());
        }
    }

    #[test]
    fn a_page_that_is_moved_keeps_its_second_chance_and_nothing_else() {
        let bits = BackendBits::truncate(PAYLOAD_MASK);
        let stored = Content::Stored { pool: PoolId::from_index(3), bits, raw: true };
        let on_device = Content::OnDevice(Address::from_bits(u64::MAX));
        for content in [on_device, Content::SameFilled(0), stored] {
            let (word, moved) = (Word::new(stored), Word::new(content));
            assert!(word.tried().is_tried() && !word.is_tried());
            assert_eq!(word.tried().content(), stored);
            assert_eq!(word.tried().moved_to(content), moved);
            assert_eq!(word.referenced().tried().moved_to(content), moved.referenced());
            assert_eq!(moved.referenced().unreferenced(), moved);
            assert_eq!(moved.unreferenced(), moved);
            assert_eq!(moved.content(), content);
        }
    }

    #[test]
    fn a_page_on_the_device_remembers_when_it_was_loaded_there_until_it_leaves() {
        let at = [0, (1 << Address::BITS) - 1].map(Address::from_bits);
        for (at, other) in [(at[0], at[1]), (at[1], at[0])] {
            let word = Word::new(Content::OnDevice(at));
            assert_eq!(word.seen_on_device(), Some(None));
            for number in 0..4 {
                let seen = word.seen_in(3 - number).seen_in(number);
                assert_eq!(seen.content(), word.content());
                assert_eq!(seen.seen_on_device(), Some(Some(number)));
                let moved = seen.with_address(other);
                assert_eq!(moved.content(), Content::OnDevice(other));
                assert_eq!(moved.seen_on_device(), Some(Some(number)));
            }
            assert_eq!(word.with_address(other).seen_on_device(), Some(None));
        }
        assert_eq!(Word::new(Content::SameFilled(u64::MAX)).referenced().seen_on_device(), None);
    }

    #[test]
    fn a_pattern_too_long_does_no_harm_to_other_bits() {
        let word = Word::new(Content::SameFilled(u64::MAX));
        assert_eq!(word, Word::new(Content::SameFilled(PAYLOAD_MASK)));
    }

    #[test]
    #[should_panic(expected = "an entry's word names a pool that there cannot be")]
    fn a_word_of_a_pool_that_none_is_is_no_word_of_ours() {
        let Content::Stored { pool, .. } =
            Word::from_raw(1 << KIND_SHIFT | 15 << POOL_SHIFT).content()
        else {
            panic!("an object's word");
        };
        pool.index();
    }

    #[test]
    fn a_word_is_shown_as_what_it_holds() {
        let shown = format!("{:?}", Word::new(Content::OnDevice(Address::from_bits(77))).locked());
        for part in
            ["OnDevice(segment 77, bytes 0 to 0)", "locked: true", "waiters: false", "dead: false"]
        {
            assert!(shown.contains(part), "{shown}");
        }
    }

    #[test]
    fn a_dead_word_is_neither_empty_nor_lockable() {
        assert!(Word::DEAD.is_dead() && !Word::EMPTY.is_dead());
        assert_ne!(Word::DEAD, Word::EMPTY);
        assert!(Word::EMPTY.is_empty());
        assert!((0..PoolId::LIMIT).all(|place| PoolId::from_index(place).index() == place));
    }
}
