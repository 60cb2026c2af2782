//! Pages from the global allocator, for Miri and for systems without `MmapPages`.
//!
//! Every page of a run is resident from the start. The provider keeps no pages warm and takes no lock. The
//! allocator decides which freed memory really returns to the system.
//!
//! After `fork`, in a child of the process that made the provider, it allocates no run and frees no run.

use core::ops::Range;
use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc};

use crate::length::check_run_length;
use zpool_api::{MAX_RUN_PAGES, PAGE_SIZE, PageError, PageProvider, PageRun};
use zpool_base::fork::Maker;
use zpool_base::lockdep::might_sleep;

/// A [`PageProvider`] over the global allocator.
///
/// ```
/// use zpool_api::PageProvider;
/// use zpool_pages::HeapPages;
/// assert_eq!(HeapPages::new().page_size(), 4096);
/// assert_eq!(HeapPages::with_page_size(65536)?.page_size(), 65536);
/// # Ok::<(), zpool_api::PageError>(())
/// ```
#[derive(Debug, Clone)]
pub struct HeapPages {
    page_size: usize,
    maker: Maker,
}

impl HeapPages {
    /// Makes a provider whose pages have 4096 bytes.
    pub fn new() -> Self {
        HeapPages { page_size: PAGE_SIZE, maker: Maker::here() }
    }

    /// Makes a provider whose pages have `page_size` bytes.
    ///
    /// # Errors
    /// [`PageError::PageSize`] if `page_size` is not a power of two from 4096 to 65536.
    pub fn with_page_size(page_size: usize) -> Result<Self, PageError> {
        if page_size.is_power_of_two() && (PAGE_SIZE..=65536).contains(&page_size) {
            Ok(HeapPages { page_size, maker: Maker::here() })
        } else {
            let allowed = "a power of two from 4096 to 65536".to_owned();
            Err(PageError::PageSize { page_size, allowed })
        }
    }

    fn layout(&self, pages: usize) -> Result<Layout, PageError> {
        Layout::from_size_align(pages * self.page_size, self.page_size)
            .map_err(|_| PageError::RunLength { pages, max: MAX_RUN_PAGES })
    }
}

impl Default for HeapPages {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: a run is an allocation of exactly its length, zeroed and aligned to the page size. Nobody else
// gets this memory until `free_run` deallocates it.
unsafe impl PageProvider for HeapPages {
    fn page_size(&self) -> usize {
        self.page_size
    }

    fn alloc_run(&self, pages: usize) -> Result<PageRun, PageError> {
        might_sleep("HeapPages::alloc_run");
        if !self.maker.is_here() {
            return Err(PageError::Forked);
        }
        check_run_length(pages)?;
        let layout = self.layout(pages)?;
        // SAFETY: the layout's size is not 0, because it has at least one page.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else {
            let reason = format_args!("out of memory");
            return Err(PageError::refused(pages, self.page_size, reason));
        };
        // SAFETY: the memory is a new, zeroed allocation of exactly these pages.
        Ok(unsafe { PageRun::new(base, pages, u16::MAX) })
    }

    unsafe fn free_run(&self, run: PageRun) {
        might_sleep("HeapPages::free_run");
        if !self.maker.is_here() {
            return;
        }
        if let Ok(layout) = self.layout(run.pages()) {
            // SAFETY: `alloc_run` allocated the run with this layout, and the caller gives the run up.
            unsafe { dealloc(run.base().as_ptr(), layout) };
        }
    }

    unsafe fn discard(&self, _run: &mut PageRun, _pages: Range<usize>) {
        // The allocator cannot take back a part of an allocation. So the pages stay resident and marked.
    }

    fn cached_pages(&self) -> usize {
        0
    }

    fn trim(&self) -> usize {
        0
    }

    fn metadata_bytes(&self) -> usize {
        0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn runs_are_apart_and_come_back() {
        for page_size in [4096, 16384, 65536] {
            crate::exercise::exercise(Arc::new(HeapPages::with_page_size(page_size).unwrap()));
        }
    }

    #[test]
    fn odd_page_sizes_are_refused() {
        for page_size in [0, 1, 2048, 4095, 12288, 131072] {
            let refused = HeapPages::with_page_size(page_size);
            assert!(matches!(refused, Err(PageError::PageSize { .. })), "{page_size}");
        }
    }

    #[test]
    fn discard_leaves_the_pages_resident() {
        let pages = HeapPages::new();
        let mut run = pages.alloc_run(2).unwrap();
        // SAFETY: the run comes from this provider, and nobody uses its bytes.
        unsafe { pages.discard(&mut run, 0..2) };
        assert_eq!(run.resident_pages(), 2);
        // SAFETY: the run comes from this provider, and nobody uses its bytes.
        unsafe { pages.free_run(run) };
    }
}
