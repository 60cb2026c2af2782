//! A child process that drops its copy of the store, while the parent's threads go on.
//!
//! The child has the forking thread only. Whatever lock another thread held is held for ever there, so
//! a drop that takes one hangs: the child must be gone within [`PATIENCE`].

use std::time::Duration;

use crate::round::Round;

/// How long the child may take. Dropping is a matter of microseconds; what is left is for a machine
/// that is busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Forks; the child drops store and background threads, and ends.
///
/// # Errors
/// What went wrong in the child, or that there is none.
#[cfg(not(target_os = "linux"))]
pub fn child_drops(_round: &Round<'_>) -> Result<(), String> {
    Err("fork is used on Linux only".to_owned())
}

/// Forks; the child drops store and background threads, and ends.
///
/// # Errors
/// What went wrong in the child, or that there is none.
#[cfg(target_os = "linux")]
pub fn child_drops(round: &Round<'_>) -> Result<(), String> {
    use std::time::Instant;
    // SAFETY: the child calls nothing but drops and `_exit`. glibc makes its allocator usable in the
    // child of a process with threads.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(format!("no child: {}", std::io::Error::last_os_error()));
    }
    if child == 0 {
        in_child(round);
    }
    let began = Instant::now();
    loop {
        let mut status = 0;
        // SAFETY: a child of this process, and a place for its status.
        let ended = unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) };
        if ended == child {
            return match status {
                0 => Ok(()),
                _ if libc::WIFSIGNALED(status) => {
                    Err(format!("the child died of signal {}", libc::WTERMSIG(status)))
                }
                _ => Err(format!(
                    "the child ended with {}: {}",
                    libc::WEXITSTATUS(status),
                    said(libc::WEXITSTATUS(status))
                )),
            };
        }
        if began.elapsed() > PATIENCE {
            // SAFETY: numbers only; the child was not waited for, so the number is still its own.
            unsafe { libc::kill(child, libc::SIGKILL) };
            // SAFETY: as above.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            return Err(format!("the child took more than {PATIENCE:?} to drop the store"));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[cfg(target_os = "linux")]
const PANICKED: i32 = 3;

#[cfg(target_os = "linux")]
fn said(code: i32) -> &'static str {
    match code {
        PANICKED => "dropping panicked",
        _ => "no code of this program's",
    }
}

#[cfg(target_os = "linux")]
fn in_child(round: &Round<'_>) -> ! {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;
    let dropped = catch_unwind(AssertUnwindSafe(|| {
        if let Ok(mut background) = round.background.try_lock() {
            background.clear();
        }
        let store = Arc::as_ptr(&round.store).cast_mut();
        // SAFETY: this thread is the only one of this process and uses the store no more; no other
        // owner of the `Arc` ever runs here again.
        unsafe { std::ptr::drop_in_place(store) };
    }));
    let code = if dropped.is_ok() { 0 } else { PANICKED };
    // SAFETY: ends the process without running anything more of it.
    unsafe { libc::_exit(code) }
}
