//! Waits for a thread of this program.

use std::thread;

/// Waits for a thread and returns its result. If the thread panicked, panics with the same payload.
pub(super) fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
