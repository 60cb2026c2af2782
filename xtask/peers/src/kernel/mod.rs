//! The compressed memory of the running kernel, as three contestants: a zram disk, zswap with a swap
//! file, and swap on zram in a memory cgroup. Each is set up for one turn and undone after it.
//!
//! Dropping a set-up undoes it, even if it failed half-way. A signal that ends the process would
//! leave the set-up behind. So SIGINT and SIGTERM are caught from the first step of a set-up on.
//! After one of them has come, every store and load fails. SIGKILL cannot be caught. After it,
//! these must be undone by hand:
//!
//! - The disk: write its number to `hot_remove` in `/sys/class/zram-control`.
//! - The swap file: switch it off with `swapoff`, then delete it.
//! - Swap on zram: switch it off with `swapoff`, then remove the disk as above. Remove the folder
//!   `zswap-peers-…` of the memory cgroup.
//! - The changed parameters of zswap, and `vm.page-cluster`.

mod setting;
mod span;
mod swap_file;
pub(crate) mod zram;
pub(crate) mod zram_swap;
pub(crate) mod zswap;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::source::PAGE;

/// How long an undo is retried while something is busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait for something that the kernel should provide at once.
const MOMENT: Duration = Duration::from_secs(1);
/// The pause between attempts.
const PAUSE: Duration = Duration::from_millis(10);

static STOPPED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Catches SIGINT and SIGTERM from now on. They do not end the process but make [`stopped`] return
/// true. May be called again.
///
/// Every set-up calls it.
pub(crate) fn watch_signals() {
    STOPPED.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // Registering does not fail for these signals. If it did, they would end the process as
            // usual.
            let _ = signal_hook::flag::register(signal, Arc::clone(&flag));
        }
        flag
    });
}

/// Returns whether SIGINT or SIGTERM has come since `watch_signals`.
pub(crate) fn stopped() -> bool {
    STOPPED.get().is_some_and(|flag| flag.load(Ordering::SeqCst))
}

fn go_on() -> Result<()> {
    if stopped() { Err(Error::Stopped) } else { Ok(()) }
}

/// Checks that this process runs as root, and that the system's page size is the size of the pages
/// in this run.
fn is_fit() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::setup("it needs root; run as root to measure it"));
    }
    // SAFETY: the call only reads a constant of the system.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    if usize::try_from(size) != Ok(PAGE) {
        return Err(Error::setup(format!(
            "the system's pages have {size} bytes, those of this run {PAGE}"
        )));
    }
    Ok(())
}

pub(crate) fn read(path: &str) -> Result<String> {
    let failed = |reason| Error::System { what: "cannot read", path: path.to_owned(), reason };
    std::fs::read_to_string(path).map_err(failed)
}

/// Writes `value` to a file that the kernel provides. Fails unless a single write takes all of it.
fn write(path: &str, value: &str) -> Result<()> {
    let written = OpenOptions::new().write(true).open(path).and_then(|mut file| {
        let whole = file.write(value.as_bytes())? == value.len();
        if whole { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    });
    let what = "cannot write to";
    written.map_err(|reason| Error::System { what, path: path.to_owned(), reason })
}

/// Calls `attempt` until it succeeds, for at most about `patience`. Returns the last result.
fn insist<T, E>(patience: Duration, mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(_) if start.elapsed() < patience => sleep(PAUSE),
            done => return done,
        }
    }
}

/// If `undone` is an error, prints that `what` is left behind. Used in drops, which cannot return
/// an error.
fn tell_left<E: std::fmt::Display>(what: &str, undone: std::result::Result<(), E>) {
    if let Err(error) = undone {
        eprintln!("system: {what} is left behind: {error}");
    }
}

/// Helpers for the tests. Each test that changes the system calls `alone` first, so that no two of
/// these tests run at the same time.
#[cfg(test)]
mod shared {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;
    use measure::Pages;

    pub(super) fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes compressible pages, each different.
    pub(super) fn pages(count: usize, seed: u8) -> Pages {
        (0..count)
            .map(|n| {
                let byte = |i: usize| (i / 64 * (n + 1)) as u8 ^ seed;
                std::array::from_fn(byte)
            })
            .collect()
    }

    #[test]
    fn what_is_busy_is_tried_again() {
        let mut left = 3;
        let done = insist(PATIENCE, || {
            left -= 1;
            if left == 0 { Ok(7) } else { Err("busy") }
        });
        assert_eq!(done, Ok(7));
        assert_eq!(insist(PAUSE, || Err::<(), _>("busy")), Err("busy"));
    }
}
