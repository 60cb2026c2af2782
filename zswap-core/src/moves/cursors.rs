//! Where each kind of walk over the entries goes on.

use crate::sync::atomic::AtomicU64;

/// The hands of the clocks, each the key that its next walk begins with.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    pub(crate) migrate: AtomicU64,
    pub(crate) recompress: AtomicU64,
    pub(crate) shrink: AtomicU64,
}
