//! The radix index: from a swap entry's 64-bit key to its entry word.
//!
//! A path-compressed radix tree with leaves of 32 entry words and inner nodes of 16 children.
//! Dense keys cost 8.4 bytes each (264 bytes a leaf, 72 an inner node over 16 of them); a lone key
//! at most a leaf and an inner node, 336 bytes.
//!
//! All nodes live in type-stable tables (`StableTable`) and are recycled, never freed, while the
//! store lives. That is why all of this is safe code, and why a look-up needs no lock: a stale
//! reference leads to a valid node, which says in its header what it is now.
//!
//! # Rules
//! * The *structure lock* is held to add or take away nodes; only the tables' growth locks are
//!   taken under it. Look-ups do not take it. No entry lock is held when it is taken.
//! * A node's header, children or prefix are written before the reference to it is stored.
//! * A leaf's words are DEAD until it is linked: nobody can use an entry that look-ups do not find.
//! * A leaf is taken away only when each of its words has gone from EMPTY to DEAD by a CAS, so a
//!   locked or used entry keeps its leaf. Inner nodes are taken away when they have no child left.
//! * Who locks an entry checks the leaf's prefix afterwards: a recycled leaf has another one, or
//!   DEAD words. A leaf with the right prefix and a word that is not DEAD is linked, and the only
//!   one of its prefix.
//!
//! # Why "absent" may be believed
//! A look-up that meets a recycled node may find nothing where there is something now. Say the key
//! is in use when the look-up begins and all the time until it ends. Then its leaf stays, and with
//! it every node above, for none of them is ever without a child. The references on the way can
//! change only to new inner nodes put in between, which lead to the same leaf. So the look-up finds
//! it. Otherwise the key was not in use at some moment of the call, and "absent" was true then.

use zpool_api::lockdep::{self, Rank};
use zpool_api::stable::{StableTable, TableError};

use crate::lock::{self, EntryGuard, Waiters};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{MODEL, Mutex, MutexGuard};
use crate::word::Word;

const LEAF_BITS: u32 = 5;
const INNER_BITS: u32 = 4;
const LEAF_WORDS: usize = if MODEL { 2 } else { 1 << LEAF_BITS };
const CHILDREN: usize = 1 << INNER_BITS;
/// Children that a node has in memory; fewer under the model checker.
const CHILD_SLOTS: usize = if MODEL { 2 } else { CHILDREN };
const NO_NODE: u64 = u64::MAX;

/// A reference to a node, or to none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ref(u32);

enum Target {
    None,
    Leaf(u32),
    Inner(u32),
}

impl Ref {
    const NONE: Ref = Ref(0);
    /// Nodes of each kind: the number plus one and a bit for the kind fit in 32 bits.
    const MAX_NODES: usize = (1 << 31) - 1;

    fn leaf(number: u32) -> Self {
        Ref((number + 1) << 1 | 1)
    }

    fn inner(number: u32) -> Self {
        Ref((number + 1) << 1)
    }

    fn target(self) -> Target {
        match (self.0 >> 1, self.0 & 1) {
            (0, _) => Target::None,
            (n, 1) => Target::Leaf(n - 1),
            (n, _) => Target::Inner(n - 1),
        }
    }
}

/// What an inner node stands for: the keys that share `prefix` above its digit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Header {
    /// 0 for nodes right above leaves, 14 for the highest digit.
    level: u32,
    /// The key's bits above the node's digit.
    prefix: u64,
}

impl Header {
    fn covering(key: u64, level: u32) -> Self {
        Header { level, prefix: key.checked_shr(Self::shift(level) + INNER_BITS).unwrap_or(0) }
    }

    fn shift(level: u32) -> u32 {
        LEAF_BITS + INNER_BITS * level
    }

    fn pack(self) -> u64 {
        self.prefix << 4 | u64::from(self.level)
    }

    fn unpack(raw: u64) -> Self {
        Header { level: (raw & 15) as u32, prefix: raw >> 4 }
    }

    fn covers(self, key: u64) -> bool {
        self == Header::covering(key, self.level)
    }

    fn digit(self, key: u64) -> usize {
        (key >> Self::shift(self.level)) as usize & (CHILDREN - 1)
    }

    /// Some key below the node.
    fn some_key(self) -> u64 {
        self.prefix.checked_shl(Self::shift(self.level) + INNER_BITS).unwrap_or(0)
    }
}

#[derive(Debug)]
struct Leaf {
    /// The keys' bits above the leaf's 5, or `NO_NODE`.
    prefix: AtomicU64,
    words: [AtomicU64; LEAF_WORDS],
}

#[derive(Debug)]
struct Inner {
    /// A packed [`Header`], or `NO_NODE`.
    header: AtomicU64,
    /// [`Ref`]s.
    children: [AtomicU32; CHILD_SLOTS],
}

impl Leaf {
    /// DEAD to EMPTY for every word: the leaf is linked and its entries may be used.
    fn open(&self) {
        for word in &self.words {
            // Release pairs with the Acquire of the CAS that locks the word: who uses the entry
            // sees the leaf's prefix, and that it is linked.
            word.store(Word::EMPTY.raw(), Ordering::Release);
        }
    }
}

/// The checksums of a leaf's entries, in stores that keep them. Each is guarded by its entry's lock.
#[derive(Debug)]
struct Sums {
    of: [AtomicU32; LEAF_WORDS],
}

/// Guarded by the structure lock: which nodes may be used again.
#[derive(Debug, Default)]
struct Structure {
    free_leaves: Vec<u32>,
    free_inners: Vec<u32>,
}

struct Locked<'a> {
    structure: MutexGuard<'a, Structure>,
    _held: lockdep::Held,
}

/// No memory for another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoNode {
    pub(crate) bytes: usize,
}

/// The index of a store.
#[derive(Debug)]
pub(crate) struct Index {
    root: AtomicU32,
    leaves: StableTable<Leaf>,
    inners: StableTable<Inner>,
    /// As many as leaves, or one more.
    sums: Option<StableTable<Sums>>,
    structure: Mutex<Structure>,
    waiters: Waiters,
}

fn leaf_prefix(key: u64) -> u64 {
    key >> LEAF_BITS
}

fn leaf_offset(key: u64) -> usize {
    key as usize & ((1 << LEAF_BITS) - 1)
}

impl Index {
    pub(crate) fn new() -> Self {
        Self::with_node_limit(Ref::MAX_NODES)
    }

    /// An index that keeps a checksum beside each entry: 4 bytes more.
    pub(crate) fn with_sums() -> Self {
        Index { sums: Some(StableTable::with_limit(Ref::MAX_NODES)), ..Self::new() }
    }

    /// Whether checksums are kept.
    pub(crate) fn has_sums(&self) -> bool {
        self.sums.is_some()
    }

    /// An index of at most `limit` leaves and as many inner nodes.
    pub(crate) fn with_node_limit(limit: usize) -> Self {
        Index {
            root: AtomicU32::new(Ref::NONE.0),
            leaves: StableTable::with_limit(limit),
            inners: StableTable::with_limit(limit),
            sums: None,
            structure: Mutex::new(Structure::default()),
            waiters: Waiters::new(),
        }
    }

    /// Bytes of all nodes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let locked = self.lock_structure();
        let free =
            locked.structure.free_leaves.capacity() + locked.structure.free_inners.capacity();
        let sums = self.sums.as_ref().map_or(0, StableTable::memory_bytes);
        self.leaves.memory_bytes() + self.inners.memory_bytes() + sums + free * size_of::<u32>()
    }

    fn lock_structure(&self) -> Locked<'_> {
        let held = lockdep::acquire(Rank::Structure);
        Locked { structure: self.structure.lock(), _held: held }
    }

    /// Locks the key's entry if it has a leaf; an entry of that leaf may be empty.
    pub(crate) fn lock(&self, key: u64) -> Option<EntryGuard<'_>> {
        loop {
            let leaf = self.find(key)?;
            if let Some(entry) = self.lock_in(leaf, key) {
                return Some(entry);
            }
        }
    }

    /// Locks the key's entry, with a new leaf if it has none.
    pub(crate) fn lock_or_insert(&self, key: u64) -> Result<EntryGuard<'_>, NoNode> {
        loop {
            let leaf = match self.find(key) {
                Some(leaf) => leaf,
                None => self.insert_leaf(key)?,
            };
            if let Some(entry) = self.lock_in(leaf, key) {
                return Ok(entry);
            }
        }
    }

    /// What `see` makes of the key's word as it is now, without its lock; else the entry locked, if it
    /// has a leaf.
    #[inline]
    pub(crate) fn see_or_lock<T>(
        &self,
        key: u64,
        see: impl Fn(Word) -> Option<T>,
    ) -> Option<Result<T, EntryGuard<'_>>> {
        loop {
            let leaf = self.find(key)?;
            let word = leaf.1.words.get(leaf_offset(key))?;
            // Acquire, so that the prefix is read after the word.
            let seen = see(Word::from_raw(word.load(Ordering::Acquire)));
            // Relaxed: as in `peek`. A dead word shows nothing to see.
            if seen.is_some() && leaf.1.prefix.load(Ordering::Relaxed) == leaf_prefix(key) {
                return seen.map(Ok);
            }
            if let Some(entry) = self.lock_in(leaf, key) {
                return Some(Err(entry));
            }
        }
    }

    /// The key's word as it is now, unlocked; EMPTY if there is none. For look-ups that act on
    /// nothing.
    pub(crate) fn peek(&self, key: u64) -> Word {
        loop {
            let Some((_, leaf)) = self.find(key) else { return Word::EMPTY };
            let Some(word) = leaf.words.get(leaf_offset(key)) else { return Word::EMPTY };
            // Acquire, so that the prefix is read after the word.
            let now = Word::from_raw(word.load(Ordering::Acquire));
            // Relaxed: comes after the Acquire above; if the leaf was recycled before the word was
            // read, the new prefix is seen.
            if !now.is_dead() && leaf.prefix.load(Ordering::Relaxed) == leaf_prefix(key) {
                return now.unlocked();
            }
            self.wait_for_structure();
        }
    }

    /// Locks the key's word in `leaf`, if the leaf is (still, or again) the key's.
    #[inline]
    fn lock_in<'a>(&'a self, (number, leaf): (u32, &'a Leaf), key: u64) -> Option<EntryGuard<'a>> {
        let word = leaf.words.get(leaf_offset(key))?;
        match lock::lock(word, &self.waiters) {
            Ok(entry) => {
                // Relaxed: the lock's Acquire reads from after the words were made EMPTY, which
                // came after the prefix was stored.
                if leaf.prefix.load(Ordering::Relaxed) != leaf_prefix(key) {
                    return None;
                }
                Some(match &self.sums {
                    None => entry,
                    Some(sums) => {
                        let sums = sums.get(number).and_then(|sums| sums.of.get(leaf_offset(key)));
                        entry.with_sum(sums)
                    }
                })
            }
            Err(lock::Dead) => {
                self.wait_for_structure();
                None
            }
        }
    }

    /// Lets whoever takes a leaf away finish.
    fn wait_for_structure(&self) {
        drop(self.lock_structure());
    }

    /// The key's leaf and its number, if it has one. Takes no lock.
    #[inline]
    fn find(&self, key: u64) -> Option<(u32, &Leaf)> {
        // Acquire, here and below, pairs with the Release that links a new inner node in the place
        // of what was there: who comes upon it must see the way on to what was there.
        let mut at = Ref(self.root.load(Ordering::Acquire));
        let mut above = u32::MAX;
        loop {
            match at.target() {
                Target::None => return None,
                Target::Leaf(number) => {
                    let leaf = self.leaves.get(number)?;
                    // Relaxed: whoever uses an entry of the leaf looks again under its lock.
                    let found = leaf.prefix.load(Ordering::Relaxed) == leaf_prefix(key);
                    return found.then_some((number, leaf));
                }
                Target::Inner(number) => {
                    let inner = self.inners.get(number)?;
                    // Relaxed: written before the reference to the node was stored, or recycled.
                    let header = Header::unpack(inner.header.load(Ordering::Relaxed));
                    // Levels fall on every way down; one that does not is a recycled node's.
                    if header.level >= above || !header.covers(key) {
                        return None;
                    }
                    above = header.level;
                    at = Ref(inner.children.get(header.digit(key))?.load(Ordering::Acquire));
                }
            }
        }
    }

    /// Adds the key's leaf, or finds that somebody else has.
    fn insert_leaf(&self, key: u64) -> Result<(u32, &Leaf), NoNode> {
        let mut locked = self.lock_structure();
        let mut slot = &self.root;
        loop {
            // Relaxed: references and headers change only under the structure lock, which is held.
            let at = Ref(slot.load(Ordering::Relaxed));
            let below = match at.target() {
                Target::None => {
                    let (number, leaf) = self.new_leaf(&mut locked, key)?;
                    // Relaxed: `open` publishes the leaf together with its words.
                    slot.store(Ref::leaf(number).0, Ordering::Relaxed);
                    leaf.open();
                    return Ok((number, leaf));
                }
                Target::Leaf(number) => {
                    let leaf = self.leaf(number)?;
                    // Relaxed: changes only under the structure lock.
                    let prefix = leaf.prefix.load(Ordering::Relaxed);
                    if prefix == leaf_prefix(key) {
                        return Ok((number, leaf));
                    }
                    prefix << LEAF_BITS
                }
                Target::Inner(number) => {
                    let inner = self.inner(number)?;
                    // Relaxed: changes only under the structure lock.
                    let header = Header::unpack(inner.header.load(Ordering::Relaxed));
                    if header.covers(key) {
                        slot = self.child(inner, header, key)?;
                        continue;
                    }
                    header.some_key()
                }
            };
            // What is here and the key part at this level: a new inner node takes both.
            let top = u64::BITS - 1 - (key ^ below).leading_zeros();
            let header = Header::covering(key, (top - LEAF_BITS) / INNER_BITS);
            let (inner, inner_reference) = self.new_inner(&mut locked, header)?;
            let (number, leaf) = match self.new_leaf(&mut locked, key) {
                Ok(new) => new,
                Err(error) => {
                    self.retire_inner(&mut locked, inner, inner_reference);
                    return Err(error);
                }
            };
            // Relaxed: published with the reference to the node.
            self.child(inner, header, below)?.store(at.0, Ordering::Relaxed);
            self.child(inner, header, key)?.store(Ref::leaf(number).0, Ordering::Relaxed);
            // Release: look-ups of keys that were here before must find them through the new node.
            slot.store(inner_reference.0, Ordering::Release);
            leaf.open();
            return Ok((number, leaf));
        }
    }

    fn leaf(&self, number: u32) -> Result<&Leaf, NoNode> {
        // A linked leaf is in the table.
        self.leaves.get(number).ok_or(NoNode { bytes: 0 })
    }

    fn inner(&self, number: u32) -> Result<&Inner, NoNode> {
        self.inners.get(number).ok_or(NoNode { bytes: 0 })
    }

    fn child<'a>(
        &self,
        inner: &'a Inner,
        header: Header,
        key: u64,
    ) -> Result<&'a AtomicU32, NoNode> {
        inner.children.get(header.digit(key)).ok_or(NoNode { bytes: 0 })
    }

    /// A leaf for the key, all its words DEAD, linked nowhere.
    fn new_leaf(&self, locked: &mut Locked<'_>, key: u64) -> Result<(u32, &Leaf), NoNode> {
        let prefix = leaf_prefix(key);
        if let Some(number) = locked.structure.free_leaves.pop() {
            let leaf = self.leaf(number)?;
            // Relaxed: published with the reference to the leaf, and with its words.
            leaf.prefix.store(prefix, Ordering::Relaxed);
            return Ok((number, leaf));
        }
        // The room that `retire_leaf` will need.
        let free = &mut locked.structure.free_leaves;
        free.try_reserve(self.leaves.len() + 1).map_err(|_| NoNode { bytes: size_of::<u32>() })?;
        self.make_sums()?;
        let number = self
            .leaves
            .push(Leaf {
                prefix: AtomicU64::new(prefix),
                words: core::array::from_fn(|_| AtomicU64::new(Word::DEAD.raw())),
            })
            .map_err(no_node::<Leaf>)?;
        Ok((number, self.leaf(number)?))
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

    fn new_inner(&self, locked: &mut Locked<'_>, header: Header) -> Result<(&Inner, Ref), NoNode> {
        if let Some(number) = locked.structure.free_inners.pop() {
            let inner = self.inner(number)?;
            // Relaxed: published with the reference to the node. The children are all NONE since
            // it was taken away.
            inner.header.store(header.pack(), Ordering::Relaxed);
            return Ok((inner, Ref::inner(number)));
        }
        // The room that `retire_inner` will need.
        let free = &mut locked.structure.free_inners;
        free.try_reserve(self.inners.len() + 1).map_err(|_| NoNode { bytes: size_of::<u32>() })?;
        let number = self
            .inners
            .push(Inner {
                header: AtomicU64::new(header.pack()),
                children: core::array::from_fn(|_| AtomicU32::new(Ref::NONE.0)),
            })
            .map_err(no_node::<Inner>)?;
        Ok((self.inner(number)?, Ref::inner(number)))
    }

    /// Puts an unlinked inner node without children on the free list.
    fn retire_inner(&self, locked: &mut Locked<'_>, inner: &Inner, reference: Ref) {
        // Relaxed: sends look-ups that are here by a stale reference away, sooner or later.
        inner.header.store(NO_NODE, Ordering::Relaxed);
        if let Target::Inner(number) = reference.target() {
            // The room was reserved when the node was made.
            locked.structure.free_inners.push(number);
        }
    }

    /// Takes the key's leaf away if all its entries are empty, and inner nodes left without a
    /// child. To be called after an entry became empty, with no entry lock held.
    pub(crate) fn prune(&self, key: u64) {
        let Some((_, leaf)) = self.find(key) else { return };
        // Relaxed: a guess; the CASes below decide.
        if leaf.words.iter().any(|w| w.load(Ordering::Relaxed) != Word::EMPTY.raw()) {
            return;
        }
        let mut locked = self.lock_structure();
        let mut path: [Option<(&AtomicU32, u32)>; 15] = [None; 15];
        let mut depth = 0;
        let mut slot = &self.root;
        // Relaxed, here and below: references and headers change only under the structure lock.
        let leaf_ref = loop {
            let at = Ref(slot.load(Ordering::Relaxed));
            match at.target() {
                Target::None => return,
                Target::Leaf(_) => break at,
                Target::Inner(number) => {
                    let Some(inner) = self.inners.get(number) else { return };
                    let header = Header::unpack(inner.header.load(Ordering::Relaxed));
                    if !header.covers(key) {
                        return;
                    }
                    let Some(step) = path.get_mut(depth) else { return };
                    *step = Some((slot, number));
                    depth += 1;
                    let Ok(child) = self.child(inner, header, key) else { return };
                    slot = child;
                }
            }
        };
        let Target::Leaf(number) = leaf_ref.target() else { return };
        let Some(leaf) = self.leaves.get(number) else { return };
        if leaf.prefix.load(Ordering::Relaxed) != leaf_prefix(key) || !self.kill_words(leaf) {
            return;
        }
        // Relaxed: who reads "none" and then adds a leaf takes the structure lock first.
        slot.store(Ref::NONE.0, Ordering::Relaxed);
        // Relaxed: its words are DEAD, so nobody can use it whatever prefix he sees.
        leaf.prefix.store(NO_NODE, Ordering::Relaxed);
        // The room was reserved when the leaf was made.
        locked.structure.free_leaves.push(number);
        self.drop_empty_inners(&mut locked, &path[..depth]);
    }

    /// EMPTY to DEAD for every word of the leaf, or none.
    fn kill_words(&self, leaf: &Leaf) -> bool {
        for (i, word) in leaf.words.iter().enumerate() {
            // Acquire pairs with the Release of the last unlock of the word, so that the next
            // holder of a word that is restored below comes after the last one. Relaxed on
            // failure: the word is in use.
            let killed = word.compare_exchange(
                Word::EMPTY.raw(),
                Word::DEAD.raw(),
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            if killed.is_err() {
                for word in &leaf.words[..i] {
                    // Release pairs with the Acquire of the CAS that locks the word.
                    word.store(Word::EMPTY.raw(), Ordering::Release);
                }
                return false;
            }
        }
        true
    }

    /// Takes away the inner nodes at the end of `path` that have no child left.
    fn drop_empty_inners(&self, locked: &mut Locked<'_>, path: &[Option<(&AtomicU32, u32)>]) {
        let childless = |number: u32| {
            self.inners.get(number).is_some_and(|inner| {
                // Relaxed: children change only under the structure lock.
                inner.children.iter().all(|c| c.load(Ordering::Relaxed) == Ref::NONE.0)
            })
        };
        for (slot, number) in path.iter().rev().flatten() {
            let Some(inner) = self.inners.get(*number).filter(|_| childless(*number)) else {
                break;
            };
            // Relaxed: as for the leaf's slot.
            slot.store(Ref::NONE.0, Ordering::Relaxed);
            self.retire_inner(locked, inner, Ref::inner(*number));
        }
    }

    /// The used entries of the first leaf that has keys from `from` on: appends their keys, from
    /// `from` on and in order, and gives the first key after that leaf, if there is one. Nothing if
    /// there is no such leaf.
    pub(crate) fn leaf_keys(&self, from: u64, keys: &mut Vec<u64>) -> Option<Option<u64>> {
        let _locked = self.lock_structure();
        // Relaxed, here and below: nodes change only under the structure lock.
        let root = Ref(self.root.load(Ordering::Relaxed));
        let leaf = self.first_leaf(root, leaf_prefix(from))?;
        let first = leaf.prefix.load(Ordering::Relaxed) << LEAF_BITS;
        for (i, word) in leaf.words.iter().enumerate() {
            let key = first + i as u64;
            // Relaxed: a snapshot; the leaf itself cannot go while the structure lock is held.
            let word = Word::from_raw(word.load(Ordering::Relaxed));
            if key >= from && !word.is_dead() && !word.is_empty() {
                keys.push(key);
            }
        }
        Some(first.checked_add(1 << LEAF_BITS))
    }

    /// The leaf of the least prefix from `prefix` on, below `at`. Under the structure lock.
    fn first_leaf(&self, at: Ref, prefix: u64) -> Option<&Leaf> {
        // Relaxed, here and below: nodes change only under the structure lock.
        match at.target() {
            Target::None => None,
            Target::Leaf(number) => {
                let leaf = self.leaves.get(number)?;
                (leaf.prefix.load(Ordering::Relaxed) >= prefix).then_some(leaf)
            }
            Target::Inner(number) => {
                let inner = self.inners.get(number)?;
                let header = Header::unpack(inner.header.load(Ordering::Relaxed));
                let key = prefix << LEAF_BITS;
                let here = Header::covering(key, header.level).prefix;
                let from = match header.prefix.cmp(&here) {
                    core::cmp::Ordering::Less => return None,
                    core::cmp::Ordering::Equal => header.digit(key),
                    core::cmp::Ordering::Greater => 0,
                };
                inner
                    .children
                    .get(from..)?
                    .iter()
                    .find_map(|child| self.first_leaf(Ref(child.load(Ordering::Relaxed)), prefix))
            }
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct LeafKeys(Vec<u64>);
impl LeafKeys {
    pub(crate) fn new() -> Self {
        Self::default()
    }
}
impl core::ops::Deref for LeafKeys {
    type Target = [u64];
    fn deref(&self) -> &[u64] {
        &self.0
    }
}
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) next: Option<u64>,
    pub(crate) leaves: usize,
}
impl Index {
    pub(crate) fn pooled_keys(&self, from: u64, keys: &mut LeafKeys) -> Visit {
        keys.0.clear();
        let next = self.leaf_keys(from, &mut keys.0).flatten();
        Visit { next, leaves: 1 }
    }
    pub(crate) fn note_replaced(&self, _key: u64, _old: Word, _new: Word) {}
}

fn no_node<T>(error: TableError) -> NoNode {
    match error {
        TableError::NoMemory { bytes } => NoNode { bytes },
        _ => NoNode { bytes: size_of::<T>() },
    }
}

/// The index as a map from key to number, for its tests and models.
#[cfg(test)]
mod as_map {
    use super::Index;
    use crate::word::{Content, Word};

    pub(super) fn put(index: &Index, key: u64, value: u64) {
        index.lock_or_insert(key).unwrap().replace(Word::new(Content::SameFilled(value)));
    }

    pub(super) fn get(index: &Index, key: u64) -> Option<u64> {
        match index.peek(key).content() {
            Content::SameFilled(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn remove(index: &Index, key: u64) {
        if let Some(mut entry) = index.lock(key) {
            entry.replace(Word::EMPTY);
        }
        index.prune(key);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::as_map::{get, put, remove};
    use super::*;
    use crate::word::Content;
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use zpool_api::sync::test_rng::Rng;

    fn keys(index: &Index) -> Vec<u64> {
        let (mut keys, mut from) = (Vec::new(), Some(0));
        while let Some(start) = from {
            from = index.leaf_keys(start, &mut keys).flatten();
        }
        keys
    }

    #[test]
    fn headers_pack_and_cover() {
        for level in 0..15 {
            for key in [0, 1 << 5, u64::MAX, 0x0123_4567_89ab_cdef] {
                let header = Header::covering(key, level);
                assert_eq!(Header::unpack(header.pack()), header);
                assert!(header.covers(key) && header.covers(header.some_key()));
                assert_ne!(header.pack(), NO_NODE);
            }
        }
        for number in [0, 1, (Ref::MAX_NODES - 1) as u32] {
            assert!(matches!(Ref::leaf(number).target(), Target::Leaf(n) if n == number));
            assert!(matches!(Ref::inner(number).target(), Target::Inner(n) if n == number));
        }
    }

    #[test]
    fn what_is_seen_needs_no_lock_and_everything_else_is_locked() {
        let index = Index::new();
        put(&index, 7, 70);
        let see = |word: Word| match word.content() {
            Content::SameFilled(value) if value < 100 => Some(value),
            _ => None,
        };
        let locked = index.lock(7);
        // The entry is locked, and what it held until then is seen.
        assert!(matches!(index.see_or_lock(7, see), Some(Ok(70))));
        drop(locked);
        put(&index, 8, 800);
        let entry = index.see_or_lock(8, see).unwrap().unwrap_err();
        assert_eq!(entry.word().content(), Content::SameFilled(800));
        drop(entry);
        assert!(index.see_or_lock(9, see).unwrap().is_err(), "an empty entry of the leaf");
        assert!(index.see_or_lock(1 << 40, see).is_none());
    }

    #[test]
    fn behaves_like_a_map_for_dense_sparse_and_extreme_keys() {
        let mut rng = Rng::new(21);
        let index = Index::new();
        let mut model = BTreeMap::new();
        let rounds = if cfg!(miri) { 150 } else { 20_000 };
        for round in 0..rounds {
            let key = match rng.below(4) {
                0 => rng.below(300) as u64,
                1 => u64::MAX - rng.below(70) as u64,
                2 => rng.next() >> rng.below(60),
                _ => (rng.below(40) as u64) << 57,
            };
            if rng.below(3) > 0 {
                put(&index, key, round);
                model.insert(key, round);
            } else {
                let key = match model.range(key..).next() {
                    Some((near, _)) if rng.below(2) == 0 => *near,
                    _ => key,
                };
                remove(&index, key);
                model.remove(&key);
                assert_eq!(get(&index, key), None);
            }
            if round % 1000 == 0 {
                assert_eq!(keys(&index), model.keys().copied().collect::<Vec<_>>());
            }
        }
        for (key, value) in &model {
            assert_eq!(get(&index, *key), Some(*value));
        }
        assert_eq!(keys(&index), model.keys().copied().collect::<Vec<_>>());
        for key in model.keys() {
            remove(&index, *key);
        }
        assert_eq!(index.root.load(Ordering::SeqCst), 0, "nodes were left behind");
        let locked = index.lock_structure();
        assert_eq!(locked.structure.free_leaves.len(), index.leaves.len());
        assert_eq!(locked.structure.free_inners.len(), index.inners.len());
    }

    #[test]
    fn dense_keys_cost_eight_bytes_and_a_lone_one_a_few_hundred() {
        let index = Index::new();
        put(&index, 7 << 56, 1);
        put(&index, 9 << 56 | 12345, 1);
        assert!(index.memory_bytes() / 2 <= 400, "{} bytes for two keys", index.memory_bytes());
        let dense = if cfg!(miri) { 1024u64 } else { 100_000 };
        let index = Index::new();
        for key in 0..dense {
            put(&index, key, key);
        }
        let each = index.memory_bytes() as f64 / dense as f64;
        assert!(each < 9.0, "{each} bytes for each dense key");
    }

    #[test]
    fn its_bytes_are_those_of_tables_and_free_lists_which_have_room_for_every_node() {
        let index = Index::with_sums();
        for key in [0, 1 << 20, 1 << 40] {
            put(&index, key, 1);
            assert_eq!(index.lock(key).and_then(|entry| entry.sum()), Some(0));
            let locked = index.lock_structure();
            assert!(locked.structure.free_leaves.capacity() >= index.leaves.len());
            assert!(locked.structure.free_inners.capacity() >= index.inners.len());
        }
        let sums = index.sums.as_ref().unwrap().memory_bytes();
        let tables = index.leaves.memory_bytes() + index.inners.memory_bytes() + sums;
        let lists = index.memory_bytes() - tables;
        // Numbers of 4 bytes, of 3 leaves and 2 inner nodes; a list may have room for a few more.
        assert!((4 * (3 + 2)..4 * 12).contains(&lists), "{lists}");
    }

    #[test]
    fn what_could_not_be_had_is_told_in_bytes() {
        assert_eq!(no_node::<Leaf>(TableError::NoMemory { bytes: 5 }), NoNode { bytes: 5 });
        let full = NoNode { bytes: size_of::<Inner>() };
        assert_eq!(no_node::<Inner>(TableError::Full { limit: 3 }), full);
    }

    #[test]
    fn keys_that_come_and_go_do_not_grow_it() {
        let index = Index::new();
        let mut rng = Rng::new(2);
        for _ in 0..if cfg!(miri) { 50 } else { 5000 } {
            let key = rng.next();
            put(&index, key, 1);
            remove(&index, key);
        }
        assert!(index.leaves.len() <= 2 && index.inners.len() <= 2);
    }

    #[test]
    fn a_locked_or_used_entry_keeps_its_leaf() {
        let index = Index::new();
        let held = index.lock_or_insert(40).unwrap();
        index.prune(41);
        drop(held);
        assert!(index.find(40).is_some());
        put(&index, 41, 5);
        index.prune(40);
        assert_eq!(get(&index, 41), Some(5));
        remove(&index, 41);
        assert!(index.find(40).is_none());
    }

    #[test]
    fn threads_on_neighbouring_keys_lose_nothing() {
        let index = Arc::new(Index::new());
        let (threads, rounds) = if cfg!(miri) { (3, 30) } else { (8, 30_000) };
        let workers: Vec<_> = (0..threads)
            .map(|t| {
                let index = index.clone();
                std::thread::spawn(move || {
                    let mut rng = Rng::new(t + 100);
                    let mut mine: BTreeMap<u64, u64> = BTreeMap::new();
                    for round in 0..rounds {
                        // Leaves are shared by all threads, keys by none.
                        let key = (rng.below(6) as u64) << rng.below(12) << 5 | t;
                        if rng.below(2) == 0 {
                            put(&index, key, round);
                            mine.insert(key, round);
                        } else {
                            remove(&index, key);
                            mine.remove(&key);
                        }
                        assert_eq!(get(&index, key), mine.get(&key).copied());
                    }
                    mine.len()
                })
            })
            .collect();
        let left: usize = workers.into_iter().map(|w| w.join().unwrap()).sum();
        assert_eq!(keys(&index).len(), left);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::as_map::{get, put, remove};
    use super::*;
    use crate::word::Content;
    use loom::sync::Arc;
    use loom::thread;
    use zpool_api::sync::Watched;

    // Leaves have two words under loom and inner nodes two children, so these keys are what there
    // is: two words of one leaf, the leaf beside it, and one beside them both a level up.
    const A0: u64 = 0;
    const A1: u64 = 1;
    const B0: u64 = 1 << LEAF_BITS;
    const C0: u64 = 1 << (LEAF_BITS + INNER_BITS);

    /// Two new leaves at once, the second of which splits the first: both are there.
    #[test]
    fn loom_index_insert_against_insert() {
        loom::model(|| {
            let index = Arc::new(Index::new());
            let other = {
                let index = index.clone();
                thread::spawn(move || {
                    put(&index, B0, 2);
                    assert_eq!(get(&index, B0), Some(2));
                })
            };
            put(&index, A0, 1);
            assert_eq!(get(&index, A0), Some(1));
            other.join().unwrap();
            assert_eq!((get(&index, A0), get(&index, B0)), (Some(1), Some(2)));
        });
    }

    /// A look-up of a key that is in use, while an inner node comes in between: at the root, and
    /// below an inner node. Fails if the new node's reference is stored Relaxed, or loaded Relaxed
    /// by `find`: the look-up then meets a node that it cannot see yet and says "absent".
    ///
    /// The gate is Relaxed and orders nothing. It makes loom try the look-up after the insertion,
    /// which it misses otherwise, because the insertion loads the reference before it stores it.
    #[test]
    fn loom_index_lookup_against_split() {
        for below_an_inner_node in [false, true] {
            loom::model(move || {
                let shared = Arc::new((Index::new(), AtomicU32::new(0)));
                put(&shared.0, A0, 1);
                if below_an_inner_node {
                    put(&shared.0, C0, 3);
                }
                let other = {
                    let shared = shared.clone();
                    thread::spawn(move || {
                        put(&shared.0, B0, 2);
                        shared.1.store(1, Ordering::Relaxed);
                    })
                };
                shared.1.load(Ordering::Relaxed);
                assert_eq!(get(&shared.0, A0), Some(1), "in use all the time");
                other.join().unwrap();
            });
        }
    }

    /// Users of a stale reference to a leaf that was recycled for other keys. Fails if `open` is
    /// Relaxed: the words are then seen open before the new prefix is.
    #[test]
    fn loom_index_stale_leaf_of_another_prefix() {
        loom::model(|| {
            let shared = Arc::new((Index::new(), AtomicU32::new(0)));
            put(&shared.0, A0, 1);
            let stale = shared.0.find(A0).unwrap();
            let other = {
                let shared = shared.clone();
                thread::spawn(move || {
                    remove(&shared.0, A0);
                    put(&shared.0, B0 + 1, 2);
                    shared.1.store(1, Ordering::Relaxed);
                })
            };
            if shared.1.load(Ordering::Relaxed) == 1 {
                // The leaf is B's, and its first word was touched by `open` only.
                assert!(shared.0.lock_in(stale, A0).is_none(), "another key's entry");
            }
            other.join().unwrap();
        });
    }

    /// Users of a stale reference to a leaf that is recycled for the same keys. Fails if a leaf is
    /// opened before it is linked: what they store is then not found.
    #[test]
    fn loom_index_stale_leaf_of_the_same_prefix() {
        loom::model(|| {
            let index = Arc::new(Index::new());
            put(&index, A0, 1);
            let stale = index.find(A0).unwrap();
            remove(&index, A0);
            let other = {
                let index = index.clone();
                thread::spawn(move || put(&index, A1, 2))
            };
            // Only looks at the word: waiting for the structure lock would order the two.
            if !Word::from_raw(stale.1.words[0].load(Ordering::Relaxed)).is_dead() {
                if let Some(mut entry) = index.lock_in(stale, A0) {
                    entry.replace(Word::new(Content::SameFilled(3)));
                    drop(entry);
                    assert_eq!(get(&index, A0), Some(3), "a store that returned is found");
                }
            }
            other.join().unwrap();
            assert_eq!(get(&index, A1), Some(2));
        });
    }

    /// A store beside an entry whose removal takes the leaf away. Fails if `kill_words` stores in
    /// place of its CAS.
    #[test]
    fn loom_index_store_against_prune_of_its_leaf() {
        loom::model(|| {
            let index = Arc::new(Index::new());
            put(&index, A0, 1);
            let other = {
                let index = index.clone();
                thread::spawn(move || {
                    put(&index, A1, 2);
                    assert_eq!(get(&index, A1), Some(2), "a store that returned is found");
                })
            };
            remove(&index, A0);
            other.join().unwrap();
            assert_eq!((get(&index, A0), get(&index, A1)), (None, Some(2)));
        });
    }

    /// A look-up of a key whose leaf becomes another key's. Fails if `lock_in` or `peek` does not
    /// look at the prefix again, and if `peek` loads the word Relaxed (the old prefix is then seen
    /// with the new word).
    #[test]
    fn loom_index_lookup_against_recycling() {
        loom::model(|| {
            let index = Arc::new(Index::new());
            put(&index, A0, 1);
            let other = {
                let index = index.clone();
                thread::spawn(move || {
                    let seen = index.lock(A0).map(|entry| entry.word().content());
                    let fine = [None, Some(Content::Empty), Some(Content::SameFilled(1))];
                    assert!(fine.contains(&seen), "{seen:?}");
                    assert!([None, Some(1)].contains(&get(&index, A0)));
                })
            };
            remove(&index, A0);
            put(&index, B0, 2);
            other.join().unwrap();
            assert_eq!((get(&index, A0), get(&index, B0)), (None, Some(2)));
        });
    }

    /// The same, of a look-up that does without the lock if it can. Fails if `see_or_lock` does not look
    /// at the prefix, and if it loads the word Relaxed.
    #[test]
    fn loom_index_seeing_against_recycling() {
        loom::model(|| {
            let index = Arc::new(Index::new());
            put(&index, A0, 1);
            let other = {
                let index = index.clone();
                thread::spawn(move || {
                    let pattern = |word: Word| match word.content() {
                        Content::SameFilled(value) => Some(value),
                        _ => None,
                    };
                    let seen = index.see_or_lock(A0, pattern);
                    assert!(matches!(seen, None | Some(Ok(1) | Err(_))), "{seen:?}");
                })
            };
            remove(&index, A0);
            put(&index, B0, 2);
            other.join().unwrap();
            assert_eq!((get(&index, A0), get(&index, B0)), (None, Some(2)));
        });
    }

    /// A removal that finds the leaf in use half-way and restores it, against users of a word that
    /// it had killed. Fails if the CAS of `kill_words` or the store that restores is Relaxed: the
    /// next holder is then not ordered after the last one.
    #[test]
    fn loom_index_users_of_a_restored_word_are_ordered() {
        loom::model(|| {
            let shared = Arc::new((Index::new(), Watched::new()));
            put(&shared.0, A0, 1);
            let pruner = {
                let shared = shared.clone();
                thread::spawn(move || remove(&shared.0, A0))
            };
            let neighbour = {
                let shared = shared.clone();
                thread::spawn(move || {
                    put(&shared.0, A1, 2);
                    let entry = shared.0.lock_or_insert(A0).unwrap();
                    shared.1.write();
                    drop(entry);
                })
            };
            let entry = shared.0.lock_or_insert(A0).unwrap();
            shared.1.write();
            drop(entry);
            pruner.join().unwrap();
            neighbour.join().unwrap();
            assert_eq!(get(&shared.0, A1), Some(2));
        });
    }
}
