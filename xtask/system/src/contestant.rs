//! What a contestant is: something that keeps pages under their numbers and gives them back.

use crate::error::Result;
use crate::source::Aligned;

/// Keeps pages. Set up before its turn is timed; whatever it set up outside this process it undoes
/// when it is dropped.
pub(crate) trait Contestant: Sync {
    /// Pages of one store or load; numbers of first pages are multiples of it.
    fn unit(&self) -> usize {
        1
    }

    /// What one thread stores and loads with: made on that thread, off the clock.
    fn worker(&self) -> Result<Box<dyn Worker + '_>>;

    /// Gives one page up.
    fn free(&self, page: usize) -> Result<()>;

    /// Returns to the system whatever can be returned, by whatever means it has.
    fn tidy(&self) -> Result<()>;

    /// Has what it keeps out of the way before loads: nothing, unless a load brings a page back for
    /// good.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// What it holds now.
    fn memory(&self) -> Result<Memory>;
}

/// One thread's part of a contestant.
pub(crate) trait Worker {
    /// Keeps `pages`, a unit of them, under numbers from `first`.
    fn store(&mut self, first: usize, pages: &[Aligned]) -> Result<()>;

    /// The unit that was stored last from `first`, in a buffer that the next load writes over.
    fn load(&mut self, first: usize) -> Result<&[Aligned]>;
}

/// Bytes of a contestant.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Compressed bytes that it holds.
    pub(crate) compressed_bytes: usize,
    /// Those that it keeps to know which page is where; none if it does not tell.
    pub(crate) metadata_bytes: Option<usize>,
    /// Everything, where it lies outside this process; none where the growth of this process says
    /// it.
    pub(crate) outside_bytes: Option<usize>,
}
