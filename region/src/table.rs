//! The table of the pages' words: every change of a state, and the sleep of threads that wait for one.
//!
//! # Rules
//! * A state changes by compare-exchange. The thread that makes a page FILLING or MOVING owns it: only this thread
//!   changes its state again. Everyone else waits for that.
//! * A thread that waits for an owned page sets WAITERS and sleeps on the word; the owner wakes it. The wait ends also
//!   if the bit was cleared and set by others: each waiter looks again.
//! * The value of a word may recur. No decision rests on a value read earlier: a compare-exchange that succeeds states
//!   what the page is at that moment, and that suffices.

use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{wait, wake};
use crate::word::Word;
use crate::zeros::Zeros;

/// The pages whose words share a page of the table.
pub(crate) const CHUNK: usize = 1024;

/// Returns the first page of the chunk after that of a page.
pub(crate) fn next_chunk(page: usize) -> usize {
    (page / CHUNK + 1) * CHUNK
}

/// The words of all pages of a region.
pub(crate) struct Table {
    words: Zeros,
    /// One bit for each [`CHUNK`] pages of which one was ever touched.
    touched: Zeros,
    pages: usize,
}

impl Table {
    /// Makes the words of `pages` pages. They take memory when they are first written.
    ///
    /// # Errors
    /// The system's error if it has no address space.
    pub(crate) fn new(pages: usize) -> std::io::Result<Table> {
        let touched = pages.div_ceil(CHUNK).div_ceil(32);
        Ok(Table { words: Zeros::new(pages)?, touched: Zeros::new(touched)?, pages })
    }

    pub(crate) fn pages(&self) -> usize {
        self.pages
    }

    /// Returns the word of a page. What is seen of the page, its slot and the store afterwards is at least as new.
    pub(crate) fn get(&self, page: usize) -> Word {
        // Acquire: pairs with the Release of the thread that made the page what it is (`change`).
        Word(self.words[page].load(Ordering::Acquire))
    }

    /// Changes the word of a page from `seen` to `new`.
    ///
    /// # Errors
    /// The word, if it is not `seen`.
    ///
    /// # Panics
    /// Panics if a page never goes from the one state to the other.
    pub(crate) fn change(&self, page: usize, seen: Word, new: Word) -> Result<(), Word> {
        let (from, to) = (seen.state(), new.state());
        assert!(from == to || from.may_become(to), "page {page} cannot go from {from:?} to {to:?}");
        // AcqRel: Release publishes what this thread did to the page before; Acquire as in `get`, since from now on this
        // thread may own the page.
        let word = &self.words[page];
        let changed = word.compare_exchange(seen.0, new.0, Ordering::AcqRel, Ordering::Acquire);
        changed.map_err(Word)?;
        if seen.has_waiters() && !new.has_waiters() {
            wake(word);
        }
        Ok(())
    }

    /// Changes a word by a function until that succeeds, or until the function returns `None`.
    pub(crate) fn update(
        &self,
        page: usize,
        mut change: impl FnMut(Word) -> Option<Word>,
    ) -> Result<Word, Word> {
        let mut seen = self.get(page);
        loop {
            let new = change(seen).ok_or(seen)?;
            match self.change(page, seen, new) {
                Ok(()) => return Ok(new),
                Err(now) => seen = now,
            }
        }
    }

    /// Makes a page that this thread owns what `change` says, and wakes all that wait.
    pub(crate) fn publish(&self, page: usize, change: impl Fn(Word) -> Word) {
        let done = self.update(page, |word| {
            assert!(
                word.state().is_owned(),
                "page {page} is {word:?}, but a thread that owns it publishes it"
            );
            Some(change(word))
        });
        debug_assert!(done.is_ok(), "the change of an owned page was refused");
    }

    /// Sleeps until the page may have another word than `seen`, whose state is owned.
    pub(crate) fn wait(&self, page: usize, seen: Word) {
        let waited = seen.waited_for();
        if seen == waited || self.change(page, seen, waited).is_ok() {
            wait(&self.words[page], waited.0);
        }
    }

    /// Notes that a page of this chunk is touched. Returns whether it is the first one.
    pub(crate) fn touch(&self, page: usize) -> bool {
        let (bits, bit) = self.bit(page);
        // Relaxed, here and below: the bit publishes nothing. Who misses it does not find the page this time.
        bits.load(Ordering::Relaxed) & bit == 0 && bits.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// Returns whether a page of this chunk was ever touched.
    pub(crate) fn is_touched(&self, page: usize) -> bool {
        let (bits, bit) = self.bit(page);
        // Relaxed: as in `touch`.
        bits.load(Ordering::Relaxed) & bit != 0
    }

    fn bit(&self, page: usize) -> (&AtomicU32, u32) {
        let chunk = page / CHUNK;
        (&self.touched[chunk / 32], 1 << (chunk % 32))
    }
}
