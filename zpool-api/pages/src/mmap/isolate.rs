//! Emptying a block: its runs are kept apart as they are freed, and its memory given back whole.
//!
//! At most one block of a provider is isolated at a time. The arena hands out none of its slots,
//! and runs of it that are freed meanwhile are gathered here:
//! they are *leaving*. Once no other run of it is left one system call gives back the block. A block
//! that did not run empty goes back into use, and the gathered runs are warm.
//!
//! A block is put back by the number of its isolation, which is never given twice, and not by its
//! addresses, which recur and which anybody can make a [`PageBlock`] of.
//!
//! Lock: the provider's mutex guards the state. The system call is made without it; until it is
//! over the gathered runs' slots are taken and the block stays isolated.

use core::ops::Range;
use core::ptr::NonNull;

use super::block::{BLOCK_BYTES, MAX_SLOTS};
use super::{MmapPages, State};
use zpool_api::{PageBlock, PageProvider, PageRun};
use zpool_base::lockdep::might_sleep;
use zpool_base::mapping;

/// The block that is being emptied.
pub(super) struct Isolated {
    /// Never 0, and never the same again.
    ticket: u64,
    base: NonNull<u8>,
    /// Pages of a run there.
    pages: usize,
    /// Runs of it that nobody uses. Has room for all, so that gathering one allocates nothing.
    gathered: Vec<PageRun>,
}

// SAFETY: `base` is an address of the provider's own region, which belongs to no thread.
unsafe impl Send for Isolated {}

impl Isolated {
    fn range(&self) -> Range<usize> {
        let start = self.base.addr().get();
        start..start + BLOCK_BYTES
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.gathered.capacity() * size_of::<PageRun>()
    }
}

impl State {
    /// Keeps a freed run apart if it is one of the isolated block; else hands it back.
    pub(super) fn gather(&mut self, run: PageRun) -> Option<PageRun> {
        let Some(isolated) = &mut self.isolated else { return Some(run) };
        let full = isolated.gathered.len() == isolated.gathered.capacity();
        if full || !isolated.range().contains(&run.base().addr().get()) {
            return Some(run);
        }
        self.leaving += run.resident_pages();
        isolated.gathered.push(run);
        None
    }
}

impl MmapPages {
    pub(super) fn isolate(&self) -> Option<PageBlock> {
        // A warm run takes a slot: without them it shows which blocks are sparse, and where room is.
        self.trim();
        let mut gathered = Vec::new();
        gathered.try_reserve_exact(MAX_SLOTS).ok()?;
        let mut state = self.lock();
        let (base, pages) = state.arena.isolate()?;
        state.isolations += 1;
        let mut isolated = Isolated { ticket: state.isolations, base, pages, gathered };
        let ticket = isolated.ticket;
        let range = isolated.range();
        // What became warm since is leaving: the count of both stays.
        state.leaving += {
            let state = &mut *state;
            state.warm.take_within(pages, &range, &mut isolated.gathered)
        };
        state.isolated = Some(isolated);
        Some(PageBlock::with_ticket(range.start, BLOCK_BYTES, ticket))
    }

    pub(super) fn putback(&self, block: &PageBlock) -> bool {
        might_sleep("MmapPages::putback_block");
        let mut state = self.lock();
        if state.isolated.as_ref().is_none_or(|isolated| isolated.ticket != block.ticket()) {
            return false;
        }
        let Some(mut isolated) = state.isolated.take() else { return false };
        let leaving: usize = isolated.gathered.iter().map(PageRun::resident_pages).sum();
        let mut whole = state.arena.taken_of_isolated() == isolated.gathered.len();
        if whole {
            let locked = state.locked;
            drop(state);
            // SAFETY: a block of this provider's regions. Every slot of it that is taken is that of
            // a gathered run, and while it is isolated in the arena none is handed out: nobody uses
            // a byte of it.
            whole = unsafe { mapping::give_back(isolated.base, BLOCK_BYTES, locked) }.is_ok();
            if whole {
                isolated.gathered.iter_mut().for_each(|run| run.mark_released(0..run.pages()));
            }
            state = self.lock();
        }
        state.leaving -= leaving;
        for run in isolated.gathered {
            state.keep_or_put(run);
        }
        state.arena.putback(isolated.pages);
        self.publish(&state);
        drop(state);
        self.give_back_surplus();
        whole
    }
}
