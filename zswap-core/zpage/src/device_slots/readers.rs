//! The slots that are being read: how many readers each has, and which of them were given up meanwhile.
//!
//! They are kept in an open-addressed hash table. Its size is fixed, and it is allocated when the device is
//! attached: pinning happens under an entry's lock, where nothing may allocate or wait. Probing is linear.
//! Removing a slot shifts displaced slots back, so a search ends at the first free place.

use std::collections::TryReserveError;

use crate::sync::MODEL;

/// The most slots that can be read at the same time. A reader of another slot releases its lock and waits.
pub(super) const MOST: usize = if MODEL { 3 } else { 256 };
/// The size of the table. It is larger than `MOST`, so some places are always free and every search ends.
const PLACES: usize = (MOST * 2).next_power_of_two();

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    slot: u32,
    /// 0 in a free place.
    readers: u32,
    given_up: bool,
}

#[derive(Debug)]
pub(super) struct Readers {
    /// The table, of length [`PLACES`].
    places: Vec<Place>,
    /// The number of slots that are being read. Each of them takes one place.
    slots: usize,
}

/// What [`Readers::remove`] found about the reader that it removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gone {
    /// Whether it was the slot's last reader.
    pub(super) last: bool,
    /// Whether it was the last reader of a slot that was given up. If so, the caller must release the slot.
    pub(super) release: bool,
}

/// Returns the home of a slot: the place where a search for the slot begins.
fn home(slot: u32) -> usize {
    // Fibonacci hashing spreads neighbouring slots, which are often read together.
    (slot.wrapping_mul(0x9E37_79B9) >> 16) as usize % PLACES
}

impl Readers {
    pub(super) fn new() -> Result<Self, TryReserveError> {
        let mut places = Vec::new();
        places.try_reserve_exact(PLACES)?;
        places.resize(PLACES, Place::default());
        Ok(Readers { places, slots: 0 })
    }

    /// Returns the place of a slot, or the free place where it would go.
    fn find(&self, slot: u32) -> usize {
        let mut at = home(slot);
        while self.places[at].readers > 0 && self.places[at].slot != slot {
            at = (at + 1) % PLACES;
        }
        at
    }

    /// Adds a reader of the slot. If nobody reads the slot yet and [`MOST`] others are being read, adds none and
    /// returns false.
    pub(super) fn add(&mut self, slot: u32) -> bool {
        let at = self.find(slot);
        if self.places[at].readers == 0 {
            if self.slots == MOST {
                return false;
            }
            self.slots += 1;
            self.places[at] = Place { slot, readers: 0, given_up: false };
        }
        // If readers are leaked, the count may reach its maximum. The slot then counts as read for ever.
        self.places[at].readers = self.places[at].readers.saturating_add(1);
        true
    }

    /// Marks a slot as given up if it is being read. Returns whether it is being read.
    pub(super) fn give_up(&mut self, slot: u32) -> bool {
        let at = self.find(slot);
        let read = self.places[at].readers > 0;
        self.places[at].given_up |= read;
        read
    }

    /// Removes a reader of the slot. Panics if the slot has none.
    pub(super) fn remove(&mut self, slot: u32) -> Gone {
        let at = self.find(slot);
        let place = &mut self.places[at];
        assert!(place.readers > 0, "slot {slot} lost a reader that was not counted");
        if place.readers != 1 {
            let counted = place.readers < u32::MAX;
            place.readers -= u32::from(counted);
            return Gone { last: false, release: false };
        }
        let release = place.given_up;
        self.vacate(at);
        Gone { last: true, release }
    }

    fn vacate(&mut self, mut hole: usize) {
        self.slots -= 1;
        self.places[hole] = Place::default();
        let mut at = hole;
        loop {
            at = (at + 1) % PLACES;
            let place = self.places[at];
            if place.readers == 0 {
                return;
            }
            // The slot moves into the hole, if a search from the slot's home passes the hole.
            let from_home = at.wrapping_sub(home(place.slot)) % PLACES;
            if from_home >= at.wrapping_sub(hole) % PLACES {
                self.places[hole] = place;
                self.places[at] = Place::default();
                hole = at;
            }
        }
    }

    /// Returns whether a slot that nobody reads yet can get a reader.
    pub(super) fn has_room(&self) -> bool {
        self.slots < MOST
    }

    /// Returns the heap bytes of the table.
    pub(super) fn memory_bytes(&self) -> usize {
        self.places.capacity() * size_of::<Place>()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use zpool_base::sync::test_rng::Rng;

    #[test]
    fn follows_a_map_of_counts() {
        let (mut table, mut model, mut rng) =
            (Readers::new().unwrap(), BTreeMap::<u32, (u32, bool)>::new(), Rng::new(7));
        let numbers = 3 * MOST;
        for step in 0..if cfg!(miri) { 500 } else { 100_000 } {
            let slot = rng.below(numbers) as u32;
            let known = model.contains_key(&slot);
            match rng.below(if step / 5000 % 2 == 0 { 3 } else { 6 }) {
                0 | 1 => {
                    let fits = known || model.len() < MOST;
                    assert_eq!(table.add(slot), fits);
                    if fits {
                        model.entry(slot).or_default().0 += 1;
                    }
                }
                2 => {
                    assert_eq!(table.give_up(slot), known);
                    model.entry(slot).and_modify(|(_, given_up)| *given_up = true);
                    model.retain(|_, (readers, _)| *readers > 0);
                }
                _ if known => {
                    let (readers, given_up) = model[&slot];
                    let last = readers == 1;
                    assert_eq!(table.remove(slot), Gone { last, release: last && given_up });
                    model.insert(slot, (readers - 1, given_up));
                    model.retain(|_, (readers, _)| *readers > 0);
                }
                _ => {}
            }
            assert_eq!((table.slots, table.has_room()), (model.len(), model.len() < MOST));
        }
        let all: Vec<_> = model.into_iter().collect();
        for (slot, (readers, given_up)) in all {
            for left in (0..readers).rev() {
                let gone = Gone { last: left == 0, release: left == 0 && given_up };
                assert_eq!(table.remove(slot), gone);
            }
        }
        assert!(table.places.iter().all(|place| place.readers == 0) && table.slots == 0);
        assert_eq!(table.memory_bytes(), PLACES * size_of::<Place>());
    }

    #[test]
    fn a_slot_whose_readers_cannot_be_counted_any_more_stays_read() {
        let mut table = Readers::new().unwrap();
        assert!(table.add(5));
        let at = table.find(5);
        table.places[at].readers = u32::MAX - 1;
        assert!(table.add(5) && table.add(5));
        for _ in 0..3 {
            assert_eq!(table.remove(5), Gone { last: false, release: false });
        }
        assert!(table.give_up(5), "it still counts as read");
    }
}
