//! Threads and atomics of this crate: std's, or loom's under `--cfg loom`.

pub(crate) use zpool_base::sync::{MODEL, Mutex, MutexGuard, Watched, atomic, yield_now};

/// Always std's: numbers for statistics and guesses, each right by itself, on which no protocol
/// hangs. The model checker would only lose time with them.
pub(crate) mod counters {
    pub(crate) use std::sync::atomic::AtomicU32;
}
