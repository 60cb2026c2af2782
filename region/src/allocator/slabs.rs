//! Small blocks: slabs with slots of one size.
//!
//! Each class has a list of slabs with vacant slots. The first one is where blocks are taken; it stays the first one until
//! it is full, and keeps its pages even if no block is left in it. So a program that frees and takes blocks in turn does not
//! give pages back each time. All other slabs give up each page as soon as no block lies in it.
//!
//! A page is given up while its slots are *held*: they count as taken, so nobody gets them meanwhile.

use core::ops::Range;

use super::classes::{CLASSES, Class};
use super::records::{NIL, Records, SLAB};
use zswap_core::PAGE_SIZE;

/// The first slab of each list.
pub(super) struct Slabs {
    heads: [u32; CLASSES],
}

/// What became of a slab when slots became vacant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It keeps its pages.
    Pages,
    /// No block lies in these pages of it. The slots of the mask are held; [`Slabs::vacate`] makes them vacant.
    Some(Range<u32>, u64),
    /// No block is left in it. It is in no list: its pages are the caller's.
    Nothing,
}

impl Slabs {
    pub(super) fn new() -> Slabs {
        Slabs { heads: [NIL; CLASSES] }
    }

    fn head(&mut self, class: Class) -> &mut u32 {
        &mut self.heads[usize::from(class.0)]
    }

    /// Puts a slab that has vacant slots into its list.
    fn insert(&mut self, records: &mut Records, slab: u32, class: Class) {
        let head = *self.head(class);
        if head == NIL {
            *self.head(class) = slab;
            records.link(slab, NIL, NIL);
        } else {
            records.link(slab, head, records.get(head).next);
        }
    }

    /// Makes a slab of the pages from `first` on, which belong to nothing.
    pub(super) fn add(&mut self, records: &mut Records, first: u32, class: Class) {
        for before in 0..class.pages() as u8 {
            let record = records.get_mut(first + u32::from(before));
            (record.kind, record.class, record.before) = (SLAB, class.0, before);
        }
        records.get_mut(first).count = class.slots() as u32;
        let taken = records.taken(first, class);
        taken.fill(0);
        // Slots that do not exist.
        if class.slots() % 64 != 0 {
            taken[class.slots() / 64] = u64::MAX << (class.slots() % 64);
        }
        self.insert(records, first, class);
    }

    /// Takes a slot of a slab that exists. Returns the slab and the number of the slot.
    pub(super) fn take(&mut self, records: &mut Records, class: Class) -> Option<(u32, usize)> {
        let slab = *self.head(class);
        if slab == NIL {
            return None;
        }
        let (at, word) = records
            .taken(slab, class)
            .iter_mut()
            .enumerate()
            .find(|(_, word)| **word != u64::MAX)?;
        let bit = word.trailing_ones();
        *word |= 1 << bit;
        self.took(records, slab, class, 1);
        Some((slab, at * 64 + bit as usize))
    }

    /// Counts slots that became taken.
    fn took(&mut self, records: &mut Records, slab: u32, class: Class, slots: u32) {
        records.get_mut(slab).count -= slots;
        if slots > 0 && records.get(slab).count == 0 {
            records.unlink(self.head(class), slab);
        }
    }

    /// Frees a block.
    pub(super) fn free(&mut self, records: &mut Records, slab: u32, slot: usize) -> Left {
        let class = Class(records.get(slab).class);
        let (word, bit) = (&mut records.taken(slab, class)[slot / 64], 1 << (slot % 64));
        assert!(*word & bit != 0, "a block of {} bytes is freed twice", class.size());
        let vacant = records.get(slab).count;
        let head = *self.head(class);
        if head != slab && head != NIL {
            if vacant as usize + 1 == class.slots() {
                records.unlink(self.head(class), slab);
                return Left::Nothing;
            }
            if let Some((pages, held)) = emptied(records, slab, class, slot) {
                let taken = &mut records.get_mut(slab).taken;
                let more = (held & !*taken).count_ones();
                *taken |= held;
                self.took(records, slab, class, more);
                return Left::Some(pages, held);
            }
        }
        records.taken(slab, class)[slot / 64] &= !bit;
        self.vacated(records, slab, class, 1)
    }

    /// Makes held slots vacant.
    pub(super) fn vacate(&mut self, records: &mut Records, slab: u32, held: u64) -> Left {
        let class = Class(records.get(slab).class);
        records.get_mut(slab).taken &= !held;
        self.vacated(records, slab, class, held.count_ones())
    }

    /// Counts slots that became vacant.
    fn vacated(&mut self, records: &mut Records, slab: u32, class: Class, slots: u32) -> Left {
        let before = records.get(slab).count;
        records.get_mut(slab).count += slots;
        if before == 0 {
            self.insert(records, slab, class);
        }
        let is_empty = records.get(slab).count as usize == class.slots();
        if is_empty && *self.head(class) != slab {
            records.unlink(self.head(class), slab);
            return Left::Nothing;
        }
        Left::Pages
    }

    /// Takes a slab without blocks out of the lists.
    pub(super) fn idle(&mut self, records: &mut Records) -> Option<u32> {
        let class = Class::all().find(|class| {
            let slab = self.heads[usize::from(class.0)];
            slab != NIL && records.get(slab).count as usize == class.slots()
        })?;
        let slab = *self.head(class);
        records.unlink(self.head(class), slab);
        Some(slab)
    }

    /// Checks a slab that a walk over the records has found. Returns whether it is in a list.
    #[cfg(all(test, not(loom)))]
    pub(super) fn check(&self, records: &mut Records, slab: u32) -> bool {
        let (class, count) = (Class(records.get(slab).class), records.get(slab).count);
        let vacant: u32 = records.taken(slab, class).iter().map(|word| word.count_zeros()).sum();
        let (mut at, mut prev) = (self.heads[usize::from(class.0)], NIL);
        while at != NIL && at != slab {
            (prev, at) = (at, records.get(at).next);
        }
        if at == slab {
            assert_eq!((vacant, records.get(slab).prev), (count, prev));
            assert!(count > 0, "a full slab is in no list");
        }
        at == slab
    }
}

/// Returns the pages of a slab in which no block lies if `slot` is freed, and all slots that lie in them.
fn emptied(records: &Records, slab: u32, class: Class, slot: usize) -> Option<(Range<u32>, u64)> {
    if class.pages() == 1 {
        return None;
    }
    let taken = records.get(slab).taken & !(1 << slot);
    let (start, end) = (slot * class.size(), (slot + 1) * class.size());
    let slots_of = |page: usize| {
        let first = page * PAGE_SIZE / class.size();
        let last = ((page + 1) * PAGE_SIZE - 1) / class.size();
        (u64::MAX >> (63 - last)) & (u64::MAX << first)
    };
    let touched = start / PAGE_SIZE..end.div_ceil(PAGE_SIZE);
    let mut empty = touched.filter(|page| taken & slots_of(*page) == 0);
    let first = empty.next()?;
    // Pages between the first and the last one hold nothing but this slot.
    let last = empty.next_back().unwrap_or(first);
    let held = (first..=last).fold(0, |held, page| held | slots_of(page));
    Some((slab + first as u32..slab + last as u32 + 1, held))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn class(size: usize) -> Class {
        let class = Class::of(size, 1).unwrap();
        assert_eq!(class.size(), size);
        class
    }

    /// Makes slabs of one class, full of blocks; the list is empty then.
    fn full(class: Class, slabs: u32) -> (Records, Slabs) {
        let mut records = Records::new(64).unwrap();
        let mut all = Slabs::new();
        for slab in 0..slabs {
            all.add(&mut records, slab * 8, class);
            for slot in 0..class.slots() {
                assert_eq!(all.take(&mut records, class), Some((slab * 8, slot)));
            }
            assert_eq!(all.take(&mut records, class), None);
        }
        (records, all)
    }

    #[test]
    fn every_slot_is_taken_once() {
        for class in Class::all() {
            let (mut records, mut slabs) = full(class, 1);
            let last = class.slots() - 1;
            assert_eq!(slabs.free(&mut records, 0, last), Left::Pages);
            assert_eq!(slabs.take(&mut records, class), Some((0, last)));
        }
    }

    #[test]
    fn the_first_slab_keeps_its_pages_and_the_second_one_goes() {
        let class = class(16);
        let (mut records, mut slabs) = full(class, 2);
        for slot in 0..256 {
            assert_eq!(slabs.free(&mut records, 8, slot), Left::Pages);
        }
        for slot in 0..255 {
            assert_eq!(slabs.free(&mut records, 0, slot), Left::Pages);
        }
        assert_eq!(slabs.free(&mut records, 0, 255), Left::Nothing);
        assert_eq!(slabs.idle(&mut records), Some(8));
        assert_eq!(slabs.idle(&mut records), None);
    }

    #[test]
    fn a_page_without_blocks_is_emptied_and_held() {
        // Five pages, eight slots: slot 1 lies in pages 0 and 1, slot 2 in page 1, slot 3 in pages 1 and 2.
        let class = class(2560);
        let (mut records, mut slabs) = full(class, 2);
        assert_eq!(slabs.free(&mut records, 8, 0), Left::Pages, "it becomes the first one");
        assert_eq!(slabs.free(&mut records, 0, 1), Left::Pages);
        assert_eq!(slabs.free(&mut records, 0, 3), Left::Pages);
        assert_eq!(slabs.free(&mut records, 0, 2), Left::Some(1..2, 0b1110));
        assert_eq!(records.get(0).count, 0, "all three are held");
        assert_eq!(slabs.vacate(&mut records, 0, 0b1110), Left::Pages);
        assert_eq!(records.get(0).count, 3);
        for slot in [0, 4, 5, 6] {
            if let Left::Some(_, held) = slabs.free(&mut records, 0, slot) {
                assert_eq!(slabs.vacate(&mut records, 0, held), Left::Pages);
            }
        }
        assert_eq!(slabs.free(&mut records, 0, 7), Left::Nothing);
    }

    #[test]
    #[should_panic(expected = "a block of 64 bytes is freed twice")]
    fn a_second_free_is_found() {
        let (mut records, mut slabs) = full(class(64), 1);
        slabs.free(&mut records, 0, 9);
        slabs.free(&mut records, 0, 9);
    }
}
