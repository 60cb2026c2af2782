//! The clock: one counter for a whole run, which orders events.
//!
//! An operation takes a stamp before it calls the store and another afterwards. The counter is
//! sequentially consistent: if the end of one operation is below the start of another, the first was
//! over before the other began.

use std::sync::atomic::{AtomicU64, Ordering};

/// Issues stamps. Each stamp is issued once. `Send` and `Sync`.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// Returns the next stamp; the first is 1.
    pub fn stamp(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Returns the last stamp issued.
    pub fn last(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}
