//! The threads and atomics that this crate uses: those of std, or those of loom under `--cfg loom`.

pub(crate) use zpool_base::sync::{MODEL, Mutex, MutexGuard, Watched, atomic, yield_now};
