//! A store's memory at one moment of its churn.

use serde::Serialize;
use zswap_core::Zswap;

use super::mode::{Mode, Runs};

/// A sample. Byte counts are the store's own statistics.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) mode: Mode,
    /// Reads, overwrites, frees and new stores since the store was filled.
    pub(crate) operations: u64,
    pub(crate) seconds: f64,
    /// Pages in the pool. Same-filled pages do not count, as they take no pool memory.
    pub(crate) stored_pages: usize,
    pub(crate) same_filled_pages: usize,
    pub(crate) compressed_bytes: usize,
    /// Bytes of the pool's pages, both those in use and the warm ones.
    pub(crate) pool_bytes: usize,
    pub(crate) metadata_bytes: usize,
    pub(crate) pool_per_compressed: f64,
    /// Runs of compaction so far.
    pub(crate) compactions: u64,
    /// Pages that they freed.
    pub(crate) compacted_pages: u64,
    /// Seconds that they took.
    pub(crate) compaction_seconds: f64,
}

impl Sample {
    pub(crate) fn take(
        mode: Mode,
        operations: u64,
        seconds: f64,
        store: &Zswap,
        runs: Runs,
    ) -> Self {
        let stats = store.stats();
        Sample {
            mode,
            operations,
            seconds,
            stored_pages: stats.stored_pages.saturating_sub(stats.same_filled_pages),
            same_filled_pages: stats.same_filled_pages,
            compressed_bytes: stats.compressed_bytes,
            pool_bytes: stats.pool_total_size,
            metadata_bytes: stats.metadata_bytes,
            pool_per_compressed: stats.pool_total_size as f64
                / stats.compressed_bytes.max(1) as f64,
            compactions: runs.runs,
            compacted_pages: runs.pages,
            compaction_seconds: runs.seconds,
        }
    }
}
