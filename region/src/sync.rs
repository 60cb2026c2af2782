//! The mutexes and atomics that this crate uses, and the futex: std's and the system's, or loom's under `--cfg loom`.

pub(crate) use zpool_base::sync::{MODEL, Mutex, atomic, yield_now};

use atomic::AtomicU32;

#[cfg(not(loom))]
mod imp {
    use super::AtomicU32;
    use core::ptr;

    /// Sleeps while `word` has the value `seen`. May return for no reason.
    pub(crate) fn wait(word: &AtomicU32, seen: u32) {
        let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        let forever: *const libc::timespec = ptr::null();
        // SAFETY: the word is borrowed during the call, and the call only reads it.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), op, seen, forever) };
    }

    /// Wakes all threads that sleep on `word`.
    pub(crate) fn wake(word: &AtomicU32) {
        let op = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: waking neither reads nor writes memory; the address is only a name.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), op, i32::MAX) };
    }
}

/// The futex under the model checker: one mutex and one condition variable for all words. As in the system, the check of
/// the word and falling asleep are one step for everyone who wakes.
#[cfg(loom)]
mod imp {
    use super::{AtomicU32, Mutex, atomic::Ordering};
    use zpool_base::sync::Condvar;

    loom::lazy_static! {
        static ref BED: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
    }

    pub(crate) fn wait(word: &AtomicU32, seen: u32) {
        let guard = BED.0.lock();
        // SeqCst: the system's futex is ordered with all other accesses of the word.
        if word.load(Ordering::SeqCst) == seen {
            drop(BED.1.wait(guard));
        }
    }

    pub(crate) fn wake(_word: &AtomicU32) {
        let _guard = BED.0.lock();
        BED.1.notify_all();
    }
}

pub(crate) use imp::{wait, wake};

/// Lets other threads run for a moment, also those with a lower priority.
pub(crate) fn pause() {
    if MODEL { yield_now() } else { std::thread::sleep(core::time::Duration::from_micros(50)) }
}
