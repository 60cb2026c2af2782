//! What each slot of a file should hold: a checksum a slot, in memory.
//!
//! A file is everybody's who may open it: truncated and extended again it reads as zeros, and another
//! program may write to it. So a page that is read is compared with what was written.
//!
//! Lock: a mutex, under which nothing else is locked; a chunk of 1024 slots is allocated under it when
//! the first of them is written.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Page;
use crate::device::DeviceError;

/// Slots of a chunk.
const CHUNK: usize = 1024;

/// The checksum of a page; never 0, which stands for no page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sum(u32);

impl Sum {
    pub(super) fn of(page: &Page) -> Sum {
        Sum(crc32fast::hash(page).max(1))
    }
}

/// The sums of all slots.
#[derive(Debug, Default)]
pub(super) struct Sums {
    chunks: Mutex<Vec<Option<Box<[u32]>>>>,
}

fn split(slot: u64) -> Option<(usize, usize)> {
    let slot = usize::try_from(slot).ok()?;
    Some((slot / CHUNK, slot % CHUNK))
}

impl Sums {
    fn lock(&self) -> MutexGuard<'_, Vec<Option<Box<[u32]>>>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for a slot's sum, so that [`set`](Self::set) cannot fail.
    pub(super) fn reserve(&self, slot: u64) -> Result<(), DeviceError> {
        let (chunk, _) = split(slot).ok_or(DeviceError::OutOfMemory)?;
        let mut chunks = self.lock();
        if chunk >= chunks.len() {
            let more = chunk - chunks.len() + 1;
            chunks.try_reserve(more).map_err(|_| DeviceError::OutOfMemory)?;
            chunks.resize_with(chunk + 1, || None);
        }
        if chunks[chunk].is_none() {
            let mut sums = Vec::new();
            sums.try_reserve_exact(CHUNK).map_err(|_| DeviceError::OutOfMemory)?;
            sums.resize(CHUNK, 0);
            chunks[chunk] = Some(sums.into_boxed_slice());
        }
        Ok(())
    }

    /// Notes what a slot holds, or that it holds nothing.
    pub(super) fn set(&self, slot: u64, sum: Option<Sum>) {
        let mut chunks = self.lock();
        let place =
            split(slot).and_then(|(chunk, at)| chunks.get_mut(chunk)?.as_mut()?.get_mut(at));
        if let Some(place) = place {
            *place = sum.map_or(0, |sum| sum.0);
        }
    }

    /// What a slot holds.
    pub(super) fn get(&self, slot: u64) -> Option<Sum> {
        let chunks = self.lock();
        let sum = split(slot).and_then(|(chunk, at)| chunks.get(chunk)?.as_ref()?.get(at).copied());
        sum.filter(|sum| *sum != 0).map(Sum)
    }

    /// Heap bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        let chunks = self.lock();
        let of_chunks: usize = chunks.iter().flatten().map(|chunk| size_of_val(&**chunk)).sum();
        of_chunks + chunks.capacity() * size_of::<Option<Box<[u32]>>>()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::PAGE_SIZE;

    #[test]
    fn each_slot_has_a_sum_of_its_own_or_none() {
        let (sums, last) = (Sums::default(), 5 * CHUNK as u64 + 3);
        let (one, two) = (Sum::of(&[1; PAGE_SIZE]), Sum::of(&[2; PAGE_SIZE]));
        assert!(one != two && sums.get(0).is_none() && sums.memory_bytes() == 0);
        for (slot, sum) in [(last, one), (0, two), (CHUNK as u64 - 1, one), (CHUNK as u64, two)] {
            sums.reserve(slot).unwrap();
            sums.set(slot, Some(sum));
        }
        let held = [0, 1, CHUNK as u64 - 1, CHUNK as u64, last - 1, last, last + 1];
        let found = held.map(|slot| sums.get(slot));
        assert_eq!(found, [Some(two), None, Some(one), Some(two), None, Some(one), None]);
        // Chunks 2 to 4 hold none.
        let bytes = sums.memory_bytes();
        assert!((3 * 4 * CHUNK..4 * 4 * CHUNK).contains(&bytes), "{bytes}");
        sums.set(0, None);
        sums.set(u64::MAX, None);
        assert!(sums.get(0).is_none() && sums.get(u64::MAX).is_none());
    }
}
