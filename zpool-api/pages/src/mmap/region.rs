//! A region: reserved address space, divided into whole blocks.
//!
//! Its system calls may block, so no one makes them under the provider's lock. `might_sleep` checks this.

use core::ptr::NonNull;
use rustix::io::Errno;

use super::block::BLOCK_BYTES;
use super::options::MmapOptions;
use zpool_base::lockdep::might_sleep;
use zpool_base::mapping::Mapping;

/// The greatest number of blocks that a region can have.
pub(super) const REGION_BLOCKS: usize = 32;

/// The number of bytes that a region has if the address space has room.
const REGION_BYTES: usize = REGION_BLOCKS * BLOCK_BYTES;

/// A mapping and its blocks. Only the whole, aligned blocks in the mapping are used. Less than one block is
/// left unused at each end.
pub(super) struct Region {
    mapping: Mapping,
    /// The start of the first block. The pointer has the provenance of the whole mapping.
    base: NonNull<u8>,
    blocks: usize,
}

// SAFETY: the blocks lie in the mapping, which is `Send`.
unsafe impl Send for Region {}

impl Region {
    /// Reserves address space for a region, without memory. First tries 64 MiB. If the system refuses, tries
    /// half as much, and so on, down to 4 MiB, which always contain an aligned block.
    pub(super) fn reserve(options: &MmapOptions) -> Result<Region, Errno> {
        might_sleep("reserving a region");
        let mut bytes = REGION_BYTES;
        loop {
            match Mapping::closed(bytes) {
                Ok(mapping) => return Region::of(mapping.opened()?).advised(options),
                // Stops at the bytes of two blocks, since these always contain an aligned block.
                Err(refused) if bytes <= 2 * BLOCK_BYTES => return Err(refused),
                Err(_) => bytes /= 2,
            }
        }
    }

    /// Makes a region of the whole, aligned blocks in `mapping`, which must be at least two blocks long.
    fn of(mapping: Mapping) -> Region {
        let start = mapping.base().addr().get();
        let head = start.next_multiple_of(BLOCK_BYTES) - start;
        // SAFETY: skips less than one block, and the mapping is at least two blocks long.
        let base = unsafe { mapping.base().add(head) };
        let blocks = (mapping.len() - head) / BLOCK_BYTES;
        Region { mapping, base, blocks }
    }

    /// Whether each page of the region is locked in memory when it is first touched.
    pub(super) fn is_locked(&self) -> bool {
        self.mapping.is_locked()
    }

    fn advised(self, options: &MmapOptions) -> Result<Region, Errno> {
        self.mapping.allow_huge_pages(options.huge_pages)?;
        if options.dont_fork {
            self.mapping.keep_from_children()?;
        }
        if options.dont_dump {
            self.mapping.keep_out_of_dumps()?;
        }
        Ok(self)
    }

    /// Returns the address of the first block.
    pub(super) fn start(&self) -> usize {
        self.base.addr().get()
    }

    /// Returns the number of blocks, 1 to [`REGION_BLOCKS`].
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Returns a pointer to the byte at `offset` from the start of the first block. Returns `None` if
    /// `offset` is past the last block.
    pub(super) fn at(&self, offset: usize) -> Option<NonNull<u8>> {
        if offset < self.blocks * BLOCK_BYTES {
            // SAFETY: the check above ensures that the byte is in one of the blocks, so it is inside the
            // mapping.
            Some(unsafe { self.base.add(offset) })
        } else {
            None
        }
    }
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
            // SAFETY: this is the last byte of the region, and only this test uses the region.
            unsafe { last.write(1) };
        }
    }

    #[test]
    fn blocks_are_aligned_wherever_the_mapping_lies() {
        // Each mapping is 64 KiB longer than two blocks. So neighbouring mappings cannot all begin at a
        // multiple of a block's size.
        let regions: Vec<Region> = (0..3)
            .map(|_| Mapping::closed(2 * BLOCK_BYTES + 65536).unwrap().opened().unwrap())
            .map(Region::of)
            .collect();
        assert!(regions.iter().any(|region| region.mapping.base() != region.base));
        for region in &regions {
            assert_eq!(region.start() % BLOCK_BYTES, 0);
            assert!(region.blocks() >= 1);
            let last = region.at(region.blocks() * BLOCK_BYTES - 1).unwrap();
            let mapping_end = region.mapping.base().addr().get() + region.mapping.len();
            assert!(last.addr().get() < mapping_end);
        }
    }
}
