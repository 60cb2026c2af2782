//! Fault injection: a provider that fails chosen calls and counts the pages in use.
//!
//! It passes all other calls on to another provider. Its counters are atomics, so it takes no lock itself.

use core::ops::Range;
use std::sync::Arc;
// Always the types of std, not of loom: the counters serve tests, and no protocol that loom checks depends
// on them.
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use zpool_api::PageError;
use zpool_api::{PageBlock, PageProvider, PageRun};
use zpool_base::fork::Leaked;

/// A [`PageProvider`] for tests. It fails chosen `alloc_run` calls, and counts calls and pages.
///
/// ```
/// use std::sync::Arc;
/// use zpool_api::PageProvider;
/// use zpool_pages::{FailingPages, HeapPages};
///
/// let pages = FailingPages::new(Arc::new(HeapPages::new()));
/// pages.fail_call(2);
/// let first = pages.alloc_run(1)?;
/// assert!(pages.alloc_run(1).is_err());
/// assert_eq!(pages.pages_out(), 1);
/// // SAFETY: from this provider, its bytes are not used.
/// unsafe { pages.free_run(first) };
/// assert_eq!(pages.pages_out(), 0);
/// # Ok::<(), zpool_api::PageError>(())
/// ```
#[derive(Debug)]
pub struct FailingPages {
    inner: Leaked<Arc<dyn PageProvider>>,
    calls: AtomicU64,
    /// The number of the call that fails, or 0 if none does.
    fail_call: AtomicU64,
    /// The greatest number of pages that may be in use at the same time.
    limit: AtomicI64,
    pages_out: AtomicI64,
    isolate_all: AtomicBool,
}

impl FailingPages {
    /// Wraps `inner`. No call fails until one of the setters is called.
    pub fn new(inner: Arc<dyn PageProvider>) -> Self {
        FailingPages {
            inner: Leaked::new(inner),
            calls: AtomicU64::new(0),
            fail_call: AtomicU64::new(0),
            limit: AtomicI64::new(i64::MAX),
            pages_out: AtomicI64::new(0),
            isolate_all: AtomicBool::new(false),
        }
    }

    /// Makes the `n`-th `alloc_run` call from now on fail, once. 1 stands for the next call. 0 cancels an
    /// earlier request, so that no call fails.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zpool_pages::{FailingPages, HeapPages, OwnedRun};
    ///
    /// let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
    /// pages.fail_call(1);
    /// assert!(OwnedRun::alloc(pages.clone(), 4).is_err());
    /// assert!(OwnedRun::alloc(pages, 4).is_ok());
    /// ```
    pub fn fail_call(&self, n: u64) {
        let at = if n == 0 { 0 } else { self.calls.load(Ordering::SeqCst) + n };
        self.fail_call.store(at, Ordering::SeqCst);
    }

    /// Sets a limit on the pages in use. An `alloc_run` that would raise [`pages_out`](Self::pages_out)
    /// above `pages` fails.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zpool_pages::{FailingPages, HeapPages, OwnedRun};
    ///
    /// let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
    /// pages.limit_pages(4);
    /// let run = OwnedRun::alloc(pages.clone(), 4)?;
    /// assert!(OwnedRun::alloc(pages.clone(), 1).is_err());
    /// drop(run);
    /// assert!(OwnedRun::alloc(pages, 1).is_ok());
    /// # Ok::<(), zpool_api::PageError>(())
    /// ```
    pub fn limit_pages(&self, pages: usize) {
        self.limit.store(i64::try_from(pages).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Sets whether `isolate_block` returns one block that covers all of memory, whatever the wrapped
    /// provider does. A migration then moves everything that it can. `alloc_run` still works during this
    /// isolation, and no block returns to the system.
    pub fn isolate_all(&self, all: bool) {
        self.isolate_all.store(all, Ordering::SeqCst);
    }

    /// Returns the number of `alloc_run` calls so far. Failed calls count, too.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Returns the number of pages in use: those in runs that were allocated and not freed yet.
    pub fn pages_out(&self) -> usize {
        usize::try_from(self.pages_out.load(Ordering::SeqCst)).unwrap_or(0)
    }
}

/// Subtracts `pages` from `pages_out` when it is dropped.
struct Counted<'a> {
    pages_out: &'a AtomicI64,
    pages: i64,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.pages_out.fetch_sub(self.pages, Ordering::SeqCst);
    }
}

// SAFETY: all runs come from the inner provider and are passed on unchanged.
unsafe impl PageProvider for FailingPages {
    fn page_size(&self) -> usize {
        self.inner.page_size()
    }

    fn alloc_run(&self, pages: usize) -> Result<PageRun, PageError> {
        if !self.inner.is_here() {
            return Err(PageError::Forked);
        }
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if call == self.fail_call.load(Ordering::SeqCst) {
            return Err(PageError::Injected { call });
        }
        let more = pages as i64;
        let out = self.pages_out.fetch_add(more, Ordering::SeqCst) + more;
        // If no run is returned, the drop of this value subtracts the pages again, even after a panic of
        // the inner provider.
        let mut counted = Counted { pages_out: &self.pages_out, pages: more };
        if out > self.limit.load(Ordering::SeqCst) {
            return Err(PageError::Injected { call });
        }
        let run = self.inner.alloc_run(pages)?;
        counted.pages = 0;
        Ok(run)
    }

    unsafe fn free_run(&self, run: PageRun) {
        if !self.inner.is_here() {
            return;
        }
        self.pages_out.fetch_sub(run.pages() as i64, Ordering::SeqCst);
        // SAFETY: every run that this provider returned comes from the inner one, and the caller gives the
        // run up.
        unsafe { self.inner.free_run(run) };
    }

    unsafe fn discard(&self, run: &mut PageRun, pages: Range<usize>) {
        if self.inner.is_here() {
            // SAFETY: passes the caller's arguments on unchanged. The run comes from the inner provider.
            unsafe { self.inner.discard(run, pages) };
        }
    }

    fn isolate_block(&self) -> Option<PageBlock> {
        if !self.inner.is_here() {
            return None;
        }
        if self.isolate_all.load(Ordering::SeqCst) {
            return Some(PageBlock::new(0, usize::MAX));
        }
        self.inner.isolate_block()
    }

    fn putback_block(&self, block: PageBlock) -> bool {
        self.inner.is_here() && self.inner.putback_block(block)
    }

    fn cached_pages(&self) -> usize {
        if self.inner.is_here() { self.inner.cached_pages() } else { 0 }
    }

    fn trim(&self) -> usize {
        if self.inner.is_here() { self.inner.trim() } else { 0 }
    }

    fn metadata_bytes(&self) -> usize {
        if self.inner.is_here() { self.inner.metadata_bytes() } else { 0 }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::HeapPages;

    #[test]
    fn behaves_like_the_provider_it_wraps() {
        let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
        crate::exercise::exercise(pages.clone());
        assert_eq!(pages.pages_out(), 0);
        assert!(pages.calls() > 0);
    }

    #[test]
    fn fails_the_call_it_was_told_and_no_other() {
        let pages = FailingPages::new(Arc::new(HeapPages::new()));
        pages.fail_call(2);
        let a = pages.alloc_run(3).unwrap();
        assert_eq!(pages.alloc_run(1).unwrap_err(), PageError::Injected { call: 2 });
        let b = pages.alloc_run(1).unwrap();
        assert_eq!(pages.pages_out(), 4);
        pages.limit_pages(4);
        assert_eq!(pages.alloc_run(1).unwrap_err(), PageError::Injected { call: 4 });
        assert_eq!(pages.pages_out(), 4);
        for run in [a, b] {
            // SAFETY: the run comes from this provider, and nobody uses its bytes.
            unsafe { pages.free_run(run) };
        }
        assert_eq!(pages.pages_out(), 0);
    }
}
