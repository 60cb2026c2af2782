//! What the background thread has done.

/// Sums since the cache was built.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    pub(super) adopted: u64,
    pub(super) rejected: u64,
    pub(super) failed: u64,
}
