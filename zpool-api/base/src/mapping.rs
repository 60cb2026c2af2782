//! Anonymous memory of the system's, and the system calls that get it and give it back.
//!
//! Giving back may block, so it is not done under a lock; `might_sleep` checks it.
//!
//! # Locked memory
//! A process that asked for it (`mlockall(MCL_FUTURE)`) has each new mapping locked, and thereby backed
//! with memory at once, down to its last page. So memory is mapped without access, which backs nothing;
//! if it turns out to be locked it is locked anew page by page, on the first touch, before it may be
//! accessed.

use core::ffi::c_void;
use core::ptr::{self, NonNull};
pub use rustix::io::Errno;
use rustix::mm::{
    Advice, MapFlags, MlockFlags, MprotectFlags, ProtFlags, madvise, mlock_with, mmap_anonymous,
    mprotect, munmap,
};

use crate::lockdep::might_sleep;

/// A private anonymous mapping of the process, unmapped on drop. Whoever made it sees to it that nobody uses a byte
/// of it by then. `Send`.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<c_void>,
    len: usize,
    locked: bool,
}

// SAFETY: a mapping belongs to the process, not to a thread, and `Mapping` is its only owner.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Reserves address space of `len` bytes, no memory, that nobody may access yet.
    ///
    /// # Errors
    /// The system's: above all `NOMEM`.
    pub fn closed(len: usize) -> Result<Mapping, Errno> {
        // Not accessible yet, so that nothing is backed where the process has its memory locked.
        let access = ProtFlags::empty();
        // Without NORESERVE a system that limits overcommit would charge the untouched pages too.
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping where the system likes: it replaces none.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, access, flags) }?;
        let start = NonNull::new(start).ok_or(Errno::NOMEM)?;
        Ok(Mapping { start, len, locked: false })
    }

    /// Makes it accessible; all zeros. Pages are backed, and locked if the process wants that, on first
    /// touch.
    ///
    /// # Errors
    /// The system's: above all `AGAIN` and `NOMEM` where it was to be locked.
    pub fn opened(mut self) -> Result<Mapping, Errno> {
        // The system drops no page of locked memory. There is none to be dropped.
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

    /// Whether huge pages may back it. A kernel built without them does not know the advice.
    ///
    /// # Errors
    /// The system's.
    pub fn allow_huge_pages(&self, allow: bool) -> Result<(), Errno> {
        let advice = if allow { Advice::LinuxHugepage } else { Advice::LinuxNoHugepage };
        match self.advise(advice) {
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(refused) => Err(refused),
        }
    }

    /// Children after `fork` do not have it.
    ///
    /// # Errors
    /// The system's.
    pub fn keep_from_children(&self) -> Result<(), Errno> {
        self.advise(Advice::LinuxDontFork)
    }

    /// Dumps of the process leave it out.
    ///
    /// # Errors
    /// The system's.
    pub fn keep_out_of_dumps(&self) -> Result<(), Errno> {
        self.advise(Advice::LinuxDontDump)
    }

    /// Advice that changes no content of memory that anybody has.
    fn advise(&self, advice: Advice) -> Result<(), Errno> {
        // SAFETY: the mapping is this one's and whole; the caller's advice changes nobody's bytes.
        unsafe { madvise(self.start.as_ptr(), self.len, advice) }
    }

    /// Its first byte; the pointer is good for all of it.
    pub fn base(&self) -> NonNull<u8> {
        self.start.cast()
    }

    /// Its bytes.
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
        // SAFETY: who made it drops it when nobody uses a byte of it.
        let unmapped = unsafe { munmap(self.start.as_ptr(), self.len) };
        if unmapped.is_err() {
            // The system has no descriptor left to split a mapping with. The address space stays
            // lost; the memory need not.
            // SAFETY: as above, nobody uses a byte of it.
            let _ = unsafe { give_back(self.base(), self.len, self.locked) };
        }
    }
}

/// Gives the memory of `len` bytes at `base` back to the system, also if it is `locked` as the process
/// wanted all its memory to be. Blocks in the system: not to be called under a lock.
///
/// # Errors
/// The system's; some of it may have gone nevertheless.
///
/// # Safety
/// The range must lie in live mappings, and nobody may depend on its bytes. They are zero
/// or what they were afterwards.
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

/// Bytes of the system's page, at least 4096; 65536 also where it is larger. No common build of
/// Linux has such pages; there nothing could be given back, and would stay warm and counted.
///
/// The system refuses advice at an address that is no multiple of its page, also for no bytes at
/// all, which is how it is asked here.
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
