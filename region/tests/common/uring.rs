//! An `io_uring` of four entries, by system calls: one operation at a time, and one registered buffer.
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::errno;

const ENTRIES: usize = 4;
const OFF_CQ: i64 = 0x800_0000;
const OFF_SQES: i64 = 0x1000_0000;
const REGISTER_BUFFERS: u32 = 0;
const UNREGISTER_BUFFERS: u32 = 1;
const GETEVENTS: u32 = 1;
const READ_FIXED: u8 = 4;
const WRITE_FIXED: u8 = 5;
const READ: u8 = 22;

/// The indexes of what is used in `struct io_uring_params`, seen as 32-bit numbers.
mod params {
    pub(super) const CQ_ENTRIES: usize = 1;
    pub(super) const SQ_TAIL: usize = 11;
    pub(super) const SQ_MASK: usize = 12;
    pub(super) const SQ_ARRAY: usize = 16;
    pub(super) const CQ_HEAD: usize = 20;
    pub(super) const CQ_TAIL: usize = 21;
    pub(super) const CQ_MASK: usize = 22;
    pub(super) const CQ_CQES: usize = 25;
}

/// `struct io_uring_sqe`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Op {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    offset: u64,
    address: u64,
    len: u32,
    rw_flags: u32,
    user_data: u64,
    buffer: u16,
    rest: [u16; 11],
}

const _: () = assert!(size_of::<Op>() == 64);

impl Op {
    fn new(opcode: u8, fd: RawFd, at: *mut u8, len: usize, offset: usize) -> Op {
        let (address, offset) = (at as u64, offset as u64);
        Op { opcode, fd, offset, address, len: len as u32, ..Op::default() }
    }

    pub fn read(fd: RawFd, to: *mut u8, len: usize, offset: usize) -> Op {
        Op::new(READ, fd, to, len, offset)
    }

    /// Reads into the registered buffer.
    pub fn read_fixed(fd: RawFd, to: *mut u8, len: usize, offset: usize) -> Op {
        Op::new(READ_FIXED, fd, to, len, offset)
    }

    /// Writes from the registered buffer.
    pub fn write_fixed(fd: RawFd, from: *mut u8, len: usize, offset: usize) -> Op {
        Op::new(WRITE_FIXED, fd, from, len, offset)
    }
}

/// A ring and its three mappings.
pub struct Ring {
    fd: RawFd,
    params: [u32; 30],
    submission: *mut u8,
    completion: *mut u8,
    ops: *mut Op,
}

impl Ring {
    /// Makes a ring, or returns the number of the error.
    pub fn new() -> Result<Ring, i32> {
        let mut params = [0u32; 30];
        // SAFETY: `params` is the structure of 120 bytes that the call reads and writes.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, params.as_mut_ptr()) };
        let fd = errno(fd as isize)? as RawFd;
        let map = |len: usize, offset: i64| {
            let (both, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            // SAFETY: a new mapping, where the system likes.
            let at = unsafe { libc::mmap(ptr::null_mut(), len, both, shared, fd, offset) };
            assert_ne!(at, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
            at.cast::<u8>()
        };
        let submission = map(params[params::SQ_ARRAY] as usize + ENTRIES * 4, 0);
        let completions = params[params::CQ_ENTRIES] as usize * 16;
        let completion = map(params[params::CQ_CQES] as usize + completions, OFF_CQ);
        let ops = map(ENTRIES * size_of::<Op>(), OFF_SQES).cast();
        Ok(Ring { fd, params, submission, completion, ops })
    }

    fn number(&self, base: *mut u8, index: usize) -> &AtomicU32 {
        let at = base.wrapping_add(self.params[index] as usize).cast();
        // SAFETY: the kernel has said that at this offset of the mapping, which lives as long as `self`, there is an
        // aligned number that both change.
        unsafe { AtomicU32::from_ptr(at) }
    }

    /// Runs one operation and waits for its end. Returns the bytes, or the number of the error.
    pub fn run(&self, op: &Op) -> Result<usize, i32> {
        let tail = self.number(self.submission, params::SQ_TAIL);
        let slot = tail.load(SeqCst) & self.number(self.submission, params::SQ_MASK).load(SeqCst);
        let entry = self.ops.wrapping_add(slot as usize);
        // SAFETY: the slot is in the mapping, and the kernel has no operation now.
        unsafe { entry.write(*op) };
        let array =
            self.submission.wrapping_add(self.params[params::SQ_ARRAY] as usize).cast::<u32>();
        let place = array.wrapping_add(slot as usize);
        // SAFETY: as above.
        unsafe { place.write(slot) };
        tail.fetch_add(1, SeqCst);
        let none: *const u8 = ptr::null();
        // SAFETY: the operation's memory is the caller's; the kernel checks its address.
        let entered =
            unsafe { libc::syscall(libc::SYS_io_uring_enter, self.fd, 1, 1, GETEVENTS, none, 0) };
        assert_eq!(errno(entered as isize), Ok(1));
        let head = self.number(self.completion, params::CQ_HEAD);
        let (now, end) = (head.load(SeqCst), self.number(self.completion, params::CQ_TAIL));
        assert_ne!(now, end.load(SeqCst), "no completion");
        let index = now & self.number(self.completion, params::CQ_MASK).load(SeqCst);
        let entries = self.completion.wrapping_add(self.params[params::CQ_CQES] as usize);
        let result = entries.wrapping_add(index as usize * 16 + 8).cast::<i32>();
        // SAFETY: an entry of 16 bytes in the mapping, which the kernel has written; the result is at its byte 8.
        let result = unsafe { result.read() };
        head.fetch_add(1, SeqCst);
        usize::try_from(result).map_err(|_| -result)
    }

    fn registration(&self, what: u32, parts: *const libc::iovec, count: u32) -> Result<usize, i32> {
        // SAFETY: the kernel checks the addresses.
        let done =
            unsafe { libc::syscall(libc::SYS_io_uring_register, self.fd, what, parts, count) };
        errno(done as isize)
    }

    /// Registers memory as the ring's buffer 0.
    pub fn register(&self, at: *mut u8, len: usize) -> Result<usize, i32> {
        let part = libc::iovec { iov_base: at.cast(), iov_len: len };
        self.registration(REGISTER_BUFFERS, &raw const part, 1)
    }

    pub fn unregister(&self) -> Result<usize, i32> {
        self.registration(UNREGISTER_BUFFERS, ptr::null(), 0)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The mappings stay until the process ends.
        // SAFETY: the descriptor is this ring's.
        unsafe { libc::close(self.fd) };
    }
}
