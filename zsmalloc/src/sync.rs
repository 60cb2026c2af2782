//! Threads and atomics of this crate: std's, or loom's under `--cfg loom`.

pub(crate) use zpool_base::sync::{MODEL, Mutex, MutexGuard, Watched, atomic, yield_now};

/// Always std's: counters for statistics and guesses, each correct by itself, on which no protocol
/// depends. Modelling them would only cost the model checker time.
pub(crate) mod counters {
    pub(crate) use std::sync::atomic::AtomicU32;
}
