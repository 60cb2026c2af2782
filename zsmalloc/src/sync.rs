//! Threads and atomics of this crate: std's, or loom's under `--cfg loom`.

pub(crate) use zpool_base::sync::{MODEL, Mutex, MutexGuard, Watched, atomic, yield_now};

/// Counters for statistics and guesses. They are always std's, even under loom: no protocol depends on
/// them, and modelling them would only cost the model checker time.
pub(crate) mod counters {
    pub(crate) use std::sync::atomic::AtomicU32;
}
