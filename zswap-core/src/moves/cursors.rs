//! Where the next walk of each kind starts.

use crate::sync::atomic::AtomicU64;

/// The clock hands. Each is the key at which the next walk of its kind starts.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    pub(crate) migrate: AtomicU64,
    pub(crate) recompress: AtomicU64,
    pub(crate) shrink: AtomicU64,
}
