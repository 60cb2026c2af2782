//! The checksums of the entries, in stores with checksums. Each is guarded by its entry's lock.

use zpool_base::stable::TableError;
use zpool_base::zeroed::ZeroedTable;

use super::node::{LEAF_GROUP, LEAF_WORDS, LONE_GROUP, Ref, Target, leaf_offset};
use crate::sync::atomic::{AtomicU32, Ordering};

/// The checksums of a leaf's entries.
type OfLeaf = [AtomicU32; LEAF_WORDS];

/// All checksums. They are in tables of their own, in which the checksums of a node have the node's number.
#[derive(Debug, Default)]
pub(super) struct Sums {
    leaves: ZeroedTable<OfLeaf, LEAF_GROUP>,
    lones: ZeroedTable<AtomicU32, LONE_GROUP>,
}

impl Sums {
    /// The bytes of a leaf's checksums.
    pub(super) const LEAF_BYTES: usize = size_of::<OfLeaf>();
    /// The bytes of a lone entry's checksum.
    pub(super) const LONE_BYTES: usize = size_of::<AtomicU32>();

    /// Makes room for the checksums of leaf `number`, unless there is room already. Fails if there is no
    /// memory. All smaller numbers already have room. Called under the structure lock.
    pub(super) fn make_leaf(&self, number: u32) -> Result<(), TableError> {
        self.leaves.make(number)?;
        touch(self.leaves.get(number).and_then(|of| of.first()));
        Ok(())
    }

    /// Makes room for the checksum of lone entry `number`, as `make_leaf` does for a leaf.
    pub(super) fn make_lone(&self, number: u32) -> Result<(), TableError> {
        self.lones.make(number)?;
        touch(self.lones.get(number));
        Ok(())
    }

    /// Returns the memory for the checksums of a group of leaves to the system. None of those leaves is in
    /// use. Returns false if the system does not take the memory back.
    pub(super) fn give_back_leaves(&self, group: usize) -> bool {
        self.leaves.give_back(group)
    }

    /// Does what `give_back_leaves` does, for a group of lone entries.
    pub(super) fn give_back_lones(&self, group: usize) -> bool {
        self.lones.give_back(group)
    }

    /// Returns the checksum of the key's entry. `at` refers to the leaf or lone entry that has it; the result
    /// is `None` for an inner node.
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

/// Writes to a checksum, so that the system backs its memory now. The memory is counted with the node's, but
/// an entry with a pattern would write no checksum.
fn touch(sum: Option<&AtomicU32>) {
    if let Some(sum) = sum {
        // Relaxed: no other thread can use the node yet.
        sum.store(0, Ordering::Relaxed);
    }
}
