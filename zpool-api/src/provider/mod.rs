//! Where pages come from: runs of 1 to 16 virtually contiguous pages.
//!
//! Virtual space is nearly free and pages are backed on first touch, so a run may be long while
//! only its touched pages cost memory. A [`PageRun`] therefore says page by page which of them may
//! be *resident*: the backend marks a page before it first touches it, the provider clears the
//! mark when the page's memory went back to the system. Resident pages of runs in use are the
//! backend's `total_pages`; those of runs that the provider keeps warm are its `cached_pages`.
//!
//! Every byte of a run is initialised at all times, to whatever it held last or to zero.

mod budget;
mod failing;
mod heap;
#[cfg(target_os = "linux")]
mod mmap;
mod owned;
mod page_block;

pub use budget::PageBudget;
pub use failing::FailingPages;
pub use heap::HeapPages;
#[cfg(target_os = "linux")]
pub use mmap::{MmapOptions, MmapPages};
pub use owned::OwnedRun;
pub use page_block::PageBlock;

use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;

use crate::PageError;

/// Longest run in pages: one bit each in [`PageRun::resident`].
pub const MAX_RUN_PAGES: usize = 16;
/// The page size that pages are handed over in, bytes.
pub const PAGE_SIZE: usize = 4096;

/// A run of contiguous pages that one holder owns until it gives the run back.
///
/// `Send`, not `Clone`. Dropping it gives nothing back; see [`PageProvider::free_run`].
#[must_use = "a dropped run is lost until its provider is dropped"]
pub struct PageRun {
    base: NonNull<u8>,
    pages: u8,
    resident: u16,
}

// SAFETY: a run is memory that its holder owns alone; nothing of it belongs to a thread.
unsafe impl Send for PageRun {}

impl PageRun {
    /// A run of `pages` pages at `base`, of which those with a bit in `resident` may hold memory
    /// already. For providers. More than [`MAX_RUN_PAGES`] pages count as that many.
    ///
    /// # Safety
    /// `base` must be the start of that many pages, aligned to a page, readable, writable,
    /// initialised, and nobody else's until the run is given back.
    pub unsafe fn new(base: NonNull<u8>, pages: usize, resident: u16) -> Self {
        let pages = pages.min(MAX_RUN_PAGES);
        PageRun { base, pages: pages as u8, resident: resident & mask(0..pages) }
    }

    /// The first byte, aligned to the provider's page size.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Pages in the run, 1 to 16.
    pub fn pages(&self) -> usize {
        usize::from(self.pages)
    }

    /// A bit for each page that may hold memory; bit 0 is the first page.
    pub fn resident(&self) -> u16 {
        self.resident
    }

    /// Resident pages.
    pub fn resident_pages(&self) -> usize {
        self.resident.count_ones() as usize
    }

    /// Marks pages as resident: to be called before they are first touched. Pages beyond the run
    /// are left out. Returns how many were not marked before.
    pub fn mark_resident(&mut self, pages: Range<usize>) -> usize {
        let before = self.resident;
        self.resident |= mask(pages.start..pages.end.min(self.pages()));
        (self.resident ^ before).count_ones() as usize
    }

    /// Clears the marks of pages whose memory went back to the system. For providers.
    pub fn mark_released(&mut self, pages: Range<usize>) {
        self.resident &= !mask(pages);
    }
}

/// The bits of pages `start..end`; nothing for an empty range, none beyond bit 15.
fn mask(pages: Range<usize>) -> u16 {
    let below = |n: usize| if n >= MAX_RUN_PAGES { u16::MAX } else { (1u16 << n) - 1 };
    below(pages.end) & !below(pages.start)
}

impl fmt::Debug for PageRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageRun")
            .field("pages", &self.pages)
            .field("resident", &format_args!("{:#018b}", self.resident))
            .finish_non_exhaustive()
    }
}

/// A source of page runs.
///
/// Calls may block in the system and must not be made under a list, class, zspage or entry lock
/// (`lockdep::might_sleep` checks it in debug builds).
///
/// In a child of the process that made the provider, after `fork`, the providers of this crate refuse
/// ([`PageError::Forked`]) or do nothing, and their drop leaks.
///
/// # Safety
/// Whoever implements it promises that `alloc_run` gives runs that satisfy [`PageRun::new`] and
/// have the length asked for, and that their memory stays valid until they come back through
/// `free_run`, or until the provider is dropped.
pub unsafe trait PageProvider: Send + Sync + fmt::Debug {
    /// Bytes of a page: a power of two, at least 4096, the same for the provider's life.
    fn page_size(&self) -> usize;

    /// A run of `pages` pages, 1 to [`MAX_RUN_PAGES`]. Its bytes are initialised, not zeroed.
    ///
    /// # Errors
    /// [`PageError::RunLength`], [`PageError::Refused`], [`PageError::Forked`]. Nothing has changed then,
    /// and no want of memory ends the process.
    fn alloc_run(&self, pages: usize) -> Result<PageRun, PageError>;

    /// Takes a run back. Its resident pages may be kept warm.
    ///
    /// # Safety
    /// The run must be from this very provider, and nobody may touch its memory afterwards.
    unsafe fn free_run(&self, run: PageRun);

    /// Gives the memory of some pages of a run in use back to the system, whose content is lost
    /// and reads as anything afterwards. Clears their resident marks, unless the provider cannot
    /// give back parts of a run. Pages beyond the run are ignored.
    ///
    /// # Safety
    /// The run must be from this very provider, and nobody may be using the bytes of those pages.
    unsafe fn discard(&self, run: &mut PageRun, pages: Range<usize>);

    /// Takes a sparsely used block of address space out of use: none of its runs are handed out
    /// until [`put_back_block`](Self::put_back_block). Chosen is the block with the fewest pages
    /// in use whose runs would fit where there is room already. Warm pages go back to the system
    /// before.
    ///
    /// None if no block is worth emptying, if another one is out of use, and from a provider that
    /// has no blocks.
    fn isolate_block(&self) -> Option<PageBlock> {
        None
    }

    /// Ends `isolate_block`. If no run of the block is in use any more, its memory goes back to the
    /// system in one piece; whether it did. Otherwise nothing is given back. A block that is not the one
    /// that is out of use at the moment, made up, another provider's or put back already, changes
    /// nothing.
    fn put_back_block(&self, block: PageBlock) -> bool {
        let _ = block;
        false
    }

    /// Resident pages that the provider keeps warm. Takes no lock.
    fn cached_pages(&self) -> usize;

    /// Gives all warm pages back to the system; returns how many.
    fn trim(&self) -> usize;

    /// Bytes of the provider's own bookkeeping.
    fn metadata_bytes(&self) -> usize;
}

/// Refuses lengths that no provider gives.
pub(crate) fn check_run_length(pages: usize) -> Result<(), PageError> {
    if (1..=MAX_RUN_PAGES).contains(&pages) {
        Ok(())
    } else {
        Err(PageError::RunLength { pages, max: MAX_RUN_PAGES })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use zpool_base::sync::test_rng::Rng;

    const _: fn() = || {
        fn send<T: Send>() {}
        fn both<T: Send + Sync + ?Sized>() {}
        send::<PageRun>();
        both::<dyn PageProvider>();
        both::<HeapPages>();
        both::<FailingPages>();
        both::<OwnedRun>();
    };

    #[test]
    fn masks_have_the_bits_of_their_pages() {
        for start in 0..=17usize {
            for end in 0..=17usize {
                let expect = (start..end).filter(|p| *p < 16).fold(0u16, |m, p| m | 1 << p);
                assert_eq!(mask(start..end), expect, "{start}..{end}");
            }
        }
    }

    #[test]
    fn residency_is_counted_page_by_page() {
        let pages = HeapPages::new();
        let whole = pages.alloc_run(3).unwrap();
        // SAFETY: the same pages as `whole`, which is not used until they go back.
        let mut run = unsafe { PageRun::new(whole.base(), 3, 0b1_0001) };
        assert_eq!(run.resident(), 0b001);
        assert_eq!(run.mark_resident(0..2), 1);
        assert_eq!(run.mark_resident(1..99), 1);
        assert_eq!(run.resident_pages(), 3);
        run.mark_released(1..2);
        assert_eq!(run.resident(), 0b101);
        // SAFETY: from this provider, no reference left.
        unsafe { pages.free_run(whole) };
    }

    /// What any provider must do; each provider's own tests call it.
    pub(super) fn exercise(provider: Arc<dyn PageProvider>) {
        let page = provider.page_size();
        assert!(page.is_power_of_two() && page >= PAGE_SIZE);
        assert!(matches!(provider.alloc_run(0), Err(PageError::RunLength { pages: 0, .. })));
        assert!(matches!(provider.alloc_run(17), Err(PageError::RunLength { pages: 17, .. })));
        let mut rng = Rng::new(3);
        let mut held: Vec<(PageRun, u8)> = Vec::new();
        // Miri is slow at looking at bytes one by one.
        let (rounds, step) = if cfg!(miri) { (40, 997) } else { (2000, 1) };
        for round in 0..rounds {
            if held.len() < 20 || rng.below(2) == 0 {
                let pages = rng.below(MAX_RUN_PAGES) + 1;
                let mut run = provider.alloc_run(pages).unwrap();
                assert_eq!(run.pages(), pages);
                assert_eq!(run.base().as_ptr().align_offset(page), 0);
                run.mark_resident(0..pages);
                let fill = round as u8;
                // SAFETY: the run's pages are this test's alone.
                unsafe { run.base().as_ptr().write_bytes(fill, pages * page) };
                held.push((run, fill));
            } else {
                let (run, fill) = held.swap_remove(rng.below(held.len()));
                let len = run.pages() * page;
                // SAFETY: the run's pages are this test's alone, written above.
                let bytes = unsafe { core::slice::from_raw_parts(run.base().as_ptr(), len) };
                assert!(bytes.iter().step_by(step).all(|b| *b == fill), "another run wrote here");
                // SAFETY: from this provider; `bytes` is not used again.
                unsafe { provider.free_run(run) };
            }
        }
        for (run, _) in held {
            // SAFETY: from this provider, no reference left.
            unsafe { provider.free_run(run) };
        }
        let cached = provider.cached_pages();
        assert_eq!(provider.trim(), cached);
        assert_eq!(provider.cached_pages(), 0);
    }
}
