//! Locks, atomics and thread-local flags of this crate: those of std, or those of loom under `--cfg loom`.

pub(crate) use zpool_base::sync::{Condvar, MODEL, Mutex, MutexGuard, atomic};

/// A thread-local flag. Loom needs its own, since its threads share one system thread.
macro_rules! thread_flag {
    ($(#[$doc:meta])* $name:ident) => {
        #[cfg(not(loom))]
        std::thread_local! { $(#[$doc])* static $name: core::cell::Cell<bool> = const { core::cell::Cell::new(false) }; }
        #[cfg(loom)]
        loom::thread_local! { $(#[$doc])* static $name: core::cell::Cell<bool> = core::cell::Cell::new(false); }
    };
}
pub(crate) use thread_flag;
