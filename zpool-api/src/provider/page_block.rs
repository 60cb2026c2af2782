//! A block of a provider's address space that is being emptied.

use core::ops::Range;

/// A large aligned piece of address space that [`PageProvider::isolate_block`] isolated, so that its runs
/// can be moved elsewhere. A plain value that owns nothing; `Send` and `Sync`.
///
/// [`PageProvider::isolate_block`]: crate::PageProvider::isolate_block
#[derive(Debug, PartialEq, Eq)]
#[must_use = "no run is allocated from the block until it is put back"]
pub struct PageBlock {
    start: usize,
    bytes: usize,
    /// Identifies the isolation: a number that its provider never uses twice. 0 from `new`, which matches
    /// no isolation of `MmapPages`.
    ticket: u64,
}

impl PageBlock {
    /// A block of `bytes` bytes at address `start`. For providers. Anybody can make one, so a provider must
    /// ignore any block that it did not return itself.
    pub fn new(start: usize, bytes: usize) -> Self {
        PageBlock { start, bytes, ticket: 0 }
    }

    /// A block that its provider recognises by `ticket`, a number it must never use twice. For providers,
    /// which must stay sound whatever ticket a caller makes up.
    pub fn with_ticket(start: usize, bytes: usize, ticket: u64) -> Self {
        PageBlock { start, bytes, ticket }
    }

    /// The number by which its provider recognises it; 0 from [`PageBlock::new`].
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
