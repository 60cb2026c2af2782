//! The checksum of each slot's page, in memory.
//!
//! Any process that may open the file can change it: another program may write to it, and a file that is
//! truncated and extended again reads as zeros. So each page that is read is checked against its checksum.
//!
//! Lock: a mutex, under which nothing else is locked. The first write to one of 1024 slots allocates the chunk of
//! their checksums, under the mutex. A hash table finds chunks by number, so a slot with a high number costs no
//! more memory than one with a low number.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Page;
use crate::device::DeviceError;

/// Slots of a chunk.
const CHUNK: u64 = 1024;

/// The checksum (CRC-32) of a page. It is never 0: in a chunk, 0 means that the slot holds no page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sum(u32);

impl Sum {
    pub(super) fn of(page: &Page) -> Sum {
        Sum(crc32fast::hash(page).max(1))
    }
}

/// Chunks of sums, by chunk number.
type Chunks = HashMap<u64, Box<[u32]>>;

/// The sums of all slots.
#[derive(Debug, Default)]
pub(super) struct Sums {
    chunks: Mutex<Chunks>,
}

/// Splits a slot's number into the number of its chunk and its place in the chunk.
fn split(slot: u64) -> (u64, usize) {
    (slot / CHUNK, (slot % CHUNK) as usize)
}

impl Sums {
    fn lock(&self) -> MutexGuard<'_, Chunks> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocates the slot's chunk, so that [`set`](Self::set) cannot fail.
    pub(super) fn reserve(&self, slot: u64) -> Result<(), DeviceError> {
        let (chunk, _) = split(slot);
        let mut chunks = self.lock();
        if !chunks.contains_key(&chunk) {
            chunks.try_reserve(1).map_err(|_| DeviceError::OutOfMemory)?;
            let mut sums = Vec::new();
            sums.try_reserve_exact(CHUNK as usize).map_err(|_| DeviceError::OutOfMemory)?;
            sums.resize(CHUNK as usize, 0);
            chunks.insert(chunk, sums.into_boxed_slice());
        }
        Ok(())
    }

    /// Records the sum of a slot's page, or that the slot holds none.
    pub(super) fn set(&self, slot: u64, sum: Option<Sum>) {
        let (chunk, at) = split(slot);
        if let Some(sums) = self.lock().get_mut(&chunk) {
            sums[at] = sum.map_or(0, |sum| sum.0);
        }
    }

    /// Returns the sum of a slot's page, or `None` if the slot holds none.
    pub(super) fn get(&self, slot: u64) -> Option<Sum> {
        let (chunk, at) = split(slot);
        let sum = self.lock().get(&chunk)?[at];
        Some(sum).filter(|sum| *sum != 0).map(Sum)
    }

    /// Returns the heap bytes of the sums.
    pub(super) fn memory_bytes(&self) -> usize {
        let chunks = self.lock();
        let of_chunks: usize = chunks.values().map(|sums| size_of_val(&**sums)).sum();
        of_chunks + table_bytes(chunks.capacity())
    }
}

/// Returns the heap bytes of a hash table of this capacity. The number of its places is a power of two, and
/// each place has a control byte. A table of up to 8 places keeps one free, a larger one an eighth of them.
fn table_bytes(capacity: usize) -> usize {
    let places = match capacity {
        0 => 0,
        few @ 1..8 => few + 1,
        many => many.saturating_mul(8) / 7,
    };
    places * (size_of::<(u64, Box<[u32]>)>() + 1)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::PAGE_SIZE;

    #[test]
    fn each_slot_has_a_sum_of_its_own_or_none() {
        let (sums, last) = (Sums::default(), 5 * CHUNK + 3);
        let (one, two) = (Sum::of(&[1; PAGE_SIZE]), Sum::of(&[2; PAGE_SIZE]));
        assert!(one != two && sums.get(0).is_none() && sums.memory_bytes() == 0);
        for (slot, sum) in [(last, one), (0, two), (CHUNK - 1, one), (CHUNK, two)] {
            sums.reserve(slot).unwrap();
            sums.set(slot, Some(sum));
        }
        let held = [0, 1, CHUNK - 1, CHUNK, last - 1, last, last + 1];
        let found = held.map(|slot| sums.get(slot));
        assert_eq!(found, [Some(two), None, Some(one), Some(two), None, Some(one), None]);
        // Chunks 2 to 4 are not allocated.
        let bytes = sums.memory_bytes();
        assert!((3 * 4 * CHUNK as usize..4 * 4 * CHUNK as usize).contains(&bytes), "{bytes}");
        sums.set(0, None);
        sums.set(u64::MAX, None);
        assert!(sums.get(0).is_none() && sums.get(u64::MAX).is_none());
    }

    #[test]
    fn a_slot_far_behind_the_others_costs_no_more_than_another_one() {
        let (sums, sum) = (Sums::default(), Sum::of(&[1; PAGE_SIZE]));
        for slot in [0, (1 << 40) - 1, u64::MAX] {
            sums.reserve(slot).unwrap();
            sums.set(slot, Some(sum));
            assert_eq!(sums.get(slot), Some(sum));
        }
        assert!(sums.memory_bytes() < 4 * 4 * CHUNK as usize);
        assert_eq!((table_bytes(0), table_bytes(3), table_bytes(28)), (0, 4 * 25, 32 * 25));
    }
}
