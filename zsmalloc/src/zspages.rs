//! All descriptors of a pool, and the lanes of their objects: type-stable tables that only grow,
//! plus lists of vacant descriptors for reuse.
//!
//! Every number of a zspage or lane in a slot's word, a list, a queue or a guard's token came from
//! one of these tables. Looking the number up cannot fail: if it does, the pool is broken, and the
//! lookup panics. A descriptor gets its lanes before any other thread can know it: one for each
//! object that its zspage may ever hold. It keeps them for life.
//!
//! Locks: the vacant descriptors have a leaf lock. A thread that takes a descriptor off its list
//! owns it alone until the descriptor is attached to a class or recycled.

use zpool_base::lockdep::{self, Rank};
use zpool_base::stable::{StableTable, TableError};

use crate::lane::Lane;
use crate::slot::MAX_ZSPAGES;
use crate::sync::Mutex;
use crate::zspage::{NIL, Zspage};

/// A descriptor's number of lanes is a multiple of this.
const LANE_STEP: usize = 8;

/// A lane and the zspage that it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LaneRef {
    pub(crate) zspage: u32,
    pub(crate) lane: u32,
}

impl LaneRef {
    /// Packs both numbers into a read guard's token, or into a link of the queue of parked places.
    #[inline]
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.zspage) << 32 | u64::from(self.lane)
    }

    #[inline]
    pub(crate) fn from_bits(bits: u64) -> Self {
        LaneRef { zspage: (bits >> 32) as u32, lane: bits as u32 }
    }
}

#[derive(Debug)]
pub(crate) struct Zspages {
    table: StableTable<Zspage>,
    lanes: StableTable<Lane>,
    /// The head of each list of vacant descriptors. Element `n` is for descriptors with
    /// `n * LANE_STEP` lanes. The lock is a leaf.
    vacant: Mutex<Vec<u32>>,
}

impl Zspages {
    /// Makes empty tables for zspages that have at most `most` objects.
    pub(crate) fn new(most: usize) -> Self {
        Zspages {
            table: StableTable::with_limit(MAX_ZSPAGES),
            lanes: StableTable::new(),
            vacant: Mutex::new(vec![NIL; most.div_ceil(LANE_STEP) + 1]),
        }
    }

    /// Returns the zspage with this number. The table handed the number out.
    #[inline]
    #[expect(clippy::expect_used, reason = "numbers of zspages come from this table")]
    pub(crate) fn at(&self, zspage: u32) -> &Zspage {
        self.table.get(zspage).expect("the number of a zspage is in the table")
    }

    /// Returns the zspage that a link leads to, or None at the end of a list.
    #[inline]
    pub(crate) fn linked(&self, link: u32) -> Option<&Zspage> {
        match self.table.get(link) {
            Some(z) => Some(z),
            None => {
                assert!(link == NIL, "a link leads to a zspage or ends its list");
                None
            }
        }
    }

    /// Returns the lane of an object of a zspage. The index of a reader with an outdated slot word
    /// may exceed the zspage's lanes; for such an index, returns the last lane.
    #[inline]
    pub(crate) fn lane(&self, z: &Zspage, index: usize) -> &Lane {
        self.lane_at(z.lane_number(index))
    }

    /// Returns the lane with this number, which a zspage owns.
    #[inline]
    #[expect(clippy::expect_used, reason = "a descriptor is pushed after its lanes")]
    pub(crate) fn lane_at(&self, number: u32) -> &Lane {
        self.lanes.get(number).expect("a zspage has its lanes before anyone knows it")
    }

    /// Returns the index of a lane among its zspage's lanes.
    #[expect(clippy::expect_used, reason = "a LaneRef is made of a zspage and one of its lanes")]
    pub(crate) fn index_of(&self, at: LaneRef) -> usize {
        let z = self.at(at.zspage);
        let index = at.lane.checked_sub(z.first_lane).map(|index| index as usize);
        index.filter(|index| *index < z.lanes()).expect("a lane is named with its own zspage")
    }

    /// Returns a vacant descriptor, owned by the caller, with lanes for at least this many objects.
    /// Fails if a table cannot grow.
    pub(crate) fn take(&self, objects: usize) -> Result<u32, TableError> {
        let lanes = objects.next_multiple_of(LANE_STEP);
        {
            let _held = lockdep::acquire(Rank::Leaf);
            let head = &mut self.vacant.lock()[lanes / LANE_STEP];
            if let Some(z) = self.linked(*head) {
                return Ok(core::mem::replace(head, z.next.get()));
            }
        }
        let first = self.lanes.extend(lanes, Lane::default)?;
        self.table.push(Zspage::new(first, lanes as u16))
    }

    /// Makes a vacant descriptor available for reuse.
    ///
    /// # Safety
    /// The caller owned the descriptor alone, and gives it up. The next thread to take it may attach
    /// it to a run.
    pub(crate) unsafe fn recycle(&self, zspage: u32) {
        let z = self.at(zspage);
        assert!(z.class().is_none(), "zspage {zspage} is recycled while it is in a class");
        let _held = lockdep::acquire(Rank::Leaf);
        let head = &mut self.vacant.lock()[z.lanes() / LANE_STEP];
        z.next.set(core::mem::replace(head, zspage));
    }

    /// Iterates over all descriptors with their numbers, including vacant ones.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Zspage)> {
        (0..).zip(self.table.iter())
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.lanes.memory_bytes()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_vacant_descriptor_serves_again_for_as_many_objects() {
        let zspages = Zspages::new(40);
        let [small, large] = [8, 40].map(|objects| zspages.take(objects).unwrap());
        assert_eq!([small, large].map(|n| zspages.at(n).lanes()), [8, 40]);
        // SAFETY: this test owns the descriptor.
        unsafe { zspages.recycle(small) };
        // SAFETY: as above.
        unsafe { zspages.recycle(large) };
        assert_eq!((zspages.take(33), zspages.take(1), zspages.take(1)), (Ok(1), Ok(0), Ok(2)));
        assert_eq!(zspages.memory_bytes(), 3 * 32 + 56 * 2);
    }

    #[test]
    fn a_lane_is_named_with_its_own_zspage() {
        let zspages = Zspages::new(8);
        zspages.take(8).unwrap();
        let second = zspages.take(8).unwrap();
        let z = zspages.at(second);
        let at = LaneRef { zspage: second, lane: z.lane_number(3) };
        assert_eq!((LaneRef::from_bits(at.to_bits()), zspages.index_of(at)), (at, 3));
        for lane in [7, 16] {
            let broken = LaneRef { zspage: second, lane };
            assert!(std::panic::catch_unwind(|| zspages.index_of(broken)).is_err(), "{lane}");
        }
    }

    #[test]
    fn a_link_ends_a_list_or_leads_to_a_zspage() {
        let zspages = Zspages::new(8);
        assert!(zspages.linked(NIL).is_none());
        assert!(std::panic::catch_unwind(|| zspages.linked(0).is_some()).is_err());
        zspages.take(8).unwrap();
        assert!(zspages.linked(0).is_some());
    }
}
