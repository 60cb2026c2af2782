//! Empties a block: gathers its runs as they are freed, and then returns its memory as a whole.
//!
//! A provider isolates only one block at a time. The arena takes no slot of this block for a new run. If a
//! run of this block is freed in the meantime, it is gathered here and counts as *leaving*. If in the end
//! all runs of the block have been gathered, one system call returns the whole block. Otherwise the block
//! goes back into use, and the gathered runs become warm.
//!
//! `putback` identifies an isolation by its ticket, a number that is never used twice. The block's address
//! would not be enough: the same block may be isolated again, and anybody can make a [`PageBlock`] with any
//! address.
//!
//! Lock: the provider's mutex guards the state. The system call is made without it. Until this call
//! returns, the slots of the gathered runs stay taken, and the block stays isolated.

use core::ops::Range;
use core::ptr::NonNull;

use super::block::{BLOCK_BYTES, MAX_SLOTS};
use super::{MmapPages, State};
use zpool_api::{PageBlock, PageProvider, PageRun};
use zpool_base::lockdep::might_sleep;
use zpool_base::mapping;

/// The block that is being emptied.
pub(super) struct Isolated {
    /// The number of the isolation, never 0 and never used twice.
    ticket: u64,
    base: NonNull<u8>,
    /// The number of pages per run of this block.
    pages: usize,
    /// The gathered runs, which nobody uses. The vector has capacity for all runs of a block, so gathering
    /// a run does not allocate.
    gathered: Vec<PageRun>,
}

// SAFETY: `base` points into a region of the provider, and the region is bound to no thread.
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
    /// Gathers a freed run and returns `None` if it belongs to the isolated block. Otherwise returns the
    /// run.
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
        // Warm runs occupy slots, too. After they are gone, the counts of taken slots show which blocks are
        // sparsely used and which have room.
        self.trim();
        let mut gathered = Vec::new();
        gathered.try_reserve_exact(MAX_SLOTS).ok()?;
        let mut state = self.lock();
        let (base, pages) = state.arena.isolate()?;
        state.isolations += 1;
        let mut isolated = Isolated { ticket: state.isolations, base, pages, gathered };
        let ticket = isolated.ticket;
        let range = isolated.range();
        // If runs of this block became warm after the trim, they now count as leaving. The sum of both
        // counts stays the same.
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
            // SAFETY: the range is a block in a region of this provider. All its taken slots belong to
            // gathered runs, which nobody uses. The arena takes no slot of an isolated block for a new run.
            // So nobody uses the block's bytes.
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
