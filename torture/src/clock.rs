//! The order of events: one counter for a whole run.
//!
//! An operation takes a stamp before it calls the store and one after it. The counter is sequentially
//! consistent, so an operation whose end is below another's start was over before the other began.

use std::sync::atomic::{AtomicU64, Ordering};

/// Gives out stamps, each once. `Send` and `Sync`.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// The next stamp, from 1.
    pub fn stamp(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The last stamp given out.
    pub fn last(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}
