//! What a contestant is: something that keeps pages under their numbers and gives them back.
//!
//! Whoever measures one brings it along; `E` is what its calls fail with.

use crate::aligned::Page;

/// Keeps pages. Set up before its turn is timed; whatever it set up outside this process it undoes
/// when it is dropped.
pub trait Contestant<E>: Sync {
    /// What one thread stores and loads with: made on that thread, off the clock.
    ///
    /// # Errors
    ///
    /// Ends the turn.
    fn worker(&self) -> Result<Box<dyn Worker<E> + '_>, E>;

    /// Gives one page up.
    ///
    /// # Errors
    ///
    /// Ends the turn.
    fn free(&self, page: usize) -> Result<(), E>;

    /// Returns to the system whatever can be returned, by whatever means it has.
    ///
    /// # Errors
    ///
    /// Ends the turn.
    fn tidy(&self) -> Result<(), E>;

    /// Has what it keeps out of the way before loads: nothing, unless a load brings a page back for
    /// good.
    ///
    /// # Errors
    ///
    /// Ends the turn.
    fn settle(&self) -> Result<(), E> {
        Ok(())
    }

    /// What it holds now.
    ///
    /// # Errors
    ///
    /// Ends the turn.
    fn memory(&self) -> Result<Memory, E>;

    /// Whether the turn goes on after a store or a load failed like this: the page counts as refused,
    /// or as lost. Otherwise the error ends the turn.
    fn goes_on_after(&self, _error: &E) -> bool {
        false
    }
}

/// One thread's part of a contestant.
pub trait Worker<E> {
    /// Gets ready for stores, off the clock. May store the unit `pages` under numbers from `first` and
    /// give it up again.
    ///
    /// # Errors
    ///
    /// Ends the turn.
    fn warm(&mut self, _first: usize, _pages: &[Page]) -> Result<(), E> {
        Ok(())
    }

    /// Keeps `pages`, a unit of them, under numbers from `first`.
    ///
    /// # Errors
    ///
    /// The pages are not kept.
    fn store(&mut self, first: usize, pages: &[Page]) -> Result<(), E>;

    /// Writes the unit that was stored last from `first` to `into`, which is as long and on a page
    /// boundary. `false` if nothing is kept there.
    ///
    /// # Errors
    ///
    /// The contents of `into` are unspecified.
    fn load(&mut self, first: usize, into: &mut [Page]) -> Result<bool, E>;
}

/// What a contestant holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Memory {
    /// Bytes of the compressed pages; none if it does not tell.
    pub compressed_bytes: Option<usize>,
    /// Everything, in bytes of physical memory; none if nobody counts it.
    pub resident_bytes: Option<usize>,
    /// Bytes that it keeps to know which page is where; none if it does not tell.
    pub metadata_bytes: Option<usize>,
    /// What a store with statistics counts; none of other contestants.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub pool: Option<PoolUse>,
}

/// A store's own statistics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PoolUse {
    /// Pages that it holds, same-filled ones too.
    pub pages: usize,
    /// Those that are kept as one word.
    pub same_filled: usize,
    /// Those that are kept as they are, since they do not shrink.
    pub incompressible: usize,
    /// Resident bytes of the pool, cached pages included.
    pub pool_bytes: usize,
    /// Bytes of compression contexts and their buffers: once for each processor, however many pages.
    pub context_bytes: usize,
}

impl PoolUse {
    /// Pages that hold pool memory.
    pub fn stored(&self) -> usize {
        self.pages.saturating_sub(self.same_filled)
    }
}
