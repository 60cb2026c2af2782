//! A snapshot of a region's figures.

use zswap_core::ZswapStats;

use crate::Histogram;

/// Figures of a region. They are read one after another while the region is in use, so they may not fit together
/// exactly. Bytes are multiples of 4096 where they count pages.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RegionStats {
    /// The limit on everything, in bytes.
    pub budget: Option<usize>,
    /// The most bytes of resident pages that the two limits leave now.
    pub resident_limit: usize,
    /// Bytes of pages in memory: mapped, in the limbo, or on their way between the two.
    pub resident_bytes: usize,
    /// Bytes of the limbo's blocks that wait: taken from the program, not compressed yet.
    pub limbo_bytes: usize,
    /// 4096 bytes for each pin of a page.
    pub pinned_bytes: usize,
    /// Bytes of pages that are in the store only.
    pub cold_bytes: usize,
    /// Bytes of everything: resident pages, buffers, tables, and all of the store. `budget` limits this sum.
    pub memory_bytes: usize,
    /// First touches: faults that found no content, and mapped zeros.
    pub zero_faults: u64,
    /// Faults that read a page from the store, and dropped the store's copy.
    pub cold_faults: u64,
    /// Faults that read a page from the store, and kept the store's copy: the page is clean until it is written.
    pub clean_faults: u64,
    /// Pages that came back from the limbo without decompression.
    pub rescued: u64,
    /// First writes to clean pages.
    pub write_faults: u64,
    /// Faults that waited for another thread that had the page.
    pub waited: u64,
    /// Pages that came with another one because a sequence was seen.
    pub around_pages: u64,
    /// Pages that came by [`Region::prefetch`](crate::Region::prefetch), beside the first of each group.
    pub prefetched_pages: u64,
    /// Pages that went to the store.
    pub evicted_pages: u64,
    /// Those of them that the store had already, so that nothing was compressed.
    pub evicted_clean_pages: u64,
    /// Pages that came back while they were compressed, so that the work was in vain.
    pub undone_pages: u64,
    /// Attempts to take a page that the kernel, or another process, was using.
    pub busy_pages: u64,
    /// Faults and calls that had to make room themselves.
    pub direct_reclaims: u64,
    /// Pages that the store refused; they stayed resident.
    pub refused_evictions: u64,
    /// Pages that were taken beyond the limits ([`OnFull::Exceed`](crate::OnFull::Exceed)).
    pub exceeded: u64,
    /// Pages whose content the program gave up ([`Region::discard`](crate::Region::discard)).
    pub discarded_pages: u64,
    /// How long faults took, from the handler's begin to its end. The signal itself comes on top.
    pub fault_latency: Histogram,
    /// The figures of the store.
    pub store: ZswapStats,
}

impl RegionStats {
    /// Returns how many bytes of memory a byte of a cold page takes; 0 if none is cold.
    pub fn cold_ratio(&self) -> f64 {
        if self.cold_bytes == 0 {
            return 0.0;
        }
        self.store.memory_bytes() as f64 / self.cold_bytes as f64
    }
}
