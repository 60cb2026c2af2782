//! A region: address space reserved from the system, and every system call of the provider.
//!
//! All of them may block, so none is made under the provider's lock; `might_sleep` checks it.
//!
//! # Locked memory
//! A process that asked for it (`mlockall(MCL_FUTURE)`) has each new mapping locked, and thereby backed
//! with memory at once, down to its last page. So a region is mapped without access, which backs nothing;
//! if it turns out to be locked it is locked anew page by page, on the first touch, before it may be
//! accessed.

use core::ffi::c_void;
use core::ptr::{self, NonNull};
use rustix::io::Errno;
use rustix::mm::{
    Advice, MapFlags, MlockFlags, MprotectFlags, ProtFlags, madvise, mlock_with, mmap_anonymous,
    mprotect, munmap,
};

use super::block::BLOCK_BYTES;
use super::options::MmapOptions;
use crate::lockdep::might_sleep;

/// Most blocks in a region.
pub(super) const REGION_BLOCKS: usize = 32;

/// Bytes reserved at once, where the address space has them.
const REGION_BYTES: usize = REGION_BLOCKS * BLOCK_BYTES;

/// A mapping of the process, unmapped on drop. Only whole, aligned blocks of it are used, which is
/// at most one block less than was mapped.
pub(super) struct Region {
    mapping: NonNull<c_void>,
    mapped: usize,
    /// The first block; its provenance is the whole mapping.
    base: NonNull<u8>,
    blocks: usize,
    locked: bool,
}

// SAFETY: a mapping belongs to the process, not to a thread, and `Region` is its only owner.
unsafe impl Send for Region {}

impl Region {
    /// Reserves address space; no memory yet. Asks for less, down to a single block, when the
    /// system refuses the usual 64 MiB.
    pub(super) fn reserve(options: &MmapOptions) -> Result<Region, Errno> {
        might_sleep("reserving a region");
        let mut bytes = REGION_BYTES;
        loop {
            match Region::map(bytes) {
                Ok(region) => return region.opened()?.advised(options),
                // Two blocks of mapping always hold one aligned block.
                Err(refused) if bytes <= 2 * BLOCK_BYTES => return Err(refused),
                Err(_) => bytes /= 2,
            }
        }
    }

    fn map(bytes: usize) -> Result<Region, Errno> {
        // Not accessible yet, so that nothing is backed where the process has its memory locked.
        let access = ProtFlags::empty();
        // Without NORESERVE a system that limits overcommit would charge the untouched pages too.
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping where the system likes: it replaces none.
        let mapping = unsafe { mmap_anonymous(ptr::null_mut(), bytes, access, flags) }?;
        let mapping = NonNull::new(mapping).ok_or(Errno::NOMEM)?;
        let start = mapping.addr().get();
        let head = start.next_multiple_of(BLOCK_BYTES) - start;
        // SAFETY: less than a block is skipped of a mapping of at least two.
        let base = unsafe { mapping.cast::<u8>().add(head) };
        let blocks = (bytes - head) / BLOCK_BYTES;
        Ok(Region { mapping, mapped: bytes, base, blocks, locked: false })
    }

    /// Makes it accessible; pages are backed, and locked if the process wants that, on first touch.
    fn opened(mut self) -> Result<Region, Errno> {
        // The system drops no page of locked memory. There is none to be dropped.
        self.locked = self.advise(Advice::LinuxDontNeed) == Err(Errno::INVAL);
        if self.locked {
            // SAFETY: the mapping is this region's; locking changes no byte.
            unsafe { mlock_with(self.mapping.as_ptr(), self.mapped, MlockFlags::ONFAULT) }?;
        }
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the mapping is this region's, and nobody has a reference into it yet.
        unsafe { mprotect(self.mapping.as_ptr(), self.mapped, access) }?;
        Ok(self)
    }

    /// Whether its pages are locked as they are touched.
    pub(super) fn is_locked(&self) -> bool {
        self.locked
    }

    fn advised(self, options: &MmapOptions) -> Result<Region, Errno> {
        let huge = if options.huge_pages { Advice::LinuxHugepage } else { Advice::LinuxNoHugepage };
        match self.advise(huge) {
            // A kernel built without huge pages does not know the advice.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(refused) => return Err(refused),
        }
        if options.dont_fork {
            self.advise(Advice::LinuxDontFork)?;
        }
        if options.dont_dump {
            self.advise(Advice::LinuxDontDump)?;
        }
        Ok(self)
    }

    fn advise(&self, advice: Advice) -> Result<(), Errno> {
        // SAFETY: the mapping is this region's and whole; the advice given through here changes no
        // content of memory that anybody has.
        unsafe { madvise(self.mapping.as_ptr(), self.mapped, advice) }
    }

    /// Address of the first block.
    pub(super) fn start(&self) -> usize {
        self.base.addr().get()
    }

    /// Blocks in the region, 1 to [`REGION_BLOCKS`].
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    /// The byte at `offset` from the first block, inside the blocks.
    pub(super) fn at(&self, offset: usize) -> Option<NonNull<u8>> {
        if offset < self.blocks * BLOCK_BYTES {
            // SAFETY: inside the mapping, by the check.
            Some(unsafe { self.base.add(offset) })
        } else {
            None
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        might_sleep("unmapping a region");
        // SAFETY: the provider drops its regions when it is dropped itself, after which no run of
        // it may be used (`PageProvider`), or before it gave out any run of them.
        let unmapped = unsafe { munmap(self.mapping.as_ptr(), self.mapped) };
        if unmapped.is_err() {
            // The system has no descriptor left to split a mapping with. The address space stays
            // lost; the memory need not.
            // SAFETY: as above, nobody uses a byte of it.
            let _ = unsafe { give_back(self.base, self.blocks * BLOCK_BYTES, self.locked) };
        }
    }
}

/// Gives the memory of `len` bytes at `base` back to the system, also if it is `locked` as the process
/// wanted all its memory to be. On an error some of it may have gone nevertheless.
///
/// # Safety
/// The range must lie in blocks of live regions, and nobody may be using its bytes. They are zero
/// or what they were afterwards.
pub(super) unsafe fn give_back(base: NonNull<u8>, len: usize, locked: bool) -> Result<(), Errno> {
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
pub(super) fn system_page_size() -> usize {
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
    fn regions_are_whole_aligned_blocks() {
        let regions: Vec<Region> =
            (0..4).map(|_| Region::reserve(&MmapOptions::new()).unwrap()).collect();
        for region in &regions {
            assert_eq!(region.start() % BLOCK_BYTES, 0);
            assert!((REGION_BLOCKS - 1..=REGION_BLOCKS).contains(&region.blocks()));
            let len = region.blocks() * BLOCK_BYTES;
            assert!(region.at(len).is_none());
            let last = region.at(len - 1).unwrap();
            // SAFETY: the region's last byte, which is this test's alone.
            unsafe { last.write(1) };
        }
    }

    #[test]
    fn blocks_are_aligned_wherever_the_mapping_lies() {
        // An odd page more shifts each mapping against the one before: not all can begin at a
        // block.
        let regions: Vec<Region> = (0..3)
            .map(|_| Region::map(2 * BLOCK_BYTES + 65536).unwrap().opened().unwrap())
            .collect();
        assert!(regions.iter().any(|region| region.mapping.cast() != region.base));
        for region in &regions {
            assert_eq!(region.start() % BLOCK_BYTES, 0);
            assert!(region.blocks() >= 1);
            let last = region.at(region.blocks() * BLOCK_BYTES - 1).unwrap();
            let mapping_end = region.mapping.addr().get() + region.mapped;
            assert!(last.addr().get() < mapping_end);
        }
    }

    #[test]
    fn the_page_size_is_the_one_the_system_reports() {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let line = smaps.lines().find(|line| line.starts_with("KernelPageSize:")).unwrap();
        let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert_eq!(system_page_size(), kib * 1024);
    }
}
