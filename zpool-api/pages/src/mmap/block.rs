//! A block: 2 MiB of a region. While it serves runs of one length, it is divided into slots of this
//! length.
//!
//! A block only calculates offsets and never touches memory. A slot becomes *taken* when its run is
//! allocated. It stays taken while the run is in use, while the run is warm, and while the run's pages are
//! being returned to the system.
//!
//! Invariants: `taken` is the number of bits that are set in `bits`. The bits from `slots` on are clear.
//! When the last taken slot of a block is put back, the block loses its run length.

use zpool_api::PAGE_SIZE;

/// The size and the alignment of a block in bytes. Both equal the usual size of a huge page.
pub(super) const BLOCK_BYTES: usize = 2 * 1024 * 1024;

/// The greatest number of slots that a block can have.
pub(super) const MAX_SLOTS: usize = BLOCK_BYTES / PAGE_SIZE;

/// Records which slots of a block are taken.
pub(super) struct Block {
    /// One bit for each slot, set while the slot is taken.
    bits: [u64; MAX_SLOTS / 64],
    /// Bytes per run. 0 while the block serves no length.
    run_bytes: u32,
    slots: u16,
    taken: u16,
}

impl Block {
    /// Makes an empty block that serves no length.
    pub(super) const fn new() -> Self {
        Block { bits: [0; MAX_SLOTS / 64], run_bytes: 0, slots: 0, taken: 0 }
    }

    /// Makes an empty block serve runs of `run_bytes` bytes. If the size of the block is not a multiple of
    /// `run_bytes`, the rest at its end is never used.
    pub(super) fn dedicate(&mut self, run_bytes: usize) {
        assert!(self.is_empty() && self.run_bytes == 0, "the block is in use for another length");
        assert!((PAGE_SIZE..=BLOCK_BYTES).contains(&run_bytes));
        self.run_bytes = run_bytes as u32;
        self.slots = (BLOCK_BYTES / run_bytes) as u16;
    }

    /// Takes the lowest free slot and returns its offset in bytes, or `None` if no slot is free.
    pub(super) fn take(&mut self) -> Option<usize> {
        if self.is_full() {
            return None;
        }
        let word = self.bits.iter().position(|word| *word != u64::MAX)?;
        let slot = word * 64 + self.bits[word].trailing_ones() as usize;
        self.bits[word] |= 1 << (slot % 64);
        self.taken += 1;
        Some(slot * self.run_bytes as usize)
    }

    /// Puts back the slot at `offset` bytes. When the last taken slot is put back, the block loses its run
    /// length.
    pub(super) fn put(&mut self, offset: usize) {
        let run_bytes = self.run_bytes as usize;
        assert!(run_bytes != 0 && offset % run_bytes == 0, "no slot begins at {offset}");
        let slot = offset / run_bytes;
        let bit = 1 << (slot % 64);
        assert!(self.bits[slot / 64] & bit != 0, "the slot at {offset} is free already");
        self.bits[slot / 64] &= !bit;
        self.taken -= 1;
        if self.taken == 0 {
            self.run_bytes = 0;
            self.slots = 0;
        }
    }

    /// Returns how many slots are taken.
    pub(super) fn taken(&self) -> usize {
        usize::from(self.taken)
    }

    /// Returns how many slots are free.
    pub(super) fn free(&self) -> usize {
        usize::from(self.slots - self.taken)
    }

    /// Whether no slot is free. A block that serves no length has no slots, so it counts as full.
    pub(super) fn is_full(&self) -> bool {
        self.taken == self.slots
    }

    /// Whether no slot is taken.
    pub(super) fn is_empty(&self) -> bool {
        self.taken == 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use zpool_base::sync::test_rng::Rng;

    #[test]
    fn slots_are_apart_inside_and_lowest_first() {
        for run_bytes in [4096, 7 * 4096, 65536, 16 * 65536] {
            let slots = BLOCK_BYTES / run_bytes;
            let mut block = Block::new();
            assert_eq!(block.take(), None);
            block.dedicate(run_bytes);
            let offsets: Vec<usize> = std::iter::from_fn(|| block.take()).collect();
            assert_eq!(offsets, (0..slots).map(|s| s * run_bytes).collect::<Vec<_>>());
            assert!(block.is_full() && !block.is_empty());
            block.put(offsets[slots - 1]);
            block.put(offsets[0]);
            assert_eq!(block.take(), if slots > 2 { Some(0) } else { None });
        }
    }

    #[test]
    fn behaves_like_a_set_of_free_offsets() {
        let run_bytes = 5 * 4096;
        let mut block = Block::new();
        let mut rng = Rng::new(11);
        let mut taken = BTreeSet::new();
        block.dedicate(run_bytes);
        let offsets: Vec<usize> = (0..BLOCK_BYTES / run_bytes).map(|s| s * run_bytes).collect();
        for _ in 0..if cfg!(miri) { 200 } else { 20_000 } {
            if taken.is_empty() || rng.below(100) < 55 {
                let lowest = offsets.iter().copied().find(|o| !taken.contains(o));
                assert_eq!(block.take(), lowest);
                taken.extend(lowest);
            } else {
                let offset = *taken.iter().nth(rng.below(taken.len())).unwrap();
                taken.remove(&offset);
                block.put(offset);
                if taken.is_empty() {
                    assert!(block.is_empty());
                    block.dedicate(run_bytes);
                }
            }
            assert_eq!(block.is_full(), taken.len() == offsets.len());
        }
    }

    #[test]
    fn an_emptied_block_serves_another_length() {
        let mut block = Block::new();
        block.dedicate(4096);
        assert_eq!((block.take(), block.take()), (Some(0), Some(4096)));
        block.put(0);
        block.put(4096);
        assert!(block.is_empty());
        block.dedicate(3 * 4096);
        assert_eq!((block.take(), block.take()), (Some(0), Some(3 * 4096)));
    }
}
