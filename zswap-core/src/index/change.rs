//! Nodes added and taken away, all under the structure lock.

use zpool_api::stable::TableError;

use super::node::{
    Header, Inner, LEAF_BITS, LEVELS, Leaf, NO_NODE, Ref, Sums, Target, leaf_prefix,
};
use super::{Index, Locked, NoNode};
use crate::sync::atomic::{AtomicU32, Ordering};

/// An inner node on the way down to a key.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    /// Where the reference to the node is.
    slot: &'a AtomicU32,
    number: u32,
    pub(super) inner: &'a Inner,
    /// The way on: which child.
    pub(super) digit: usize,
}

/// The way down to a key as far as there is one, while the structure lock is held.
pub(super) struct Way<'a> {
    steps: [Option<Step<'a>>; LEVELS],
    depth: usize,
    /// Where the way ends, and what is there: nothing, a leaf, or an inner node that does not cover the
    /// key.
    slot: &'a AtomicU32,
    pub(super) end: Ref,
}

impl<'a> Way<'a> {
    /// The inner nodes on the way, from below.
    pub(super) fn upwards(&self) -> impl Iterator<Item = &Step<'a>> {
        self.steps[..self.depth].iter().rev().flatten()
    }
}

impl Index {
    pub(super) fn way<'a>(&'a self, _locked: &Locked<'_>, key: u64) -> Way<'a> {
        let mut way = Way { steps: [None; LEVELS], depth: 0, slot: &self.root, end: Ref::NONE };
        loop {
            // Relaxed: references and headers change only under the structure lock, which is held.
            way.end = Ref(way.slot.load(Ordering::Relaxed));
            let Target::Inner(number) = way.end.target() else { return way };
            let inner = self.inner(number);
            let header = Header::unpack(inner.header.load(Ordering::Relaxed));
            if !header.covers(key) {
                return way;
            }
            let digit = header.digit(key);
            way.steps[way.depth] = Some(Step { slot: way.slot, number, inner, digit });
            way.depth += 1;
            way.slot = inner.child(digit);
        }
    }

    /// Adds the key's leaf, or finds that somebody else has.
    pub(super) fn insert_leaf(&self, key: u64) -> Result<(u32, &Leaf), NoNode> {
        let mut locked = self.lock_structure();
        let way = self.way(&locked, key);
        // Relaxed, here and below: nodes change only under the structure lock.
        let (below, pooled) = match way.end.target() {
            Target::None => {
                let (number, leaf) = self.new_leaf(&mut locked, key)?;
                // Release: who comes upon the reference finds the leaf in its table.
                way.slot.store(Ref::leaf(number).0, Ordering::Release);
                leaf.open();
                return Ok((number, leaf));
            }
            Target::Leaf(number) => {
                let leaf = self.leaf(number);
                let prefix = leaf.prefix.load(Ordering::Relaxed);
                if prefix == leaf_prefix(key) {
                    return Ok((number, leaf));
                }
                let above = way.upwards().next();
                // What the bit above says of the leaf; at the root no bit speaks of it.
                (prefix << LEAF_BITS, above.is_none_or(|step| step.inner.is_marked(step.digit)))
            }
            Target::Inner(number) => {
                let inner = self.inner(number);
                let header = Header::unpack(inner.header.load(Ordering::Relaxed));
                (header.first_key(), inner.has_marks())
            }
        };
        // What is here and the key part at this level: a new inner node takes both.
        let header = Header::of_both(key, below);
        let (inner, inner_number) = self.new_inner(&mut locked, header)?;
        let (number, leaf) = match self.new_leaf(&mut locked, key) {
            Ok(new) => new,
            Err(error) => {
                self.retire_inner(&mut locked, inner, inner_number);
                return Err(error);
            }
        };
        // Relaxed: published with the reference to the node.
        inner.child(header.digit(below)).store(way.end.0, Ordering::Relaxed);
        inner.child(header.digit(key)).store(Ref::leaf(number).0, Ordering::Relaxed);
        if pooled {
            inner.mark(header.digit(below));
        }
        // Release: look-ups of keys that were here before must find them through the new node.
        way.slot.store(Ref::inner(inner_number).0, Ordering::Release);
        leaf.open();
        Ok((number, leaf))
    }

    #[inline]
    #[expect(clippy::expect_used, reason = "an invariant of the index")]
    pub(super) fn leaf(&self, number: u32) -> &Leaf {
        self.leaves.get(number).expect("a reference leads to a leaf of the table")
    }

    #[inline]
    #[expect(clippy::expect_used, reason = "an invariant of the index")]
    pub(super) fn inner(&self, number: u32) -> &Inner {
        self.inners.get(number).expect("a reference leads to an inner node of the table")
    }

    /// A leaf for the key, all its words DEAD, linked nowhere.
    fn new_leaf(&self, locked: &mut Locked<'_>, key: u64) -> Result<(u32, &Leaf), NoNode> {
        let prefix = leaf_prefix(key);
        if let Some(number) = locked.structure.free_leaves.pop() {
            let leaf = self.leaf(number);
            // Release pairs with the Acquire of the look-ups without a lock: who sees the new prefix
            // sees, too, that the leaf was taken away from the old one.
            leaf.prefix.store(prefix, Ordering::Release);
            return Ok((number, leaf));
        }
        // The room that `prune` will need.
        let free = &mut locked.structure.free_leaves;
        free.try_reserve(self.leaves.len() + 1).map_err(|_| NoNode { bytes: size_of::<u32>() })?;
        self.make_sums()?;
        let number = self.leaves.push(Leaf::dead(prefix)).map_err(no_node::<Leaf>)?;
        Ok((number, self.leaf(number)))
    }

    /// The checksums of the next leaf, which has their number. Under the structure lock.
    fn make_sums(&self) -> Result<(), NoNode> {
        let Some(sums) = &self.sums else { return Ok(()) };
        // They are there already if the leaf that they were made for was not.
        if sums.len() == self.leaves.len() {
            let of = core::array::from_fn(|_| AtomicU32::new(0));
            sums.push(Sums { of }).map_err(no_node::<Sums>)?;
        }
        Ok(())
    }

    /// An inner node without children or marks, linked nowhere.
    fn new_inner(&self, locked: &mut Locked<'_>, header: Header) -> Result<(&Inner, u32), NoNode> {
        if let Some(number) = locked.structure.free_inners.pop() {
            let inner = self.inner(number);
            // Relaxed: published with the reference to the node. It has had no children and no marks
            // since it was taken away.
            inner.header.store(header.pack(), Ordering::Relaxed);
            return Ok((inner, number));
        }
        // The room that `retire_inner` will need.
        let free = &mut locked.structure.free_inners;
        free.try_reserve(self.inners.len() + 1).map_err(|_| NoNode { bytes: size_of::<u32>() })?;
        let number = self.inners.push(Inner::new(header)).map_err(no_node::<Inner>)?;
        Ok((self.inner(number), number))
    }

    /// Puts an unlinked inner node without children on the free list.
    fn retire_inner(&self, locked: &mut Locked<'_>, inner: &Inner, number: u32) {
        debug_assert!(!inner.has_marks(), "a node without children has no marks");
        // Relaxed: sends look-ups that are here by a stale reference away, sooner or later.
        inner.header.store(NO_NODE, Ordering::Relaxed);
        // The room was reserved when the node was made.
        locked.structure.free_inners.push(number);
    }

    /// Takes the key's leaf away if all its entries are empty, and inner nodes left without a
    /// child. To be called after an entry became empty, with no entry lock held.
    pub(crate) fn prune(&self, key: u64) {
        let Some((_, leaf)) = self.find(key) else { return };
        // A guess; the CASes below decide.
        if leaf.any(|word| word != crate::word::Word::EMPTY) {
            return;
        }
        let mut locked = self.lock_structure();
        let way = self.way(&locked, key);
        let Target::Leaf(number) = way.end.target() else { return };
        let leaf = self.leaf(number);
        // Relaxed: changes only under the structure lock.
        if leaf.prefix.load(Ordering::Relaxed) != leaf_prefix(key) || !leaf.kill_words() {
            return;
        }
        self.removals.count(number);
        // Relaxed: who reads "none" and then adds a leaf takes the structure lock first.
        way.slot.store(Ref::NONE.0, Ordering::Relaxed);
        // Relaxed: its words are DEAD, so nobody can use it whatever prefix he sees.
        leaf.prefix.store(NO_NODE, Ordering::Relaxed);
        // The room was reserved when the leaf was made.
        locked.structure.free_leaves.push(number);
        self.drop_empty_inners(&mut locked, &way);
    }

    /// Takes away the inner nodes on the way that have no child left, and the marks of what is gone.
    fn drop_empty_inners(&self, locked: &mut Locked<'_>, way: &Way<'_>) {
        let mut childless = true;
        for step in way.upwards() {
            step.inner.unmark(step.digit);
            childless = childless && step.inner.is_childless();
            if childless {
                // Relaxed: as for the leaf's slot.
                step.slot.store(Ref::NONE.0, Ordering::Relaxed);
                self.retire_inner(locked, step.inner, step.number);
            } else if step.inner.has_marks() {
                break;
            }
        }
    }
}

pub(super) fn no_node<T>(error: TableError) -> NoNode {
    match error {
        TableError::NoMemory { bytes } => NoNode { bytes },
        _ => NoNode { bytes: size_of::<T>() },
    }
}
