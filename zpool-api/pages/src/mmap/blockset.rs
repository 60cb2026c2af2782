//! A set of block numbers, one bit per block. It finds its lowest number quickly.
//!
//! Invariant: no word before `first_word` has a bit set.

use std::collections::TryReserveError;

/// An ordered set of block numbers.
#[derive(Default)]
pub(super) struct BlockSet {
    words: Vec<u64>,
    /// The word at which the search for the lowest number begins.
    first_word: usize,
}

impl BlockSet {
    /// Reserves memory for blocks `0..blocks`, so that inserting them does not allocate.
    pub(super) fn make_room(&mut self, blocks: usize) -> Result<(), TryReserveError> {
        let words = blocks.div_ceil(64);
        if words > self.words.len() {
            self.words.try_reserve(words - self.words.len())?;
            self.words.resize(words, 0);
        }
        Ok(())
    }

    /// Adds a block. `make_room` must have made room for it.
    pub(super) fn insert(&mut self, block: usize) {
        self.words[block / 64] |= 1 << (block % 64);
        self.first_word = self.first_word.min(block / 64);
    }

    /// Removes a block. Does nothing if the set does not contain it.
    pub(super) fn remove(&mut self, block: usize) {
        self.words[block / 64] &= !(1 << (block % 64));
    }

    /// Returns the lowest block, or `None` if the set is empty.
    pub(super) fn first(&mut self) -> Option<usize> {
        while let Some(word) = self.words.get(self.first_word) {
            if *word != 0 {
                return Some(self.first_word * 64 + word.trailing_zeros() as usize);
            }
            self.first_word += 1;
        }
        None
    }

    /// Returns all blocks in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let bits = |word: u64| (0..64).filter(move |bit| word >> bit & 1 == 1);
        self.words
            .iter()
            .enumerate()
            .flat_map(move |(at, word)| bits(*word).map(move |b| at * 64 + b))
    }

    /// Returns the bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use zpool_base::sync::test_rng::Rng;

    #[test]
    fn gives_the_lowest_like_an_ordered_set() {
        let mut set = BlockSet::default();
        let mut model = BTreeSet::new();
        let mut rng = Rng::new(5);
        assert_eq!(set.first(), None);
        for room in [1, 64, 65, 300] {
            set.make_room(room).unwrap();
            for _ in 0..if cfg!(miri) { 50 } else { 2000 } {
                let block = rng.below(room);
                // Removes more often than it adds, so that the set becomes empty from time to time.
                if rng.below(5) < 2 {
                    set.insert(block);
                    model.insert(block);
                } else {
                    set.remove(block);
                    model.remove(&block);
                }
                assert_eq!(set.first(), model.first().copied());
            }
        }
    }

    #[test]
    fn room_is_made_ahead() {
        let mut set = BlockSet::default();
        set.make_room(128).unwrap();
        let bytes = set.heap_bytes();
        assert!(bytes >= 16);
        (0..128).for_each(|block| set.insert(block));
        assert_eq!(set.heap_bytes(), bytes);
    }
}
