//! Threads and atomics of this crate: std's, or loom's under `--cfg loom`.

pub(crate) use zpool_base::sync::{MODEL, Mutex, MutexGuard, Watched, atomic, yield_now};
