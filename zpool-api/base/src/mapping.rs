//! Anonymous memory, and the system calls that map and release it.
//!
//! Releasing memory may block, so it never happens under a lock; `might_sleep` checks it.
//!
//! # Locked memory
//! After `mlockall(MCL_FUTURE)` the system locks each new mapping and thereby backs all its pages at once. So
//! memory is mapped without access, which backs nothing. If it turns out to be locked, it is locked again with
//! `MLOCK_ONFAULT`, which backs and locks each page on first touch, before it becomes accessible.

use core::ffi::c_void;
use core::ptr::{self, NonNull};
pub use rustix::io::Errno;
use rustix::mm::{
    Advice, MapFlags, MlockFlags, MprotectFlags, ProtFlags, madvise, mlock_with, mmap_anonymous,
    mprotect, munmap,
};

use crate::lockdep::might_sleep;

/// A private anonymous mapping, unmapped on drop. Its owner ensures that nobody uses a byte of it by then. `Send`.
///
/// ```
/// use zpool_base::mapping::Mapping;
///
/// # if cfg!(miri) { return Ok(()); }
/// let mapping = Mapping::closed(1 << 20)?.opened()?; // address space; memory on first touch
/// assert_eq!(mapping.len(), 1 << 20);
/// # Ok::<(), rustix::io::Errno>(())
/// ```
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<c_void>,
    len: usize,
    locked: bool,
}

// SAFETY: a mapping belongs to the process, not to a thread, and `Mapping` is its only owner.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Reserves `len` bytes of address space, without memory and not yet accessible.
    ///
    /// # Errors
    /// That of `mmap`: usually `NOMEM`.
    pub fn closed(len: usize) -> Result<Mapping, Errno> {
        // Without access, so that nothing is backed even if the process locks its memory.
        let access = ProtFlags::empty();
        // Without NORESERVE a system that limits overcommit would charge the untouched pages too.
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the system chooses: it replaces none.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, access, flags) }?;
        let start = NonNull::new(start).ok_or(Errno::NOMEM)?;
        Ok(Mapping { start, len, locked: false })
    }

    /// Makes it accessible; all bytes are zero. Pages are backed, and locked if the process locks its memory,
    /// on first touch.
    ///
    /// # Errors
    /// That of `mlock2` or `mprotect`: usually `AGAIN` or `NOMEM` from locking.
    pub fn opened(mut self) -> Result<Mapping, Errno> {
        // The system refuses this advice for locked memory. It changes nothing here: no page is backed yet.
        self.locked = self.advise(Advice::LinuxDontNeed) == Err(Errno::INVAL);
        if self.locked {
            // SAFETY: the mapping is this one's; locking changes no byte.
            unsafe { mlock_with(self.start.as_ptr(), self.len, MlockFlags::ONFAULT) }?;
        }
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the mapping is this one's, and nobody has a reference into it yet.
        unsafe { mprotect(self.start.as_ptr(), self.len, access) }?;
        Ok(self)
    }

    /// Allows or forbids huge pages. A kernel built without them rejects the advice, which is ignored.
    ///
    /// # Errors
    /// That of `madvise`, except `INVAL`.
    pub fn allow_huge_pages(&self, allow: bool) -> Result<(), Errno> {
        let advice = if allow { Advice::LinuxHugepage } else { Advice::LinuxNoHugepage };
        match self.advise(advice) {
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(refused) => Err(refused),
        }
    }

    /// Excludes it from children after `fork`.
    ///
    /// # Errors
    /// That of `madvise`.
    pub fn keep_from_children(&self) -> Result<(), Errno> {
        self.advise(Advice::LinuxDontFork)
    }

    /// Excludes it from core dumps.
    ///
    /// # Errors
    /// That of `madvise`.
    pub fn keep_out_of_dumps(&self) -> Result<(), Errno> {
        self.advise(Advice::LinuxDontDump)
    }

    /// Gives the system advice that changes no bytes in use.
    fn advise(&self, advice: Advice) -> Result<(), Errno> {
        // SAFETY: the range is this mapping, whole; the callers' advice changes no bytes in use.
        unsafe { madvise(self.start.as_ptr(), self.len, advice) }
    }

    /// A pointer to its first byte, valid for the whole mapping.
    pub fn base(&self) -> NonNull<u8> {
        self.start.cast()
    }

    /// Its length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "none is empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether its pages are locked as they are touched.
    pub fn is_locked(&self) -> bool {
        self.locked
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        might_sleep("unmapping memory");
        // SAFETY: the owner drops it only when nobody uses a byte of it.
        let unmapped = unsafe { munmap(self.start.as_ptr(), self.len) };
        if unmapped.is_err() {
            // The system has no descriptor left to split a mapping. The address space is lost, but the
            // memory need not be.
            // SAFETY: as above, nobody uses a byte of it.
            let _ = unsafe { give_back(self.base(), self.len, self.locked) };
        }
    }
}

/// Returns the memory of `len` bytes at `base` to the system, even if the process locks its memory (`locked`).
/// Blocks in the system: do not call it under a lock.
///
/// # Errors
/// That of `madvise`; part of the memory may have gone nevertheless.
///
/// # Safety
/// The range must lie in live mappings, and nobody may depend on its bytes: afterwards each page is zero or
/// unchanged.
pub unsafe fn give_back(base: NonNull<u8>, len: usize, locked: bool) -> Result<(), Errno> {
    might_sleep("giving pages back");
    let at = base.as_ptr().cast();
    if locked {
        // SAFETY: as below.
        let gone = unsafe { madvise(at, len, Advice::LinuxDontneedLocked) };
        // Before Linux 5.18 there is no such advice.
        if gone != Err(Errno::INVAL) {
            return gone;
        }
    }
    // SAFETY: the pages are a private anonymous mapping, where the advice leaves the old bytes or
    // zeros; the caller says that nobody depends on either.
    unsafe { madvise(at, len, Advice::LinuxDontNeed) }
}

/// Bytes of the system's page, at least 4096. Returns 65536 even if it is larger: no common build of Linux has
/// such pages, and on one that did no memory could be released; it would stay warm and counted.
///
/// Probes with advice about zero bytes: the system refuses an address that is not a multiple of its page size.
pub fn system_page_size() -> usize {
    let is_page_aligned = |address: &usize| {
        let nowhere = ptr::without_provenance_mut(*address);
        // SAFETY: advice about zero bytes touches nothing.
        unsafe { madvise(nowhere, 0, Advice::Normal) }.is_ok()
    };
    [4096, 8192, 16384, 32768].into_iter().find(is_page_aligned).unwrap_or(65536)
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn the_page_size_is_the_one_the_system_reports() {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let line = smaps.lines().find(|line| line.starts_with("KernelPageSize:")).unwrap();
        let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert_eq!(system_page_size(), kib * 1024);
    }
}
