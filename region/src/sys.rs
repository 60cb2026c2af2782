//! Mappings of this crate's own kinds, and the few system calls on them.

use core::ptr::{self, NonNull};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const DONTNEED_LOCKED: libc::c_int = 24;
const GUARD_INSTALL: libc::c_int = 102;
const GUARD_REMOVE: libc::c_int = 103;

/// What an advice does to the pages of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Advice {
    /// Unmaps them. Private memory is lost.
    DontNeed,
    /// Punches a hole into the file below a shared mapping.
    Remove,
    /// A touch raises SIGSEGV, whatever is mapped there.
    GuardInstall,
    GuardRemove,
    /// Maps them, writable.
    PopulateWrite,
}

/// A mapping for reading and writing, without huge pages, that children do not inherit. Unmapped when dropped. `Send`
/// and `Sync`: it is only addresses; who uses them keeps the rules of this crate.
#[derive(Debug)]
pub(crate) struct Memory {
    base: NonNull<u8>,
    len: usize,
    /// Bytes of a page of the region.
    unit: usize,
}

// SAFETY: a mapping belongs to the process, and this type reads and writes none of its bytes.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps `pages` pages of `unit` bytes of private anonymous memory. They take memory when they are first touched, also if the process
    /// has locked its future memory.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn private(pages: usize, unit: usize, dump: bool) -> io::Result<Memory> {
        Self::map(pages, unit, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, dump)
    }

    /// Maps the first `pages` pages of `unit` bytes of a file, shared.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn shared(
        pages: usize,
        unit: usize,
        file: &OwnedFd,
        dump: bool,
    ) -> io::Result<Memory> {
        Self::map(pages, unit, libc::MAP_SHARED, file.as_raw_fd(), dump)
    }

    fn map(
        pages: usize,
        unit: usize,
        flags: libc::c_int,
        fd: libc::c_int,
        dump: bool,
    ) -> io::Result<Memory> {
        let len = pages.checked_mul(unit).ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = flags | libc::MAP_NORESERVE;
        // Without access at first: a process that locks its memory does not back such pages.
        // SAFETY: the system chooses the address of a new mapping, so it replaces no other one.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let memory = Memory { base, len, unit };
        let all = memory.base.as_ptr().cast();
        // SAFETY: the range is this mapping, and unlocking changes no byte.
        check(unsafe { libc::munlock(all, len) })?;
        // SAFETY: the range is this mapping, which nobody uses yet.
        check(unsafe { libc::mprotect(all, len, libc::PROT_READ | libc::PROT_WRITE) })?;
        memory.advise_all(libc::MADV_DONTFORK)?;
        // A kernel without huge pages refuses the advice, and needs none.
        let _ = memory.advise_all(libc::MADV_NOHUGEPAGE);
        // Pages that the system merges lose their write protection. A kernel without merging refuses the advice.
        let _ = memory.advise_all(libc::MADV_UNMERGEABLE);
        if !dump {
            memory.advise_all(libc::MADV_DONTDUMP)?;
        }
        Ok(memory)
    }

    fn advise_all(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: the range is this mapping, and this advice changes no byte.
        check(unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, advice) })
    }

    /// Advises about `pages` pages from page `first` on. Repeats what the system interrupts.
    ///
    /// # Errors
    /// The system's error. Some of the pages may have followed the advice.
    ///
    /// # Safety
    /// Nobody depends on what the advice takes away.
    ///
    /// # Panics
    /// Panics if the range is not in the mapping.
    pub(crate) unsafe fn advise(
        &self,
        first: usize,
        pages: usize,
        advice: Advice,
    ) -> io::Result<()> {
        assert!(
            (first + pages) * self.unit <= self.len,
            "an advice about pages beyond the end of the mapping"
        );
        let advice = match advice {
            // Also if the process has locked its memory since. Linux 5.18.
            Advice::DontNeed => DONTNEED_LOCKED,
            Advice::Remove => libc::MADV_REMOVE,
            Advice::GuardInstall => GUARD_INSTALL,
            Advice::GuardRemove => GUARD_REMOVE,
            Advice::PopulateWrite => libc::MADV_POPULATE_WRITE,
        };
        let at = self.page(first);
        loop {
            // SAFETY: the range lies in this mapping; the caller promises the rest.
            let done = check(unsafe { libc::madvise(at.cast(), pages * self.unit, advice) });
            match done.as_ref().map_err(io::Error::raw_os_error) {
                Err(Some(libc::EINTR | libc::EAGAIN)) => {}
                _ => return done,
            }
        }
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the bytes of a page.
    pub(crate) fn unit(&self) -> usize {
        self.unit
    }

    /// Returns the address of a page. Any number is safe; the address is in the mapping if the page is.
    pub(crate) fn page(&self, page: usize) -> *mut u8 {
        self.base.as_ptr().wrapping_add(page * self.unit)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the owner drops the mapping after all use of its bytes has ended.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Makes a file of `len` zeros that exists only in memory.
///
/// # Errors
/// The system's error.
pub(crate) fn memory_file(len: usize) -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string, and the call changes no memory.
    let fd = unsafe { libc::memfd_create(c"zswap-region".as_ptr(), libc::MFD_CLOEXEC) };
    check(fd)?;
    // SAFETY: the system has just returned this descriptor, so nobody else owns it.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    let len = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the call changes no memory of the process: nobody has mapped the file yet.
    check(unsafe { libc::ftruncate(file.as_raw_fd(), len) })?;
    Ok(file)
}

/// Turns -1 into the error that the system has left.
pub(crate) fn check(returned: libc::c_int) -> io::Result<()> {
    if returned == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
