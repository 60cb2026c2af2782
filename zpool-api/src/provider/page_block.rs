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
    /// Which isolation it stands for, by a number of its provider that never recurs; 0 for one made by
    /// `new`, which stands for none of `MmapPages`'.
    ticket: u64,
}

impl PageBlock {
    /// A block of `bytes` bytes at address `start`. For providers. Anybody can make one, so a provider
    /// must not rely on it: one that it did not give out has to change nothing.
    pub fn new(start: usize, bytes: usize) -> Self {
        PageBlock { start, bytes, ticket: 0 }
    }

    /// A block that its provider knows again by `ticket`, a number that must never recur. For providers,
    /// which must stay sound whatever ticket somebody makes up.
    pub fn with_ticket(start: usize, bytes: usize, ticket: u64) -> Self {
        PageBlock { start, bytes, ticket }
    }

    /// The number that its provider knows it by; 0 for one made by [`PageBlock::new`].
    pub fn ticket(&self) -> u64 {
        self.ticket
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
