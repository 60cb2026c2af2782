//! The index of a shard: finds entries by their key's hash, and says which to evict next.
//!
//! Eviction is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023). New entries go
//! into a small queue. The oldest of the small queue is evicted, and remembered as a ghost, unless it was used twice
//! or more; then it goes to the main queue. An entry whose key is remembered goes to the main queue at once. The
//! oldest of the main queue is evicted, unless it was used since it came there; then it goes to the end again, with
//! one use less.
//!
//! The index knows no locks. The shard's lock guards it.

mod entries;
mod ghosts;
#[cfg(all(test, not(loom)))]
mod tests;

use hashbrown::HashTable;

use self::entries::{Entries, GROUP, GROUP_BYTES, Kept, Queue};
pub(crate) use self::entries::{NoRoom, Returning};
use self::ghosts::Ghosts;
use crate::invariant::broken;

/// The small queue is the next to evict from while it has more than this share of the entries.
const SMALL_SHARE: usize = 10;

/// An entry with more uses than this leaves the small queue for the main queue.
const USES_TO_STAY: u32 = 1;

/// A table with more bytes than this for each entry has four places for an entry or more.
const LOOSE: usize = 20;

/// The most free places that [`Index::tidy`] passes over in a walk.
const MOST_WALKED: usize = 4096;

/// The place of an entry. It is valid until the index changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Position(u32);

/// What [`Index::tidy`] has left to do without the shard's lock.
#[derive(Default)]
#[must_use = "what is in it is to be given back without the shard's lock"]
pub(crate) struct Tidied {
    /// Whether another step has more to do.
    pub(crate) more: bool,
    /// Memory of entries to give back.
    pub(crate) returning: Option<Returning>,
    /// A table that a smaller one has replaced, to be dropped.
    pub(crate) table: HashTable<u32>,
}

/// The index of a shard. An entry's word means nothing to it.
pub(crate) struct Index {
    table: HashTable<u32>,
    /// The entries that the table has room for if no removed one takes a place.
    room: usize,
    entries: Entries,
    ghosts: Ghosts,
}

impl Index {
    /// Makes an index without memory.
    pub(crate) fn new() -> Self {
        let (table, entries) = (HashTable::new(), Entries::new());
        Index { table, room: 0, entries, ghosts: Ghosts::default() }
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Returns the bytes of memory that the index holds.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.table.allocation_size() + self.entries.memory_bytes() + self.ghosts.memory_bytes()
    }

    /// Calls `is` with the words of the entries whose key may have this hash, until it returns something.
    pub(crate) fn find<T>(
        &self,
        hash: u64,
        mut is: impl FnMut(u64) -> Option<T>,
    ) -> Option<(Position, T)> {
        let kept = Kept::of(hash);
        let mut found = None;
        let at = *self.table.find(kept.spread(), |&at| {
            if self.entries.kept(at) != kept {
                return false;
            }
            found = is(self.entries.word(at));
            found.is_some()
        })?;
        Some((Position(at), found?))
    }

    /// Returns the word of an entry.
    pub(crate) fn word(&self, at: Position) -> u64 {
        self.entries.word(at.0)
    }

    /// Counts a use of an entry. Threads that hold the shard's lock for reading may do so at the same time.
    pub(crate) fn touch(&self, at: Position) {
        self.entries.touch(at.0);
    }

    /// Returns by how many bytes [`Index::reserve`] may make the index grow now.
    pub(crate) fn bytes_to_reserve(&self) -> usize {
        let group = if self.entries.has_room() { 0 } else { GROUP_BYTES };
        // While the table grows, the old one is there, too.
        let table = if self.table.len() < self.table.capacity() || self.is_littered() {
            0
        } else {
            2 * self.table.allocation_size().max(64)
        };
        group + table + self.ghosts.bytes_to_grow(self.len())
    }

    /// Makes room for another entry, so that [`Index::insert`] allocates nothing.
    ///
    /// # Errors
    /// [`NoRoom`]. The entries are as before.
    pub(crate) fn reserve(&mut self) -> Result<(), NoRoom> {
        let entries = &mut self.entries;
        entries.reserve()?;
        if self.table.len() == self.table.capacity() {
            if self.is_littered() {
                self.rehash();
            } else {
                let entries = &self.entries;
                let spread = |&at: &u32| entries.kept(at).spread();
                self.table.try_reserve(1, spread).map_err(|_| NoRoom::Memory)?;
                self.room = self.table.capacity();
            }
        }
        self.ghosts.grow(self.table.len());
        Ok(())
    }

    /// Returns whether the table has room once the places of removed entries are free again. Then it need not grow: in
    /// a cache that replaces entries at a constant number, it would otherwise double.
    fn is_littered(&self) -> bool {
        self.table.len() < self.room / 4 * 3
    }

    /// Frees the places of removed entries. Needs no memory.
    fn rehash(&mut self) {
        self.table.clear();
        let entries = &self.entries;
        for at in (0..entries.mark()).filter(|&at| entries.queue(at) != Queue::Free) {
            let spread = |&at: &u32| entries.kept(at).spread();
            self.table.insert_unique(entries.kept(at).spread(), at, spread);
        }
    }

    /// Adds an entry. The caller has called [`Index::reserve`], and no entry has the same key.
    pub(crate) fn insert(&mut self, hash: u64, word: u64) {
        let kept = Kept::of(hash);
        let queue = if self.ghosts.take(kept) { Queue::Main } else { Queue::Small };
        let at = self.entries.add(queue, kept, word);
        let entries = &self.entries;
        self.table.insert_unique(kept.spread(), at, |&at| entries.kept(at).spread());
    }

    /// Replaces the word of an entry, which keeps its place in its queue. Returns the old word.
    pub(crate) fn replace(&mut self, at: Position, word: u64) -> u64 {
        let old = self.entries.word(at.0);
        self.entries.set_word(at.0, word);
        old
    }

    /// Removes an entry, and returns its word.
    pub(crate) fn remove(&mut self, at: Position) -> u64 {
        let kept = self.entries.kept(at.0);
        match self.table.find_entry(kept.spread(), |&other| other == at.0) {
            Ok(entry) => drop(entry.remove()),
            Err(_) => broken(format_args!("entry {} is not in the table", at.0)),
        }
        self.entries.free(at.0)
    }

    /// Removes the entry to evict next, and returns its word. Returns `None` if there is no entry.
    pub(crate) fn evict(&mut self) -> Option<u64> {
        loop {
            let small = self.entries.len(Queue::Small);
            let from_small = small > self.len() / SMALL_SHARE || self.entries.len(Queue::Main) == 0;
            let queue = if from_small { Queue::Small } else { Queue::Main };
            let at = self.entries.first(queue)?;
            let uses = self.entries.uses(at);
            // Each turn takes an entry out of the small queue, or a use from one of the main queue, so they end.
            match queue {
                Queue::Small if uses > USES_TO_STAY => {
                    self.entries.set_uses(at, 0);
                    self.entries.requeue(at, Queue::Main);
                }
                Queue::Small => {
                    self.ghosts.add(self.entries.kept(at));
                    return Some(self.remove(Position(at)));
                }
                Queue::Main if uses > 0 => {
                    self.entries.set_uses(at, uses - 1);
                    self.entries.requeue(at, Queue::Main);
                }
                Queue::Main => return Some(self.remove(Position(at))),
                Queue::Free => unreachable!("a free entry is in no queue"),
            }
        }
    }

    /// Gives memory back after many removals. Moves at most `steps` entries.
    pub(crate) fn tidy(&mut self, steps: usize) -> Tidied {
        for _ in 0..steps {
            let returning = self.entries.pop_group();
            if returning.is_some() {
                return Tidied { more: true, returning, ..Tidied::default() };
            }
            let mark = self.entries.mark() as usize;
            if mark == 0 || mark - self.len() < GROUP && self.len() > 0 {
                return Tidied { table: self.shrink(), ..Tidied::default() };
            }
            if let Some((from, to)) = self.entries.lower_mark() {
                let kept = self.entries.kept(to);
                match self.table.find_mut(kept.spread(), |&at| at == from) {
                    Some(at) => *at = to,
                    None => broken(format_args!("entry {from} is not in the table")),
                }
            }
        }
        Tidied { more: true, ..Tidied::default() }
    }

    /// The memory that [`Index::tidy`] returned last is given back.
    pub(crate) fn returned(&mut self) {
        self.entries.returned();
    }

    /// Shrinks table and ghosts if they are much too large. Returns the table that was replaced. Without memory for a
    /// smaller one, it stays.
    fn shrink(&mut self) -> HashTable<u32> {
        let len = self.len();
        self.ghosts.shrink(len);
        let mut smaller = HashTable::new();
        if len > 0 {
            if self.table.allocation_size() <= len * LOOSE + 64 {
                return smaller;
            }
            let entries = &self.entries;
            let spread = |&at: &u32| entries.kept(at).spread();
            if smaller.try_reserve(len + len / 8, spread).is_err() {
                return smaller;
            }
            for &at in &self.table {
                smaller.insert_unique(spread(&at), at, spread);
            }
        }
        self.room = smaller.capacity();
        core::mem::replace(&mut self.table, smaller)
    }

    /// Calls `then` with the words of up to `limit` entries, from the place before `below` or from the last one on, in
    /// descending order. Returns where to go on, or `None` at the end. An entry that stays in the index is visited, and
    /// twice only if [`Index::tidy`] has moved it.
    pub(crate) fn walk_down(
        &self,
        below: Option<u32>,
        limit: usize,
        mut then: impl FnMut(u64),
    ) -> Option<u32> {
        let mark = self.entries.mark();
        let mut at = below.map_or(mark, |below| below.min(mark));
        let (mut visited, mut passed) = (0, 0);
        while at > 0 && visited < limit && passed < MOST_WALKED {
            at -= 1;
            if self.entries.queue(at) == Queue::Free {
                passed += 1;
            } else {
                visited += 1;
                then(self.entries.word(at));
            }
        }
        (at > 0).then_some(at)
    }
}
