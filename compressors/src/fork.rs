//! Which process this is: a child after `fork` told apart from its parent.
//!
//! A child has none of its parent's threads, and locks that they held are held for ever: an engine made
//! by the parent does nothing there. The system calls a handler in each new child, which counts on; the
//! count is inherited, so along a line of descent no number comes twice. A child that was made past the
//! C library (a bare `clone`) is not noticed.

use std::io;

/// The process in which something was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Maker(u64);

impl Maker {
    /// This process, from which children are told apart from now on.
    pub(crate) fn here() -> io::Result<Maker> {
        imp::watch()?;
        Ok(Maker(imp::forks()))
    }

    /// As [`here`](Self::here); where no child can be told apart, all are taken for this process.
    pub(crate) fn here_if_told() -> Maker {
        let _ = imp::watch();
        Maker(imp::forks())
    }

    /// Whether this process is still the maker. Costs one load.
    #[inline]
    pub(crate) fn is_here(self) -> bool {
        imp::forks() == self.0
    }
}

#[cfg(all(unix, not(miri)))]
mod imp {
    use std::io;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    /// Forks that led to this process, from the first one that was watched.
    static FORKS: AtomicU64 = AtomicU64::new(0);
    static WATCHED: AtomicBool = AtomicBool::new(false);

    pub(super) fn forks() -> u64 {
        FORKS.load(Ordering::SeqCst)
    }

    extern "C" fn in_child() {
        FORKS.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn watch() -> io::Result<()> {
        // Threads that come first at once have it counted twice, which is as good.
        if !WATCHED.load(Ordering::SeqCst) {
            // SAFETY: the handler adds to an atomic, which a child may do whatever its parent was at.
            let refused = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
            if refused != 0 {
                return Err(io::Error::from_raw_os_error(refused));
            }
            WATCHED.store(true, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// Where there is no `fork`.
#[cfg(not(all(unix, not(miri))))]
mod imp {
    pub(super) fn forks() -> u64 {
        0
    }

    pub(super) fn watch() -> std::io::Result<()> {
        Ok(())
    }
}
