//! Where pages come from: runs of 1 to 16 virtually contiguous pages.
//!
//! Address space is nearly free, and the system backs a page with memory when it is first touched. So only
//! the touched pages of a run cost memory. A [`PageRun`] therefore records for each page whether it may be
//! *resident*: the backend marks a page before it first touches it, and the provider clears the mark when it
//! returns the page's memory to the system. Resident pages of runs in use are the backend's `total_pages`;
//! those of runs that the provider keeps warm are its `cached_pages`.
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

/// Longest run, in pages. [`PageRun::resident`] has a bit for each page.
pub const MAX_RUN_PAGES: usize = 16;
/// The smallest page size, and the unit in which stores exchange pages, in bytes.
pub const PAGE_SIZE: usize = 4096;

/// A run of contiguous pages that one holder owns until it frees the run.
///
/// `Send`, not `Clone`. Dropping it frees nothing; call [`PageProvider::free_run`].
#[must_use = "a dropped run is lost until its provider is dropped"]
pub struct PageRun {
    base: NonNull<u8>,
    pages: u8,
    resident: u16,
}

// SAFETY: the run's holder is the memory's only owner, and the memory is bound to no thread.
unsafe impl Send for PageRun {}

impl PageRun {
    /// Makes a run of `pages` pages at `base`. For providers. A set bit in `resident` says that the page may
    /// be resident already. More than [`MAX_RUN_PAGES`] pages count as [`MAX_RUN_PAGES`].
    ///
    /// # Safety
    /// `base` must be the start of that many pages. They must be aligned to a page, readable, writable and
    /// initialised, and nobody else may use them until the run is given back.
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

    /// Returns a bit for each page, set if the page may be resident. Bit 0 is the first page.
    pub fn resident(&self) -> u16 {
        self.resident
    }

    /// Returns the number of pages that may be resident.
    pub fn resident_pages(&self) -> usize {
        self.resident.count_ones() as usize
    }

    /// Marks pages as resident. Call it before the first touch. Ignores pages beyond the run. Returns how
    /// many of the pages were not marked before.
    pub fn mark_resident(&mut self, pages: Range<usize>) -> usize {
        let before = self.resident;
        self.resident |= mask(pages.start..pages.end.min(self.pages()));
        (self.resident ^ before).count_ones() as usize
    }

    /// Clears the marks of pages whose memory has returned to the system. For providers.
    pub fn mark_released(&mut self, pages: Range<usize>) {
        self.resident &= !mask(pages);
    }
}

/// Returns a mask with the bits of `pages` set. It is 0 for an empty range and has no bit above 15.
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
/// Calls may block in the system. They must not be made under a list, class, zspage or entry lock; debug
/// builds check it (`lockdep::might_sleep`).
///
/// After `fork`, in a child of the process that made the provider, calls to the providers of `zpool-pages`
/// fail with [`PageError::Forked`] or do nothing. Such a provider leaks when it is dropped there.
///
/// # Safety
/// `alloc_run` must return runs that have the requested length and satisfy the conditions of
/// [`PageRun::new`]. Their memory must stay valid until `free_run` takes them back or the provider is
/// dropped.
pub unsafe trait PageProvider: Send + Sync + fmt::Debug {
    /// Bytes per page: a power of two, at least 4096, constant for the provider's life.
    fn page_size(&self) -> usize;

    /// Allocates a run of `pages` pages, 1 to [`MAX_RUN_PAGES`]. Its bytes are initialised, but not
    /// necessarily zero.
    ///
    /// # Errors
    /// [`PageError::RunLength`] unless `pages` is 1 to [`MAX_RUN_PAGES`], [`PageError::Refused`] if the
    /// system or the heap refuses, [`PageError::Forked`] in a child after `fork`. A call that fails changes
    /// nothing. A lack of memory never aborts the process.
    fn alloc_run(&self, pages: usize) -> Result<PageRun, PageError>;

    /// Takes a run back. May keep its resident pages warm for later runs.
    ///
    /// # Safety
    /// The run must be from this provider, and nobody may touch its memory afterwards.
    unsafe fn free_run(&self, run: PageRun);

    /// Gives the memory of some pages back to the system while the run stays in use. Their contents are
    /// unspecified afterwards. Clears their resident marks, unless the provider cannot return parts of a run.
    /// Ignores pages beyond the run.
    ///
    /// # Safety
    /// The run must be from this provider, and nobody may be using the bytes of those pages.
    unsafe fn discard(&self, run: &mut PageRun, pages: Range<usize>);

    /// Isolates a sparsely used block of address space: `alloc_run` takes no run from it until
    /// [`putback_block`](Self::putback_block). Returns all warm pages to the system first, then considers the
    /// blocks whose runs fit into the free space of other blocks, and chooses the one with the fewest pages
    /// in use.
    ///
    /// Returns `None` if no block is worth emptying, if another block is isolated already, or if the provider
    /// has no blocks.
    fn isolate_block(&self) -> Option<PageBlock> {
        None
    }

    /// Ends the isolation of a block. If none of its runs is in use, returns its memory to the system in one
    /// piece, and returns true. Otherwise only makes its free runs available again, and returns false.
    /// Ignores a block that is not the isolated one (made up, another provider's, or put back already) and
    /// returns false.
    fn putback_block(&self, block: PageBlock) -> bool {
        let _ = block;
        false
    }

    /// Returns the number of resident pages that the provider keeps warm. Takes no lock.
    fn cached_pages(&self) -> usize;

    /// Gives all warm pages back to the system and returns their number.
    fn trim(&self) -> usize;

    /// Returns the bytes of the provider's own bookkeeping.
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
