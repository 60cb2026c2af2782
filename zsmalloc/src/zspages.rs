//! All descriptors of a pool, and the lanes of their objects: type-stable tables that only grow, and
//! the vacant descriptors that serve again.
//!
//! Any number that stands in a slot's word, in a list, in a queue or in a guard's token is one that a
//! table gave out before: looking it up cannot fail, and if it does the pool is broken, which panics.
//! A descriptor gets its lanes before it is known to anyone, one for each object that it may ever
//! have, and keeps them for life.
//!
//! Locks: the vacant descriptors have a leaf lock. Whoever takes one off its list has it alone until
//! it is attached to a class or recycled.

use zpool_base::lockdep::{self, Rank};
use zpool_base::stable::{StableTable, TableError};

use crate::lane::Lane;
use crate::slot::MAX_ZSPAGES;
use crate::sync::Mutex;
use crate::zspage::{NIL, Zspage};

/// Descriptors come with lanes for a multiple of this many objects.
const LANE_STEP: usize = 8;

/// A lane, and the zspage that it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LaneRef {
    pub(crate) zspage: u32,
    pub(crate) lane: u32,
}

impl LaneRef {
    /// As the token of a read guard and as a link of the queue of parked places.
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
    /// Heads of the lists of vacant descriptors, by the number of their lanes. A leaf lock.
    vacant: Mutex<Vec<u32>>,
}

impl Zspages {
    /// For zspages of at most `most` objects.
    pub(crate) fn new(most: usize) -> Self {
        Zspages {
            table: StableTable::with_limit(MAX_ZSPAGES),
            lanes: StableTable::new(),
            vacant: Mutex::new(vec![NIL; most.div_ceil(LANE_STEP) + 1]),
        }
    }

    /// The zspage of a number that the table gave out.
    #[inline]
    #[expect(clippy::expect_used, reason = "numbers of zspages come from this table")]
    pub(crate) fn at(&self, zspage: u32) -> &Zspage {
        self.table.get(zspage).expect("a number that stands for a zspage is one of the table's")
    }

    /// The zspage that a link leads to; None at the end of a list.
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

    /// The lane of an object of a zspage; the last one of the zspage's own for a number beyond them,
    /// as a stale reader may have it.
    #[inline]
    pub(crate) fn lane(&self, z: &Zspage, index: usize) -> &Lane {
        self.lane_at(z.lane_number(index))
    }

    /// The lane of a number that a zspage has as one of its own.
    #[inline]
    #[expect(clippy::expect_used, reason = "a descriptor is pushed after its lanes")]
    pub(crate) fn lane_at(&self, number: u32) -> &Lane {
        self.lanes.get(number).expect("a zspage has its lanes before anyone knows it")
    }

    /// A descriptor with lanes for this many objects, vacant and the caller's alone.
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

    /// Lets a vacant descriptor, the caller's alone until now, serve again.
    pub(crate) fn recycle(&self, zspage: u32) {
        let z = self.at(zspage);
        let _held = lockdep::acquire(Rank::Leaf);
        let head = &mut self.vacant.lock()[z.lanes() / LANE_STEP];
        z.next.set(core::mem::replace(head, zspage));
    }

    /// All descriptors with their numbers, vacant ones, too.
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
