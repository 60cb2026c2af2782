//! Which signals a thread blocks.

use core::mem::MaybeUninit;
use std::io;

/// The signals of faults in a region.
pub(crate) const OF_FAULTS: [libc::c_int; 2] = [libc::SIGBUS, libc::SIGSEGV];

/// Unblocks what it blocked when it is dropped.
#[derive(Debug)]
pub(crate) struct Blocked(libc::sigset_t);

/// Blocks all signals but those of faults, so that a thread that is started now handles none of the program's.
pub(crate) fn block_for_a_thread() -> Blocked {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the call fills the set.
    unsafe { libc::sigfillset(set.as_mut_ptr()) };
    // SAFETY: it is filled.
    let mut set = unsafe { set.assume_init() };
    for signal in OF_FAULTS {
        // SAFETY: the set is initialised, and the number is a signal.
        unsafe { libc::sigdelset(&raw mut set, signal) };
    }
    let mut old = MaybeUninit::uninit();
    // SAFETY: both are sets, and the call fills the second.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, old.as_mut_ptr()) };
    // SAFETY: the call has filled it; it fails only for an unknown first argument.
    Blocked(unsafe { old.assume_init() })
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set is the mask that this thread had.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, core::ptr::null_mut())
        };
    }
}

/// Signals 32 and 33, which the C library keeps for itself: a program cannot block them with its functions. A thread that
/// blocks both starts or ends a thread, or is in our handler ([`everything`]), and will be done in a moment.
const INTERNAL: u64 = 0b11 << 31;

/// Returns the set of all signals, also of those that the C library leaves out of its full set.
pub(crate) fn everything() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the bytes are those of the set.
    unsafe { set.as_mut_ptr().write_bytes(0xff, 1) };
    // SAFETY: it is an array of numbers, which are all set now.
    unsafe { set.assume_init() }
}

/// Returns a thread of this process that blocks `signal`, and not only for a moment; `None` if none does.
///
/// # Errors
/// The system's error if the threads cannot be listed. A thread that ends meanwhile is passed over.
pub(crate) fn who_blocks(signal: libc::c_int) -> io::Result<Option<u32>> {
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?;
        let Ok(status) = std::fs::read_to_string(task.path().join("status")) else { continue };
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
        if mask >> (signal - 1) & 1 == 1 && mask & INTERNAL != INTERNAL {
            return Ok(task.file_name().to_str().and_then(|name| name.parse().ok()));
        }
    }
    Ok(None)
}
