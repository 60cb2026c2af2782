//! Checksums beside the entries, in stores that keep them: each is guarded by its entry's lock.

use zpool_api::stable::StableTable;

use super::NoNode;
use super::change::no_node;
use super::node::{LEAF_WORDS, Ref, Target, leaf_offset};
use crate::sync::atomic::AtomicU32;

/// Those of a leaf's entries.
#[derive(Debug)]
struct OfLeaf {
    of: [AtomicU32; LEAF_WORDS],
}

/// As many of each as there are nodes, or one more: a node's have its number.
#[derive(Debug)]
pub(super) struct Sums {
    leaves: StableTable<OfLeaf>,
    lones: StableTable<AtomicU32>,
}

impl Sums {
    pub(super) fn new() -> Self {
        Sums {
            leaves: StableTable::with_limit(Ref::MAX_NODES),
            lones: StableTable::with_limit(Ref::MAX_NODES),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.leaves.memory_bytes() + self.lones.memory_bytes()
    }

    /// Room for those of the leaf of this number, the next one. Under the structure lock.
    pub(super) fn make_leaf(&self, number: usize) -> Result<(), NoNode> {
        // They are there already if the leaf that they were made for was not.
        if self.leaves.len() == number {
            let of = core::array::from_fn(|_| AtomicU32::new(0));
            self.leaves.push(OfLeaf { of }).map_err(no_node::<OfLeaf>)?;
        }
        Ok(())
    }

    /// As `make_leaf`, for a lone entry.
    pub(super) fn make_lone(&self, number: usize) -> Result<(), NoNode> {
        if self.lones.len() == number {
            self.lones.push(AtomicU32::new(0)).map_err(no_node::<AtomicU32>)?;
        }
        Ok(())
    }

    /// The place of the key's, whose word is in that node.
    pub(super) fn of(&self, at: Ref, key: u64) -> Option<&AtomicU32> {
        match at.target() {
            Target::Leaf(number) => self.of_leaf(number, key),
            Target::Lone(number) => self.of_lone(number),
            Target::None | Target::Inner(_) => None,
        }
    }

    pub(super) fn of_leaf(&self, number: u32, key: u64) -> Option<&AtomicU32> {
        self.leaves.get(number)?.of.get(leaf_offset(key))
    }

    pub(super) fn of_lone(&self, number: u32) -> Option<&AtomicU32> {
        self.lones.get(number)
    }
}
