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

mod change;
mod keys;
mod node;
mod pooled;

use crossbeam_utils::CachePadded;
use zpool_api::lockdep::{self, Rank};
use zpool_api::stable::StableTable;

pub(crate) use self::keys::LeafKeys;
use self::node::{Header, Inner, Leaf, Ref, Sums, Target, leaf_offset, leaf_prefix};
#[cfg_attr(not(test), expect(unused_imports, reason = "named by callers only"))]
pub(crate) use self::pooled::Visit;
use crate::lock::{self, EntryGuard, Waiters};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{MODEL, Mutex, MutexGuard};
use crate::word::Word;

/// Counters of leaves taken away; fewer under the model checker.
const REMOVAL_STRIPES: usize = if MODEL { 1 } else { 16 };

/// How many leaves were taken away, by number. Never decreases, and 64 bits do not come round.
///
/// A word that is read without a lock may be of a leaf's earlier life, for another key, and the prefix that
/// is read afterwards of a later one, for the same key as before. Equal prefixes prove nothing then; equal
/// counts do.
#[derive(Debug)]
struct Removals {
    stripes: [CachePadded<AtomicU64>; REMOVAL_STRIPES],
}

impl Removals {
    fn new() -> Self {
        Removals { stripes: core::array::from_fn(|_| CachePadded::new(AtomicU64::new(0))) }
    }

    fn stripe(&self, number: u32) -> &AtomicU64 {
        &self.stripes[number as usize % REMOVAL_STRIPES]
    }

    /// Counts a leaf whose words are DEAD, before it may have another prefix.
    fn count(&self, number: u32) {
        // Release pairs with the Acquire of `before`: who counts this removal in sees the words DEAD.
        self.stripe(number).fetch_add(1, Ordering::Release);
    }
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
    removals: Removals,
    waiters: Waiters,
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
            removals: Removals::new(),
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
            let found = self.find(key)?;
            // A dead word shows nothing to see.
            if let Some(word) = self.read(found, key) {
                if let Some(seen) = see(word) {
                    return Some(Ok(seen));
                }
            }
            if let Some(entry) = self.lock_in(found, key) {
                return Some(Err(entry));
            }
        }
    }

    /// The key's word as it is now, unlocked; EMPTY if there is none. For look-ups that act on
    /// nothing.
    pub(crate) fn peek(&self, key: u64) -> Word {
        loop {
            let Some(found) = self.find(key) else { return Word::EMPTY };
            match self.read(found, key) {
                Some(word) => return word.unlocked(),
                None => self.wait_for_structure(),
            }
        }
    }

    /// The key's word as it is now, without its lock; nothing if it is dead, or if it may have been another
    /// key's.
    #[inline]
    fn read(&self, (number, leaf): (u32, &Leaf), key: u64) -> Option<Word> {
        let removals = self.removals.stripe(number);
        // Acquire pairs with the Release of `count`: the words of a leaf whose removal is counted in
        // are seen DEAD, or as they were later.
        let before = removals.load(Ordering::Acquire);
        // Acquire, so that the prefix is read after the word: if the leaf was recycled before the word was
        // read, the new prefix is seen.
        let word = Word::from_raw(leaf.word(key).load(Ordering::Acquire));
        // Acquire pairs with the Release of `new_leaf`: who sees the prefix of a later life sees the
        // removal in between counted. The count is read last, and needs no order of its own.
        let same = leaf.prefix.load(Ordering::Acquire) == leaf_prefix(key)
            && removals.load(Ordering::Relaxed) == before;
        (same && !word.is_dead()).then_some(word)
    }

    /// Locks the key's word in `leaf`, if the leaf is (still, or again) the key's.
    #[inline]
    fn lock_in<'a>(&'a self, (number, leaf): (u32, &'a Leaf), key: u64) -> Option<EntryGuard<'a>> {
        match lock::lock(leaf.word(key), &self.waiters) {
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
                    let leaf = self.leaf(number);
                    // Relaxed: whoever uses an entry of the leaf looks again under its lock.
                    let found = leaf.prefix.load(Ordering::Relaxed) == leaf_prefix(key);
                    return found.then_some((number, leaf));
                }
                Target::Inner(number) => {
                    let inner = self.inner(number);
                    // Relaxed: written before the reference to the node was stored, or recycled.
                    let header = Header::unpack(inner.header.load(Ordering::Relaxed));
                    // Levels fall on every way down; one that does not is a recycled node's.
                    if header.level >= above || !header.covers(key) {
                        return None;
                    }
                    above = header.level;
                    at = Ref(inner.child(header.digit(key)).load(Ordering::Acquire));
                }
            }
        }
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

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
