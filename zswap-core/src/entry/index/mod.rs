//! The radix index, which finds the word of an entry by the entry's 64-bit key.
//!
//! It is a path-compressed radix tree of inner nodes with 16 children, above leaves of 32 entry words. A key
//! that would be alone in its leaf is kept as a *lone* entry instead, which is just the key and the word. A
//! lone entry grows into a leaf when a second key of that leaf is added. Dense keys cost 8.4 bytes each (a
//! leaf takes 264 bytes, and an inner node above 16 leaves takes 80). A lone key costs 16 bytes plus its
//! share of inner nodes: with a million random keys, 44 bytes in all.
//!
//! All nodes live in tables (`ZeroedTable`). A node keeps its address and stays valid memory as long as the
//! store lives. Nodes are grouped, and the memory of an unused group returns to the system (`numbers.rs`).
//! Then its nodes read as zeros, and a node of zeros counts as unused. So all of this is safe code, and a
//! look-up needs no lock: even a stale reference leads to a valid node, and the node itself says which keys
//! it has now.
//!
//! # Rules
//! * The *structure lock* is held to add or remove nodes, to change marks (`pooled.rs`) and to walk. A look-up
//!   takes it only to wait, after it has found a DEAD word. The only locks taken under it are the tables'
//!   growth locks. A thread holds no entry lock when it takes the structure lock, and does not wait for an
//!   entry lock while it holds the structure lock.
//! * A node's header, children, prefix or key are written before the reference to the node is stored.
//! * The words of a node are DEAD until the node is linked. So an entry that look-ups cannot find yet cannot
//!   be used either.
//! * A leaf or lone entry is removed only after a CAS has changed each of its words from EMPTY to DEAD. So a
//!   locked or used entry keeps its place. An inner node is removed when it has no child left.
//! * A lone entry grows in three steps. A CAS changes its word, if unlocked, to DEAD. The leaf takes the lone
//!   entry's place. The word is stored in the leaf. A thread that finds a DEAD word waits for the structure lock and
//!   tries again. So the word can be used in one place only, and not at all between the steps. A leaf that
//!   has a used entry never becomes a lone entry again.
//! * A group's memory returns to the system when all nodes of the group are removed. None of them is handed
//!   out until the memory is gone. A removed node that becomes zeros means the same as before: its words stay
//!   DEAD, since DEAD is 0, and a late CAS, which expects a live word, fails. Its prefix or key becomes 0,
//!   which may be a valid one, but the words beside it are DEAD.
//! * A thread that unlocks an EMPTY word prunes: it removes the leaf if all its words are EMPTY (`entry.rs`).
//!   So no empty leaf stays behind.
//! * After a thread has locked an entry, it checks the node's prefix or key: a recycled node has another one,
//!   or DEAD words. If the prefix or key is right and the word is not DEAD, the word is the only word of its
//!   key. A thread that reads a word without its lock also checks that no node was removed meanwhile
//!   (`Removals`).
//!
//! # Why "absent" is true
//! A look-up may meet a recycled node, or zeros, and then report that the key is absent. That is right,
//! because there are two cases:
//!
//! * The key is in use during the whole look-up. Then every node above it stays, since each has a child. Its
//!   leaf stays, too, and a lone entry stays until a leaf takes its place. Only two things can change on the
//!   way. New inner nodes may come in between; they lead to the same place. And a reference to the leaf may
//!   replace the reference to the lone entry. So the look-up finds the key, with one exception: it followed
//!   the reference to the lone entry, and found the entry already recycled. The reference was changed before
//!   the entry was recycled. So the look-up sees the changed reference, and follows it again.
//! * At some moment of the look-up, the key was not in use. Then "absent" was true at that moment.

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

/// The number of counters that [`Removals`] has; smaller under the model checker.
const REMOVAL_STRIPES: usize = if MODEL { 1 } else { 16 };

/// Counts removed leaves and lone entries. The nodes are spread over several counters by their numbers. A
/// count never decreases, and 64 bits do not wrap.
///
/// A removed leaf may get a new life with other keys. A thread that reads a word without a lock, and then the
/// prefix, may read the word in one life, in which it belongs to another key, and the prefix in the next
/// life, in which the leaf has the right keys again. So the right prefix proves nothing. But if the count is
/// the same before and after, both were read in one life.
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

    /// Counts the removal of a leaf or lone entry. Its words are DEAD already, and it has not been recycled
    /// yet.
    fn count(&self, at: Ref) {
        // Release pairs with the Acquire in `read`: a thread that sees this removal counted also sees the
        // words DEAD.
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

/// Says which nodes are in use. Guarded by the structure lock.
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

    /// Returns the kind and number of a group with memory that can return to the system; `None` if there is
    /// no such group.
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

    /// Makes an index that also keeps a checksum for each entry. That takes 4 more bytes for each.
    pub(crate) fn with_sums() -> Self {
        Self::with(Some(Sums::default()), Ref::MAX_NODES)
    }

    /// Returns whether checksums are kept.
    pub(crate) fn has_sums(&self) -> bool {
        self.sums.is_some()
    }

    /// Makes an index with room for at most `limit` nodes of each kind.
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

    /// Returns the bytes of all nodes that have memory, whether used or not, and of the records that say
    /// which ones are used.
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

    /// Locks the key's entry and returns it. The entry may be empty. Returns `None` if the index has no place
    /// for the key.
    pub(crate) fn lock(&self, key: u64) -> Option<Entry<'_>> {
        loop {
            let found = self.find(key)?;
            if let Some(entry) = self.lock_in(found, key) {
                return Some(entry);
            }
        }
    }

    /// Locks the key's entry and returns it. If the index has no place for the key, adds one first. Fails if
    /// there is no memory for that.
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

    /// Reads the key's word without its lock, calls `see` with it, and returns the result of `see`. If `see`
    /// returns `None`, or the word cannot be read without its lock, locks the entry and returns it as `Err`.
    /// Returns `None` if the index has no place for the key.
    #[inline]
    pub(crate) fn see_or_lock<T>(
        &self,
        key: u64,
        see: impl Fn(Word) -> Option<T>,
    ) -> Option<Result<T, Entry<'_>>> {
        loop {
            let found = self.find(key)?;
            // `read` never returns a DEAD word.
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

    /// Returns a snapshot of the key's word, without its lock bits. Returns EMPTY if the index has no place
    /// for the key. The word may change at any time, so this is for callers that need no exact answer.
    pub(crate) fn peek(&self, key: u64) -> Word {
        loop {
            let Some(found) = self.find(key) else { return Word::EMPTY };
            match self.read(found) {
                Some(word) => return word.unlocked(),
                None => self.wait_for_structure(),
            }
        }
    }

    /// Returns a snapshot of the word that was found, read without its lock. Returns `None` if the word is
    /// DEAD, or may have belonged to another key.
    #[inline]
    fn read(&self, found: Found<'_>) -> Option<Word> {
        let removals = self.removals.stripe(found.at);
        // Acquire pairs with the Release of `count`: if this count includes the removal of a node, the load
        // below sees the node's word DEAD, or a later value of it.
        let before = removals.load(Ordering::Acquire);
        // Acquire, so that the node's prefix or key is read after the word. If the node was recycled before
        // the word was read, this thread sees the new prefix or key.
        let word = Word::from_raw(found.word.load(Ordering::Acquire));
        // Relaxed: the Acquire of `is_the_keys` comes before this load of the count.
        let same = found.is_the_keys() && removals.load(Ordering::Relaxed) == before;
        (same && !word.is_dead()).then_some(word)
    }

    /// Locks the word that was found, and returns its entry if the node still has the key's prefix or key.
    /// Returns `None` if it has not, or if the word is DEAD; the caller then looks the key up again.
    #[inline]
    fn lock_in<'a>(&'a self, found: Found<'a>, key: u64) -> Option<Entry<'a>> {
        match lock::lock(found.word, &self.waiters) {
            Some(entry) => {
                // The lock's Acquire pairs with the store that made the words EMPTY, which came after the
                // store of the node's prefix or key. So this sees the prefix or key.
                if !found.is_the_keys() {
                    // The place now belongs to other keys. While the word is locked, the node keeps its
                    // prefix or key.
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

    /// Waits until the thread that is removing or replacing a node has finished.
    fn wait_for_structure(&self) {
        drop(self.lock_structure());
    }

    /// Finds the place of the key's word; returns `None` if there is none. Takes no lock.
    #[inline]
    fn find(&self, key: u64) -> Option<Found<'_>> {
        let mut slot = &self.root;
        let mut above = u32::MAX;
        loop {
            // Acquire pairs with the Release that links a new node in place of another. A thread that reaches
            // the new node must see the new node's reference to the other one.
            let at = Ref(slot.load(Ordering::Acquire));
            match at.target() {
                Target::None => return None,
                Target::Inner(number) => {
                    let inner = self.inner(number);
                    // Relaxed: the header was written before the reference was stored. If the node was
                    // recycled since, any header will do: see the head of the file.
                    let header = Header::unpack(inner.header.load(Ordering::Relaxed));
                    // Levels decrease on the way down. If this level is not lower than the last, the node was
                    // recycled.
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

    /// Looks the key up at the lone entry `number`. The reference `at`, which was read from `slot`, leads to
    /// that entry.
    #[inline]
    fn find_lone(&self, slot: &AtomicU32, at: Ref, number: u32, key: u64) -> AtLone<'_> {
        let lone = self.lone(number);
        let found = Found { at, word: lone.word, keys: lone.key, wanted: key };
        if found.is_the_keys() {
            return AtLone::Found(found);
        }
        // If the reference is unchanged, the entry has belonged to another key since the reference was read.
        // Otherwise a leaf has taken its place, and the entry was recycled. Relaxed: a thread that sees the
        // recycled entry's new key also sees that the reference has changed.
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

/// The place where a key's word was found. It may have become another key's place since.
#[derive(Debug, Clone, Copy)]
struct Found<'a> {
    /// The reference to the leaf or lone entry.
    at: Ref,
    word: &'a AtomicU64,
    /// The prefix of the leaf, or the key of the lone entry. It says to which keys the place belongs.
    keys: &'a AtomicU64,
    /// The value that `keys` has while the place belongs to the key.
    wanted: u64,
}

impl Found<'_> {
    /// Returns whether the place belongs to the key now.
    #[inline]
    fn is_the_keys(&self) -> bool {
        // Acquire pairs with the Release of `new_leaf` and `new_lone`. A thread that sees the prefix or key
        // of a node's next life also sees that the removal before it is counted, and the reference that has
        // replaced the one to the removed node.
        self.keys.load(Ordering::Acquire) == self.wanted
    }
}

/// Uses the index as a map from key to number, for its tests and models.
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
