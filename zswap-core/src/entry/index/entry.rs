//! A locked entry of the index. When it is dropped, a leaf that has become empty is removed.
//!
//! A leaf is removed only when all its words are unlocked and EMPTY (`Index::prune`). So a leaf stays while
//! any of its words is locked, even by a thread that only reads the word. Hence the rule: *each thread that
//! unlocks an EMPTY word prunes*, whether or not it emptied the word. If several threads do so at the same
//! time, at least one finds all words unlocked: the fence in `prune` orders each thread's unlock before its
//! check of the other words.

use super::Index;
use crate::entry::lock::EntryGuard;
use crate::entry::word::Word;

/// A locked entry. Dropping it writes the word back, unlocked. If the word is EMPTY, the drop also prunes,
/// which may block. So a thread that drops this must hold no other ranked lock.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// `None` only while this is being dropped.
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

    /// Replaces the word, and returns the old one.
    #[inline]
    pub(crate) fn replace(&mut self, word: Word) -> Word {
        self.guard_mut().replace(word)
    }

    /// Returns the checksum of the entry's page; `None` in a store without checksums.
    #[inline]
    pub(crate) fn sum(&self) -> Option<u32> {
        self.guard().sum()
    }

    /// Notes the checksum of the entry's page. Does nothing in a store without checksums, or if `value` is
    /// `None`.
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
