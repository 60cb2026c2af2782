//! The parts of the index: references, inner nodes, leaves and lone entries.
//!
//! Each node records which keys it stands for: an inner node in its header, a leaf in its prefix, a lone
//! entry in its key. A stale reference may lead to a node that stands for other keys by now. So a thread that
//! follows a reference without the structure lock checks the node's record.
//!
//! A node of zeros cannot be used: it is a leaf or lone entry with DEAD words, or an inner node without
//! children. Memory that no node has used yet reads as zeros, and so does memory that was returned to the
//! system.

use crate::entry::word::Word;
use crate::sync::MODEL;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use zpool_base::numbers::group;

pub(super) const LEAF_BITS: u32 = 5;
pub(super) const INNER_BITS: u32 = 4;
/// The number of entries of a leaf; smaller under the model checker.
pub(super) const LEAF_WORDS: usize = if MODEL { 2 } else { 1 << LEAF_BITS };
pub(super) const CHILDREN: usize = 1 << INNER_BITS;
/// The number of children that an inner node has room for; smaller under the model checker.
pub(super) const CHILD_SLOTS: usize = if MODEL { 2 } else { CHILDREN };
/// The most inner nodes on a way from the root to a leaf. A leaf covers the lowest 5 bits of a key; each
/// inner node covers a digit of the other 59.
pub(super) const LEVELS: usize = (u64::BITS - LEAF_BITS).div_ceil(INNER_BITS) as usize;

/// A reference to a node, or to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ref(pub(super) u32);

pub(super) enum Target {
    None,
    Inner(u32),
    Leaf(u32),
    Lone(u32),
}

impl Ref {
    pub(super) const NONE: Ref = Ref(0);
    /// The most nodes of each kind. A reference has 32 bits: two bits for the kind, and the others for the
    /// node's number plus one.
    pub(super) const MAX_NODES: usize = (1 << 30) - 1;

    pub(super) fn inner(number: u32) -> Self {
        Ref((number + 1) << 2)
    }

    pub(super) fn leaf(number: u32) -> Self {
        Ref((number + 1) << 2 | 1)
    }

    pub(super) fn lone(number: u32) -> Self {
        Ref((number + 1) << 2 | 2)
    }

    /// Returns a value that chooses the node's counter in `Removals`. Nodes with successive numbers have
    /// successive values.
    #[inline]
    pub(super) fn spread(self) -> usize {
        (self.0 >> 2) as usize
    }

    #[inline]
    pub(super) fn target(self) -> Target {
        match (self.0 >> 2, self.0 & 3) {
            (0, _) => Target::None,
            (n, 0) => Target::Inner(n - 1),
            (n, 1) => Target::Leaf(n - 1),
            (n, _) => Target::Lone(n - 1),
        }
    }
}

/// Says which keys an inner node stands for: those with `prefix` in the bits above the node's digit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// The position of the node's digit: 0 for a node directly above leaves, 14 for the highest digit.
    pub(super) level: u32,
    /// The key's bits above the node's digit.
    pub(super) prefix: u64,
}

impl Header {
    pub(super) fn covering(key: u64, level: u32) -> Self {
        Header { level, prefix: key >> Self::shift(level) >> INNER_BITS }
    }

    /// Returns the header of the lowest node that covers both keys. The keys must be in different leaves.
    pub(super) fn of_both(key: u64, other: u64) -> Self {
        let top = u64::BITS - 1 - (key ^ other).leading_zeros();
        Header::covering(key, (top - LEAF_BITS) / INNER_BITS)
    }

    fn shift(level: u32) -> u32 {
        LEAF_BITS + INNER_BITS * level
    }

    pub(super) fn pack(self) -> u64 {
        self.prefix << 4 | u64::from(self.level)
    }

    pub(super) fn unpack(raw: u64) -> Self {
        Header { level: (raw & 15) as u32, prefix: raw >> 4 }
    }

    pub(super) fn covers(self, key: u64) -> bool {
        self.way_to(key).is_some()
    }

    /// Returns the index of the child on the way to the key; `None` if the node does not cover the key.
    #[inline]
    pub(super) fn way_to(self, key: u64) -> Option<usize> {
        let digits = key >> Self::shift(self.level);
        (digits >> INNER_BITS == self.prefix).then_some(digits as usize & (CHILDREN - 1))
    }

    pub(super) fn digit(self, key: u64) -> usize {
        (key >> Self::shift(self.level)) as usize & (CHILDREN - 1)
    }

    /// Returns the index of the first child that may have keys from `from` on; `None` if no child can have
    /// any.
    pub(super) fn digit_from(self, from: u64) -> Option<usize> {
        match self.prefix.cmp(&Header::covering(from, self.level).prefix) {
            core::cmp::Ordering::Less => None,
            core::cmp::Ordering::Equal => Some(self.digit(from)),
            core::cmp::Ordering::Greater => Some(0),
        }
    }

    /// Returns the least key that can be below the node.
    pub(super) fn first_key(self) -> u64 {
        self.prefix << Self::shift(self.level) << INNER_BITS
    }

    /// Returns the least key that can be below the node's child.
    pub(super) fn first_key_of(self, digit: usize) -> u64 {
        self.first_key() | (digit as u64) << Self::shift(self.level)
    }

    /// Returns the key that follows the greatest key that can be below the node's child; `None` if that is
    /// the greatest key of all.
    pub(super) fn key_after(self, digit: usize) -> Option<u64> {
        self.first_key_of(digit).checked_add(1 << Self::shift(self.level))
    }
}

pub(super) fn leaf_prefix(key: u64) -> u64 {
    key >> LEAF_BITS
}

pub(super) fn leaf_offset(key: u64) -> usize {
    key as usize & ((1 << LEAF_BITS) - 1)
}

// The memory of a group of nodes returns to the system as a whole. So the bytes of a group, and the bytes of its
// checksums, are a multiple of 4096. If the system's pages are larger, the table makes its groups larger, too.

/// The number of leaves in a group, if the system's pages have 4096 bytes.
pub(super) const LEAF_GROUP: usize = group(512);
/// The number of lone entries in a group, if the system's pages have 4096 bytes.
pub(super) const LONE_GROUP: usize = group(1024);
/// The number of inner nodes in a group, if the system's pages have 4096 bytes.
pub(super) const INNER_GROUP: usize = group(512);

/// A leaf, in the form in which the table keeps it: prefix and words.
pub(super) type LeafNode = (AtomicU64, [AtomicU64; LEAF_WORDS]);

#[derive(Debug, Clone, Copy)]
pub(super) struct Leaf<'a> {
    /// The bits of the keys above the lowest 5.
    pub(super) prefix: &'a AtomicU64,
    pub(super) words: &'a [AtomicU64; LEAF_WORDS],
}

impl<'a> Leaf<'a> {
    pub(super) fn of((prefix, words): &'a LeafNode) -> Self {
        Leaf { prefix, words }
    }

    /// Returns the key's word.
    #[inline]
    #[expect(clippy::expect_used, reason = "the models' keys are chosen for their short leaves")]
    pub(super) fn word(self, key: u64) -> &'a AtomicU64 {
        self.words.get(leaf_offset(key)).expect("a leaf has a word for each of its keys")
    }
}

/// A lone entry, in the form in which the table keeps it: key and word.
pub(super) type LoneNode = (AtomicU64, AtomicU64);

/// The entry of a key that would be alone in its leaf. So there is no leaf, only this key's word.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lone<'a> {
    pub(super) key: &'a AtomicU64,
    pub(super) word: &'a AtomicU64,
}

impl<'a> Lone<'a> {
    pub(super) fn of((key, word): &'a LoneNode) -> Self {
        Lone { key, word }
    }
}

/// The words of a leaf or of a lone entry. Unless the structure lock is held, the words may get other keys at any
/// time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words<'a> {
    /// The key of the first word; the other keys follow it.
    pub(super) first: u64,
    words: &'a [AtomicU64],
}

impl<'a> Words<'a> {
    pub(super) fn of_leaf(leaf: Leaf<'a>) -> Self {
        // Relaxed: changes only under the structure lock.
        Words { first: leaf.prefix.load(Ordering::Relaxed) << LEAF_BITS, words: leaf.words }
    }

    pub(super) fn of_lone(lone: Lone<'a>) -> Self {
        // Relaxed: changes only under the structure lock.
        let first = lone.key.load(Ordering::Relaxed);
        Words { first, words: core::slice::from_ref(lone.word) }
    }

    /// Returns whether one of the words is the key's.
    pub(super) fn have(&self, key: u64) -> bool {
        key.checked_sub(self.first).is_some_and(|at| at < self.words.len() as u64)
    }

    /// Returns the first key behind this leaf, or behind the leaf to which the lone entry's key would belong;
    /// `None` if there is no greater key.
    pub(super) fn behind(&self) -> Option<u64> {
        (leaf_prefix(self.first) << LEAF_BITS).checked_add(1 << LEAF_BITS)
    }

    /// Iterates over the keys, each with a snapshot of its word.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Word)> {
        // Relaxed: each caller that acts on a snapshot says why Relaxed is enough.
        let now = |word: &AtomicU64| Word::from_raw(word.load(Ordering::Relaxed));
        (self.first..=u64::MAX).zip(self.words.iter().map(now))
    }

    /// Returns whether `test` accepts a snapshot of at least one of the words.
    pub(super) fn any(&self, test: impl Fn(Word) -> bool) -> bool {
        self.iter().any(|(_, word)| test(word))
    }

    /// Turns every word from DEAD to EMPTY, so that the entries can be used. Called when the node is linked.
    pub(super) fn open(&self) {
        self.open_with(self.first, Word::EMPTY);
    }

    /// Does what `open` does, but gives the word of `key` the value `word` instead of EMPTY.
    pub(super) fn open_with(&self, key: u64, word: Word) {
        for (at, place) in (self.first..=u64::MAX).zip(self.words) {
            let word = if at == key { word } else { Word::EMPTY };
            // Release pairs with the Acquire of the CAS that locks the word: a thread that uses the entry
            // sees the node's prefix or key, and sees the node linked.
            place.store(word.raw(), Ordering::Release);
        }
    }

    /// Turns every word from EMPTY to DEAD and returns true. If a word is in use, leaves the words as they are and
    /// returns false.
    pub(super) fn kill(&self) -> bool {
        for (i, word) in self.words.iter().enumerate() {
            // Acquire pairs with the Release of the word's last unlock. So, if the word is restored below,
            // its next holder is ordered after its last one. Relaxed on failure: the word is in use.
            let killed = word.compare_exchange(
                Word::EMPTY.raw(),
                Word::DEAD.raw(),
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            if killed.is_err() {
                for word in &self.words[..i] {
                    // Release pairs with the Acquire of the CAS that locks the word.
                    word.store(Word::EMPTY.raw(), Ordering::Release);
                }
                return false;
            }
        }
        true
    }
}

/// An inner node, in the form in which the table keeps it: header, children and marks.
pub(super) type InnerNode = (AtomicU64, [AtomicU32; CHILD_SLOTS], AtomicU32);

#[derive(Debug, Clone, Copy)]
pub(super) struct Inner<'a> {
    /// The node's [`Header`], packed.
    pub(super) header: &'a AtomicU64,
    /// The children, as [`Ref`]s.
    pub(super) children: &'a [AtomicU32; CHILD_SLOTS],
    /// A bit for each child. It is set if an entry below the child may have pool memory (`pooled.rs`).
    /// Changes only under the structure lock.
    pub(super) pooled: &'a AtomicU32,
}

impl<'a> Inner<'a> {
    pub(super) fn of((header, children, pooled): &'a InnerNode) -> Self {
        Inner { header, children, pooled }
    }

    #[inline]
    #[expect(clippy::expect_used, reason = "the models' keys are chosen for their few children")]
    pub(super) fn child(self, digit: usize) -> &'a AtomicU32 {
        self.children.get(digit).expect("an inner node has a child for each digit")
    }

    /// Returns whether the node has no child. Called under the structure lock.
    pub(super) fn is_childless(self) -> bool {
        // Relaxed: children change only under the structure lock.
        self.children.iter().all(|child| child.load(Ordering::Relaxed) == Ref::NONE.0)
    }
}
