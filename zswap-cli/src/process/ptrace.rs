//! The system calls that hold a thread still and read the target's memory. All `unsafe` of the
//! sampler is here.
//!
//! Every request concerns a thread of another process and changes nothing in this one, but for the
//! buffers that two of them fill, whose length is given with them.

use std::io;

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

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A request without an address, with a number for data.
fn request(request: libc::c_uint, tid: i32, data: usize) -> io::Result<()> {
    let data = core::ptr::without_provenance_mut::<libc::c_void>(data);
    let nowhere = core::ptr::null_mut::<libc::c_void>();
    // SAFETY: SEIZE, INTERRUPT and DETACH take `data` as a number and touch no memory here.
    check(unsafe { libc::ptrace(request as _, tid, nowhere, data) })
}

/// Attaches to a thread without stopping it. When this process ends, however it ends, the kernel
/// lets the thread go: no option is set that would do otherwise.
pub(crate) fn seize(tid: i32) -> io::Result<()> {
    request(libc::PTRACE_SEIZE as _, tid, 0)
}

/// Asks a thread to stop.
pub(crate) fn interrupt(tid: i32) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT as _, tid, 0)
}

/// Lets a stopped thread go, with the signal that it was about to receive, if any.
pub(crate) fn detach(tid: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_DETACH as _, tid, signal as usize)
}

/// What has become of a thread that was asked to stop. Does not block.
pub(crate) fn poll(tid: i32) -> io::Result<Wait> {
    let mut status = 0;
    // SAFETY: `status` is an int that lives through the call.
    match unsafe { libc::waitpid(tid, &mut status, libc::__WALL | libc::WNOHANG) } {
        0 => Ok(Wait::Nothing),
        -1 => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ECHILD) => Ok(Wait::Ended),
            error => Err(error),
        },
        _ if libc::WIFSTOPPED(status) => {
            // An event stop is no signal's delivery: the one that we asked for, or the group's
            // stop, which goes on when we let go with 0.
            let event = status >> 16;
            let signal = if event == 0 { libc::WSTOPSIG(status) } else { 0 };
            Ok(Wait::Stopped { signal })
        }
        _ => Ok(Wait::Ended),
    }
}

/// The general registers of a thread, as many words as this machine has; more than any has.
const REGISTERS: usize = 64;

/// Which of them is the stack pointer.
#[cfg(target_arch = "x86_64")]
const STACK_POINTER: Option<usize> = Some(19);
#[cfg(target_arch = "aarch64")]
const STACK_POINTER: Option<usize> = Some(31);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const STACK_POINTER: Option<usize> = None;

/// Whether the stack pointer can be found on this machine.
pub(crate) const SUPPORTED: bool = STACK_POINTER.is_some();

/// The stack pointer of a stopped thread.
pub(crate) fn stack_pointer(tid: i32) -> io::Result<u64> {
    let mut registers = [0u64; REGISTERS];
    let mut buffer =
        libc::iovec { iov_base: registers.as_mut_ptr().cast(), iov_len: size_of_val(&registers) };
    let set = core::ptr::without_provenance_mut::<libc::c_void>(libc::NT_PRSTATUS as usize);
    // SAFETY: the kernel writes at most `iov_len` bytes to `registers`, which outlive the call.
    check(unsafe { libc::ptrace(libc::PTRACE_GETREGSET, tid, set, &raw mut buffer) })?;
    let at = STACK_POINTER.unwrap_or(REGISTERS);
    registers.get(at).copied().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Copies the target's memory at `address` into `buffer`; the bytes copied, which may be fewer.
pub(crate) fn read_memory(pid: i32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let here = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let there = libc::iovec {
        iov_base: core::ptr::without_provenance_mut(address as usize),
        iov_len: buffer.len(),
    };
    // SAFETY: the kernel writes at most `iov_len` bytes to `buffer`, which outlives the call; the
    // other address is the target's and never used here.
    let got = unsafe { libc::process_vm_readv(pid, &here, 1, &there, 1, 0) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}
