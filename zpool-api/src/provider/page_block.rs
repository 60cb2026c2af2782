//! A block of a provider's address space that is being emptied.

use core::ops::Range;

/// Names a large, aligned piece of address space that [`PageProvider::isolate_block`] isolated. Its runs can
/// now be emptied by moving objects to other runs. A plain value that owns nothing. `Send` and `Sync`.
///
/// [`PageProvider::isolate_block`]: crate::PageProvider::isolate_block
#[derive(Debug, PartialEq, Eq)]
#[must_use = "no run is allocated from the block until it is put back"]
pub struct PageBlock {
    start: usize,
    bytes: usize,
    /// Identifies the isolation: a number that the provider never uses twice. `new` sets it to 0, which
    /// `MmapPages` never uses.
    ticket: u64,
}

impl PageBlock {
    /// Makes a block of `bytes` bytes at address `start`. For providers. Anybody can make a block, so a
    /// provider must ignore any block that it did not return itself.
    pub fn new(start: usize, bytes: usize) -> Self {
        PageBlock { start, bytes, ticket: 0 }
    }

    /// Makes a block that its provider recognises by `ticket`, a number that the provider must never use
    /// twice. For providers. A caller may make up any ticket, so a provider must stay sound whatever the
    /// ticket is.
    pub fn with_ticket(start: usize, bytes: usize, ticket: u64) -> Self {
        PageBlock { start, bytes, ticket }
    }

    /// Returns the number by which the provider recognises the block; 0 if [`PageBlock::new`] made it.
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// The block's addresses.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start.saturating_add(self.bytes)
    }

    /// The block's length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
