//! The mutexes and atomics that this crate uses: std's, or loom's under `--cfg loom`.

pub(crate) use zpool_base::sync::{MODEL, Mutex, MutexGuard, atomic};
