//! A block of a provider's address space that is being emptied.

use core::ops::Range;

/// A large aligned piece of address space that [`PageProvider::isolate_block`] took out of use, so
/// that the runs in it can be moved elsewhere. `Send` and `Sync`; a value, which holds nothing.
///
/// [`PageProvider::isolate_block`]: crate::PageProvider::isolate_block
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the block serves nobody until it is put back"]
pub struct PageBlock {
    start: usize,
    bytes: usize,
}

impl PageBlock {
    /// A block of `bytes` bytes at address `start`. For providers.
    pub fn new(start: usize, bytes: usize) -> Self {
        PageBlock { start, bytes }
    }

    /// Its addresses.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start.saturating_add(self.bytes)
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
