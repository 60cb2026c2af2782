//! Where pages come from: runs of 1 to 16 virtually contiguous pages.
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

/// Greatest length of a run, in pages. [`PageRun::resident`] has a bit for each page.
pub const MAX_RUN_PAGES: usize = 16;
/// The smallest page size, in bytes. Stores exchange pages of this size.
pub const PAGE_SIZE: usize = 4096;

/// A run of contiguous pages. Its holder owns the pages until the run is freed.
///
/// `Send`, not `Clone`. Dropping a run frees nothing: call [`PageProvider::free_run`].
#[must_use = "a dropped run is lost until its provider is dropped"]
pub struct PageRun {
    base: NonNull<u8>,
    pages: u8,
    resident: u16,
}

// SAFETY: only the run's holder uses the memory, and the memory is bound to no thread.
unsafe impl Send for PageRun {}

impl PageRun {
    /// Makes a run of `pages` pages at `base`. Meant for providers. A bit that is set in `resident` means
    /// that the page may be resident already. If `pages` exceeds [`MAX_RUN_PAGES`], the run has
    /// [`MAX_RUN_PAGES`] pages.
    ///
    /// # Safety
    /// `base` must be the start of that many pages. The pages must be aligned to their size, readable,
    /// writable and initialised. Nobody else may use them until the run is given back to its provider.
    pub unsafe fn new(base: NonNull<u8>, pages: usize, resident: u16) -> Self {
        let pages = pages.min(MAX_RUN_PAGES);
        PageRun { base, pages: pages as u8, resident: resident & mask(0..pages) }
    }

    /// Returns the address of the first byte. It is aligned to the provider's page size.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Returns the number of pages in the run, 1 to 16.
    pub fn pages(&self) -> usize {
        usize::from(self.pages)
    }

    /// Returns one bit for each page. The bit is set if the page may be resident. Bit 0 stands for the
    /// first page.
    pub fn resident(&self) -> u16 {
        self.resident
    }

    /// Returns the number of pages that may be resident.
    pub fn resident_pages(&self) -> usize {
        self.resident.count_ones() as usize
    }

    /// Marks pages as resident. Call it before you first touch them. Ignores pages outside the run. Returns
    /// how many of the pages were not marked before.
    pub fn mark_resident(&mut self, pages: Range<usize>) -> usize {
        let before = self.resident;
        self.resident |= mask(pages.start..pages.end.min(self.pages()));
        (self.resident ^ before).count_ones() as usize
    }

    /// Removes the marks of pages. Meant for providers that have returned the memory of these pages to the
    /// system.
    pub fn mark_released(&mut self, pages: Range<usize>) {
        self.resident &= !mask(pages);
    }
}

/// Returns a mask in which the bits of `pages` are set. It is 0 for an empty range. Pages above 15 are
/// ignored.
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
/// Address space is nearly free, and the system backs a page with memory only when the page is first
/// touched. So a run costs memory only for the pages that were touched. For each of its pages, a
/// [`PageRun`] records whether the page may be *resident*, that is, backed by memory. The backend marks a
/// page before it first touches it. The provider clears the mark when it returns the page's memory to the
/// system.
///
/// The resident pages of runs in use count in the backend's `total_pages`. The resident pages of free runs
/// that the provider keeps for later, the *warm* pages, count in [`PageProvider::cached_pages`].
///
/// Every byte of a run is initialised at all times. It is 0 or what it held last.
///
/// Calls may block in the system. They must not be made under a list, class, zspage or entry lock. Debug
/// builds check this (`lockdep::might_sleep`).
///
/// After `fork`, in a child of the process that made the provider, calls to the providers of `zpool-pages`
/// fail with [`PageError::Forked`] or do nothing. In the child, dropping such a provider frees nothing.
///
/// # Safety
/// Each run that `alloc_run` returns must have the requested length and satisfy the conditions of
/// [`PageRun::new`]. Its memory must stay valid until `free_run` takes the run back or the provider is
/// dropped.
pub unsafe trait PageProvider: Send + Sync + fmt::Debug {
    /// Returns the bytes per page: a power of two and at least 4096. It never changes.
    fn page_size(&self) -> usize;

    /// Allocates a run of `pages` pages, 1 to [`MAX_RUN_PAGES`]. The bytes are initialised, but not
    /// necessarily 0.
    ///
    /// # Errors
    /// * [`PageError::RunLength`] if `pages` is 0 or more than [`MAX_RUN_PAGES`].
    /// * [`PageError::Refused`] if the system or the heap refuses memory.
    /// * [`PageError::Forked`] in a child after `fork`.
    ///
    /// A call that fails changes nothing. A lack of memory never aborts the process.
    fn alloc_run(&self, pages: usize) -> Result<PageRun, PageError>;

    /// Takes a run back. May keep the run's resident pages warm for later runs.
    ///
    /// # Safety
    /// The run must come from this provider, and nobody may touch its memory afterwards.
    unsafe fn free_run(&self, run: PageRun);

    /// Gives the memory of `pages` back to the system while the run stays in use. The contents of these
    /// pages are unspecified afterwards. Clears their resident marks, unless the provider cannot return
    /// parts of a run. Ignores pages outside the run.
    ///
    /// # Safety
    /// The run must come from this provider, and nobody may be using the bytes of these pages.
    unsafe fn discard(&self, run: &mut PageRun, pages: Range<usize>);

    /// Isolates a sparsely used block of address space: `alloc_run` takes no run from it until
    /// [`putback_block`](Self::putback_block) puts the block back. First returns all warm pages to the
    /// system. Then chooses a block whose runs in use fit into the free space of other blocks. If there are
    /// several, chooses the one with the fewest pages in use.
    ///
    /// Returns `None` if no block is worth emptying, if another block is already isolated, or if the
    /// provider has no blocks. The default returns `None`.
    fn isolate_block(&self) -> Option<PageBlock> {
        None
    }

    /// Ends the isolation of a block. If none of its runs is in use, returns the block's memory to the
    /// system in one piece, and returns true. Otherwise only makes the block's free runs available again,
    /// and returns false.
    ///
    /// If `block` is not the isolated block, ignores it and returns false. It may be made up, belong to
    /// another provider, or have been put back already. The default does nothing and returns false.
    fn putback_block(&self, block: PageBlock) -> bool {
        let _ = block;
        false
    }

    /// Returns the number of resident pages that the provider keeps warm. Takes no lock.
    fn cached_pages(&self) -> usize;

    /// Gives all warm pages back to the system and returns the number of these pages.
    fn trim(&self) -> usize;

    /// Returns the bytes that the provider uses for its own bookkeeping.
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
        // SAFETY: `pages` is three pages, aligned and zeroed. It outlives the run.
        let mut run = unsafe { PageRun::new(NonNull::from(&mut pages.0).cast(), 3, 0b1_0001) };
        assert_eq!(run.resident(), 0b001);
        assert_eq!(run.mark_resident(0..2), 1);
        assert_eq!(run.mark_resident(1..99), 1);
        assert_eq!(run.resident_pages(), 3);
        run.mark_released(1..2);
        assert_eq!(run.resident(), 0b101);
    }
}
