//! Checksums of the entries, in stores that keep them. Each is guarded by its entry's lock.

use zpool_base::stable::TableError;
use zpool_base::zeroed::ZeroedTable;

use super::node::{LEAF_GROUP, LEAF_WORDS, LONE_GROUP, Ref, Target, leaf_offset};
use crate::sync::atomic::{AtomicU32, Ordering};

/// The checksums of a leaf's entries.
type OfLeaf = [AtomicU32; LEAF_WORDS];

/// Parallel to the tables of nodes: a node's checksums have its number.
#[derive(Debug, Default)]
pub(super) struct Sums {
    leaves: ZeroedTable<OfLeaf, LEAF_GROUP>,
    lones: ZeroedTable<AtomicU32, LONE_GROUP>,
}

impl Sums {
    /// Bytes of a leaf's checksums.
    pub(super) const LEAF_BYTES: usize = size_of::<OfLeaf>();
    /// Bytes of a lone entry's checksum.
    pub(super) const LONE_BYTES: usize = size_of::<AtomicU32>();

    /// Makes room for the checksums of the leaf of this number, the next one at most. Under the structure
    /// lock.
    pub(super) fn make_leaf(&self, number: u32) -> Result<(), TableError> {
        self.leaves.make(number)?;
        touch(self.leaves.get(number).and_then(|of| of.first()));
        Ok(())
    }

    /// As `make_leaf`, for a lone entry.
    pub(super) fn make_lone(&self, number: u32) -> Result<(), TableError> {
        self.lones.make(number)?;
        touch(self.lones.get(number));
        Ok(())
    }

    /// Returns the memory of a group of leaves' checksums to the system. None of those leaves is in use.
    pub(super) fn give_back_leaves(&self, group: usize) -> bool {
        self.leaves.give_back(group)
    }

    /// As `give_back_leaves`, for lone entries.
    pub(super) fn give_back_lones(&self, group: usize) -> bool {
        self.lones.give_back(group)
    }

    /// The checksum of the key's entry, whose word is in that node.
    pub(super) fn of(&self, at: Ref, key: u64) -> Option<&AtomicU32> {
        match at.target() {
            Target::Leaf(number) => self.of_leaf(number, key),
            Target::Lone(number) => self.of_lone(number),
            Target::None | Target::Inner(_) => None,
        }
    }

    pub(super) fn of_leaf(&self, number: u32, key: u64) -> Option<&AtomicU32> {
        self.leaves.get(number)?.get(leaf_offset(key))
    }

    pub(super) fn of_lone(&self, number: u32) -> Option<&AtomicU32> {
        self.lones.get(number)
    }
}

/// Makes the system back a sum's memory, which is counted with its node's: an entry with a pattern writes
/// no sum.
fn touch(sum: Option<&AtomicU32>) {
    if let Some(sum) = sum {
        // Relaxed: nobody can use the node yet.
        sum.store(0, Ordering::Relaxed);
    }
}
