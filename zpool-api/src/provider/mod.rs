//! Where pages come from: runs of 1 to 16 virtually contiguous pages.
//!
//! Virtual space is nearly free and pages are backed on first touch, so a run may be long while
//! only its touched pages cost memory. A [`PageRun`] therefore says page by page which of them may
//! be *resident*: the backend marks a page before it first touches it, the provider clears the
//! mark when the page's memory went back to the system. Resident pages of runs in use are the
//! backend's `total_pages`; those of runs that the provider keeps warm are its `cached_pages`.
//!
//! Every byte of a run is initialised at all times, to whatever it held last or to zero.
//!
//! The providers themselves are in the crate `zpool-pages`.

mod budget;
mod page_block;

pub use budget::PageBudget;
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
/// In a child of the process that made the provider, after `fork`, the providers of `zpool-pages` refuse
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

    /// Gives the memory of some pages of a run in use back to the system. Their contents are
    /// unspecified afterwards. Clears their resident marks, unless the provider cannot
    /// give back parts of a run. Pages beyond the run are ignored.
    ///
    /// # Safety
    /// The run must be from this very provider, and nobody may be using the bytes of those pages.
    unsafe fn discard(&self, run: &mut PageRun, pages: Range<usize>);

    /// Takes a sparsely used block of address space out of use: none of its runs are handed out
    /// until [`putback_block`](Self::putback_block). Chosen is the block with the fewest pages
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
    fn putback_block(&self, block: PageBlock) -> bool {
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const _: fn() = || {
        fn send<T: Send>() {}
        fn both<T: Send + Sync + ?Sized>() {}
        send::<PageRun>();
        both::<dyn PageProvider>();
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
        #[repr(align(4096))]
        struct Pages([u8; 3 * PAGE_SIZE]);
        let mut pages = Box::new(Pages([0; 3 * PAGE_SIZE]));
        // SAFETY: three pages, aligned and zeroed, which outlive the run.
        let mut run = unsafe { PageRun::new(NonNull::from(&mut pages.0).cast(), 3, 0b1_0001) };
        assert_eq!(run.resident(), 0b001);
        assert_eq!(run.mark_resident(0..2), 1);
        assert_eq!(run.mark_resident(1..99), 1);
        assert_eq!(run.resident_pages(), 3);
        run.mark_released(1..2);
        assert_eq!(run.resident(), 0b101);
    }
}
