//! A locked entry of the index. Dropping it leaves no empty leaf behind.
//!
//! A leaf is removed only when all its words are unlocked and EMPTY (`Index::prune`), so a thread that holds one
//! of them keeps the leaf. That is why the rule is not "the thread that empties an entry prunes" but *the thread
//! that unlocks an EMPTY word prunes*, even if it has only read the word. If several threads do so, the last one
//! finds all words unlocked: the fence in `prune` orders each thread's unlock before its check of the other
//! words.

use super::Index;
use crate::entry::lock::EntryGuard;
use crate::entry::word::Word;

/// A locked entry. Dropping it writes the word back, unlocked, and prunes if the word is EMPTY. Pruning may block,
/// so the thread may hold no ranked lock besides the entry's when it drops this.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// `None` only during the drop.
    guard: Option<EntryGuard<'a>>,
    index: &'a Index,
    key: u64,
}

impl<'a> Entry<'a> {
    pub(super) fn new(guard: EntryGuard<'a>, index: &'a Index, key: u64) -> Self {
        Entry { guard: Some(guard), index, key }
    }

    #[expect(clippy::expect_used, reason = "an invariant of the entry")]
    fn guard(&self) -> &EntryGuard<'a> {
        self.guard.as_ref().expect("an entry has its guard until it is dropped")
    }

    #[expect(clippy::expect_used, reason = "an invariant of the entry")]
    fn guard_mut(&mut self) -> &mut EntryGuard<'a> {
        self.guard.as_mut().expect("an entry has its guard until it is dropped")
    }

    /// Returns the word that the drop will write back, without its lock bit.
    #[inline]
    pub(crate) fn word(&self) -> Word {
        self.guard().word()
    }

    /// Replaces the word; returns the old one.
    #[inline]
    pub(crate) fn replace(&mut self, word: Word) -> Word {
        self.guard_mut().replace(word)
    }

    /// Returns the checksum of the entry's page, if the store keeps checksums.
    #[inline]
    pub(crate) fn sum(&self) -> Option<u32> {
        self.guard().sum()
    }

    /// Notes the checksum of the entry's page, if the store keeps checksums.
    #[inline]
    pub(crate) fn set_sum(&mut self, value: Option<u32>) {
        self.guard_mut().set_sum(value);
    }
}

impl Drop for Entry<'_> {
    #[inline]
    fn drop(&mut self) {
        let empty = self.word().is_empty();
        drop(self.guard.take());
        if empty {
            self.index.prune(self.key);
        }
    }
}
