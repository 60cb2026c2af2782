//! A region: reserved address space, in whole blocks.
//!
//! Its system calls may block, so none is made under the provider's lock; `might_sleep` checks this.

use core::ptr::NonNull;
use rustix::io::Errno;

use super::block::BLOCK_BYTES;
use super::options::MmapOptions;
use zpool_base::lockdep::might_sleep;
use zpool_base::mapping::Mapping;

/// Most blocks in a region.
pub(super) const REGION_BLOCKS: usize = 32;

/// Bytes to reserve at once, if the address space has room.
const REGION_BYTES: usize = REGION_BLOCKS * BLOCK_BYTES;

/// Uses only whole, aligned blocks of its mapping: at most one block less than was mapped.
pub(super) struct Region {
    mapping: Mapping,
    /// The first block; its provenance is the whole mapping.
    base: NonNull<u8>,
    blocks: usize,
}

// SAFETY: the blocks lie in the mapping, which is `Send`.
unsafe impl Send for Region {}

impl Region {
    /// Reserves address space, without memory. If the system refuses the usual 64 MiB, tries less, down to a
    /// single block.
    pub(super) fn reserve(options: &MmapOptions) -> Result<Region, Errno> {
        might_sleep("reserving a region");
        let mut bytes = REGION_BYTES;
        loop {
            match Mapping::closed(bytes) {
                Ok(mapping) => return Region::of(mapping.opened()?).advised(options),
                // Two blocks' bytes always contain one aligned block.
                Err(refused) if bytes <= 2 * BLOCK_BYTES => return Err(refused),
                Err(_) => bytes /= 2,
            }
        }
    }

    /// The blocks in a mapping of at least two blocks' bytes.
    fn of(mapping: Mapping) -> Region {
        let start = mapping.base().addr().get();
        let head = start.next_multiple_of(BLOCK_BYTES) - start;
        // SAFETY: skips less than a block of a mapping of at least two.
        let base = unsafe { mapping.base().add(head) };
        let blocks = (mapping.len() - head) / BLOCK_BYTES;
        Region { mapping, base, blocks }
    }

    /// Whether the system locks its pages as they are touched.
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
        // The extra 64 KiB shift each mapping against the one before: not all can begin at a block.
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
