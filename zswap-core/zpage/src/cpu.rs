//! The number of the CPU that this thread is on. It is a hint that spreads work, not a promise.
//!
//! A thread may migrate at any time, so the number may be outdated as soon as it is read. Code that uses it as an
//! index must be correct for any number. A wrong number may only make it slower.

use crate::sync::MODEL;

/// Returns the length of a per-CPU array: the number of CPUs, rounded up to a power of two. On Linux, the CPUs
/// are those that the system has configured; elsewhere, those that this process may use.
pub fn places() -> usize {
    // A loom model must be deterministic, so it has one CPU.
    if MODEL {
        return 1;
    }
    configured().max(1).next_power_of_two()
}

#[cfg(all(target_os = "linux", not(miri)))]
mod imp {
    pub(super) fn configured() -> usize {
        // SAFETY: `sysconf` takes a number and returns a number. No memory is passed.
        let cpus = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) };
        usize::try_from(cpus).unwrap_or(1)
    }

    /// Returns the number of the current CPU, or `None` if the system does not know it. This is cheap: glibc reads
    /// the number from memory that the kernel updates for each thread (rseq).
    #[inline]
    pub(super) fn current() -> Option<usize> {
        // SAFETY: `sched_getcpu` takes nothing and returns a number, or -1 if the system does not know the CPU.
        let cpu = unsafe { libc::sched_getcpu() };
        usize::try_from(cpu).ok()
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
mod imp {
    pub(super) fn configured() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    pub(super) fn current() -> Option<usize> {
        None
    }
}

use imp::configured;

/// Returns the number of the current CPU, which may be [`places`] or more. If the system does not know the CPU,
/// returns a number that stays the same for this thread.
#[inline]
pub fn current() -> usize {
    if MODEL {
        return 0;
    }
    imp::current().unwrap_or_else(number_of_thread)
}

/// Returns this thread's number. Threads are numbered from 0 as they first call this. That spreads them about as
/// well as CPU numbers do.
fn number_of_thread() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        // Relaxed: the numbers only have to differ.
        static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    MINE.try_with(|mine| *mine).unwrap_or(0)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_place_for_every_cpu() {
        assert!(places().is_power_of_two());
        let online = std::thread::available_parallelism().map_or(1, usize::from);
        assert!(places() >= online);
        #[cfg(all(target_os = "linux", not(miri)))]
        assert!(current() < places());
    }

    #[test]
    fn threads_have_numbers_of_their_own() {
        let mine = number_of_thread();
        assert_eq!(mine, number_of_thread());
        let other = std::thread::spawn(number_of_thread).join().unwrap();
        assert_ne!(mine, other);
    }
}
