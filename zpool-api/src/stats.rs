//! A snapshot of what a pool holds and what it costs.

/// Figures of one pool. They are read while other threads use the pool. Each figure is exact at some moment
/// during the call, but not all at the same moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ZpoolStats {
    /// Bytes per page of this pool.
    pub page_size: usize,
    /// Resident pages in use, as [`total_pages`](crate::Zpool::total_pages) counts them.
    pub total_pages: usize,
    /// Resident pages that hold no object and that the page provider keeps for later.
    pub cached_pages: usize,
    /// Live objects, that is, objects that were committed and not freed.
    pub objects: usize,
    /// The sum of the exact lengths of all live objects, in bytes.
    pub object_bytes: usize,
    /// Objects that were freed while being read. Their space is reused after the readers have ended.
    pub parked_objects: usize,
    /// Bytes of the pool's descriptors, slots and tables, and of the page provider's own bookkeeping.
    pub metadata_bytes: usize,
    /// Pages that `reclaim` has freed since the pool was made.
    pub reclaimed_pages: u64,
}

impl ZpoolStats {
    /// Returns the bytes of all resident pages, in use or cached. Metadata does not count.
    pub fn pool_bytes(&self) -> usize {
        self.total_pages.saturating_add(self.cached_pages).saturating_mul(self.page_size)
    }
}

#[cfg(test)]
mod tests {
    use super::ZpoolStats;

    #[test]
    fn pool_bytes_are_those_of_both_kinds_of_resident_pages() {
        let stats = ZpoolStats {
            page_size: 4096,
            total_pages: 3,
            cached_pages: 4,
            metadata_bytes: 99,
            ..ZpoolStats::default()
        };
        assert_eq!(stats.pool_bytes(), 28_672);
    }
}
