//! Adds and removes nodes. This is always done under the structure lock.

use zpool_base::stable::TableError;

use super::node::{
    Header, Inner, InnerNode, LEVELS, Leaf, LeafNode, Lone, LoneNode, Ref, Target, Words,
    leaf_prefix,
};
use super::{Entry, Index, Kind, Locked, NoRoom};
use crate::entry::lock;
use crate::entry::word::Word;
use crate::sync::atomic::{AtomicU32, Ordering, fence};

/// An inner node on the way down to a key.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    /// The word that holds the reference to the node.
    slot: &'a AtomicU32,
    number: u32,
    pub(super) inner: Inner<'a>,
    /// The index of the child that is next on the way.
    pub(super) digit: usize,
}

/// The way from the root down towards a key, through all inner nodes that cover the key. Valid while the
/// structure lock is held.
pub(super) struct Way<'a> {
    steps: [Option<Step<'a>>; LEVELS],
    depth: usize,
    /// The word that holds the reference at the end of the way.
    slot: &'a AtomicU32,
    /// The reference at the end of the way. It leads to nothing, to a leaf or lone entry, or to an inner node
    /// that does not cover the key.
    pub(super) end: Ref,
}

impl<'a> Way<'a> {
    /// Iterates over the inner nodes on the way, from the bottom up.
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

    /// Adds a place for the key's word, unless another thread has added one, or the lone entry in its way is
    /// locked. The caller looks the key up again, and calls this again if there is still no place. Fails if
    /// there is no memory.
    pub(super) fn insert(&self, key: u64) -> Result<(), NoRoom> {
        let mut locked = self.lock_structure();
        let way = self.way(&locked, key);
        // Relaxed, here and below: nodes change only under the structure lock.
        let (below, pooled) = match way.end.target() {
            Target::None => {
                let (at, lone) = self.new_lone(&mut locked, key)?;
                // Release pairs with the Acquire of look-ups: a thread that follows the reference finds the
                // node in its table.
                way.slot.store(at.0, Ordering::Release);
                Words::of_lone(lone).open();
                self.unlock(locked);
                return Ok(());
            }
            Target::Leaf(_) | Target::Lone(_) => {
                let first = self.words(way.end).map_or(key, |words| words.first);
                if leaf_prefix(first) == leaf_prefix(key) {
                    return self.grow(locked, &way, key);
                }
                let above = way.upwards().next();
                // The second value is the mark of the leaf or lone entry. At the root it has no mark, and
                // counts as marked.
                (first, above.is_none_or(|step| step.inner.is_marked(step.digit)))
            }
            Target::Inner(number) => {
                let inner = self.inner(number);
                let header = Header::unpack(inner.header.load(Ordering::Relaxed));
                (header.first_key(), inner.has_marks())
            }
        };
        // A new inner node gets both the node that is here and a lone entry for the key, at the level where
        // their keys differ.
        let header = Header::of_both(key, below);
        let (inner, inner_number) = self.new_inner(&mut locked, header)?;
        let (at, lone) = match self.new_lone(&mut locked, key) {
            Ok(new) => new,
            Err(error) => {
                self.retire_inner(&mut locked, inner, inner_number);
                self.unlock(locked);
                return Err(error);
            }
        };
        // Relaxed: published with the reference to the node.
        inner.child(header.digit(below)).store(way.end.0, Ordering::Relaxed);
        inner.child(header.digit(key)).store(at.0, Ordering::Relaxed);
        if pooled {
            inner.mark(header.digit(below));
        }
        // Release pairs with the Acquire of look-ups: a look-up of an existing key that reaches the new node
        // must find the reference in it.
        way.slot.store(Ref::inner(inner_number).0, Ordering::Release);
        Words::of_lone(lone).open();
        Ok(())
    }

    /// If the way ends at a lone entry that belongs to another key of the same leaf, replaces it by a leaf.
    /// If that lone entry is locked, changes nothing, and waits until it is unlocked, without the structure
    /// lock. Does nothing if the way ends at a leaf, or if the lone entry is the key's own. Fails if there is
    /// no memory for a leaf.
    fn grow(&self, mut locked: Locked<'_>, way: &Way<'_>, key: u64) -> Result<(), NoRoom> {
        let Target::Lone(number) = way.end.target() else { return Ok(()) };
        let lone = self.lone(number);
        // Relaxed: the key changes only under the structure lock.
        let other = lone.key.load(Ordering::Relaxed);
        if other == key {
            return Ok(());
        }
        let (leaf_number, leaf) = self.new_leaf(&mut locked, key)?;
        // Relaxed: the CAS below checks that the word is still the same.
        let word = Word::from_raw(lone.word.load(Ordering::Relaxed));
        // Acquire pairs with the Release of the last unlock. So this thread sees the entry's checksum, and
        // the next holder of the word, in the leaf, is ordered after the last one. Relaxed on failure: the
        // entry is in use.
        let (won, failed) = (Ordering::Acquire, Ordering::Relaxed);
        let dead = Word::DEAD.raw();
        if word.is_locked() || lone.word.compare_exchange(word.raw(), dead, won, failed).is_err() {
            self.retire_leaf(&mut locked, leaf_number);
            self.unlock(locked);
            if let Some(entry) = lock::lock(lone.word, &self.waiters) {
                // While the entry is locked, it keeps its key. Relaxed: the key was written before the word
                // was unlocked.
                let theirs = lone.key.load(Ordering::Relaxed);
                drop(Entry::new(entry, self, theirs));
            }
            return Ok(());
        }
        self.copy_sum(number, leaf_number, other);
        // Release pairs with the Acquire of look-ups: a thread that follows the reference finds the leaf with
        // its prefix.
        way.slot.store(Ref::leaf(leaf_number).0, Ordering::Release);
        Words::of_leaf(leaf).open_with(other, word);
        self.retire_lone(&mut locked, number);
        self.unlock(locked);
        Ok(())
    }

    /// Copies the checksum of a lone entry to its key's place in a leaf. While this runs, no thread can use
    /// either entry.
    fn copy_sum(&self, lone: u32, leaf: u32, key: u64) {
        let Some(sums) = &self.sums else { return };
        if let (Some(from), Some(to)) = (sums.of_lone(lone), sums.of_leaf(leaf, key)) {
            // Relaxed: published with the word that the sum belongs to.
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Returns the words to which a reference leads; `None` if it leads to an inner node or nowhere. Without
    /// the structure lock, they may belong to other keys by now.
    pub(super) fn words(&self, at: Ref) -> Option<Words<'_>> {
        match at.target() {
            Target::Leaf(number) => Some(Words::of_leaf(self.leaf(number))),
            Target::Lone(number) => Some(Words::of_lone(self.lone(number))),
            Target::None | Target::Inner(_) => None,
        }
    }

    #[inline]
    #[expect(clippy::expect_used, reason = "an invariant of the index")]
    pub(super) fn leaf(&self, number: u32) -> Leaf<'_> {
        Leaf::of(self.leaves.get(number).expect("a reference leads to a leaf of the table"))
    }

    #[inline]
    #[expect(clippy::expect_used, reason = "an invariant of the index")]
    pub(super) fn lone(&self, number: u32) -> Lone<'_> {
        Lone::of(self.lones.get(number).expect("a reference leads to a lone entry of the table"))
    }

    #[inline]
    #[expect(clippy::expect_used, reason = "an invariant of the index")]
    pub(super) fn inner(&self, number: u32) -> Inner<'_> {
        Inner::of(self.inners.get(number).expect("a reference leads to an inner node of the table"))
    }

    /// Makes a leaf for the key, with DEAD words, to which no reference leads yet. Fails if there is no
    /// memory.
    fn new_leaf(&self, locked: &mut Locked<'_>, key: u64) -> Result<(u32, Leaf<'_>), NoRoom> {
        let number = locked.structure.leaves.lowest()?;
        self.leaves.make(number).map_err(no_node::<LeafNode>)?;
        if let Some(sums) = &self.sums {
            sums.make_leaf(number).map_err(no_node::<LeafNode>)?;
        }
        locked.structure.leaves.take(number);
        let leaf = self.leaf(number);
        // Release pairs with the Acquire of look-ups, which take no lock: a thread that sees the new prefix also
        // sees that the leaf was removed from its old place.
        leaf.prefix.store(leaf_prefix(key), Ordering::Release);
        Ok((number, leaf))
    }

    /// Makes a lone entry for the key, with a DEAD word, to which no reference leads yet. Fails if there is
    /// no memory.
    fn new_lone(&self, locked: &mut Locked<'_>, key: u64) -> Result<(Ref, Lone<'_>), NoRoom> {
        let number = locked.structure.lones.lowest()?;
        self.lones.make(number).map_err(no_node::<LoneNode>)?;
        if let Some(sums) = &self.sums {
            sums.make_lone(number).map_err(no_node::<LoneNode>)?;
        }
        locked.structure.lones.take(number);
        let lone = self.lone(number);
        // Release, as in `new_leaf`.
        lone.key.store(key, Ordering::Release);
        Ok((Ref::lone(number), lone))
    }

    /// Makes an inner node without children or marks, to which no reference leads yet. Fails if there is no
    /// memory.
    fn new_inner(
        &self,
        locked: &mut Locked<'_>,
        header: Header,
    ) -> Result<(Inner<'_>, u32), NoRoom> {
        let number = locked.structure.inners.lowest()?;
        self.inners.make(number).map_err(no_node::<InnerNode>)?;
        locked.structure.inners.take(number);
        let inner = self.inner(number);
        // Relaxed: published with the reference to the node. The node has had no children and no marks since it
        // was removed or made.
        inner.header.store(header.pack(), Ordering::Relaxed);
        Ok((inner, number))
    }

    /// Frees an inner node that has no children and to which no reference leads.
    fn retire_inner(&self, locked: &mut Locked<'_>, inner: Inner<'_>, number: u32) {
        assert!(!inner.has_marks(), "a node without children has no marks");
        // Its header stays. A thread that follows a stale reference to this node finds no child.
        locked.structure.inners.free(number);
    }

    /// Frees a leaf whose words are all DEAD and to which no reference leads.
    fn retire_leaf(&self, locked: &mut Locked<'_>, number: u32) {
        self.removals.count(Ref::leaf(number));
        locked.structure.leaves.free(number);
    }

    /// Frees a lone entry whose word is DEAD and to which no reference leads.
    fn retire_lone(&self, locked: &mut Locked<'_>, number: u32) {
        self.removals.count(Ref::lone(number));
        locked.structure.lones.free(number);
    }

    /// Unlocks the structure, then returns the memory of emptied groups to the system.
    fn unlock(&self, locked: Locked<'_>) {
        let any = locked.structure.any_leaving();
        drop(locked);
        if any {
            self.give_back();
        }
    }

    /// Returns the memory of emptied groups to the system. One call returns at most as many groups as one
    /// call of `prune` can empty. Takes the structure lock, but does not hold it while the system takes the
    /// memory back.
    fn give_back(&self) {
        for _ in 0..=LEVELS {
            let leaving = self.lock_structure().structure.next_leaving();
            let Some((kind, group)) = leaving else { return };
            // No reference leads to the nodes of the group, their words are DEAD, and none of their numbers
            // is handed out. A thread that still follows a stale reference to such a node finds it unchanged,
            // or finds zeros.
            let sums = self.sums.as_ref();
            let gone = match kind {
                Kind::Leaf => {
                    self.leaves.give_back(group) && sums.is_none_or(|s| s.give_back_leaves(group))
                }
                Kind::Lone => {
                    self.lones.give_back(group) && sums.is_none_or(|s| s.give_back_lones(group))
                }
                Kind::Inner => self.inners.give_back(group),
            };
            self.lock_structure().structure.numbers(kind).has_left(group, gone);
        }
    }

    /// Removes the key's leaf or lone entry if all its words are EMPTY, and then each inner node above it
    /// that has no child left. Then returns the memory of emptied groups to the system. Called after an EMPTY
    /// word was unlocked. The caller holds no lock.
    pub(super) fn prune(&self, key: u64) {
        // Orders this thread's unlock before its check of the other words. Pairs with the same fence of other
        // threads: if two threads unlock the last words of a leaf, at least one of them sees the other's word
        // unlocked.
        fence(Ordering::SeqCst);
        let Some(found) = self.find(key) else { return };
        // This check is made without the lock, so it may be wrong. The CASes in `kill` decide.
        if self.words(found.at).is_none_or(|words| words.any(|word| word != Word::EMPTY)) {
            return;
        }
        let mut locked = self.lock_structure();
        let way = self.way(&locked, key);
        let words = self.words(way.end).filter(|words| words.have(key));
        if !words.is_some_and(|words| words.kill()) {
            return;
        }
        // Relaxed: a thread that reads `NONE` and then adds a leaf takes the structure lock first.
        way.slot.store(Ref::NONE.0, Ordering::Relaxed);
        match way.end.target() {
            Target::Leaf(number) => self.retire_leaf(&mut locked, number),
            Target::Lone(number) => self.retire_lone(&mut locked, number),
            Target::None | Target::Inner(_) => {}
        }
        self.drop_empty_inners(&mut locked, &way);
        self.unlock(locked);
    }

    /// Removes each inner node on the way that has no child left. Clears the marks of all removed nodes, and
    /// each mark above them under which no mark is left.
    fn drop_empty_inners(&self, locked: &mut Locked<'_>, way: &Way<'_>) {
        let mut childless = true;
        for step in way.upwards() {
            step.inner.unmark(step.digit);
            childless = childless && step.inner.is_childless();
            if childless {
                // Relaxed: as in `prune`.
                step.slot.store(Ref::NONE.0, Ordering::Relaxed);
                self.retire_inner(locked, step.inner, step.number);
            } else if step.inner.has_marks() {
                break;
            }
        }
    }
}

pub(super) fn no_node<T>(error: TableError) -> NoRoom {
    match error {
        TableError::NoMemory { bytes } => NoRoom { bytes },
        _ => NoRoom { bytes: size_of::<T>() },
    }
}
