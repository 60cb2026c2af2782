//! Anonymous memory, and the system calls that map and release it.
//!
//! Releasing memory may block, so it must not be done under a lock. `might_sleep` checks this.
//!
//! # Locked memory
//! After `mlockall(MCL_FUTURE)`, the system locks each new mapping, and so backs all its pages immediately.
//! To avoid this, memory is mapped without access at first: the system does not back such pages. Then, if
//! the mapping turns out to be locked, it is locked again with `MLOCK_ONFAULT` before it is made
//! accessible. After that, each page is backed and locked only when it is first touched.

use core::ffi::c_void;
use core::ptr::{self, NonNull};
pub use rustix::io::Errno;
use rustix::mm::{
    Advice, MapFlags, MlockFlags, MprotectFlags, ProtFlags, madvise, mlock, mlock_with,
    mmap_anonymous, mprotect, munmap,
};

use crate::lockdep::might_sleep;

/// A private anonymous mapping. It is unmapped when it is dropped. Its owner may drop it only after all use
/// of its bytes has ended. `Send`.
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

// SAFETY: a mapping belongs to the process, not to a thread, and only this value owns it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Reserves `len` bytes of address space. They have no memory yet and cannot be accessed yet.
    ///
    /// # Errors
    /// The error of `mmap`, usually `NOMEM`.
    pub fn closed(len: usize) -> Result<Mapping, Errno> {
        // Without access, no page is backed even if the process locks its memory.
        let access = ProtFlags::empty();
        // Without NORESERVE, a system that limits overcommit would charge the untouched pages, too.
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the system chooses the address of a new mapping, so it replaces no other one.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, access, flags) }?;
        let start = NonNull::new(start).ok_or(Errno::NOMEM)?;
        Ok(Mapping { start, len, locked: false })
    }

    /// Makes the mapping accessible. All its bytes are zero. Each page is backed when it is first touched.
    /// If the process locks its memory, the page is then also locked.
    ///
    /// # Errors
    /// The error of `mlock2` or `mprotect`, usually `AGAIN` or `NOMEM` from locking.
    pub fn opened(mut self) -> Result<Mapping, Errno> {
        // The system refuses this advice for locked memory, so the answer shows whether the memory is
        // locked. The advice has no other effect here, because no page is backed yet.
        self.locked = self.advise(Advice::LinuxDontNeed) == Err(Errno::INVAL);
        if self.locked {
            // SAFETY: the range is this mapping, and locking changes no byte.
            unsafe { mlock_with(self.start.as_ptr(), self.len, MlockFlags::ONFAULT) }?;
        }
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the range is this mapping, and nobody has a reference into it yet.
        unsafe { mprotect(self.start.as_ptr(), self.len, access) }?;
        Ok(self)
    }

    /// Allows or forbids huge pages for the mapping. Does nothing on a kernel without huge pages.
    ///
    /// # Errors
    /// The error of `madvise`. `INVAL` is ignored, since a kernel without huge pages returns it.
    pub fn allow_huge_pages(&self, allow: bool) -> Result<(), Errno> {
        let advice = if allow { Advice::LinuxHugepage } else { Advice::LinuxNoHugepage };
        match self.advise(advice) {
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(refused) => Err(refused),
        }
    }

    /// Excludes the mapping from children: after `fork`, a child does not have it.
    ///
    /// # Errors
    /// The error of `madvise`.
    pub fn keep_from_children(&self) -> Result<(), Errno> {
        self.advise(Advice::LinuxDontFork)
    }

    /// Excludes the mapping from core dumps.
    ///
    /// # Errors
    /// The error of `madvise`.
    pub fn keep_out_of_dumps(&self) -> Result<(), Errno> {
        self.advise(Advice::LinuxDontDump)
    }

    /// Backs all pages of an accessible mapping, and locks them in memory: the system does not swap them.
    ///
    /// # Errors
    /// The error of `mlock`, usually `NOMEM` or `PERM` if the process may not lock as much.
    pub fn lock(&mut self) -> Result<(), Errno> {
        // SAFETY: the range is this mapping, and locking changes no byte.
        unsafe { mlock(self.start.as_ptr(), self.len) }?;
        self.locked = true;
        Ok(())
    }

    /// Gives the system advice about the mapping. The advice must not change bytes in use.
    fn advise(&self, advice: Advice) -> Result<(), Errno> {
        // SAFETY: the range is this whole mapping, and all callers give advice that changes no bytes in
        // use.
        unsafe { madvise(self.start.as_ptr(), self.len, advice) }
    }

    /// Returns a pointer to the first byte, valid for the whole mapping.
    pub fn base(&self) -> NonNull<u8> {
        self.start.cast()
    }

    /// Returns the length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "none is empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether each page is locked in memory, at the latest when it is first touched.
    pub fn is_locked(&self) -> bool {
        self.locked
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        might_sleep("unmapping memory");
        // SAFETY: the owner drops the mapping only after all use of its bytes has ended.
        let unmapped = unsafe { munmap(self.start.as_ptr(), self.len) };
        if unmapped.is_err() {
            // Unmapping can fail: it may split a mapping in two, and then the system needs memory to
            // describe the second part. In this case the address space is lost, but its memory can still be
            // released. SAFETY: as above, nobody uses these bytes.
            let _ = unsafe { give_back(self.base(), self.len, self.locked) };
        }
    }
}

/// Returns the memory of `len` bytes at `base` to the system. `locked` says whether the process locks this
/// memory. Blocks in the system, so do not call it under a lock.
///
/// # Errors
/// The error of `madvise`. Part of the memory may have been released nevertheless.
///
/// # Safety
/// The range must lie in live mappings, and nobody may depend on its bytes. After the call, each page is
/// zero or unchanged.
pub unsafe fn give_back(base: NonNull<u8>, len: usize, locked: bool) -> Result<(), Errno> {
    might_sleep("giving pages back");
    let at = base.as_ptr().cast();
    if locked {
        // SAFETY: as for the call at the end of this function.
        let gone = unsafe { madvise(at, len, Advice::LinuxDontneedLocked) };
        // Linux before 5.18 does not know this advice.
        if gone != Err(Errno::INVAL) {
            return gone;
        }
    }
    // SAFETY: the pages belong to a private anonymous mapping, where the advice leaves either the old bytes
    // or zeros. The caller promises that nobody depends on the bytes.
    unsafe { madvise(at, len, Advice::LinuxDontNeed) }
}

/// Returns the system's page size in bytes, 4096 to 65536. No common build of Linux has larger pages. On a
/// system with larger pages, returns 65536. Then no memory can be released there: it stays warm and
/// counted.
///
/// Finds the size with advice about zero bytes: the system refuses the advice if the address is not a
/// multiple of the page size.
pub fn system_page_size() -> usize {
    let is_page_aligned = |address: &usize| {
        let nowhere = ptr::without_provenance_mut(*address);
        // SAFETY: advice about zero bytes concerns no memory.
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
