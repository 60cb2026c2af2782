//! Emptying a block: its runs are gathered as they are freed, and then its memory is returned as a whole.
//!
//! At most one block of a provider is isolated at a time. The arena hands out none of its slots. Runs of this
//! block that are freed meanwhile are gathered here, and count as *leaving*. If at the end all its runs are
//! gathered, one system call returns the block. Otherwise the block goes back into use, and the gathered runs
//! become warm.
//!
//! `putback` identifies the isolation by its ticket, a number that never recurs. The block's address would
//! not do: the same block may be isolated again, and anybody can make a [`PageBlock`] with any address.
//!
//! Lock: the provider's mutex guards the state. The system call is made without it. Until that call returns,
//! the gathered runs' slots stay taken and the arena keeps the block isolated.

use core::ops::Range;
use core::ptr::NonNull;

use super::block::{BLOCK_BYTES, MAX_SLOTS};
use super::{MmapPages, State};
use zpool_api::{PageBlock, PageProvider, PageRun};
use zpool_base::lockdep::might_sleep;
use zpool_base::mapping;

/// The block that is being emptied.
pub(super) struct Isolated {
    /// Never 0, and never used twice.
    ticket: u64,
    base: NonNull<u8>,
    /// Pages per run of this block.
    pages: usize,
    /// The gathered runs, which nobody uses. Has capacity for all runs of a block, so that gathering does not
    /// allocate.
    gathered: Vec<PageRun>,
}

// SAFETY: `base` points into a region of the provider, and no thread owns it.
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
    /// Gathers a freed run if it belongs to the isolated block, and returns `None`. Otherwise returns the
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
        // Warm runs occupy slots. After they are gone, the counts of taken slots show which blocks are sparse
        // and where there is room.
        self.trim();
        let mut gathered = Vec::new();
        gathered.try_reserve_exact(MAX_SLOTS).ok()?;
        let mut state = self.lock();
        let (base, pages) = state.arena.isolate()?;
        state.isolations += 1;
        let mut isolated = Isolated { ticket: state.isolations, base, pages, gathered };
        let ticket = isolated.ticket;
        let range = isolated.range();
        // Runs of the block that became warm after the trim now count as leaving. The sum of both counts
        // stays the same.
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
            // gathered runs, and the arena hands out no slot of an isolated block. So nobody uses its bytes.
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
