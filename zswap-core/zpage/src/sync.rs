//! Locks, atomics and thread-local bits of this crate: those of std, or those of loom under `--cfg loom`.

pub(crate) use zpool_base::sync::{Condvar, MODEL, Mutex, MutexGuard, atomic};

/// Eight bits of a thread, all clear at first. Loom needs its own, since its threads share one system thread.
macro_rules! thread_bits {
    ($(#[$doc:meta])* $name:ident) => {
        #[cfg(not(loom))]
        std::thread_local! { $(#[$doc])* static $name: core::cell::Cell<u8> = const { core::cell::Cell::new(0) }; }
        #[cfg(loom)]
        loom::thread_local! { $(#[$doc])* static $name: core::cell::Cell<u8> = core::cell::Cell::new(0); }
    };
}
pub(crate) use thread_bits;
