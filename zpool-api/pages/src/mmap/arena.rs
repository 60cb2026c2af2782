//! The source of cold runs: all regions of a provider, divided into blocks.
//!
//! A run gets the lowest free slot of the lowest block that serves its length. If no such block has a free
//! slot, the lowest empty block begins to serve this length. So runs in use gather in low blocks, and high
//! blocks become empty. Blocks are numbered from 0, region by region in the order in which the regions were
//! reserved. Within a region, they are numbered by address.
//!
//! Lock: the provider's mutex guards all state. Nothing here makes a system call. Invariants: a block that
//! serves no length is in `empty`. A block that serves a length and has a free slot is in the set of `open`
//! for this length. A block is in no other set. An isolated block is in no set at all.

use core::cmp::Reverse;
use core::ptr::NonNull;
use std::collections::TryReserveError;

use super::block::{BLOCK_BYTES, Block};
use super::blockset::BlockSet;
use super::region::{REGION_BLOCKS, Region};
use zpool_api::MAX_RUN_PAGES;

/// A region with its blocks. It is made before the lock is taken, since making it allocates memory.
pub(super) struct Tract {
    region: Region,
    blocks: Vec<Block>,
}

impl Tract {
    /// Makes a tract whose blocks are all empty.
    pub(super) fn new(region: Region) -> Result<Tract, TryReserveError> {
        let mut blocks = Vec::new();
        blocks.try_reserve_exact(region.blocks())?;
        blocks.resize_with(region.blocks(), Block::new);
        Ok(Tract { region, blocks })
    }

    /// Whether each page of the region is locked in memory when it is first touched.
    pub(super) fn is_locked(&self) -> bool {
        self.region.is_locked()
    }
}

/// All regions of a provider. Records which of their slots are taken.
pub(super) struct Arena {
    page_size: usize,
    /// The tracts. None is ever removed. Block `n` is block `n % REGION_BLOCKS` of tract `n /
    /// REGION_BLOCKS`.
    tracts: Vec<Tract>,
    /// The start address and the index of each tract, sorted by address.
    by_address: Vec<(usize, usize)>,
    empty: BlockSet,
    /// Blocks with a free slot, by the length that they serve. `open[0]` has the blocks for runs of one
    /// page.
    open: [BlockSet; MAX_RUN_PAGES],
    /// The block that is being emptied. No new run gets a slot of it.
    isolated: Option<usize>,
}

impl Arena {
    /// Makes an arena without regions.
    pub(super) fn new(page_size: usize) -> Self {
        Arena {
            page_size,
            tracts: Vec::new(),
            by_address: Vec::new(),
            empty: BlockSet::default(),
            open: Default::default(),
            isolated: None,
        }
    }

    /// Adds a tract. If there is no memory for the arena's tables, returns the tract. The caller must drop
    /// it only after unlocking.
    pub(super) fn add(&mut self, tract: Tract) -> Result<(), Tract> {
        let first_block = self.tracts.len() * REGION_BLOCKS;
        if self.make_room(first_block + REGION_BLOCKS).is_err() {
            return Err(tract);
        }
        for block in 0..tract.blocks.len() {
            self.empty.insert(first_block + block);
        }
        let start = tract.region.start();
        let at = self.by_address.partition_point(|(other, _)| *other < start);
        self.by_address.insert(at, (start, self.tracts.len()));
        self.tracts.push(tract);
        Ok(())
    }

    fn make_room(&mut self, blocks: usize) -> Result<(), TryReserveError> {
        self.tracts.try_reserve(1)?;
        self.by_address.try_reserve(1)?;
        self.empty.make_room(blocks)?;
        self.open.iter_mut().try_for_each(|set| set.make_room(blocks))
    }

    /// Takes a slot for a run of `pages` pages and returns its start. Returns `None` if no block has a slot
    /// for it. Then the caller must add a region.
    pub(super) fn take(&mut self, pages: usize) -> Option<NonNull<u8>> {
        let open = &mut self.open[pages - 1];
        let (number, fresh) = match open.first() {
            Some(number) => (number, false),
            None => (self.empty.first()?, true),
        };
        assert!(
            self.isolated != Some(number),
            "block {number} is isolated, but in a set that runs are taken from"
        );
        let tract = &mut self.tracts[number / REGION_BLOCKS];
        let block = &mut tract.blocks[number % REGION_BLOCKS];
        if fresh {
            block.dedicate(pages * self.page_size);
            self.empty.remove(number);
            open.insert(number);
        }
        let offset = block.take()?;
        if block.is_full() {
            open.remove(number);
        }
        tract.region.at(number % REGION_BLOCKS * BLOCK_BYTES + offset)
    }

    /// Puts back the slot of a run of `pages` pages at `base`. The run must hold no memory.
    ///
    /// # Panics
    /// Panics if the run is not a taken slot of this arena.
    #[expect(
        clippy::expect_used,
        reason = "the caller of `free_run` promises that it is this provider's run"
    )]
    pub(super) fn put(&mut self, base: NonNull<u8>, pages: usize) {
        let address = base.addr().get();
        let below = self.by_address.partition_point(|(start, _)| *start <= address);
        let at = below.checked_sub(1).expect("a run of another provider");
        let (start, tract) = self.by_address[at];
        let number = tract * REGION_BLOCKS + (address - start) / BLOCK_BYTES;
        let block = &mut self.tracts[tract].blocks[number % REGION_BLOCKS];
        block.put((address - start) % BLOCK_BYTES);
        if self.isolated == Some(number) {
            // `putback` will return the block to its set.
        } else if block.is_empty() {
            self.open[pages - 1].remove(number);
            self.empty.insert(number);
        } else {
            self.open[pages - 1].insert(number);
        }
    }

    /// Isolates a block. A candidate is a block that has a free slot and whose taken slots fit into the
    /// free slots of the other blocks of its length. Isolates the candidate with the fewest taken pages. If
    /// there are several such, isolates the highest, since high blocks should become empty.
    ///
    /// Returns the address of the block's first byte and the number of pages per run. Returns `None` if
    /// there is no candidate or if another block is isolated. Visits every block with a free slot.
    pub(super) fn isolate(&mut self) -> Option<(NonNull<u8>, usize)> {
        if self.isolated.is_some() {
            return None;
        }
        let block =
            |number: usize| &self.tracts[number / REGION_BLOCKS].blocks[number % REGION_BLOCKS];
        let candidates = self.open.iter().enumerate().flat_map(|(at, open)| {
            let free: usize = open.iter().map(|number| block(number).free()).sum();
            open.iter()
                .filter(move |&number| free - block(number).free() >= block(number).taken())
                .map(move |number| (block(number).taken() * (at + 1), Reverse(number), at + 1))
        });
        let (_, Reverse(number), pages) = candidates.min()?;
        let base =
            self.tracts[number / REGION_BLOCKS].region.at(number % REGION_BLOCKS * BLOCK_BYTES)?;
        self.open[pages - 1].remove(number);
        self.isolated = Some(number);
        Some((base, pages))
    }

    /// Returns how many slots of the isolated block are taken, or 0 if no block is isolated.
    pub(super) fn taken_of_isolated(&self) -> usize {
        self.isolated
            .map_or(0, |n| self.tracts[n / REGION_BLOCKS].blocks[n % REGION_BLOCKS].taken())
    }

    /// Ends the isolation of the isolated block, if there is one. `pages` is the number of pages per run of
    /// this block.
    pub(super) fn putback(&mut self, pages: usize) {
        let Some(number) = self.isolated.take() else { return };
        let block = &self.tracts[number / REGION_BLOCKS].blocks[number % REGION_BLOCKS];
        if block.is_empty() {
            self.empty.insert(number);
        } else if !block.is_full() {
            self.open[pages - 1].insert(number);
        }
    }

    /// Returns the start address and the length in bytes of each region, sorted by address.
    pub(super) fn regions(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.by_address
            .iter()
            .map(|(start, tract)| (*start, self.tracts[*tract].blocks.len() * BLOCK_BYTES))
    }

    /// Returns the bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        let tables = self.tracts.capacity() * size_of::<Tract>()
            + self.by_address.capacity() * size_of::<(usize, usize)>();
        let blocks: usize =
            self.tracts.iter().map(|tract| tract.blocks.capacity() * size_of::<Block>()).sum();
        let sets: usize = self.open.iter().map(BlockSet::heap_bytes).sum();
        tables + blocks + sets + self.empty.heap_bytes()
    }
}

#[cfg(all(test, not(loom), not(miri)))]
#[allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]
mod tests {
    use super::super::options::MmapOptions;
    use super::*;

    fn with_regions(count: usize) -> Arena {
        let mut arena = Arena::new(4096);
        for _ in 0..count {
            let region = Region::reserve(&MmapOptions::new()).unwrap();
            assert!(arena.add(Tract::new(region).unwrap()).is_ok());
        }
        arena
    }

    #[test]
    fn every_slot_is_given_once_over_all_regions() {
        let mut arena = with_regions(3);
        let mut given = Vec::new();
        // Takes long and short runs in turn, until no run fits any more.
        loop {
            let before = given.len();
            for pages in [16, 3, 1] {
                given.extend(arena.take(pages).map(|base| (base, pages)));
            }
            if given.len() == before {
                break;
            }
        }
        let mut spans: Vec<(usize, usize)> =
            given.iter().map(|(base, pages)| (base.addr().get(), pages * 4096)).collect();
        spans.sort_unstable();
        assert!(spans.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "overlap");
        let regions: Vec<(usize, usize)> = arena.regions().collect();
        assert_eq!(regions.len(), 3);
        assert!(regions.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (at, len) in &spans {
            assert!(regions.iter().any(|(start, all)| start <= at && at + len <= start + all));
        }
        // A block of three-page runs wastes two pages, the others nothing.
        let (held, all): (usize, usize) =
            (spans.iter().map(|s| s.1).sum(), regions.iter().map(|r| r.1).sum());
        assert!(all - held <= all / BLOCK_BYTES * 2 * 4096, "{held} of {all}");
        for (base, pages) in given.drain(..) {
            arena.put(base, pages);
        }
        // All slots are free again. A block of 16-page runs wastes nothing, so such runs fill the regions
        // completely.
        let runs = std::iter::from_fn(|| arena.take(16)).count();
        assert_eq!(runs, all / (16 * 4096));
    }

    #[test]
    #[should_panic(expected = "block 0 is isolated, but in a set that runs are taken from")]
    fn an_isolated_block_that_is_left_open_is_told() {
        let mut arena = with_regions(1);
        assert!(arena.take(1).is_some());
        arena.isolated = Some(0);
        arena.take(1);
    }

    #[test]
    fn low_slots_are_taken_first_and_high_blocks_run_empty() {
        let mut arena = with_regions(1);
        let per_block = BLOCK_BYTES / 4096;
        let all: Vec<_> = (0..3 * per_block).map(|_| arena.take(1).unwrap()).collect();
        assert!(all.windows(2).all(|pair| pair[0].addr() < pair[1].addr()));
        // Puts back every second slot. The next runs fill the holes in the first two blocks, so the third
        // block can become empty.
        all.iter().skip(1).step_by(2).for_each(|base| arena.put(*base, 1));
        let again: Vec<_> = (0..per_block).map(|_| arena.take(1).unwrap()).collect();
        assert!(again.iter().all(|base| base.addr() < all[2 * per_block].addr()));
        let third = || all[2 * per_block..].iter().step_by(2);
        third().for_each(|base| arena.put(*base, 1));
        // The empty block now serves another length.
        assert_eq!(arena.take(2).unwrap().addr(), all[2 * per_block].addr());
    }
}
