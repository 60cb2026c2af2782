//! Replaces the object of an entry by another copy of the same page.
//!
//! Every mover goes through here: migration, recompression, writeback. The object stays pinned and its pool
//! referenced from when the entry's word is read until the word is compared again. So neither the object's
//! handle nor the pool's number in the word can be reused meanwhile, and an equal word *is* the object that
//! was read. An overwrite, an invalidate or another mover changes the word, and the copy is dropped.

use crate::entry::word::{Content, Word};
use crate::error::LoadError;
use crate::moves::tried::Codec;
use crate::pool::Stored;
use crate::pool::pools::PoolRef;
use crate::{Page, SwapEntry, Zswap};

/// Whether a mover wants the page of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    Yes,
    No,
    /// Not yet: it was loaded, and gets a second chance.
    SecondChance,
}

/// What a mover's `copy` produced.
#[derive(Debug)]
pub(crate) enum NewCopy {
    /// Another copy, owned by the mover until it is in the entry.
    Of(Content),
    /// The page stays; this compressor did not make it smaller, which is noted.
    NoneBetter(Codec),
}

/// The outcome for an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Relocated {
    Moved,
    NoneBetter,
    /// It got its second chance.
    Spared,
    /// Removed, overwritten meanwhile, or not eligible.
    PassedBy,
}

impl Zswap {
    /// Moves the page of an entry that holds an object and is `wanted`: reads it, has `copy` make another
    /// copy of it, given the page and its object's footprint in bytes, and installs that in the entry if it
    /// still holds the same object.
    ///
    /// No lock is held while the page is read and copied.
    pub(crate) fn relocate<E: From<LoadError>>(
        &self,
        entry: SwapEntry,
        page: &mut Page,
        wanted: impl FnOnce(Word, &PoolRef<'_>) -> Wanted,
        copy: impl FnOnce(&Page, usize) -> Result<NewCopy, E>,
    ) -> Result<Relocated, E> {
        let Some(mut locked) = self.index.lock(entry.key()) else { return Ok(Relocated::PassedBy) };
        let word = locked.word();
        let Content::Stored { pool, bits, .. } = word.content() else {
            return Ok(Relocated::PassedBy);
        };
        let pool = self.pools.of_page(pool);
        match wanted(word, &pool) {
            Wanted::Yes => {}
            unwanted => {
                let spared = unwanted == Wanted::SecondChance;
                if spared {
                    locked.replace(word.unreferenced());
                }
                // Unlocked before the pool's reference, which may be the last one by then, is put.
                drop(locked);
                return Ok(if spared { Relocated::Spared } else { Relocated::PassedBy });
            }
        }
        let sum = locked.sum();
        let relocated = self.with_object(entry, locked, pool, bits, |pool, object| {
            self.restore(entry, pool, &object, page, sum)?;
            let done = match copy(page, pool.footprint(object.len())) {
                Ok(NewCopy::Of(new)) => {
                    let replaced = self.replace_if_same(entry, word, |word| word.moved_to(new));
                    // The comparison is done: the object may go.
                    drop(object);
                    let left = if replaced { word.content() } else { new };
                    // SAFETY: this thread took the older copy out of the entry, or never installed the
                    // newer one.
                    unsafe { self.discard(left) };
                    replaced.then_some(Relocated::Moved)
                }
                Ok(NewCopy::NoneBetter(codec)) => {
                    let tried = |word: Word| {
                        self.tried.note(entry.key(), codec, !word.is_tried());
                        word.tried()
                    };
                    self.replace_if_same(entry, word, tried).then_some(Relocated::NoneBetter)
                }
                Err(error) => return Ok(Err(error)),
            };
            Ok(Ok(done.unwrap_or(Relocated::PassedBy)))
        });
        relocated?
    }

    /// The new copy, from an object that a mover has put into `pool`.
    pub(crate) fn copy_in(&self, pool: &PoolRef<'_>, stored: Stored) -> NewCopy {
        NewCopy::Of(self.stored_content(pool.again(), stored))
    }

    /// Replaces the word of an entry that still holds the object of `old`; returns whether it did. The
    /// caller has kept that object pinned, and its pool referenced, since it read `old`.
    fn replace_if_same(&self, entry: SwapEntry, old: Word, new: impl FnOnce(Word) -> Word) -> bool {
        let Some(mut locked) = self.index.lock(entry.key()) else { return false };
        let now = locked.word();
        if now.content() != old.content() {
            return false;
        }
        let new = new(now);
        locked.replace(new);
        drop(locked);
        self.index.note_replaced(entry.key(), now, new);
        true
    }
}
