//! The system calls that hold a thread still and read the target's memory.
//!
//! Every request concerns a thread of another process and changes nothing in this one, except the
//! buffer that a read fills.
//!
//! Two calls go round `nix`, whose signals are an enum without the real-time ones: `waitpid`, which
//! would take such a signal for an error after it had taken the stop, and the detach that passes the
//! signal on, which is the only `unsafe` here. glibc sends real-time signals to the threads of every
//! program that changes its user, and waits for ever if one is lost.

use std::io::{self, IoSliceMut};

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use rustix::process::{WaitOptions, waitpid};

/// A status that `waitpid` gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// Nothing has happened yet.
    Nothing,
    /// Stopped. It is to be let go with this signal: the one that it was about to receive, or 0.
    Stopped { signal: i32 },
    /// It has ended.
    Ended,
}

/// Attaches to a thread without stopping it. When this process ends, however it ends, the kernel
/// lets the thread go: no option is set that would do otherwise.
pub(crate) fn seize(tid: i32) -> io::Result<()> {
    Ok(ptrace::seize(Pid::from_raw(tid), Options::empty())?)
}

/// Asks a thread to stop.
pub(crate) fn interrupt(tid: i32) -> io::Result<()> {
    Ok(ptrace::interrupt(Pid::from_raw(tid))?)
}

/// Lets a stopped thread go, with the signal that it was about to receive, if any.
pub(crate) fn detach(tid: i32, signal: i32) -> io::Result<()> {
    let nowhere = core::ptr::null_mut::<libc::c_void>();
    let signal = core::ptr::without_provenance_mut::<libc::c_void>(signal as usize);
    // SAFETY: DETACH takes the signal as a number and touches no memory here.
    match unsafe { libc::ptrace(libc::PTRACE_DETACH, tid, nowhere, signal) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// What has become of a thread that was asked to stop. Does not block.
pub(crate) fn poll(tid: i32) -> io::Result<Wait> {
    // rustix has no name for it: without it, threads of a target that are no processes are not found.
    let any_thread = WaitOptions::from_bits_retain(libc::__WALL as u32);
    let pid = rustix::process::Pid::from_raw(tid).ok_or(io::ErrorKind::InvalidInput)?;
    let status = match waitpid(Some(pid), any_thread | WaitOptions::NOHANG) {
        Ok(None) => return Ok(Wait::Nothing),
        Ok(Some((_, status))) => status,
        Err(rustix::io::Errno::CHILD) => return Ok(Wait::Ended),
        Err(error) => return Err(error.into()),
    };
    let Some(signal) = status.stopping_signal() else { return Ok(Wait::Ended) };
    // An event stop is no signal's delivery: the one that we asked for, or the group's stop, which
    // goes on when we let go with 0.
    let event = status.as_raw() >> 16;
    Ok(Wait::Stopped { signal: if event == 0 { signal } else { 0 } })
}

/// Whether the stack pointer can be found on this machine.
pub(crate) const SUPPORTED: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// The stack pointer of a stopped thread.
pub(crate) fn stack_pointer(tid: i32) -> io::Result<u64> {
    #[cfg(target_arch = "x86_64")]
    return Ok(ptrace::getregs(Pid::from_raw(tid))?.rsp);
    #[cfg(target_arch = "aarch64")]
    return Ok(ptrace::getregs(Pid::from_raw(tid))?.sp);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Err(io::Error::new(io::ErrorKind::Unsupported, format!("of thread {tid}")));
}

/// Copies the target's memory at `address` into `buffer`; the bytes copied, which may be fewer.
pub(crate) fn read_memory(pid: i32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let there = RemoteIoVec { base: address as usize, len: buffer.len() };
    Ok(process_vm_readv(Pid::from_raw(pid), &mut [IoSliceMut::new(buffer)], &[there])?)
}
