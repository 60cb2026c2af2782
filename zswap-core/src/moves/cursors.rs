//! The places in the index at which the next walks start.

use crate::sync::atomic::AtomicU64;

/// The hands of the clocks, one for each kind of walk. A hand is the key at which the next walk starts.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    pub(crate) migrate: AtomicU64,
    pub(crate) recompress: AtomicU64,
    pub(crate) shrink: AtomicU64,
}
