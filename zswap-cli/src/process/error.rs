//! Why a process cannot be sampled, or its sample cannot be saved.

use std::io;
use std::path::PathBuf;

/// Why a process cannot be sampled, or its sample cannot be saved. The message is one line.
#[derive(Debug, thiserror::Error)]
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "on other systems every request ends as unsupported")
)]
pub(crate) enum SampleError {
    #[error("there is no process {pid}; it may have ended: `ps -e` lists those that run")]
    Gone { pid: i32 },

    #[error("process {pid} is zswap itself; give the pid of another process")]
    Itself { pid: i32 },

    #[error(
        "process {pid} has ended and has no memory any more; give the pid of a running process"
    )]
    Ended { pid: i32 },

    #[error("{pid} is a kernel thread, which has no memory to sample; give the pid of a program")]
    KernelThread { pid: i32 },

    #[error(
        "process {pid} is being traced by process {tracer}; end that first (a debugger, strace?)"
    )]
    Traced { pid: i32, tracer: i32 },

    #[error(
        "not allowed to read process {pid} ({reason}); run as the user it belongs to, or as root, and see \
         /proc/sys/kernel/yama/ptrace_scope"
    )]
    NotAllowed { pid: i32, reason: io::Error },

    #[error(
        "process {pid} has no resident private page outside of its stacks; there is nothing to sample"
    )]
    NoPages { pid: i32 },

    #[error(
        "thread {tid} of process {pid} did not stop within {seconds} s; it may be waiting for a disk; try again"
    )]
    NoStop { pid: i32, tid: i32, seconds: u64 },

    #[error("pages on this machine have {page_size} bytes; a sample needs pages of 4096")]
    PageSize { page_size: usize },

    #[error("no memory for the copies of {pages} pages; give a smaller --pages-max")]
    NoMemory { pages: u64 },

    #[error("{what} of process {pid}: {reason}; it may have ended meanwhile, try again")]
    Failed { pid: i32, what: &'static str, reason: io::Error },

    #[cfg_attr(target_os = "linux", allow(dead_code, reason = "for the systems without it"))]
    #[error("process {pid} cannot be sampled: --pid works on Linux (x86-64 and AArch64) only")]
    Unsupported { pid: i32 },

    #[error(
        "cannot save the sample as {path:?}: {reason}; give --save a name that is not taken, in a folder you can write to"
    )]
    Save { path: PathBuf, reason: io::Error },

    #[error(
        "cannot save the sample as {path:?}: its name has to end in .zst, as the file is compressed"
    )]
    SaveName { path: PathBuf },
}
