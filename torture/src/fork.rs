//! A child process that calls and drops its copy of the store, while the parent's threads go on.
//!
//! Only the forking thread exists in the child. Locks that other threads held stay locked there, so
//! a call or a drop that takes one hangs: the child must end within [`PATIENCE`]. Every call must
//! return the error for a forked child, or answer as an empty store does. A store that the child
//! builds must work.

use std::time::Duration;

use zswap_core::{
    BatchError, BuildError, LoadError, MigrateError, PAGE_SIZE, Recompress, StoreError,
    WritebackError, Zswap, ZswapStats,
};

use crate::round::Round;

/// How long the child may take. Dropping takes microseconds; the rest is for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The name of a call, and a function that makes it in the child and checks the store's answer.
type Asked = (&'static str, fn(&Round<'_>, &mut [[u8; PAGE_SIZE]; 1]) -> bool);

const ASKED: [Asked; 19] = [
    ("store", |round, [page]| {
        let entry = round.entry(0);
        matches!(round.store.store(entry, page), Err(StoreError::Forked { .. }))
    }),
    ("try_replace", |round, [page]| {
        let entry = round.entry(0);
        matches!(round.store.try_replace(entry, page), Err(StoreError::Forked { .. }))
    }),
    ("load", |round, [page]| {
        matches!(round.store.load(round.entry(0), page), Err(LoadError::Forked { .. }))
    }),
    ("take", |round, [page]| {
        matches!(round.store.take(round.entry(0), page), Err(LoadError::Forked { .. }))
    }),
    ("store_batch", |round, [page]| {
        let batch = [(round.entry(0), &*page)];
        round.store.store_batch(&batch) == Err(BatchError::Forked)
    }),
    ("load_batch", |round, pages| {
        round.store.load_batch(&[round.entry(0)], pages) == Err(BatchError::Forked)
    }),
    ("shrink", |round, _| round.store.shrink(1) == Err(WritebackError::Forked)),
    ("flush_device", |round, _| round.store.flush_device() == Err(WritebackError::Forked)),
    ("migrate_pools", |round, _| round.store.migrate_pools(1) == Err(MigrateError::Forked)),
    ("recompress", |round, _| {
        round.store.recompress(&Recompress::new("zstd").max_pages(1)) == Err(MigrateError::Forked)
    }),
    ("set_compressor", |round, _| round.store.set_compressor("zstd") == Err(BuildError::Forked)),
    ("set_zpool", |round, _| round.store.set_zpool("zbud") == Err(BuildError::Forked)),
    ("set_max_pool_bytes", |round, _| {
        round.store.set_max_pool_bytes(None) == Err(BuildError::Forked)
    }),
    ("set_max_bytes", |round, _| round.store.set_max_bytes(None) == Err(BuildError::Forked)),
    ("compact", |round, _| {
        matches!(round.store.compact(), Err(zpool_api::ZpoolError::Forked { .. }))
    }),
    ("a question", |round, _| {
        let (store, entry) = (&round.store, round.entry(0));
        !store.contains(entry)
            && !store.invalidate(entry)
            && store.invalidate_area(0) + store.len() + store.trim() == 0
            && store.entries().next().is_none()
            && store.stats() == ZswapStats::default()
    }),
    ("a thread of the store's own", |round, _| {
        let policy = zswap_core::ShrinkerPolicy::default();
        matches!(round.store.shrink_in_background(policy), Err(WritebackError::Forked))
    }),
    ("a cleaner of the store's own", |round, _| {
        let policy = zswap_core::CleanerPolicy::default();
        matches!(round.store.clean_in_background(policy), Err(WritebackError::Forked))
    }),
    ("a store of the child's own", |round, [page]| {
        let Ok(store) = Zswap::builder().build() else { return false };
        let (entry, stored) = (round.entry(0), [7; PAGE_SIZE]);
        store.store(entry, &stored).is_ok() && store.load(entry, page).is_ok() && *page == stored
    }),
];

/// Fails: fork is used on Linux only.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn child_drops(_round: &Round<'_>) -> Result<(), String> {
    Err("fork is used on Linux only".to_owned())
}

/// Forks. The child calls the store, drops its background threads and the store, and exits.
///
/// # Errors
/// Returns, in words, what went wrong in the child, or why no child was made.
#[cfg(target_os = "linux")]
pub fn child_drops(round: &Round<'_>) -> Result<(), String> {
    use std::time::Instant;
    // SAFETY: the child only calls stores, drops the round's store and its background threads, and
    // calls `_exit`. glibc keeps its allocator usable in the child of a process with threads.
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
        // SAFETY: passes the PID of a child of this process, and a pointer to a local variable.
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
            // SAFETY: passes two integers. The child has not been reaped, so no other process can have
            // its PID.
            unsafe { libc::kill(child, libc::SIGKILL) };
            // SAFETY: as for the `waitpid` above.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            return Err(format!("the child took more than {PATIENCE:?} to drop the store"));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[cfg(target_os = "linux")]
const PANICKED: i32 = 3;
/// The exit code if the first call of [`ASKED`] gave a wrong answer. The next codes stand for the next
/// calls.
#[cfg(target_os = "linux")]
const ANSWERED: i32 = 10;

#[cfg(target_os = "linux")]
fn said(code: i32) -> String {
    let asked = code.checked_sub(ANSWERED).and_then(|at| ASKED.get(usize::try_from(at).ok()?));
    match (code, asked) {
        (PANICKED, _) => "a call or a drop panicked".to_owned(),
        (_, Some((asked, _))) => format!("{asked} gave a wrong answer for a forked child"),
        _ => "an unknown exit code".to_owned(),
    }
}

#[cfg(target_os = "linux")]
fn in_child(round: &Round<'_>) -> ! {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;
    let code = catch_unwind(AssertUnwindSafe(|| {
        let mut page = Box::new([[0; PAGE_SIZE]; 1]);
        let wrong = ASKED.iter().position(|(_, asks)| !asks(round, &mut page));
        if let Ok(mut background) = round.background.try_lock() {
            background.clear();
        }
        let store = Arc::as_ptr(&round.store).cast_mut();
        // SAFETY: this thread is the only one of this process and is done with the store; no
        // other owner of the `Arc` ever runs here.
        unsafe { std::ptr::drop_in_place(store) };
        wrong.map_or(0, |at| ANSWERED + at as i32)
    }));
    let code = code.unwrap_or(PANICKED);
    // SAFETY: ends the process without running anything else in it.
    unsafe { libc::_exit(code) }
}
