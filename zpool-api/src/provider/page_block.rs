//! The name of a block of a provider's address space that is being emptied.

use core::ops::Range;

/// Names a large, aligned piece of address space that [`PageProvider::isolate_block`] has isolated. A
/// backend can now empty it by moving its objects to runs of other blocks. The value owns nothing. `Send`
/// and `Sync`.
///
/// [`PageProvider::isolate_block`]: crate::PageProvider::isolate_block
#[derive(Debug, PartialEq, Eq)]
#[must_use = "no run is allocated from the block until it is put back"]
pub struct PageBlock {
    start: usize,
    bytes: usize,
    /// Tells which call of `isolate_block` the block comes from. A provider that sets tickets uses each of
    /// them only once. [`PageBlock::new`] sets 0, which is never a ticket of `MmapPages`.
    ticket: u64,
}

impl PageBlock {
    /// Makes a block of `bytes` bytes at address `start`. Meant for providers. Anybody can make a block, so
    /// a provider must ignore every block that it did not return itself.
    pub fn new(start: usize, bytes: usize) -> Self {
        PageBlock { start, bytes, ticket: 0 }
    }

    /// Makes a block of `bytes` bytes at address `start` that its provider recognises by `ticket`. Meant
    /// for providers. A provider must use each ticket only once. A caller may make up any ticket, so a
    /// provider must stay sound whatever the ticket is.
    pub fn with_ticket(start: usize, bytes: usize, ticket: u64) -> Self {
        PageBlock { start, bytes, ticket }
    }

    /// Returns the number by which the provider recognises the block. It is 0 if [`PageBlock::new`] made
    /// the block.
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// Returns the range of the block's addresses.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start.saturating_add(self.bytes)
    }

    /// Returns the block's length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
