//! How pages become cold: the clock's hand takes them into the limbo, and a block of the limbo is drained into the store.

use crate::backend::InLimbo;
use crate::counters::Event;
use crate::engine::Engine;
use crate::fault::owned;
use crate::limbo::{BLOCK, Block};
use crate::table::next_chunk;
use crate::word::{HOTTEST, State, Word};
use zswap_core::StoreError;

/// The blocks that one call fills at most: the limbo grows to its size little by little.
const FILLED_AT_ONCE: usize = 2;

/// The words that the hand reads in one call at most: everyone who wants a block waits for it.
const MOST_LOOKED: usize = 1 << 14;

/// What one call of `evict` did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evicted {
    /// The pages of memory that it freed.
    pub(crate) freed: usize,
    /// The words that the hand has passed.
    pub(crate) looked: usize,
}

impl Engine {
    /// Takes pages, as many as the limbo should have, and drains its oldest block. `hurry`: pages that were
    /// rescued from the limbo are taken, too.
    pub(crate) fn evict(&self, room: &mut [u8], hurry: bool) -> Evicted {
        let wanted = self.limbo_blocks();
        let mut limbo = self.limbo.lock();
        let mut looked = 0;
        for _ in 0..FILLED_AT_ONCE {
            if limbo.blocks() >= wanted {
                break;
            }
            let Some(mut block) = limbo.free_block() else { break };
            looked += self.take_by_clock(&mut limbo.hand, &mut block, hurry);
            let took = block.used > 0;
            limbo.enqueue(block);
            if !took {
                break;
            }
        }
        let oldest = limbo.oldest();
        drop(limbo);
        Evicted { freed: oldest.map_or(0, |block| self.drain_and_free(block, room)), looked }
    }

    fn drain_and_free(&self, block: Block, room: &mut [u8]) -> usize {
        let drained = OnDrop { engine: self, block };
        let freed = self.drain(block, room);
        self.room.uncharge(freed);
        self.freed.add(freed);
        drop(drained);
        if self.room.budget().is_some() {
            self.refresh();
        }
        freed
    }

    /// Takes pages of a range that are resident, and drains them. Returns how many left.
    pub(crate) fn evict_range(&self, first: usize, end: usize, room: &mut [u8]) -> usize {
        let (mut left, mut page) = (0, first);
        while page < end {
            let chunk_end = next_chunk(page).min(end);
            if !self.table.is_touched(page) {
                page = chunk_end;
                continue;
            }
            let mut limbo = self.limbo.lock();
            let Some(mut block) = limbo.free_block() else { break };
            page = self.take_window(page, chunk_end, &mut block, true);
            if block.used == 0 {
                limbo.enqueue(block);
                continue;
            }
            limbo.drain_at_once();
            drop(limbo);
            left += self.drain_and_free(block, room);
        }
        left
    }

    /// Fills a block with pages that the hand finds on its next way round, or on a part of it. Returns how far it went.
    fn take_by_clock(&self, hand: &mut usize, block: &mut Block, hurry: bool) -> usize {
        let pages = self.table.pages();
        let (mut looked, mut read) = (0, 0);
        while block.used < BLOCK && looked < pages && read < MOST_LOOKED {
            let start = *hand;
            let next = if self.table.is_touched(start) {
                let end = (start / BLOCK * BLOCK + BLOCK).min(pages);
                read += end - start;
                self.take_window(start, end, block, hurry)
            } else {
                next_chunk(start).min(pages)
            };
            looked += next - start;
            *hand = if next >= pages { 0 } else { next };
        }
        looked
    }

    /// Takes pages from `start` on until the block is full or `end` is reached. Returns where it stopped.
    fn take_window(&self, start: usize, end: usize, block: &mut Block, hurry: bool) -> usize {
        let mut page = start;
        while page < end && block.used < BLOCK {
            let room = (page + BLOCK - block.used).min(end);
            let run = (page..room).take_while(|page| self.take(*page, hurry)).count();
            if run > 0 {
                self.move_out(page, run, block);
            }
            // The page that ended the run was looked at.
            page += run + usize::from(page + run < room);
        }
        page
    }

    /// Makes a page MOVING if it may be taken.
    fn take(&self, page: usize, hurry: bool) -> bool {
        let word = self.table.get(page);
        if !word.is_mapped_and_unpinned() || word.is_storing() {
            return false;
        }
        if word.heat() > 0 && !hurry {
            // If the word has changed meanwhile, the page stays as hot as it is.
            let _ = self.table.change(page, word, word.heated(word.heat() - 1));
            return false;
        }
        self.table.change(page, word, owned(word, State::Moving)).is_ok()
    }

    /// Moves pages that are MOVING on this thread into the block.
    fn move_out(&self, first: usize, pages: usize, block: &mut Block) {
        let slot = block.slot(block.used);
        for n in 0..pages {
            self.slots.set(slot + n, first + n);
        }
        let moved = self.backend.take(first, slot, pages);
        for n in 0..moved {
            self.table.publish(first + n, |word| word.with_state(State::Limbo).in_slot(slot + n));
        }
        for n in moved..pages {
            // The page that could not be moved is in use by the kernel; it is left alone for a while.
            let heat = if n == moved { HOTTEST } else { 0 };
            self.table.publish(first + n, |word| resident_again(word).heated(heat));
        }
        self.counters.add(Event::Busy, usize::from(moved < pages));
        block.used += moved;
    }

    /// Compresses the pages of a block that are still there, and frees the memory of its slots. Returns how many pages
    /// of memory that was.
    fn drain(&self, block: Block, room: &mut [u8]) -> usize {
        let none = InLimbo { page: 0, slot: 0 };
        let (mut stored, mut kept) = ([none; BLOCK], 0);
        for n in 0..block.used {
            let slot = block.slot(n);
            let at = InLimbo { page: self.slots.page(slot), slot };
            if self.compress(at, room) && self.backend.releases_first() {
                stored[kept] = at;
                kept += 1;
            }
        }
        let (mut list, mut len) = ([none; BLOCK], 0);
        if self.backend.releases_first() {
            for at in &stored[..kept] {
                if self.leave(*at, true, |word| word.with_state(State::Moving)) {
                    list[len] = *at;
                    len += 1;
                }
            }
        } else {
            for n in 0..block.used {
                let slot = block.slot(n);
                let at = InLimbo { page: self.slots.page(slot), slot };
                if !self.slots.is_empty(slot) {
                    list[len] = at;
                    len += 1;
                }
            }
        }
        let list = &list[..len];
        if let Err(error) = self.backend.release(list) {
            // It cannot fail for memory: at worst, the system splits a mapping. The memory would be lost to the count.
            crate::abort::die(format_args!(
                "the memory of evicted pages cannot be released: {error}"
            ));
        }
        if self.backend.releases_first() {
            for at in list {
                self.table.publish(at.page, cold);
            }
            self.note_cold(len);
        }
        len
    }

    /// Compresses a page of the limbo, if it is still there. Returns whether the store has it now; it may have left
    /// meanwhile.
    fn compress(&self, at: InLimbo, room: &mut [u8]) -> bool {
        let Some(word) = self.begin(at, room) else { return false };
        if word.has_copy() {
            if self.leave(at, false, cold) {
                self.note_cold(1);
                self.counters.add(Event::EvictedClean, 1);
            }
            return true;
        }
        let bytes: &[u8] = if self.backend.copies() {
            room
        } else {
            // SAFETY: the slot keeps its memory, and its page, until this thread releases it (`drain`).
            unsafe { self.backend.limbo(at, room) }
        };
        if let Err(error) = self.cold.store(at.page, bytes) {
            self.give_up(at, error);
            return false;
        }
        if !self.backend.releases_first() && self.leave(at, true, cold) {
            self.note_cold(1);
        }
        true
    }

    /// Makes a page COMPRESSING if it is in this slot. Returns its word. If the backend copies, the copy is in `room`.
    fn begin(&self, at: InLimbo, room: &mut [u8]) -> Option<Word> {
        let compressing =
            |word: Word| word.with_state(State::Compressing).storing(!word.has_copy());
        if self.backend.copies() {
            let word =
                self.take_from_slot(at, State::Limbo, |word| word.with_state(State::Moving))?;
            // SAFETY: the page is MOVING on this thread.
            let _ = unsafe { self.backend.limbo(at, room) };
            self.table.publish(at.page, compressing);
            Some(compressing(word))
        } else {
            self.take_from_slot(at, State::Limbo, compressing)
        }
    }

    /// Changes a page that is in a slot, in the state `from`. Returns the new word; `None` if the page is not there any
    /// more. Waits for a thread that tries to get the page back.
    fn take_from_slot(
        &self,
        at: InLimbo,
        from: State,
        next: impl Fn(Word) -> Word,
    ) -> Option<Word> {
        loop {
            let changed = self.table.update(at.page, |word| {
                (word.state() == from && word.slot() == at.slot).then(|| next(word))
            });
            match changed {
                Ok(new) => return Some(new),
                Err(word) if word.state() == State::Filling && word.slot() == at.slot => {
                    self.table.wait(at.page, word);
                }
                Err(_) => return None,
            }
        }
    }

    /// Lets a page that this thread compresses leave its slot: makes it what `next` says. Returns whether it did. If the
    /// page has come back meanwhile, drops what this thread has `stored`; a clean page's copy belongs to whoever has the
    /// page now.
    fn leave(&self, at: InLimbo, stored: bool, next: impl Fn(Word) -> Word) -> bool {
        let left =
            self.take_from_slot(at, State::Compressing, |word| next(word).storing(false)).is_some();
        if !left && stored {
            self.cold.invalidate(at.page);
            self.stop_storing(at.page);
            self.counters.add(Event::Undone, 1);
        }
        left
    }

    /// The store refused a page: makes it resident again.
    fn give_up(&self, at: InLimbo, why: StoreError) {
        *self.refusal.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(why);
        self.counters.add(Event::Refused, 1);
        let filling = |word: Word| word.with_state(State::Filling).storing(false);
        if self.take_from_slot(at, State::Compressing, filling).is_none() {
            self.stop_storing(at.page);
            return;
        }
        let two = match self.backend.put_back(at) {
            Ok(()) => Ok(false),
            Err(_) => self.copy_back(at, false).map(|(two, _)| two),
        };
        match two {
            Ok(false) => self.slots.leave_empty(at.slot),
            Ok(true) => (),
            Err(error) => crate::abort::die(format_args!(
                "page {} is neither in the store nor can it be mapped again: {error}",
                at.page
            )),
        }
        self.table.publish(at.page, |word| resident_again(word).heated(HOTTEST));
    }

    fn note_cold(&self, pages: usize) {
        self.counters.add(Event::Evicted, pages);
        self.cold_pages.add(pages);
    }

    /// This thread has no content of the page in the store any more, so that it may be taken again.
    fn stop_storing(&self, page: usize) {
        let done = self.table.update(page, |word| Some(word.storing(false)));
        debug_assert!(done.is_ok(), "the end of STORING was refused");
    }
}

/// Returns the word of a page that goes to the store.
fn cold(word: Word) -> Word {
    owned(word, State::Cold).copy(true).storing(false)
}

/// Returns the word of a page that was taken and is mapped again.
fn resident_again(word: Word) -> Word {
    let state = if word.has_copy() { State::Clean } else { State::Resident };
    word.with_state(state).pinned(0)
}

/// Frees a block when the thread is done with it.
struct OnDrop<'a> {
    engine: &'a Engine,
    block: Block,
}

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.engine.limbo.lock().drained(self.block);
    }
}
