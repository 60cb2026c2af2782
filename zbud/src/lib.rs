//! A compressed-memory backend that keeps at most two objects per page.
//!
//! An object is at the start of its page (the *first* buddy) or at its end (the *last* buddy). A page has
//! 64 chunks. Pages with one object are on lists by the number of their free chunks, and a new object goes
//! to the page with the tightest fit. A page never holds more than two objects, so reclaiming a page never
//! evicts more than two. That is zbud's promise, and the reason to choose it over denser backends.
//!
//! ```
//! use std::sync::Arc;
//! use zbud::Zbud;
//! use zpool_api::{Evicted, Zpool};
//! use zpool_pages::HeapPages;
//!
//! let pool = Zbud::new(Arc::new(HeapPages::new()))?;
//! let a = pool.malloc_from(&[1; 1500])?;
//! let b = pool.malloc_from(&[2; 2500])?;
//! assert_eq!(pool.total_pages(), 1); // buddies
//! assert_eq!(pool.obj_read_begin(b)?.len(), 2500);
//!
//! // Reclaim the oldest page; the callback may keep an object, and so its page.
//! let freed = pool.reclaim(1, &|_handle, _object: zpool_api::ObjRead<'_>| Evicted::Evicted)?;
//! assert_eq!(freed, 1);
//! assert!(pool.obj_read_begin(a).is_err());
//! # Ok::<(), zpool_api::ZpoolError>(())
//! ```
//!
//! # How it works
//! `layout.rs` places the two buddies in a page. The pool itself is in the crate `buddies`, which z3fold
//! uses, too: the object word, the lists, the LRU and the reclaim loop.
//!
//! # Locks
//! The *pool lock* guards pages and lists. It is held for a few dozen instructions at a time
//! ([`OneLock`](buddies::OneLock)). No page provider call, no system call and no user code runs under it.
//! Reads take no lock: a reader pins the object's word. If an object is freed while it is being read, the
//! word marks the object as parked. The last reader leaves the object to the pool, and the pool's next call
//! that may block frees the object's room.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a failure in a test's helper is the test's own message"
    )
)]

mod layout;

#[cfg(all(test, loom))]
mod loom_tests;

use std::sync::Arc;

use buddies::Pool;
pub use zpool_api::ZpoolError;
use zpool_api::{PageBudget, PageProvider};

use crate::layout::Pair;

/// A pool with at most two objects per page. The crate's front page describes it.
///
/// `Send` and `Sync`. Usually shared as `Arc<dyn Zpool>`. Dropping it returns all pages to the provider.
///
/// After `fork`, in a child of the process that made the pool, calls fail with [`ZpoolError::Forked`] or
/// answer as an empty pool would. In the child, dropping the pool or a guard frees nothing.
pub struct Zbud(Pool<Pair, 2>);

impl Zbud {
    /// Makes an empty pool over `provider`. Allocates no page yet.
    ///
    /// # Errors
    /// [`ZpoolError::UnsupportedPageSize`] if the provider's pages are smaller than 4 KiB, larger than 64
    /// KiB, or not a power of two.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zbud::Zbud;
    /// use zpool_api::Zpool;
    /// use zpool_pages::HeapPages;
    ///
    /// let pool: Arc<dyn Zpool> = Arc::new(Zbud::new(Arc::new(HeapPages::new()))?);
    /// let handle = pool.malloc_from(b"compressed")?;
    /// assert_eq!(*pool.obj_read_begin(handle)?, *b"compressed");
    /// pool.free(handle)?;
    /// # Ok::<(), zpool_api::ZpoolError>(())
    /// ```
    pub fn new(provider: Arc<dyn PageProvider>) -> Result<Self, ZpoolError> {
        Self::with_budget(provider, None)
    }

    /// Makes an empty pool over `provider`, like [`Zbud::new`]. The pool charges its
    /// [`total_pages`](zpool_api::Zpool::total_pages) to `budget`, if there is one. An object that fits
    /// beside another one charges nothing.
    ///
    /// # Errors
    /// The same as [`Zbud::new`].
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zbud::Zbud;
    /// use zpool_api::{PageBudget, Zpool};
    /// use zpool_pages::HeapPages;
    ///
    /// let budget = Arc::new(PageBudget::new(4096)); // one page
    /// let pool = Zbud::with_budget(Arc::new(HeapPages::new()), Some(budget.clone()))?;
    /// pool.malloc_from(&[1; 2000])?;
    /// pool.malloc_from(&[2; 2000])?; // beside the first
    /// assert!(pool.malloc_from(&[3; 2000]).is_err());
    /// assert_eq!(budget.used(), 4096);
    /// # Ok::<(), zpool_api::ZpoolError>(())
    /// ```
    pub fn with_budget(
        provider: Arc<dyn PageProvider>,
        budget: Option<Arc<PageBudget>>,
    ) -> Result<Self, ZpoolError> {
        Ok(Zbud(Pool::new(provider, budget)?))
    }
}

buddies::backend!(Zbud);

#[cfg(all(test, not(loom)))]
#[macro_use]
#[path = "../../buddies/tests/unit/mod.rs"]
mod unit;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::unit;
    use zpool_api::{PageRun, SlotRef, Zpool};
    use zpool_pages::HeapPages;

    unit_tests!(Pair, 2);

    const _: fn() = || {
        fn both<T: Send + Sync>() {}
        both::<Zbud>();
    };

    fn pool() -> Zbud {
        Zbud::new(Arc::new(HeapPages::new())).unwrap()
    }

    #[test]
    fn a_page_costs_as_little_as_the_docs_say() {
        if cfg!(target_pointer_width = "64") {
            assert_eq!(Pool::<Pair, 2>::PAGE_BYTES, (24, 32));
        }
    }

    #[test]
    fn two_objects_share_a_page_and_do_not_overlap() {
        let pool = pool();
        for (a, b) in [(1, 4032), (64, 4032), (2048, 2048), (4000, 64), (4032, 1)] {
            let first = pool.malloc_from(&vec![1; a]).unwrap();
            let last = pool.malloc_from(&vec![2; b]).unwrap();
            assert_eq!(pool.total_pages(), 1, "{a} and {b}");
            assert_eq!(*pool.obj_read_begin(first).unwrap(), *vec![1; a]);
            assert_eq!(*pool.obj_read_begin(last).unwrap(), *vec![2; b]);
            pool.free(first).unwrap();
            pool.free(last).unwrap();
            assert_eq!(pool.total_pages(), 0);
        }
    }

    #[test]
    fn a_retired_buddy_leaves_its_neighbour_alone() {
        let pool =
            unit::starting_at::<Pair, 2>(Arc::new(HeapPages::new()), SlotRef::MAX_GENERATION);
        let stays = pool.malloc_from(&[1; 100]).unwrap();
        let goes = pool.malloc_from(&[2; 100]).unwrap();
        pool.free(goes).unwrap();
        let elsewhere = pool.malloc_from(&[3; 100]).unwrap();
        assert_eq!(pool.total_pages(), 2, "the used-up slot must not be reused");
        assert_eq!(&*pool.obj_read_begin(stays).unwrap(), &[1; 100]);
        for handle in [stays, elsewhere] {
            pool.free(handle).unwrap();
        }
        assert_eq!(pool.total_pages(), 0);
    }

    #[test]
    fn larger_pages_hold_larger_objects() {
        for page_size in [16384, 65536] {
            let pages = Arc::new(HeapPages::with_page_size(page_size).unwrap());
            let pool = Zbud::new(pages).unwrap();
            assert_eq!(pool.caps().max_object_size, page_size);
            let whole = pool.malloc_from(&vec![7; page_size]).unwrap();
            let half = pool.malloc_from(&vec![8; page_size / 2]).unwrap();
            let other = pool.malloc_from(&vec![9; page_size / 2]).unwrap();
            assert_eq!((pool.total_pages(), pool.stats().pool_bytes()), (2, 2 * page_size));
            for (handle, byte, len) in
                [(whole, 7, page_size), (half, 8, page_size / 2), (other, 9, page_size / 2)]
            {
                let object = pool.obj_read_begin(handle).unwrap();
                assert!(*object == *vec![byte; len]);
            }
        }
    }

    #[derive(Debug)]
    struct OddPages;
    // SAFETY: `alloc_run` never returns a run.
    unsafe impl PageProvider for OddPages {
        fn page_size(&self) -> usize {
            2048
        }
        fn alloc_run(&self, pages: usize) -> Result<PageRun, zpool_api::PageError> {
            Err(zpool_api::PageError::RunLength { pages, max: 0 })
        }
        unsafe fn free_run(&self, _run: PageRun) {}
        unsafe fn discard(&self, _run: &mut PageRun, _pages: core::ops::Range<usize>) {}
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

    #[test]
    fn odd_page_sizes_are_refused() {
        assert!(matches!(
            Zbud::new(Arc::new(OddPages)),
            Err(ZpoolError::UnsupportedPageSize { page_size: 2048, .. })
        ));
    }
}
