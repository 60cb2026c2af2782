//! Handle slots: an object's place and length in one atomic word.
//!
//! ```text
//!  63        44 43  40 39       16 15       0
//! +------------+------+-----------+----------+
//! | generation | kind |  zspage   | end - 1  |   kind 0: an object of this generation
//! |    (20)    | (4)  |   (24)    |   (16)   |   kind 1: reserved, its object is being written
//! +------------+------+-----------+----------+
//! |            |   2  |   next free slot     |   kind 2: free
//! +------------+------+----------------------+
//! ```
//!
//! `end` is the offset, in the zspage, of the first byte after the object. With the class's size it
//! gives the object's index and its exact length. A slot that names an object changes only under
//! the lock of the object's class, with one exception: the thread that reserved a slot publishes it
//! without the lock. Free slots are chained: each class keeps a few, and the rest are on one list
//! of the pool, whose lock is a leaf.

use zpool_api::SlotRef;
use zpool_base::lockdep::{self, Rank};
use zpool_base::stable::{StableTable, TableError};

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

const GENERATION_SHIFT: u32 = 44;
const KIND_SHIFT: u32 = 40;
const ZSPAGE_SHIFT: u32 = 16;
/// The most zspages of a pool: a slot has 24 bits for a zspage's number.
pub(crate) const MAX_ZSPAGES: usize = 1 << 24;
const NO_SLOT: u32 = u32::MAX;

/// Where an object is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Location {
    pub(crate) zspage: u32,
    /// Offset of the object's last byte in its zspage.
    pub(crate) last: u16,
}

/// A slot's word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Word(u64);

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Object = 0,
    Reserved = 1,
    Free = 2,
}

impl Word {
    fn new(generation: u32, kind: Kind, payload: u64) -> Self {
        debug_assert!(payload < 1 << KIND_SHIFT && generation <= SlotRef::MAX_GENERATION);
        Word(
            u64::from(generation) << GENERATION_SHIFT
                | u64::from(kind as u8) << KIND_SHIFT
                | payload,
        )
    }

    fn located(generation: u32, kind: Kind, at: Location) -> Self {
        Word::new(generation, kind, u64::from(at.zspage) << ZSPAGE_SHIFT | u64::from(at.last))
    }

    fn is(self, kind: Kind) -> bool {
        (self.0 >> KIND_SHIFT) & 15 == u64::from(kind as u8)
    }

    pub(crate) fn generation(self) -> u32 {
        (self.0 >> GENERATION_SHIFT) as u32
    }

    fn location(self) -> Location {
        Location {
            zspage: (self.0 >> ZSPAGE_SHIFT) as u32 & (MAX_ZSPAGES as u32 - 1),
            last: self.0 as u16,
        }
    }

    /// Returns the location of the live object of this generation, or None if there is no such object.
    #[inline]
    pub(crate) fn object(self, generation: u32) -> Option<Location> {
        (self.generation() == generation && self.is(Kind::Object)).then(|| self.location())
    }

    /// Returns the location of the live object, whatever its generation. For movers, which hold the
    /// class lock.
    pub(crate) fn location_of_object(self) -> Option<Location> {
        self.is(Kind::Object).then(|| self.location())
    }
}

/// One slot: its word in an atomic.
#[derive(Debug)]
pub(crate) struct Slot(AtomicU64);

impl Slot {
    /// Loads the word. A reader must load it again after counting itself in the object's lane.
    #[inline]
    pub(crate) fn load(&self) -> Word {
        // Acquire pairs with the Release of `publish` and `move_to`: the object's bytes and its
        // zspage's class and base are seen at least as they were when the slot came to point there.
        Word(self.0.load(Ordering::Acquire))
    }

    /// Points a free slot, which is on no chain, at a place that will be written.
    ///
    /// # Safety
    /// The caller owns the slot alone. `at` is in a place that the caller has claimed: the lane is USED,
    /// and the zspage is in a class (invariant 3 of the pool).
    pub(crate) unsafe fn reserve(&self, at: Location) {
        let word = self.load();
        assert!(word.is(Kind::Free), "reserving a slot that is not free");
        let generation = word.generation();
        // Relaxed: only its owner uses a reserved slot.
        self.0.store(Word::located(generation, Kind::Reserved, at).0, Ordering::Relaxed);
    }

    /// Returns the location that the owner of a reserved slot writes to. Returns None if the slot is
    /// not reserved.
    pub(crate) fn reserved(&self) -> Option<Location> {
        let word = self.load();
        word.is(Kind::Reserved).then(|| word.location())
    }

    /// Publishes a reserved slot as an object's, and returns its generation.
    ///
    /// # Safety
    /// The caller reserved the slot, and nobody writes the object's bytes any more.
    pub(crate) unsafe fn publish(&self) -> u32 {
        let word = self.load();
        assert!(word.is(Kind::Reserved), "publishing a slot that is not reserved");
        let generation = word.generation();
        // Release pairs with the Acquire of `load`: the bytes are written before.
        let object = Word::located(generation, Kind::Object, word.location());
        self.0.store(object.0, Ordering::Release);
        generation
    }

    /// Points a live object's slot at the place that it was moved to.
    ///
    /// # Safety
    /// The class lock is held. The caller has write-locked the object's old lane, claimed the place
    /// of `at` and copied the object there.
    pub(crate) unsafe fn move_to(&self, at: Location) {
        let generation = self.load().generation();
        // Release pairs with the Acquire of `load`: the bytes are copied before.
        self.0.store(Word::located(generation, Kind::Object, at).0, Ordering::Release);
    }

    /// Frees the slot and ends its generation, so that no handle leads to the object any more.
    /// Returns true if the slot has another generation and may be reused. The caller holds the class
    /// lock.
    pub(crate) fn invalidate(&self) -> bool {
        let generation = self.load().generation();
        let usable = generation < SlotRef::MAX_GENERATION;
        let next = if usable { generation + 1 } else { generation };
        // Relaxed: the caller's RMW on the object's lane, which follows, publishes this store.
        self.0.store(Word::new(next, Kind::Free, u64::from(NO_SLOT)).0, Ordering::Relaxed);
        usable
    }

    fn chain(&self, next: u32) {
        let generation = self.load().generation();
        // Relaxed: ordered by the lock of the list.
        self.0.store(Word::new(generation, Kind::Free, u64::from(next)).0, Ordering::Relaxed);
    }

    fn next(&self) -> u32 {
        self.load().0 as u32
    }
}

/// A list of free slots, linked through their words. Its owner's lock guards it.
#[derive(Debug)]
pub(crate) struct Chain {
    head: u32,
    len: u32,
}

impl Chain {
    pub(crate) const EMPTY: Chain = Chain { head: NO_SLOT, len: 0 };

    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    pub(crate) fn push(&mut self, slots: &Slots, slot: u32) {
        slots.at(slot).chain(self.head);
        self.head = slot;
        self.len += 1;
    }

    pub(crate) fn pop(&mut self, slots: &Slots) -> Option<u32> {
        let slot = self.head;
        if slot == NO_SLOT {
            return None;
        }
        self.head = slots.at(slot).next();
        self.len -= 1;
        Some(slot)
    }
}

/// All slots of a pool.
#[derive(Debug)]
pub(crate) struct Slots {
    table: StableTable<Slot>,
    first_generation: u32,
    /// Free slots that no class keeps. A leaf lock.
    spare: Mutex<Chain>,
}

impl Slots {
    pub(crate) fn new(first_generation: u32) -> Self {
        Slots { table: StableTable::new(), first_generation, spare: Mutex::new(Chain::EMPTY) }
    }

    /// Returns the slot that a handle names. Returns None if the table has no slot of this number.
    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<&Slot> {
        self.table.get(slot)
    }

    /// Returns the slot with this number. The number must come from this table: the pool kept it.
    #[inline]
    #[expect(clippy::expect_used, reason = "numbers of slots come from this table")]
    pub(crate) fn at(&self, slot: u32) -> &Slot {
        self.table.get(slot).expect("the number of a slot is in the table")
    }

    /// Returns a spare slot, or a new one if no slot is spare. Fails if the table cannot grow.
    pub(crate) fn take(&self) -> Result<u32, TableError> {
        {
            let _held = lockdep::acquire(Rank::Leaf);
            if let Some(slot) = self.spare.lock().pop(self) {
                return Ok(slot);
            }
        }
        let free = Word::new(self.first_generation, Kind::Free, u64::from(NO_SLOT));
        self.table.push(Slot(AtomicU64::new(free.0)))
    }

    /// Makes a free slot spare. The slot must have a generation left.
    pub(crate) fn give(&self, slot: u32) {
        let _held = lockdep::acquire(Rank::Leaf);
        self.spare.lock().push(self, slot);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.table.memory_bytes()
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_slot_lives_through_its_kinds() {
        let slots = Slots::new(1);
        let number = slots.take().unwrap();
        let slot = slots.get(number).unwrap();
        let (a, b) =
            (Location { zspage: 0xff_ffff, last: 0xffff }, Location { zspage: 0, last: 0 });
        for generation in 1..4 {
            assert_eq!(slot.load().object(generation), None);
            // SAFETY: here and below, nobody reads from the place that the slot leads to.
            unsafe { slot.reserve(a) };
            assert_eq!((slot.reserved(), slot.load().object(generation)), (Some(a), None));
            // SAFETY: as above.
            assert_eq!(unsafe { slot.publish() }, generation);
            assert_eq!((slot.reserved(), slot.load().object(generation)), (None, Some(a)));
            // SAFETY: as above.
            unsafe { slot.move_to(b) };
            assert_eq!(slot.load().object(generation), Some(b));
            assert_eq!(slot.load().object(generation + 1), None);
            assert!(slot.invalidate());
            assert_eq!(slot.load().object(generation), None);
            slots.give(number);
            assert_eq!(slots.take(), Ok(number));
        }
    }

    #[test]
    fn a_mover_finds_the_object_of_any_generation() {
        let slots = Slots::new(9);
        let number = slots.take().unwrap();
        let slot = slots.get(number).unwrap();
        let at = Location { zspage: 3, last: 77 };
        assert_eq!(slot.load().location_of_object(), None, "free");
        // SAFETY: nobody reads from the place that the slot leads to.
        unsafe { slot.reserve(at) };
        assert_eq!(slot.load().location_of_object(), None, "being written");
        // SAFETY: as above.
        unsafe { slot.publish() };
        assert_eq!(slot.load().location_of_object(), Some(at));
        slot.invalidate();
        assert_eq!(slot.load().location_of_object(), None);
        assert_eq!(slot.load().generation(), 10);
    }

    #[test]
    fn slots_cost_eight_bytes_each_and_are_new_when_none_is_spare() {
        let slots = Slots::new(1);
        let all: Vec<u32> = (0..3).map(|_| slots.take().unwrap()).collect();
        assert_eq!(all, [0, 1, 2]);
        assert_eq!(slots.memory_bytes(), 24);
        slots.give(1);
        slots.give(2);
        assert_eq!((slots.take(), slots.take(), slots.take()), (Ok(2), Ok(1), Ok(3)));
        assert_eq!(slots.memory_bytes(), 32);
    }

    #[test]
    fn the_last_generation_is_the_last() {
        let slots = Slots::new(SlotRef::MAX_GENERATION);
        let slot = slots.get(slots.take().unwrap()).unwrap();
        // SAFETY: nobody reads from the place that the slot leads to.
        unsafe { slot.reserve(Location { zspage: 1, last: 1 }) };
        // SAFETY: as above.
        assert_eq!(unsafe { slot.publish() }, SlotRef::MAX_GENERATION);
        assert!(!slot.invalidate());
        assert_eq!(slot.load().object(SlotRef::MAX_GENERATION), None);
    }

    #[test]
    fn chains_are_last_in_first_out() {
        let slots = Slots::new(1);
        let all: Vec<u32> = (0..5).map(|_| slots.take().unwrap()).collect();
        let mut chain = Chain::EMPTY;
        all.iter().for_each(|slot| chain.push(&slots, *slot));
        assert_eq!(chain.len(), 5);
        for slot in all.iter().rev() {
            assert_eq!(chain.pop(&slots), Some(*slot));
        }
        assert_eq!((chain.pop(&slots), chain.len()), (None, 0));
    }

    #[test]
    #[should_panic(expected = "publishing a slot that is not reserved")]
    fn a_free_slot_is_not_published() {
        let slots = Slots::new(1);
        let slot = slots.at(slots.take().unwrap());
        // SAFETY: nobody reads from the place that the slot leads to.
        unsafe { slot.publish() };
    }

    #[test]
    #[should_panic(expected = "reserving a slot that is not free")]
    fn a_slot_is_reserved_once() {
        let slots = Slots::new(1);
        let slot = slots.at(slots.take().unwrap());
        for zspage in 0..2 {
            // SAFETY: nobody reads from the place that the slot leads to.
            unsafe { slot.reserve(Location { zspage, last: 9 }) };
        }
    }
}
