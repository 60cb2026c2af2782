//! Lists the keys of used entries in order, one leaf at a time.

use core::ops::Deref;

use super::Index;
use super::node::{CHILD_SLOTS, Header, LEAF_WORDS, Ref, Target, Words, leaf_prefix};
use crate::entry::word::Word;
use crate::sync::atomic::Ordering;

/// A list of keys in order, with room for as many as a leaf has. Uses no heap memory.
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
    /// If the list already holds as many keys as a leaf has.
    #[expect(clippy::expect_used, reason = "a bug of the caller")]
    pub(crate) fn push(&mut self, key: u64) {
        *self.keys.get_mut(self.len).expect("no more keys are kept than a leaf has") = key;
        self.len += 1;
    }

    /// Replaces the list by those keys of `words` that are at least `from` and have a word that `test` accepts.
    pub(super) fn fill(&mut self, words: Words<'_>, from: u64, test: impl Fn(Word) -> bool) {
        self.clear();
        for (key, word) in words.iter() {
            if key >= from && test(word) {
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
    /// Finds the first leaf or lone entry that may have keys from `from` on. Fills `keys` with its keys that
    /// are in use and at least `from`. Returns the first key behind that leaf; `None` if no greater key can
    /// exist. If there is no such leaf, empties `keys` and returns `None`.
    pub(crate) fn leaf_keys(&self, from: u64, keys: &mut LeafKeys) -> Option<u64> {
        keys.clear();
        let _locked = self.lock_structure();
        // Relaxed, here and below: nodes change only under the structure lock.
        let root = Ref(self.root.load(Ordering::Relaxed));
        let words = self.first_leaf(root, from)?;
        keys.fill(words, from, |word| !word.is_dead() && !word.is_empty());
        words.behind()
    }

    /// Returns the words of the first leaf or lone entry below `at` that may have keys from `from` on. Called
    /// under the structure lock.
    fn first_leaf(&self, at: Ref, from: u64) -> Option<Words<'_>> {
        match at.target() {
            Target::None => None,
            Target::Leaf(_) | Target::Lone(_) => {
                self.words(at).filter(|words| leaf_prefix(words.first) >= leaf_prefix(from))
            }
            Target::Inner(number) => {
                let inner = self.inner(number);
                // Relaxed, here and below: nodes change only under the structure lock.
                let header = Header::unpack(inner.header.load(Ordering::Relaxed));
                let digits = header.digit_from(from)?..CHILD_SLOTS;
                digits.into_iter().find_map(|digit| {
                    self.first_leaf(Ref(inner.child(digit).load(Ordering::Relaxed)), from)
                })
            }
        }
    }
}
