//! The entries of an index, and the FIFO queues that they are in.
//!
//! An entry has 20 bytes: its word, what is kept of its key's hash with its queue and its uses, and its neighbours in
//! its queue. Free entries are a list of the same kind. Entries below a mark are in use or free; those above have no
//! memory. They never move by themselves; [`Entries::lower_mark`] moves the last one to a free place.
//!
//! All accesses are ordered by the lock of the shard that the index is in. Under the lock for reading, only the uses
//! are written.

use std::sync::Arc;

use crate::invariant::broken;
use zpool_base::sync::atomic::{AtomicU32, Ordering};
use zpool_base::zeroed::ZeroedTable;

/// How many entries get and lose their memory together: five pages of 4096 bytes.
pub(super) const GROUP: usize = 1024;

/// The bytes of a group.
pub(super) const GROUP_BYTES: usize = GROUP * 20;

/// No neighbour.
const NONE: u32 = u32::MAX;

const USES: u32 = 0b11;
const QUEUE_SHIFT: u32 = 2;
const QUEUE: u32 = 0b11 << QUEUE_SHIFT;
const HASH_SHIFT: u32 = 4;

/// The greatest number of uses that is counted.
pub(super) const MOST_USES: u32 = 3;

const LOW: usize = 0;
const HIGH: usize = 1;
const META: usize = 2;
const NEXT: usize = 3;
const PREV: usize = 4;

/// What is kept of a hash: its lowest 28 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kept(u32);

impl Kept {
    pub(super) fn of(hash: u64) -> Self {
        Kept(hash as u32 & (u32::MAX >> HASH_SHIFT))
    }

    pub(super) fn bits(self) -> u32 {
        self.0
    }

    /// Spreads the bits for a table that takes the highest and the lowest ones.
    pub(super) fn spread(self) -> u64 {
        u64::from(self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// The list that an entry is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Queue {
    Free = 0,
    Small = 1,
    Main = 2,
}

#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
    len: usize,
}

impl List {
    const EMPTY: Self = List { first: NONE, last: NONE, len: 0 };
}

type Table = ZeroedTable<[AtomicU32; 5], GROUP>;

pub(super) struct Entries {
    table: Arc<Table>,
    lists: [List; 3],
    /// The number of entries that are in use or free.
    mark: u32,
    /// The number of groups that have memory.
    groups: usize,
    /// Whether the memory of the group after these is being given back.
    is_returning: bool,
}

/// A group whose memory is to be given back, which may sleep. No entry is in it, and none comes there before
/// [`Entries::returned`].
#[must_use = "entries cannot come into this group until it is given back"]
pub(crate) struct Returning {
    table: Arc<Table>,
    group: usize,
}

impl Returning {
    /// Gives the memory back. Afterwards call [`Index::returned`](super::Index::returned).
    ///
    /// # Blocking
    /// Makes a system call.
    pub(crate) fn give_back(self) {
        self.table.give_back(self.group);
    }
}

/// Why there is no room for another entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoRoom {
    /// The system has no memory.
    Memory,
    /// The memory for it is being given back. After that, there may be some.
    Returning,
}

impl Entries {
    pub(super) fn new() -> Self {
        Entries {
            table: Arc::new(ZeroedTable::new()),
            lists: [List::EMPTY; 3],
            mark: 0,
            groups: 0,
            is_returning: false,
        }
    }

    fn entry(&self, at: u32) -> &[AtomicU32; 5] {
        match self.table.get(at) {
            Some(entry) => entry,
            None => broken(format_args!(
                "entry {at} has no memory, but there are {} entries",
                self.mark
            )),
        }
    }

    fn field(&self, at: u32, field: usize) -> u32 {
        // Relaxed: the shard's lock orders it.
        self.entry(at)[field].load(Ordering::Relaxed)
    }

    fn set(&mut self, at: u32, field: usize, value: u32) {
        // Relaxed: the shard's lock orders it.
        self.entry(at)[field].store(value, Ordering::Relaxed);
    }

    pub(super) fn len(&self, queue: Queue) -> usize {
        self.lists[queue as usize].len
    }

    pub(super) fn mark(&self) -> u32 {
        self.mark
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.groups * GROUP_BYTES
    }

    /// Returns whether there is a place for another entry.
    pub(super) fn has_room(&self) -> bool {
        self.len(Queue::Free) > 0 || (self.mark as usize) < self.groups * GROUP
    }

    /// Makes memory for another entry.
    pub(super) fn reserve(&mut self) -> Result<(), NoRoom> {
        if self.has_room() {
            return Ok(());
        }
        if self.is_returning {
            return Err(NoRoom::Returning);
        }
        if self.mark == NONE || self.table.make(self.mark).is_err() {
            return Err(NoRoom::Memory);
        }
        self.groups += 1;
        Ok(())
    }

    pub(super) fn queue(&self, at: u32) -> Queue {
        match (self.field(at, META) & QUEUE) >> QUEUE_SHIFT {
            0 => Queue::Free,
            1 => Queue::Small,
            2 => Queue::Main,
            other => broken(format_args!("entry {at} is in queue {other}, which does not exist")),
        }
    }

    pub(super) fn kept(&self, at: u32) -> Kept {
        Kept(self.field(at, META) >> HASH_SHIFT)
    }

    pub(super) fn uses(&self, at: u32) -> u32 {
        self.field(at, META) & USES
    }

    pub(super) fn set_uses(&mut self, at: u32, uses: u32) {
        let meta = self.field(at, META);
        self.set(at, META, meta & !USES | uses);
    }

    /// Counts a use. Many threads may do so at the same time, under the lock for reading; one use of several may be
    /// lost.
    pub(super) fn touch(&self, at: u32) {
        let meta = self.field(at, META);
        if meta & USES < MOST_USES {
            // Relaxed: under the lock for reading, all other bits stay as they are, and a lost use does no harm.
            self.entry(at)[META].store(meta + 1, Ordering::Relaxed);
        }
    }

    pub(super) fn word(&self, at: u32) -> u64 {
        u64::from(self.field(at, HIGH)) << 32 | u64::from(self.field(at, LOW))
    }

    pub(super) fn set_word(&mut self, at: u32, word: u64) {
        self.set(at, LOW, word as u32);
        self.set(at, HIGH, (word >> 32) as u32);
    }

    /// Returns the entry that has been in a queue the longest.
    pub(super) fn first(&self, queue: Queue) -> Option<u32> {
        let first = self.lists[queue as usize].first;
        (first != NONE).then_some(first)
    }

    /// Makes an entry, at the end of a queue. The caller has called [`Entries::reserve`].
    pub(super) fn add(&mut self, queue: Queue, kept: Kept, word: u64) -> u32 {
        let at = match self.first(Queue::Free) {
            Some(at) => {
                self.unlink(at);
                at
            }
            None => {
                assert!(self.has_room(), "an entry was added without room for it");
                self.mark += 1;
                self.mark - 1
            }
        };
        self.set_word(at, word);
        self.set(at, META, kept.0 << HASH_SHIFT);
        self.link(at, queue);
        at
    }

    /// Frees an entry, and returns its word.
    pub(super) fn free(&mut self, at: u32) -> u64 {
        let word = self.word(at);
        self.unlink(at);
        self.set(at, META, 0);
        self.link(at, Queue::Free);
        word
    }

    /// Moves an entry to the end of a queue.
    pub(super) fn requeue(&mut self, at: u32, queue: Queue) {
        self.unlink(at);
        self.link(at, queue);
    }

    fn link(&mut self, at: u32, queue: Queue) {
        let last = self.lists[queue as usize].last;
        let meta = self.field(at, META);
        self.set(at, META, meta & !QUEUE | (queue as u32) << QUEUE_SHIFT);
        self.set(at, PREV, last);
        self.set(at, NEXT, NONE);
        if last == NONE {
            self.lists[queue as usize].first = at;
        } else {
            self.set(last, NEXT, at);
        }
        let list = &mut self.lists[queue as usize];
        list.last = at;
        list.len += 1;
    }

    fn unlink(&mut self, at: u32) {
        let queue = self.queue(at) as usize;
        let (next, prev) = (self.field(at, NEXT), self.field(at, PREV));
        if prev == NONE {
            self.lists[queue].first = next;
        } else {
            self.set(prev, NEXT, next);
        }
        if next == NONE {
            self.lists[queue].last = prev;
        } else {
            self.set(next, PREV, prev);
        }
        self.lists[queue].len -= 1;
    }

    /// Lowers the mark by one. If the last entry is in use, it moves to a free place, in the same place of its queue;
    /// returns where it was and where it is. There must be a free place.
    pub(super) fn lower_mark(&mut self) -> Option<(u32, u32)> {
        let last = self.mark - 1;
        self.mark = last;
        if self.queue(last) == Queue::Free {
            self.unlink(last);
            return None;
        }
        let Some(to) = self.first(Queue::Free) else {
            broken(format_args!("there is no free place for entry {last}"))
        };
        self.unlink(to);
        for field in [LOW, HIGH, META, NEXT, PREV] {
            let value = self.field(last, field);
            self.set(to, field, value);
        }
        let queue = self.queue(to) as usize;
        let (next, prev) = (self.field(to, NEXT), self.field(to, PREV));
        if prev == NONE {
            self.lists[queue].first = to;
        } else {
            self.set(prev, NEXT, to);
        }
        if next == NONE {
            self.lists[queue].last = to;
        } else {
            self.set(next, PREV, to);
        }
        Some((last, to))
    }

    /// Returns the last group if it has no entry below the mark, to give its memory back.
    pub(super) fn pop_group(&mut self) -> Option<Returning> {
        let last = self.groups.checked_sub(1)?;
        if self.is_returning || self.mark as usize > last * GROUP {
            return None;
        }
        self.groups = last;
        self.is_returning = true;
        Some(Returning { table: self.table.clone(), group: last })
    }

    /// The memory of the group that [`Entries::pop_group`] returned last is given back.
    pub(super) fn returned(&mut self) {
        self.is_returning = false;
    }
}
