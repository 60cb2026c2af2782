//! The interface of a contestant: something that stores pages under numbers and loads them again.
//!
//! A caller implements [`Contestant`] for what it measures. `E` is the type of the contestant's errors.

use crate::aligned::Page;

/// Something that stores pages. It is set up before its turn is timed. Dropping it undoes all that it set up
/// outside of this process. [`turn()`](crate::turn()) has an example.
pub trait Contestant<E>: Sync {
    /// Makes the worker with which one thread stores and loads. Called on that thread, untimed.
    ///
    /// # Errors
    ///
    /// An error ends the turn.
    fn worker(&self) -> Result<Box<dyn Worker<E> + '_>, E>;

    /// Frees one page.
    ///
    /// # Errors
    ///
    /// An error ends the turn.
    fn free(&self, page: usize) -> Result<(), E>;

    /// Returns as much memory to the system as the contestant can.
    ///
    /// # Errors
    ///
    /// An error ends the turn.
    fn tidy(&self) -> Result<(), E>;

    /// If earlier loads have moved pages into memory for good, moves these pages out again. Called before
    /// loads, untimed. Does nothing by default.
    ///
    /// # Errors
    ///
    /// An error ends the turn.
    fn settle(&self) -> Result<(), E> {
        Ok(())
    }

    /// Returns the memory that the contestant holds now.
    ///
    /// # Errors
    ///
    /// An error ends the turn.
    fn memory(&self) -> Result<Memory, E>;

    /// Returns whether the turn continues after a store or load failed with this error. If so, the page
    /// counts as refused or lost; if not, the error ends the turn.
    fn goes_on_after(&self, _error: &E) -> bool {
        false
    }
}

/// One thread's part of a contestant.
pub trait Worker<E> {
    /// Prepares for stores, untimed. May store `pages` under numbers from `first` and free them again.
    ///
    /// # Errors
    ///
    /// An error ends the turn.
    fn warm(&mut self, _first: usize, _pages: &[Page]) -> Result<(), E> {
        Ok(())
    }

    /// Stores the pages of one unit ([`Plan::unit`](crate::Plan::unit)): the first under the number `first`, the
    /// others under the numbers that follow it.
    ///
    /// # Errors
    ///
    /// After an error, the pages are not kept.
    fn store(&mut self, first: usize, pages: &[Page]) -> Result<(), E>;

    /// Loads the unit whose first page has the number `first`, as it was last stored. `into` has the
    /// unit's length and is page-aligned. Returns `false` if nothing is stored there.
    ///
    /// # Errors
    ///
    /// After an error, the contents of `into` are unspecified.
    fn load(&mut self, first: usize, into: &mut [Page]) -> Result<bool, E>;
}

/// The memory that a contestant holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Memory {
    /// Bytes of the compressed pages; `None` if the contestant does not report them.
    pub compressed_bytes: Option<usize>,
    /// Bytes of all physical memory that the contestant holds; `None` if they are not counted.
    pub resident_bytes: Option<usize>,
    /// Bytes of metadata that record where each page is; `None` if the contestant does not report them.
    pub metadata_bytes: Option<usize>,
    /// Counts of a store that has statistics; `None` for other contestants.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub pool: Option<PoolUse>,
}

/// A store's own statistics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PoolUse {
    /// Pages that the store holds, including same-filled ones.
    pub pages: usize,
    /// Pages kept as one word.
    pub same_filled: usize,
    /// Pages kept uncompressed because they do not shrink.
    pub incompressible: usize,
    /// Resident bytes of the pool, including cached pages.
    pub pool_bytes: usize,
    /// Bytes of compression contexts and their buffers. They depend on the number of processors, not on the
    /// number of pages.
    pub context_bytes: usize,
}

impl PoolUse {
    /// Returns the number of pages that occupy pool memory: all except same-filled ones.
    pub fn stored(&self) -> usize {
        self.pages.saturating_sub(self.same_filled)
    }
}
