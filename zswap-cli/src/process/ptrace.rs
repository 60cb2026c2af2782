//! The system calls that stop a thread and read the target's memory.
//!
//! Every request concerns a thread of another process and changes nothing in this one, except the
//! buffer that a read fills.
//!
//! Two calls bypass `nix`, because its enum of signals lacks the real-time signals. The `waitpid` of
//! `nix` would consume such a signal's stop and then return an error, and its detach could not
//! deliver the signal. The detach here is the only `unsafe` code. Real-time signals matter: glibc
//! sends them to all threads of a program that changes its user, and waits forever if one is lost.

use std::io::{self, IoSliceMut};

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use rustix::process::{WaitOptions, waitpid};

/// What `waitpid` reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// Nothing has happened yet.
    Nothing,
    /// The thread has stopped. Release it with `signal`: the signal that it was about to receive, or 0.
    Stopped { signal: i32 },
    /// The thread has ended.
    Ended,
}

/// Attaches to a thread without stopping it. When this process ends, however it ends, the kernel
/// releases the thread: no option that would kill it is set.
pub(crate) fn seize(tid: i32) -> io::Result<()> {
    Ok(ptrace::seize(Pid::from_raw(tid), Options::empty())?)
}

/// Asks a thread to stop.
pub(crate) fn interrupt(tid: i32) -> io::Result<()> {
    Ok(ptrace::interrupt(Pid::from_raw(tid))?)
}

/// Releases a stopped thread and delivers `signal` to it, or no signal if `signal` is 0.
pub(crate) fn detach(tid: i32, signal: i32) -> io::Result<()> {
    let nowhere = core::ptr::null_mut::<libc::c_void>();
    let signal = core::ptr::without_provenance_mut::<libc::c_void>(signal as usize);
    // SAFETY: PTRACE_DETACH takes the signal as a number and accesses no memory of this process.
    match unsafe { libc::ptrace(libc::PTRACE_DETACH, tid, nowhere, signal) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Reports what has become of a thread that was asked to stop. Does not block.
pub(crate) fn poll(tid: i32) -> io::Result<Wait> {
    // rustix does not name this option; without it, threads that are not processes are not found.
    let any_thread = WaitOptions::from_bits_retain(libc::__WALL as u32);
    let pid = rustix::process::Pid::from_raw(tid).ok_or(io::ErrorKind::InvalidInput)?;
    let status = match waitpid(Some(pid), any_thread | WaitOptions::NOHANG) {
        Ok(None) => return Ok(Wait::Nothing),
        Ok(Some((_, status))) => status,
        Err(rustix::io::Errno::CHILD) => return Ok(Wait::Ended),
        Err(error) => return Err(error.into()),
    };
    let Some(signal) = status.stopping_signal() else { return Ok(Wait::Ended) };
    // A stop with an event is not for a signal's delivery, so no signal goes with the release. Such a
    // stop is the one that we requested, or a group stop, which stays in effect after the release.
    let event = status.as_raw() >> 16;
    Ok(Wait::Stopped { signal: if event == 0 { signal } else { 0 } })
}

/// Whether the stack pointer can be read on this architecture.
pub(crate) const SUPPORTED: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// Returns the stack pointer of a stopped thread. Fails on an architecture that is not supported.
pub(crate) fn stack_pointer(tid: i32) -> io::Result<u64> {
    #[cfg(target_arch = "x86_64")]
    return Ok(ptrace::getregs(Pid::from_raw(tid))?.rsp);
    #[cfg(target_arch = "aarch64")]
    return Ok(ptrace::getregs(Pid::from_raw(tid))?.sp);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Err(io::Error::new(io::ErrorKind::Unsupported, format!("of thread {tid}")));
}

/// Copies the target's memory at `address` into `buffer`. Returns the number of bytes, which may be
/// less than requested.
pub(crate) fn read_memory(pid: i32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let there = RemoteIoVec { base: address as usize, len: buffer.len() };
    Ok(process_vm_readv(Pid::from_raw(pid), &mut [IoSliceMut::new(buffer)], &[there])?)
}
