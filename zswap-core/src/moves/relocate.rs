//! Replaces an entry's object by another copy of the same page.
//!
//! The three movers (migration, recompression and writeback) use this. A mover reads the entry's word, makes
//! a copy of the page, and compares the word again. From the first read to the comparison, the object stays
//! pinned and its pool stays referenced. So neither the object's handle nor the pool's number can be reused
//! in that time: if the word is equal, it still names the object that was read. If the word differs, the page
//! was overwritten, invalidated or moved by another mover, and the copy is dropped.

use crate::area::Area;
use crate::entry::word::{Content, Word};
use crate::error::LoadError;
use crate::moves::tried::Codec;
use crate::pool::Stored;
use crate::pool::pools::PoolRef;
use crate::store::stored_content;
use crate::{SwapEntry, Zswap};

/// Whether a mover wants the page of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    Yes,
    No,
    /// Not now: the page was loaded recently, so it gets a second chance.
    SecondChance,
}

/// The result of the `copy` that a mover passes to [`Zswap::relocate`].
#[derive(Debug)]
pub(crate) enum NewCopy {
    /// Another copy of the page. `relocate` installs it in the entry, or discards it.
    Of(Content),
    /// This compressor did not make the page smaller. The page stays in place, and `relocate` notes the
    /// compressor.
    NoneBetter(Codec),
}

/// The result of [`Zswap::relocate`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Relocated {
    Moved,
    NoneBetter,
    /// Skipped because the page was loaded recently. Its second chance is used up.
    Spared,
    /// Skipped: the entry was removed or overwritten, or its page was not wanted.
    PassedBy,
}

impl NewCopy {
    /// The object `stored`, which a mover has put into a pool of an area.
    pub(crate) fn of(area: &Area, pool: &PoolRef<'_>, stored: Stored) -> Self {
        NewCopy::Of(stored_content(area, pool.again(), stored))
    }
}

impl Zswap {
    /// Moves the page of an entry, if the entry holds an object and `wanted` accepts it. Reads the page into
    /// `page`. Calls `copy` with the page and the bytes of memory that its object takes, to get another copy.
    /// Installs that copy if the entry still holds the same object. Returns an error if the page cannot be
    /// read or `copy` fails.
    ///
    /// No lock is held while the page is read and copied.
    pub(crate) fn relocate<E: From<LoadError>>(
        &self,
        entry: SwapEntry,
        page: &mut [u8],
        wanted: impl FnOnce(Word, &PoolRef<'_>) -> Wanted,
        copy: impl FnOnce(&[u8], usize) -> Result<NewCopy, E>,
    ) -> Result<Relocated, E> {
        let Some(mut locked) = self.index.lock(entry.key()) else { return Ok(Relocated::PassedBy) };
        let word = locked.word();
        let Content::Stored { pool, bits, .. } = word.content() else {
            return Ok(Relocated::PassedBy);
        };
        let pool = self.areas.of(entry).pools.of_page(pool);
        match wanted(word, &pool) {
            Wanted::Yes => {}
            unwanted => {
                let spared = unwanted == Wanted::SecondChance;
                if spared {
                    locked.replace(word.unreferenced());
                }
                // Unlock before `pool` is dropped, since that may drop the pool's last reference.
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
                    // The comparison is done, so the object need not stay pinned.
                    drop(object);
                    let left = if replaced { word.content() } else { new };
                    // SAFETY: `left` is in no entry. It is the older copy, which this thread took out of the
                    // entry, or the newer copy, which was not installed. It is discarded only here.
                    unsafe { self.discard(entry, left) };
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

    /// Replaces the word of an entry if the entry still holds the object that `old` names. Returns whether it
    /// replaced the word. The caller has kept that object pinned, and its pool referenced, since it read
    /// `old`; or its segment, if it is on the device.
    pub(crate) fn replace_if_same(
        &self,
        entry: SwapEntry,
        old: Word,
        new: impl FnOnce(Word) -> Word,
    ) -> bool {
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
