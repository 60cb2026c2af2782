//! The memory of a store at one moment of an aging run.

use serde::Serialize;
use zswap_core::Zswap;

use super::mode::{Mode, Runs};

/// A sample. Byte counts are the store's own statistics.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) mode: Mode,
    /// The number of reads, overwrites, drops and new stores since the store was filled.
    pub(crate) operations: u64,
    pub(crate) seconds: f64,
    /// The number of pages in the pool. Same-filled pages are not counted, since they take no pool
    /// memory.
    pub(crate) stored_pages: usize,
    pub(crate) same_filled_pages: usize,
    pub(crate) compressed_bytes: usize,
    /// The bytes of all pages of the pool, warm ones included. A warm page is free but kept for the
    /// next use.
    pub(crate) pool_bytes: usize,
    pub(crate) metadata_bytes: usize,
    pub(crate) pool_per_compressed: f64,
    /// The number of compactions so far.
    pub(crate) compactions: u64,
    /// How many pool pages these compactions freed.
    pub(crate) compacted_pages: u64,
    /// How many seconds these compactions took.
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
