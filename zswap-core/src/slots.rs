//! Which slots of a device are taken, and which are being read.
//!
//! A slot that is given up while it is read is free once its last reader has gone, so a reader never
//! finds another page in it. Only then is it discarded, and after that free.
//!
//! Lock: a mutex, a leaf, held for a few steps. The device is called without it.

use std::collections::{BTreeMap, TryReserveError};
use std::sync::Arc;

use zpool_api::lockdep::{self, Rank, might_sleep};

use crate::device::SwapDevice;
use crate::sync::Mutex;

/// Slots that an entry's word can name.
const MOST: u64 = 1 << 32;

#[derive(Debug, Default)]
struct State {
    /// A bit for each slot that is taken.
    taken: Vec<u64>,
    count: u64,
    /// No word before this one has a clear bit.
    first_free: usize,
    /// Slots that are being read: how often, and whether they were given up meanwhile.
    read: BTreeMap<u32, (u32, bool)>,
}

/// A device with its slots.
#[derive(Debug)]
pub struct Slots {
    /// The device.
    pub device: Arc<dyn SwapDevice>,
    capacity: u64,
    state: Mutex<State>,
}

impl Slots {
    /// A device of which no slot is taken.
    pub fn new(device: Arc<dyn SwapDevice>) -> Self {
        let capacity = device.capacity().min(MOST);
        Slots { device, capacity, state: Mutex::new(State::default()) }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let _held = lockdep::acquire(Rank::Leaf);
        change(&mut self.state.lock())
    }

    /// The lowest free slot; none if all are taken, or there is no memory to note it.
    pub fn take(&self) -> Option<TakenSlot<'_>> {
        let slot = self.with(|state| state.take(self.capacity).ok().flatten())?;
        Some(TakenSlot { slots: self, slot })
    }

    /// Slots taken.
    pub fn taken(&self) -> u64 {
        self.with(|state| state.count)
    }

    /// Bytes of the bitmap.
    pub fn memory_bytes(&self) -> usize {
        self.with(|state| state.taken.capacity() * size_of::<u64>())
    }

    /// Keeps a taken slot as it is while it is read. To be called where it is known to be taken.
    pub fn pin(&self, slot: u32) -> ReadSlot<'_> {
        self.with(|state| state.read.entry(slot).or_default().0 += 1);
        ReadSlot { slots: self, slot }
    }

    /// Gives a slot up, now or when its last reader has gone.
    pub fn give_up(&self, slot: u32) {
        let read = self.with(|state| match state.read.get_mut(&slot) {
            Some((_, given_up)) => {
                *given_up = true;
                true
            }
            None => false,
        });
        if !read {
            self.release(slot);
        }
    }

    /// Nobody reads it, and no entry names it.
    fn release(&self, slot: u32) {
        might_sleep("discarding a slot");
        self.device.discard(u64::from(slot));
        self.with(|state| state.clear(slot));
    }
}

impl State {
    fn take(&mut self, capacity: u64) -> Result<Option<u32>, TryReserveError> {
        if self.count == capacity {
            return Ok(None);
        }
        while self.taken.get(self.first_free).is_some_and(|word| *word == u64::MAX) {
            self.first_free += 1;
        }
        if self.first_free == self.taken.len() {
            self.taken.try_reserve(1)?;
            self.taken.push(0);
        }
        let word = &mut self.taken[self.first_free];
        let bit = word.trailing_ones();
        let slot = self.first_free as u64 * 64 + u64::from(bit);
        if slot >= capacity {
            return Ok(None);
        }
        *word |= 1 << bit;
        self.count += 1;
        Ok(Some(slot as u32))
    }

    /// A slot that is not taken stays as it is.
    fn clear(&mut self, slot: u32) {
        let (at, bit) = (slot as usize / 64, 1 << (slot % 64));
        let Some(word) = self.taken.get_mut(at).filter(|word| **word & bit != 0) else {
            debug_assert!(false, "slot {slot} is free already");
            return;
        };
        *word &= !bit;
        self.first_free = self.first_free.min(at);
        self.count -= 1;
    }
}

/// A slot that no entry names yet; given up when dropped.
#[derive(Debug)]
pub struct TakenSlot<'a> {
    slots: &'a Slots,
    slot: u32,
}

impl TakenSlot<'_> {
    /// Its number.
    pub fn number(&self) -> u64 {
        u64::from(self.slot)
    }

    /// An entry names it from here on.
    pub fn keep(self) -> u32 {
        let slot = self.slot;
        core::mem::forget(self);
        slot
    }
}

impl Drop for TakenSlot<'_> {
    fn drop(&mut self) {
        self.slots.give_up(self.slot);
    }
}

/// A slot that is being read.
#[derive(Debug)]
pub struct ReadSlot<'a> {
    slots: &'a Slots,
    slot: u32,
}

impl ReadSlot<'_> {
    /// Its number.
    pub fn number(&self) -> u64 {
        u64::from(self.slot)
    }
}

impl Drop for ReadSlot<'_> {
    fn drop(&mut self) {
        let left_to_us = self.slots.with(|state| {
            let Some((readers, given_up)) = state.read.get_mut(&self.slot) else { return false };
            *readers -= 1;
            let last = *readers == 0;
            let left = last && *given_up;
            if last {
                state.read.remove(&self.slot);
            }
            left
        });
        if left_to_us {
            self.slots.release(self.slot);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::PAGE_SIZE;
    use crate::device::MemorySwapDevice;

    #[test]
    fn the_lowest_free_slot_is_given_until_all_are_taken() {
        let slots = Slots::new(Arc::new(MemorySwapDevice::new(130)));
        let all: Vec<u32> = (0..130).map(|_| slots.take().unwrap().keep()).collect();
        assert_eq!(all, (0..130).collect::<Vec<_>>());
        assert!(slots.take().is_none());
        slots.give_up(77);
        slots.give_up(3);
        assert_eq!(slots.taken(), 128);
        assert_eq!([0; 2].map(|_: i32| slots.take().unwrap().keep()), [3, 77]);
        assert_eq!(slots.pin(77).number(), 77);
        drop(slots.take());
        slots.give_up(129);
        drop(slots.take().unwrap());
        assert_eq!(slots.taken(), 129, "one that no entry came to name is free again");
        assert!(slots.memory_bytes() >= 3 * 8 && slots.memory_bytes() % 8 == 0);
    }

    /// A mistake of the caller's, which costs nothing but the slot.
    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "slot 1 is free already"))]
    fn a_slot_that_is_free_already_stays_free() {
        let slots = Slots::new(Arc::new(MemorySwapDevice::new(3)));
        assert_eq!(slots.take().map(TakenSlot::keep), Some(0));
        slots.give_up(1);
        assert_eq!(slots.taken(), 1);
    }

    #[test]
    fn a_slot_that_is_read_is_neither_discarded_nor_given_again() {
        let device = Arc::new(MemorySwapDevice::new(2));
        let slots = Slots::new(device.clone());
        let slot = slots.take().unwrap().keep();
        device.write_page(u64::from(slot), &[1; PAGE_SIZE]).unwrap();
        let (one, two) = (slots.pin(slot), slots.pin(slot));
        slots.give_up(slot);
        drop(one);
        assert_eq!((device.pages(), slots.taken()), (1, 1));
        assert_ne!(slots.take().unwrap().number(), two.number());
        drop(two);
        assert_eq!((device.pages(), slots.taken()), (0, 0));
        assert_eq!(slots.take().unwrap().number(), 0);
    }
}
