//! Iterates over the entries of a store while the store is in use.

use crate::entry::index::{Index, LeafKeys};
use crate::{SwapEntry, Zswap};
use zpool_base::fork::Leaked;

/// An iterator over the entries of a store, in order. [`Zswap::entries`] returns one.
///
/// The store may change during the iteration. An entry that holds a page throughout is yielded exactly once.
/// An entry that is stored or dropped meanwhile may be yielded or not. For each group of 32 offsets that is in
/// use, the iterator locks the structure of the index for a moment. It holds no lock between calls of `next`.
/// In a child after `fork` it ends at once.
#[derive(Debug)]
pub struct Entries<'a> {
    index: &'a Leaked<Index>,
    /// The keys of the current leaf; the first `given` of them were yielded.
    ready: LeafKeys,
    given: usize,
    /// Where the search for the next leaf starts; `None` if there is no further leaf.
    next: Option<u64>,
    /// The last key that may be yielded.
    last: u64,
}

impl<'a> Entries<'a> {
    /// Iterates over the entries from key `first` to key `last`, both included.
    pub(crate) fn new(index: &'a Leaked<Index>, first: u64, last: u64) -> Self {
        Entries { index, ready: LeafKeys::new(), given: 0, next: Some(first), last }
    }

    /// Makes an iterator that yields nothing.
    pub(crate) fn none(index: &'a Leaked<Index>) -> Self {
        Entries { index, ready: LeafKeys::new(), given: 0, next: None, last: 0 }
    }
}

impl Iterator for Entries<'_> {
    type Item = SwapEntry;

    fn next(&mut self) -> Option<SwapEntry> {
        if !self.index.is_here() {
            return None;
        }
        while self.given == self.ready.len() {
            let from = self.next.filter(|from| *from <= self.last)?;
            self.next = self.index.leaf_keys(from, &mut self.ready);
            self.given = 0;
        }
        let key = *self.ready.get(self.given)?;
        self.given += 1;
        (key <= self.last).then(|| SwapEntry::from_key(key))
    }
}

impl Zswap {
    /// Returns the entries of the area `swap_type` that hold a page, in order of offset.
    pub(crate) fn entries_of(&self, swap_type: u8) -> Entries<'_> {
        let first = u64::from(swap_type) << crate::entry::OFFSET_BITS;
        let last = first | ((1 << crate::entry::OFFSET_BITS) - 1);
        Entries::new(&self.index, first, last)
    }

    /// Returns an iterator over all entries that hold a page, ordered by area and then by offset. In a child
    /// after `fork` it yields nothing.
    ///
    /// ```
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().build()?;
    /// for offset in [9, 2, 5] {
    ///     store.store(SwapEntry::new(0, offset)?, &[1; zswap_core::PAGE_SIZE])?;
    /// }
    /// let offsets: Vec<u64> = store.entries().map(|entry| entry.offset()).collect();
    /// assert_eq!(offsets, [2, 5, 9]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn entries(&self) -> Entries<'_> {
        if !self.is_here() {
            return Entries::none(&self.index);
        }
        Entries::new(&self.index, 0, u64::MAX)
    }
}

impl<'a> IntoIterator for &'a Zswap {
    type Item = SwapEntry;
    type IntoIter = Entries<'a>;
    fn into_iter(self) -> Entries<'a> {
        self.entries()
    }
}
