//! The compressed memory of the running kernel, each as a contestant: a zram disk and a zswap with a
//! swap file, both set up for one turn and undone after it.
//!
//! What is set up is undone as it is dropped, also when setting it up fails half-way. A signal that
//! would end the process would leave it behind: so SIGINT and SIGTERM are watched from the first
//! thing that is set up, and every store and load fails once one has come. A kill that cannot be
//! caught leaves the disk (`hot_remove` in `/sys/class/zram-control` takes it) or the swap file
//! (`swapoff`, then delete it) and the parameters of zswap as they were set.

mod setting;
mod span;
mod swap_file;
pub(crate) mod zram;
pub(crate) mod zswap;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::source::PAGE;

/// How long something busy is tried again that must not be left behind, how long something that
/// should be there at once, and how often.
const PATIENCE: Duration = Duration::from_secs(10);
const MOMENT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

static STOPPED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on SIGINT and SIGTERM end no process but make [`stopped`] true. May be called again.
///
/// Whatever sets something up calls it by itself.
pub(crate) fn watch_signals() {
    STOPPED.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // Neither is among the signals that cannot be had; unwatched, it would end the process.
            let _ = signal_hook::flag::register(signal, Arc::clone(&flag));
        }
        flag
    });
}

/// Whether SIGINT or SIGTERM has come since they are watched.
pub(crate) fn stopped() -> bool {
    STOPPED.get().is_some_and(|flag| flag.load(Ordering::SeqCst))
}

fn go_on() -> Result<()> {
    if stopped() { Err(Error::Stopped) } else { Ok(()) }
}

/// That this process is root's, and that the system's pages are as large as those that are kept.
fn is_fit() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::setup("it takes root; run as root to have it measured"));
    }
    // SAFETY: the call reads a constant of the system.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    if usize::try_from(size) != Ok(PAGE) {
        return Err(Error::setup(format!(
            "the system's pages are of {size} bytes, and these of {PAGE}"
        )));
    }
    Ok(())
}

fn read(path: &str) -> Result<String> {
    let failed = |reason| Error::System { what: "cannot read", path: path.to_owned(), reason };
    std::fs::read_to_string(path).map_err(failed)
}

/// Writes to a file that the kernel has made.
fn write(path: &str, value: &str) -> Result<()> {
    let written = OpenOptions::new().write(true).open(path).and_then(|mut file| {
        let whole = file.write(value.as_bytes())? == value.len();
        if whole { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    });
    let what = "cannot write to";
    written.map_err(|reason| Error::System { what, path: path.to_owned(), reason })
}

/// Tries until it works or has failed for so long.
fn insist<T, E>(patience: Duration, mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(_) if start.elapsed() < patience => sleep(PAUSE),
            done => return done,
        }
    }
}

/// Says what could not be undone: whoever drops it has nobody to give an error to.
fn tell_left<E: std::fmt::Display>(what: &str, undone: std::result::Result<(), E>) {
    if let Err(error) = undone {
        eprintln!("system: {what} is left behind: {error}");
    }
}

/// What the tests share: one at a time sets something up, and only where that can be.
#[cfg(test)]
mod shared {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;
    use measure::Pages;

    pub(super) fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pages that compress, each to something else.
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
