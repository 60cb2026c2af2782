//! All slots of a disk, in chunks of 512. A chunk is allocated when one of its pages is written for the first
//! time.
//!
//! The lock of a slot is a bit of its word (zpage's `word_lock.rs`). A thread may sleep while it holds the lock.

use std::sync::OnceLock;
use std::time::Instant;

use zpage::word_lock::{Waiters, WordGuard, lock_word};
use zpool_base::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::word::Word;

/// The number of slots in a chunk. It is smaller under Miri, where walking over slots is slow.
pub(crate) const CHUNK: u64 = if cfg!(miri) { 16 } else { 512 };

#[derive(Debug)]
struct Chunk {
    words: Box<[AtomicU64]>,
    /// When each slot was last accessed, in seconds since the table was made. Empty if `access_times` is off.
    accessed: Box<[AtomicU32]>,
}

/// A disk's slots.
#[derive(Debug)]
pub(crate) struct Table {
    chunks: Box<[OnceLock<Chunk>]>,
    slots: u64,
    waiters: Waiters,
    access_times: bool,
    made: Instant,
}

/// There was no memory for slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoMemory {
    pub(crate) bytes: usize,
}

fn filled<T>(count: usize, make: impl FnMut() -> T) -> Result<Box<[T]>, NoMemory> {
    let mut items = Vec::new();
    let bytes = count.saturating_mul(size_of::<T>());
    items.try_reserve_exact(count).map_err(|_| NoMemory { bytes })?;
    items.resize_with(count, make);
    Ok(items.into_boxed_slice())
}

impl Table {
    pub(crate) fn new(slots: u64, access_times: bool) -> Result<Self, NoMemory> {
        let count = usize::try_from(slots.div_ceil(CHUNK)).unwrap_or(usize::MAX);
        let chunks = filled(count, OnceLock::new)?;
        let (waiters, made) = (Waiters::new(), Instant::now());
        Ok(Table { chunks, slots, waiters, access_times, made })
    }

    /// Returns the number of slots.
    pub(crate) fn slots(&self) -> u64 {
        self.slots
    }

    fn chunk(&self, index: u64) -> Option<&OnceLock<Chunk>> {
        self.chunks.get((index / CHUNK) as usize).filter(|_| index < self.slots)
    }

    /// Locks a slot. Returns `None` if the slot's chunk is not allocated, because no page of the chunk was ever
    /// written. Also returns `None` if `index` is beyond the disk.
    #[inline]
    pub(crate) fn lock(&self, index: u64) -> Option<SlotGuard<'_>> {
        self.lock_in(self.chunk(index)?.get()?, index)
    }

    /// Returns the word of a slot without locking the slot. Returns `None` if [`Table::lock`] would. The word
    /// may change at any time, so it is only a hint.
    #[inline]
    pub(crate) fn peek(&self, index: u64) -> Option<Word> {
        let word = self.chunk(index)?.get()?.words.get((index % CHUNK) as usize)?;
        // Relaxed: the word is only a hint. Code that relies on it locks the slot.
        Some(Word::from_raw(word.load(Ordering::Relaxed)))
    }

    /// Locks a slot to fill it. Allocates its chunk if that is missing.
    ///
    /// # Errors
    /// [`NoMemory`] if the chunk cannot be allocated.
    ///
    /// # Panics
    /// If `index` is not below [`Table::slots`]. Callers check their range first.
    #[inline]
    #[expect(
        clippy::expect_used,
        reason = "ranges are checked against the disk before they are split"
    )]
    pub(crate) fn lock_to_fill(&self, index: u64) -> Result<SlotGuard<'_>, NoMemory> {
        let cell = self.chunk(index).expect("a page beyond the disk passed the range check");
        let chunk = match cell.get() {
            Some(chunk) => chunk,
            None => {
                let fresh = self.new_chunk()?;
                cell.get_or_init(|| fresh)
            }
        };
        Ok(self.lock_in(chunk, index).expect("a chunk has a slot for each of its pages"))
    }

    fn new_chunk(&self) -> Result<Chunk, NoMemory> {
        let times = if self.access_times { CHUNK as usize } else { 0 };
        Ok(Chunk {
            words: filled(CHUNK as usize, || AtomicU64::new(0))?,
            accessed: filled(times, || AtomicU32::new(0))?,
        })
    }

    fn lock_in<'a>(&'a self, chunk: &'a Chunk, index: u64) -> Option<SlotGuard<'a>> {
        let at = (index % CHUNK) as usize;
        let guard = lock_word(chunk.words.get(at)?, &self.waiters);
        Some(SlotGuard { guard, index, accessed: chunk.accessed.get(at), made: self.made })
    }

    /// Returns the numbers of the slots of all allocated chunks, in order.
    pub(crate) fn made(&self) -> impl Iterator<Item = u64> {
        let made = self.chunks.iter().enumerate().filter(|(_, chunk)| chunk.get().is_some());
        let slots = self.slots;
        made.flat_map(move |(n, _)| n as u64 * CHUNK..((n as u64 + 1) * CHUNK).min(slots))
    }

    /// Returns the bytes of the table.
    pub(crate) fn memory_bytes(&self) -> usize {
        let made = self.chunks.iter().filter_map(OnceLock::get);
        let chunks = made.map(|c| size_of_val(&*c.words) + size_of_val(&*c.accessed));
        chunks.sum::<usize>() + size_of_val(&*self.chunks)
    }
}

/// A locked slot. It is unlocked when this is dropped.
#[derive(Debug)]
pub(crate) struct SlotGuard<'a> {
    guard: WordGuard<'a>,
    index: u64,
    accessed: Option<&'a AtomicU32>,
    made: Instant,
}

impl SlotGuard<'_> {
    /// Returns the number of the slot's page.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    pub(crate) fn word(&self) -> Word {
        Word::from_raw(self.guard.word())
    }

    /// Replaces the word and returns the old one.
    pub(crate) fn replace(&mut self, word: Word) -> Word {
        Word::from_raw(self.guard.replace(word.raw()))
    }

    /// Records an access now, and removes the idle mark.
    #[inline]
    pub(crate) fn touch(&mut self) {
        let word = self.word();
        if word.is_idle() {
            self.replace(word.idle(false));
        }
        if let Some(accessed) = self.accessed {
            let now = self.made.elapsed().as_secs().try_into().unwrap_or(u32::MAX);
            // Relaxed: the time is read and written only under the slot's lock.
            accessed.store(now, Ordering::Relaxed);
        }
    }

    /// Returns the seconds since the last access, or `None` if access times are not recorded.
    pub(crate) fn age(&self) -> Option<u64> {
        // Relaxed: as in `touch`.
        let then = u64::from(self.accessed?.load(Ordering::Relaxed));
        Some(self.made.elapsed().as_secs().saturating_sub(then))
    }

    /// Returns the time of the last access, in seconds since the table was made, or `None` if access times are
    /// not recorded.
    pub(crate) fn accessed(&self) -> Option<u32> {
        // Relaxed: as in `touch`.
        self.accessed.map(|accessed| accessed.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::word::Content;

    #[test]
    fn the_last_access_is_noted_in_seconds_since_the_table_was_made() {
        let mut table = Table::new(600, true).unwrap();
        let Some(made) = Instant::now().checked_sub(Duration::from_secs(50)) else { return };
        table.made = made;
        let mut slot = table.lock_to_fill(599).unwrap();
        assert!(slot.accessed() == Some(0) && slot.age() >= Some(50));
        slot.touch();
        assert!(slot.accessed() >= Some(50) && slot.age() < Some(50), "{slot:?}");
        drop(slot);
        let without = Table::new(600, false).unwrap();
        let slot = without.lock_to_fill(0).unwrap();
        assert_eq!((slot.accessed(), slot.age()), (None, None));
    }

    #[test]
    fn a_look_without_the_lock_shows_what_the_slot_holds() {
        let table = Table::new(600, false).unwrap();
        assert_eq!(table.peek(599), None);
        let word = Word::new(Content::Same(5));
        let mut slot = table.lock_to_fill(599).unwrap();
        slot.replace(word);
        drop(slot);
        assert_eq!(
            [598, 599, 600].map(|index| table.peek(index)),
            [Some(Word::new(Content::Empty)), Some(word), None]
        );
    }

    #[test]
    fn slots_are_made_by_the_chunk_and_there_are_no_more_than_were_asked_for() {
        let table = Table::new(600, false).unwrap();
        assert!(table.lock(0).is_none() && table.lock(599).is_none());
        drop(table.lock_to_fill(599).unwrap());
        let last: Vec<u64> = (599 / CHUNK * CHUNK..600).collect();
        assert_eq!(table.made().collect::<Vec<_>>(), last);
        for beyond in [600, 607, 1023, 1024, u64::MAX] {
            assert!(table.lock(beyond).is_none());
        }
    }

    #[test]
    #[should_panic(expected = "a page beyond the disk")]
    fn a_page_beyond_the_disk_is_not_filled() {
        let _ = Table::new(600, false).unwrap().lock_to_fill(600);
    }
}
