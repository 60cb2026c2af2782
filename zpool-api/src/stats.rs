//! A snapshot of what a pool holds and what it costs.

/// Figures of one pool, read without stopping it. Each is exact at some moment during the call, but different
/// figures may be exact at different moments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ZpoolStats {
    /// Bytes per page of this pool.
    pub page_size: usize,
    /// Resident pages in use, as [`total_pages`](crate::Zpool::total_pages) counts them.
    pub total_pages: usize,
    /// Resident pages without an object that the page provider keeps warm.
    pub cached_pages: usize,
    /// Live objects: allocated (committed) and not freed.
    pub objects: usize,
    /// Sum of the live objects' exact lengths, in bytes.
    pub object_bytes: usize,
    /// Objects that were freed during a read. Their space is reused after the readers have ended.
    pub parked_objects: usize,
    /// Bytes of descriptors, slots and tables, including the page provider's.
    pub metadata_bytes: usize,
    /// Pages that `reclaim` has freed since the pool was made.
    pub reclaimed_pages: u64,
}

impl ZpoolStats {
    /// Returns the resident bytes: pages in use and cached pages, without metadata.
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
