//! Waiting for a thread of this program.

use std::thread;

/// The result of a thread; a panic of it continues here.
pub(super) fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
