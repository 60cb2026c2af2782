//! The limbo: pages that have been taken from the program and are not compressed yet, in the order in which they came.
//!
//! Its slots form blocks of 16. A block is filled, waits in a queue, is drained by one thread, and is free again. Threads
//! drain different blocks at the same time, and finish in any order.

use std::collections::VecDeque;

use crate::sync::MODEL;
use crate::sync::atomic::Ordering;
use crate::word::MOST;
use crate::zeros::Zeros;

/// The slots of a block, and the pages of a window that the clock's hand takes at a time.
pub(crate) const BLOCK: usize = if MODEL { 2 } else { 16 };

/// The blocks beside those that wait: as many threads can drain one each.
pub(crate) const SPARE_BLOCKS: usize = if MODEL { 2 } else { 64 };

/// Set in a slot's word if the page has left and took its memory with it.
const EMPTY: u32 = 1 << 31;

/// Which pages are in the slots. A slot's page is written by the thread that fills its block, and read by the one that
/// drains it.
pub(crate) struct Slots {
    pages: Zeros,
}

impl Slots {
    /// # Errors
    /// The system's error if it has no address space.
    pub(crate) fn new(blocks: usize) -> std::io::Result<Slots> {
        Ok(Slots { pages: Zeros::new(blocks * BLOCK)? })
    }

    pub(crate) fn set(&self, slot: usize, page: usize) {
        // Relaxed: the word of the page, published afterwards, orders this before every access by another thread.
        self.pages[slot].store(page as u32, Ordering::Relaxed);
    }

    pub(crate) fn page(&self, slot: usize) -> usize {
        // Relaxed: as in `set`; the queue's mutex orders it for the thread that drains.
        (self.pages[slot].load(Ordering::Relaxed) & !EMPTY) as usize
    }

    /// Notes that the slot has no memory any more. The caller owns the page (FILLING), and publishes it afterwards.
    pub(crate) fn leave_empty(&self, slot: usize) {
        // Relaxed: as in `set`. The thread that drains looks after it has seen the page published.
        self.pages[slot].fetch_or(EMPTY, Ordering::Relaxed);
    }

    pub(crate) fn is_empty(&self, slot: usize) -> bool {
        // Relaxed: as in `leave_empty`.
        self.pages[slot].load(Ordering::Relaxed) & EMPTY != 0
    }
}

/// A block that one thread fills or drains: its number, and how many of its slots are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Block {
    pub(crate) number: u32,
    pub(crate) used: usize,
}

impl Block {
    pub(crate) fn slot(self, n: usize) -> usize {
        self.number as usize * BLOCK + n
    }
}

/// The blocks, and the clock's hand. Under the mutex of the evictor.
#[derive(Debug)]
pub(crate) struct Limbo {
    free: Vec<u32>,
    /// Blocks with this number and above were never used.
    unused: u32,
    most: u32,
    waiting: VecDeque<Block>,
    /// How many threads drain a block.
    draining: usize,
    /// How many blocks were drained so far.
    drains: usize,
    /// The page where the hand is.
    pub(crate) hand: usize,
}

impl Limbo {
    /// Makes a limbo of at most `blocks` blocks.
    pub(crate) fn new(blocks: usize) -> Limbo {
        let most = u32::try_from(blocks).unwrap_or(u32::MAX).min(MOST / BLOCK as u32);
        Limbo {
            free: Vec::new(),
            unused: 0,
            most,
            waiting: VecDeque::new(),
            draining: 0,
            drains: 0,
            hand: 0,
        }
    }

    /// Makes room for the numbers of `blocks` blocks, so that no fault has to allocate.
    pub(crate) fn reserve(&mut self, blocks: usize) {
        let blocks = blocks.min(self.most as usize);
        self.free.reserve(blocks.saturating_sub(self.free.len()));
        self.waiting.reserve(blocks.saturating_sub(self.waiting.len()));
    }

    /// Takes a free block; `None` if there is none.
    pub(crate) fn free_block(&mut self) -> Option<Block> {
        let number = self.free.pop().or_else(|| {
            let fresh = (self.unused < self.most).then_some(self.unused);
            self.unused += u32::from(fresh.is_some());
            fresh
        })?;
        Some(Block { number, used: 0 })
    }

    /// Puts a filled block at the end of the queue; an empty one becomes free.
    pub(crate) fn enqueue(&mut self, block: Block) {
        if block.used == 0 {
            self.free.push(block.number);
        } else {
            self.waiting.push_back(block);
        }
    }

    /// Takes the oldest block out of the queue, to drain it.
    pub(crate) fn oldest(&mut self) -> Option<Block> {
        let block = self.waiting.pop_front();
        self.draining += usize::from(block.is_some());
        block
    }

    /// Notes that a block which is not in the queue is drained now.
    pub(crate) fn drain_at_once(&mut self) {
        self.draining += 1;
    }

    /// Frees a block that was drained.
    pub(crate) fn drained(&mut self, block: Block) {
        self.draining -= 1;
        self.drains = self.drains.wrapping_add(1);
        self.free.push(block.number);
    }

    pub(crate) fn blocks(&self) -> usize {
        self.waiting.len()
    }

    /// Returns how many threads drain a block, and how many blocks were drained so far.
    pub(crate) fn drains(&self) -> (usize, usize) {
        (self.draining, self.drains)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn blocks_go_round_and_none_is_used_twice_at_a_time() {
        let mut limbo = Limbo::new(3);
        limbo.reserve(3);
        let blocks: Vec<Block> = std::iter::from_fn(|| limbo.free_block()).collect();
        assert_eq!(blocks.iter().map(|b| b.number).collect::<Vec<_>>(), [0, 1, 2]);
        limbo.enqueue(Block { used: 5, ..blocks[1] });
        limbo.enqueue(Block { used: 0, ..blocks[0] });
        limbo.enqueue(Block { used: 16, ..blocks[2] });
        assert_eq!((limbo.blocks(), limbo.drains()), (2, (0, 0)));
        let (first, second) = (limbo.oldest().unwrap(), limbo.oldest().unwrap());
        assert_eq!((first.number, second.number, limbo.oldest()), (1, 2, None));
        limbo.drained(second);
        assert_eq!(limbo.drains(), (1, 1));
        limbo.drained(first);
        assert_eq!(limbo.drains(), (0, 2));
        assert_eq!(std::iter::from_fn(|| limbo.free_block()).count(), 3);
    }

    #[test]
    fn a_slot_that_lost_its_memory_still_says_whose_it_was() {
        let slots = Slots::new(1).unwrap();
        slots.set(3, 77);
        assert!(!slots.is_empty(3));
        slots.leave_empty(3);
        assert_eq!((slots.page(3), slots.is_empty(3)), (77, true));
        slots.set(3, 78);
        assert!(!slots.is_empty(3));
    }
}
