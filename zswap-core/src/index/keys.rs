//! Entries in order: a leaf's keys at a time.

use core::ops::Deref;

use super::Index;
use super::node::{CHILD_SLOTS, Header, LEAF_BITS, LEAF_WORDS, Leaf, Ref, Target, leaf_prefix};
use crate::sync::atomic::Ordering;
use crate::word::Word;

/// Up to a leaf's keys, in order, without memory of the heap.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeafKeys {
    keys: [u64; LEAF_WORDS],
    len: usize,
}

impl LeafKeys {
    pub(crate) const fn new() -> Self {
        LeafKeys { keys: [0; LEAF_WORDS], len: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds a key.
    ///
    /// # Panics
    /// If a leaf's keys are there already.
    #[expect(clippy::expect_used, reason = "a bug of the caller")]
    pub(crate) fn push(&mut self, key: u64) {
        *self.keys.get_mut(self.len).expect("no more keys are kept than a leaf has") = key;
        self.len += 1;
    }

    /// Refills it with the keys from `from` on of those entries of the leaf whose word passes `test`.
    pub(super) fn fill(&mut self, leaf: &Leaf, from: u64, test: impl Fn(Word) -> bool) {
        self.clear();
        // Relaxed, here and below: a snapshot. The leaf cannot go while the structure lock is held.
        let first = leaf.prefix.load(Ordering::Relaxed) << LEAF_BITS;
        for (i, word) in leaf.words.iter().enumerate() {
            let key = first + i as u64;
            if key >= from && test(Word::from_raw(word.load(Ordering::Relaxed))) {
                self.push(key);
            }
        }
    }
}

impl Deref for LeafKeys {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        &self.keys[..self.len]
    }
}

impl Index {
    /// The used entries of the first leaf that has keys from `from` on: refills `keys` with theirs, from
    /// `from` on, and gives the first key after that leaf. No keys and `None` if there is no such leaf.
    pub(crate) fn leaf_keys(&self, from: u64, keys: &mut LeafKeys) -> Option<u64> {
        keys.clear();
        let _locked = self.lock_structure();
        // Relaxed, here and below: nodes change only under the structure lock.
        let root = Ref(self.root.load(Ordering::Relaxed));
        let leaf = self.first_leaf(root, leaf_prefix(from))?;
        keys.fill(leaf, from, |word| !word.is_dead() && !word.is_empty());
        (leaf.prefix.load(Ordering::Relaxed) << LEAF_BITS).checked_add(1 << LEAF_BITS)
    }

    /// The leaf of the least prefix from `prefix` on, below `at`. Under the structure lock.
    fn first_leaf(&self, at: Ref, prefix: u64) -> Option<&Leaf> {
        // Relaxed, here and below: nodes change only under the structure lock.
        match at.target() {
            Target::None => None,
            Target::Leaf(number) => {
                let leaf = self.leaf(number);
                (leaf.prefix.load(Ordering::Relaxed) >= prefix).then_some(leaf)
            }
            Target::Inner(number) => {
                let inner = self.inner(number);
                let header = Header::unpack(inner.header.load(Ordering::Relaxed));
                let key = prefix << LEAF_BITS;
                let here = Header::covering(key, header.level).prefix;
                let from = match header.prefix.cmp(&here) {
                    core::cmp::Ordering::Less => return None,
                    core::cmp::Ordering::Equal => header.digit(key),
                    core::cmp::Ordering::Greater => 0,
                };
                (from..CHILD_SLOTS).find_map(|digit| {
                    self.first_leaf(Ref(inner.child(digit).load(Ordering::Relaxed)), prefix)
                })
            }
        }
    }
}
