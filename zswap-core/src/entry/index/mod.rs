//! The radix index: from a swap entry's 64-bit key to its entry word.
//!
//! A path-compressed radix tree of inner nodes with 16 children, above leaves of 32 entry words. A key
//! without neighbours in its leaf is a *lone* entry, of key and word, which grows into a leaf when a second
//! key of that leaf comes. Dense keys cost 8.4 bytes each (264 bytes a leaf, 80 an inner node above 16
//! leaves). A lone key costs 16 bytes and its share of inner nodes, together 44 bytes with a million random
//! keys.
//!
//! All nodes live in tables (`ZeroedTable`). A node keeps its place and stays valid as long as the store
//! lives, even when the memory of its group returns to the system (`numbers.rs`): it is all zeros then, a
//! node that nobody can use. That is why all of this is safe code, and why a look-up needs no lock: a stale
//! reference leads to a valid node, which says itself what it is now.
//!
//! # Rules
//! * The *structure lock* is held to add or remove nodes, to change marks (`pooled.rs`) and to walk. Only
//!   the tables' growth locks are taken under it. Look-ups do not take it. No entry lock is held when it is
//!   taken, and none is waited for under it.
//! * A node's header, children, prefix or key are written before the reference to it is stored.
//! * Words are DEAD until their node is linked: an entry that look-ups do not find cannot be used.
//! * A leaf or lone entry is removed only after each of its words has gone from EMPTY to DEAD by a CAS, so
//!   a locked or used entry keeps its place. An inner node is removed when it has no child left.
//! * A lone entry grows: its word, unlocked, goes to DEAD by a CAS; the leaf takes its place; the word is
//!   stored in the leaf. A thread that finds a DEAD word waits for the structure lock and tries again. So
//!   the word is in one place, and cannot be used between the two. A leaf never becomes a lone entry again
//!   while it has a used entry.
//! * A group's memory returns to the system when each node of the group is removed, and while none of them
//!   is handed out. So that changes a node only from "removed" to zeros, which means the same: a DEAD word
//!   stays DEAD, and a late CAS, which expects a live word, fails. A prefix or key becomes 0, which may be
//!   a valid one, but its words are DEAD.
//! * A thread that unlocks an EMPTY word prunes (`entry.rs`), so no empty leaf stays behind.
//! * A thread that locks an entry checks the node's prefix or key afterwards: a recycled node has another,
//!   or DEAD words. A word that is not DEAD, in a node with the right prefix or key, is the only one of its
//!   key. A thread that reads a word without its lock also checks that no node was removed meanwhile
//!   (`Removals`).
//!
//! # Why "absent" is true
//! A look-up that meets a recycled node, or zeros, may find nothing where there is something now. Suppose
//! the key is in use from the beginning of the look-up to its end. Then every node above it stays, since
//! none of them is ever without a child; and its leaf stays, or its lone entry does until a leaf takes that
//! place. The references on the way can change only to new inner nodes put in between, which lead to the
//! same place, and from the lone entry to the leaf. So the look-up finds the key, unless it followed the
//! reference to the lone entry and met the next life of that. It then sees that the reference has changed,
//! since that came before, and follows it again. Otherwise the key was not in use at some moment of the
//! call, and "absent" was true then.

mod change;
mod entry;
mod keys;
mod node;
mod pooled;
mod sums;

use crossbeam_utils::CachePadded;
use zpool_base::lockdep::{self, Rank};
use zpool_base::zeroed::ZeroedTable;

pub(crate) use self::entry::Entry;
pub(crate) use self::keys::LeafKeys;
use self::node::{
    Header, INNER_GROUP, InnerNode, LEAF_GROUP, LONE_GROUP, LeafNode, LoneNode, Ref, Target,
    leaf_prefix,
};
use self::sums::Sums;
use crate::entry::lock;
use crate::entry::word::Word;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{MODEL, Mutex, MutexGuard};
use zpage::word_lock::Waiters;
pub(crate) use zpool_base::numbers::NoRoom;
use zpool_base::numbers::Numbers;

/// Stripes of the removal counts; fewer under the model checker.
const REMOVAL_STRIPES: usize = if MODEL { 1 } else { 16 };

/// Counts removed leaves and lone entries, striped by number. Never decreases, and 64 bits do not wrap.
///
/// A word that is read without a lock may belong to an earlier life of a leaf, with another key, and the
/// prefix that is read afterwards to a later one, with the same key as before. Equal prefixes prove nothing
/// then; equal counts do.
#[derive(Debug)]
struct Removals {
    stripes: [CachePadded<AtomicU64>; REMOVAL_STRIPES],
}

impl Removals {
    fn new() -> Self {
        Removals { stripes: core::array::from_fn(|_| CachePadded::new(AtomicU64::new(0))) }
    }

    #[inline]
    fn stripe(&self, at: Ref) -> &AtomicU64 {
        &self.stripes[at.spread() % REMOVAL_STRIPES]
    }

    /// Counts the removal of a leaf or lone entry whose words are DEAD, before it may get other keys.
    fn count(&self, at: Ref) {
        // Release pairs with the Acquire in `read`: a thread that sees this removal counted sees the words
        // DEAD.
        self.stripe(at).fetch_add(1, Ordering::Release);
    }
}

/// A kind of node.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Leaf,
    Lone,
    Inner,
}

/// Which nodes are in use. Guarded by the structure lock.
#[derive(Debug)]
struct Structure {
    leaves: Numbers,
    lones: Numbers,
    inners: Numbers,
}

impl Structure {
    fn numbers(&mut self, kind: Kind) -> &mut Numbers {
        match kind {
            Kind::Leaf => &mut self.leaves,
            Kind::Lone => &mut self.lones,
            Kind::Inner => &mut self.inners,
        }
    }

    fn any_leaving(&self) -> bool {
        self.leaves.any_leaving() || self.lones.any_leaving() || self.inners.any_leaving()
    }

    /// A group of nodes whose memory can return to the system.
    fn next_leaving(&mut self) -> Option<(Kind, usize)> {
        [Kind::Leaf, Kind::Lone, Kind::Inner]
            .into_iter()
            .find_map(|kind| Some((kind, self.numbers(kind).next_leaving()?)))
    }
}

struct Locked<'a> {
    structure: MutexGuard<'a, Structure>,
    _held: lockdep::Held,
}

/// The index of a store.
#[derive(Debug)]
pub(crate) struct Index {
    root: AtomicU32,
    leaves: ZeroedTable<LeafNode, LEAF_GROUP>,
    lones: ZeroedTable<LoneNode, LONE_GROUP>,
    inners: ZeroedTable<InnerNode, INNER_GROUP>,
    sums: Option<Sums>,
    structure: Mutex<Structure>,
    removals: Removals,
    waiters: Waiters,
}

impl Index {
    pub(crate) fn new() -> Self {
        Self::with(None, Ref::MAX_NODES)
    }

    /// An index that keeps a checksum for each entry, in 4 more bytes.
    pub(crate) fn with_sums() -> Self {
        Self::with(Some(Sums::default()), Ref::MAX_NODES)
    }

    /// Whether checksums are kept.
    pub(crate) fn has_sums(&self) -> bool {
        self.sums.is_some()
    }

    /// An index of at most `limit` leaves and as many inner nodes.
    #[cfg(test)]
    pub(crate) fn with_node_limit(limit: usize) -> Self {
        Self::with(None, limit)
    }

    fn with(sums: Option<Sums>, limit: usize) -> Self {
        let (leaves, lones, inners) = (ZeroedTable::new(), ZeroedTable::new(), ZeroedTable::new());
        let (mut leaf, mut lone) = (size_of::<LeafNode>(), size_of::<LoneNode>());
        if sums.is_some() {
            leaf += Sums::LEAF_BYTES;
            lone += Sums::LONE_BYTES;
        }
        let structure = Structure {
            leaves: Numbers::new(leaves.group(), leaf, limit),
            lones: Numbers::new(lones.group(), lone, limit),
            inners: Numbers::new(inners.group(), size_of::<InnerNode>(), limit),
        };
        Index {
            root: AtomicU32::new(Ref::NONE.0),
            leaves,
            lones,
            inners,
            sums,
            structure: Mutex::new(structure),
            removals: Removals::new(),
            waiters: Waiters::new(),
        }
    }

    /// Bytes of the nodes that have memory, used or not, and of the record of which are used.
    pub(crate) fn memory_bytes(&self) -> usize {
        let locked = self.lock_structure();
        let structure = &locked.structure;
        structure.leaves.memory_bytes()
            + structure.lones.memory_bytes()
            + structure.inners.memory_bytes()
    }

    fn lock_structure(&self) -> Locked<'_> {
        let held = lockdep::acquire(Rank::Structure);
        Locked { structure: self.structure.lock(), _held: held }
    }

    /// Locks the key's entry, which may be empty; `None` if the key has no place.
    pub(crate) fn lock(&self, key: u64) -> Option<Entry<'_>> {
        loop {
            let found = self.find(key)?;
            if let Some(entry) = self.lock_in(found, key) {
                return Some(entry);
            }
        }
    }

    /// Locks the key's entry, after adding a place for it if it has none.
    pub(crate) fn lock_or_insert(&self, key: u64) -> Result<Entry<'_>, NoRoom> {
        loop {
            match self.find(key) {
                None => self.insert(key)?,
                Some(found) => {
                    if let Some(entry) = self.lock_in(found, key) {
                        return Ok(entry);
                    }
                }
            }
        }
    }

    /// What `see` makes of the key's word, read without its lock; if that is `None`, the locked entry.
    /// `None` if the key has no place.
    #[inline]
    pub(crate) fn see_or_lock<T>(
        &self,
        key: u64,
        see: impl Fn(Word) -> Option<T>,
    ) -> Option<Result<T, Entry<'_>>> {
        loop {
            let found = self.find(key)?;
            // `read` returns no dead word.
            if let Some(word) = self.read(found) {
                if let Some(seen) = see(word) {
                    return Some(Ok(seen));
                }
            }
            if let Some(entry) = self.lock_in(found, key) {
                return Some(Err(entry));
            }
        }
    }

    /// A snapshot of the key's word, unlocked; EMPTY if the key has no place. For callers that need no
    /// exact answer.
    pub(crate) fn peek(&self, key: u64) -> Word {
        loop {
            let Some(found) = self.find(key) else { return Word::EMPTY };
            match self.read(found) {
                Some(word) => return word.unlocked(),
                None => self.wait_for_structure(),
            }
        }
    }

    /// A snapshot of the key's word, read without its lock; `None` if it is dead, or may have been another
    /// key's.
    #[inline]
    fn read(&self, found: Found<'_>) -> Option<Word> {
        let removals = self.removals.stripe(found.at);
        // Acquire pairs with the Release of `count`: the words of a node whose removal is counted here are
        // seen DEAD, or as they became later.
        let before = removals.load(Ordering::Acquire);
        // Acquire, so that the node's keys are read after the word: if the node was recycled before the
        // word was read, its new keys are seen.
        let word = Word::from_raw(found.word.load(Ordering::Acquire));
        // Relaxed: the Acquire of `is_the_keys` orders the count, which is read last.
        let same = found.is_the_keys() && removals.load(Ordering::Relaxed) == before;
        (same && !word.is_dead()).then_some(word)
    }

    /// Locks the word that was found, if it is (still, or again) the key's.
    #[inline]
    fn lock_in<'a>(&'a self, found: Found<'a>, key: u64) -> Option<Entry<'a>> {
        match lock::lock(found.word, &self.waiters) {
            Some(entry) => {
                // The lock's Acquire comes after the words were made EMPTY, which came after the node's
                // keys were stored.
                if !found.is_the_keys() {
                    // While it is locked the node keeps its current keys.
                    let theirs = self.words(found.at).map_or(key, |words| words.first);
                    drop(Entry::new(entry, self, theirs));
                    return None;
                }
                let entry = match &self.sums {
                    None => entry,
                    Some(sums) => entry.with_sum(sums.of(found.at, key)),
                };
                Some(Entry::new(entry, self, key))
            }
            None => {
                self.wait_for_structure();
                None
            }
        }
    }

    /// Waits for a thread that is removing or replacing a node.
    fn wait_for_structure(&self) {
        drop(self.lock_structure());
    }

    /// Where the key's word is, if it has a place. Takes no lock.
    #[inline]
    fn find(&self, key: u64) -> Option<Found<'_>> {
        let mut slot = &self.root;
        let mut above = u32::MAX;
        loop {
            // Acquire pairs with the Release that links a new node in place of another: a thread that gets
            // to the new node must see the way on to the other.
            let at = Ref(slot.load(Ordering::Acquire));
            match at.target() {
                Target::None => return None,
                Target::Inner(number) => {
                    let inner = self.inner(number);
                    // Relaxed: written before the reference to the node was stored, or recycled.
                    let header = Header::unpack(inner.header.load(Ordering::Relaxed));
                    // Levels decrease on the way down; one that does not is a recycled node's.
                    let digit = header.way_to(key).filter(|_| header.level < above)?;
                    above = header.level;
                    slot = inner.child(digit);
                }
                Target::Leaf(number) => {
                    let leaf = self.leaf(number);
                    let found = Found {
                        at,
                        word: leaf.word(key),
                        keys: leaf.prefix,
                        wanted: leaf_prefix(key),
                    };
                    return found.is_the_keys().then_some(found);
                }
                Target::Lone(number) => match self.find_lone(slot, at, number, key) {
                    AtLone::Absent => return None,
                    AtLone::Found(found) => return Some(found),
                    AtLone::Replaced => {}
                },
            }
        }
    }

    /// Looks the key up at the lone entry that the reference `at`, read from `slot`, leads to.
    #[inline]
    fn find_lone(&self, slot: &AtomicU32, at: Ref, number: u32, key: u64) -> AtLone<'_> {
        let lone = self.lone(number);
        let found = Found { at, word: lone.word, keys: lone.key, wanted: key };
        if found.is_the_keys() {
            return AtLone::Found(found);
        }
        // If the reference is still there, the entry was another key's from the start; else a leaf took its
        // place, and it was recycled. Relaxed: a thread that sees the recycled key sees the reference
        // changed.
        if slot.load(Ordering::Relaxed) == at.0 { AtLone::Absent } else { AtLone::Replaced }
    }
}

/// The result of a look-up at a lone entry.
#[derive(Debug)]
enum AtLone<'a> {
    Found(Found<'a>),
    /// The key is not in use.
    Absent,
    /// Another node has taken the entry's place: follow the reference again.
    Replaced,
}

/// The place of a key's word. It may have become another key's.
#[derive(Debug, Clone, Copy)]
struct Found<'a> {
    /// A leaf or a lone entry.
    at: Ref,
    word: &'a AtomicU64,
    /// Whose place it is: the prefix of the leaf, or the lone entry's key.
    keys: &'a AtomicU64,
    /// The value of `keys` while the place is the key's.
    wanted: u64,
}

impl Found<'_> {
    /// Whether the place is the key's now.
    #[inline]
    fn is_the_keys(&self) -> bool {
        // Acquire pairs with the Release of `new_leaf` and `new_lone`: a thread that sees the keys of a
        // later life sees the removal in between counted, and what took the node's place.
        self.keys.load(Ordering::Acquire) == self.wanted
    }
}

/// The index as a map from key to number, for its tests and models.
#[cfg(test)]
mod as_map {
    use super::Index;
    use crate::entry::word::{Content, Word};

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
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
