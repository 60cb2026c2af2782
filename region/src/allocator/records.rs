//! What is known of each page of the region.

use super::classes::{Class, MOST_SLOTS};
use super::side_table::{SideTable, Zeroable};
use std::io;

/// The number of no page.
pub(super) const NIL: u32 = u32::MAX;

/// What a page belongs to. Pages inside a run, neither first nor last, have any kind.
const INSIDE: u8 = 0;
pub(super) const FREE: u8 = 1;
pub(super) const LARGE: u8 = 2;
pub(super) const SLAB: u8 = 3;

/// The record of a page. The pages of the region are divided into runs: free ones, large blocks, and slabs. The first page
/// of a free run or a large block says how long it is, the last page of a free run, too; every page of a slab says where the
/// slab begins.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Record {
    pub(super) kind: u8,
    /// Of slabs: the class.
    pub(super) class: u8,
    /// Of slabs: how many pages of the slab are before this one.
    pub(super) before: u8,
    /// The first page of a free run: whether a byte of the run may not be zero.
    pub(super) dirty: bool,
    /// The pages of a run; the vacant slots of a slab.
    pub(super) count: u32,
    /// The neighbours in a list of free runs or slabs.
    pub(super) prev: u32,
    pub(super) next: u32,
    /// Of slabs with at most 64 slots: a bit for each slot that is taken, and for each that does not exist.
    pub(super) taken: u64,
}

// SAFETY: integers, and a bool, of which 0 is `false`.
unsafe impl Zeroable for Record {}

const WORDS: usize = MOST_SLOTS / 64;

/// The records of all pages.
pub(super) struct Records {
    pages: SideTable<Record>,
    /// As `Record::taken`, of slabs with more slots.
    taken: SideTable<[u64; WORDS]>,
    pub(super) len: usize,
}

impl Records {
    /// # Errors
    /// The system's error if it has no address space.
    pub(super) fn new(len: usize) -> io::Result<Records> {
        Ok(Records { pages: SideTable::new(len)?, taken: SideTable::new(len)?, len })
    }

    pub(super) fn bytes(&self) -> usize {
        self.pages.bytes() + self.taken.bytes()
    }

    pub(super) fn get(&self, page: u32) -> &Record {
        &self.pages[page as usize]
    }

    pub(super) fn get_mut(&mut self, page: u32) -> &mut Record {
        &mut self.pages[page as usize]
    }

    /// Returns the bits of the slots of a slab.
    pub(super) fn taken(&mut self, slab: u32, class: Class) -> &mut [u64] {
        let words = class.slots().div_ceil(64);
        if words == 1 {
            core::slice::from_mut(&mut self.get_mut(slab).taken)
        } else {
            &mut self.taken[slab as usize][..words]
        }
    }

    /// Records a free run.
    pub(super) fn set_free(&mut self, first: u32, count: u32, dirty: bool) {
        for end in [first, first + count - 1] {
            let record = self.get_mut(end);
            (record.kind, record.count) = (FREE, count);
        }
        self.get_mut(first).dirty = dirty;
    }

    /// Records a large block.
    pub(super) fn set_large(&mut self, first: u32, count: u32) {
        // For the run behind it, which asks whether this one is free.
        self.get_mut(first + count - 1).kind = INSIDE;
        let record = self.get_mut(first);
        (record.kind, record.count) = (LARGE, count);
    }

    /// Puts a free run or a slab between two of a list.
    pub(super) fn link(&mut self, page: u32, prev: u32, next: u32) {
        (self.get_mut(page).prev, self.get_mut(page).next) = (prev, next);
        if prev != NIL {
            self.get_mut(prev).next = page;
        }
        if next != NIL {
            self.get_mut(next).prev = page;
        }
    }

    /// Takes a free run or a slab out of the list that begins at `head`.
    pub(super) fn unlink(&mut self, head: &mut u32, page: u32) {
        let Record { prev, next, .. } = *self.get(page);
        if prev == NIL {
            debug_assert_eq!(*head, page, "a list's first element is its head");
            *head = next;
        } else {
            self.get_mut(prev).next = next;
        }
        if next != NIL {
            self.get_mut(next).prev = prev;
        }
    }
}
