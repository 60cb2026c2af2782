//! A compressed-memory backend that keeps at most three objects per page: one at the page's start (the
//! *first* buddy), one at its end (the *last* buddy), and one between them (the *middle* buddy).
//!
//! A page has 64 chunks. Pages with room are on lists by the number of their free chunks, and a new object
//! goes to the page with the tightest fit. If the middle object of this page is in the way, it is moved.
//! z3fold is denser than zbud and as simple to reclaim: reclaiming a page never evicts more than three
//! objects.
//!
//! ```
//! use std::sync::Arc;
//! use z3fold::Z3fold;
//! use zpool_api::{Evicted, Zpool};
//! use zpool_pages::HeapPages;
//!
//! let pool = Z3fold::new(Arc::new(HeapPages::new()))?;
//! let handles: Vec<_> =
//!     (1..=3).map(|n| pool.malloc_from(&[n; 1300])).collect::<Result<_, _>>()?;
//! assert_eq!(pool.total_pages(), 1);
//! assert_eq!(pool.obj_read_begin(handles[2])?[..], [3; 1300]);
//!
//! // Reclaim the oldest page; the callback may keep an object, and so its page.
//! let freed = pool.reclaim(1, &|_handle, _object: zpool_api::ObjRead<'_>| Evicted::Evicted)?;
//! assert_eq!(freed, 1);
//! assert!(pool.obj_read_begin(handles[0]).is_err());
//! # Ok::<(), zpool_api::ZpoolError>(())
//! ```
//!
//! # How it works
//! `page.rs` places the three buddies in a page. The pool itself is in the crate `buddies`, which zbud
//! uses, too: the object word, the lists, the LRU and the reclaim loop.
//!
//! # Locks
//! Each page has a *page lock*, which guards everything in the page: its objects, their moves and its
//! reference count. The *pool lock* guards only the lists, and is the innermost lock
//! ([`PageLocks`](buddies::PageLocks)). No page provider call, no system call and no user code runs under
//! either lock. Reads take no lock: a reader pins the object's word. Only a reader that finds its object
//! being moved waits for the page lock.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a failure in a test's helper is the test's own message"
    )
)]

mod page;

#[cfg(all(test, loom))]
mod loom_tests;

use std::sync::Arc;

use buddies::Pool;
pub use zpool_api::ZpoolError;
use zpool_api::{PageBudget, PageProvider};

use crate::page::Trio;

/// A pool with at most three objects per page. The crate's front page describes it.
///
/// `Send` and `Sync`. Usually shared as `Arc<dyn Zpool>`. Dropping it returns all pages to the provider.
///
/// After `fork`, in a child of the process that made the pool, calls fail with [`ZpoolError::Forked`] or
/// answer as an empty pool would. In the child, dropping the pool or a guard frees nothing.
pub struct Z3fold(Pool<Trio, 3>);

impl Z3fold {
    /// Makes an empty pool over `provider`. Allocates no page yet.
    ///
    /// # Errors
    /// [`ZpoolError::UnsupportedPageSize`] if the provider's pages are smaller than 4 KiB, larger than 64
    /// KiB, or not a power of two.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use z3fold::Z3fold;
    /// use zpool_api::Zpool;
    /// use zpool_pages::HeapPages;
    ///
    /// let pool: Arc<dyn Zpool> = Arc::new(Z3fold::new(Arc::new(HeapPages::new()))?);
    /// let handle = pool.malloc_from(b"compressed")?;
    /// assert_eq!(*pool.obj_read_begin(handle)?, *b"compressed");
    /// pool.free(handle)?;
    /// # Ok::<(), zpool_api::ZpoolError>(())
    /// ```
    pub fn new(provider: Arc<dyn PageProvider>) -> Result<Self, ZpoolError> {
        Self::with_budget(provider, None)
    }

    /// Makes an empty pool over `provider`, like [`Z3fold::new`]. The pool charges its
    /// [`total_pages`](zpool_api::Zpool::total_pages) to `budget`, if there is one. An object that fits
    /// beside others charges nothing.
    ///
    /// # Errors
    /// The same as [`Z3fold::new`].
    ///
    /// ```
    /// use std::sync::Arc;
    /// use z3fold::Z3fold;
    /// use zpool_api::{PageBudget, Zpool};
    /// use zpool_pages::HeapPages;
    ///
    /// let budget = Arc::new(PageBudget::new(4096)); // one page
    /// let pool = Z3fold::with_budget(Arc::new(HeapPages::new()), Some(budget.clone()))?;
    /// for n in 1..=3 {
    ///     pool.malloc_from(&[n; 1300])?;
    /// }
    /// assert!(pool.malloc_from(&[4; 1300]).is_err());
    /// assert_eq!(budget.used(), 4096);
    /// # Ok::<(), zpool_api::ZpoolError>(())
    /// ```
    pub fn with_budget(
        provider: Arc<dyn PageProvider>,
        budget: Option<Arc<PageBudget>>,
    ) -> Result<Self, ZpoolError> {
        Ok(Z3fold(Pool::new(provider, budget)?))
    }
}

buddies::backend!(Z3fold);

#[cfg(all(test, not(loom)))]
#[macro_use]
#[path = "../../buddies/tests/unit/mod.rs"]
mod unit;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::unit;
    use zpool_api::Zpool;
    use zpool_pages::HeapPages;

    unit_tests!(Trio, 3);

    const _: fn() = || {
        fn both<T: Send + Sync>() {}
        both::<Z3fold>();
    };

    #[test]
    fn a_page_costs_as_little_as_the_docs_say() {
        if cfg!(target_pointer_width = "64") {
            assert_eq!(Pool::<Trio, 3>::PAGE_BYTES, (48, 32));
        }
    }

    #[test]
    fn three_objects_share_a_page_and_do_not_overlap() {
        for (a, b, c) in [(1, 1, 3968), (1365, 1344, 1344), (2000, 1000, 1000), (64, 3968, 64)] {
            let pool = Z3fold::new(Arc::new(HeapPages::new())).unwrap();
            let objects = [(1u8, a), (2, b), (3, c)];
            let handles = objects.map(|(byte, len)| pool.malloc_from(&vec![byte; len]).unwrap());
            assert_eq!(pool.total_pages(), 1, "{a}, {b} and {c}");
            for (handle, (byte, len)) in handles.into_iter().zip(objects) {
                assert!(*pool.obj_read_begin(handle).unwrap() == *vec![byte; len]);
                pool.free(handle).unwrap();
            }
            assert_eq!(pool.total_pages(), 0);
        }
    }

    #[test]
    fn larger_pages_hold_larger_objects() {
        for page_size in [16384, 65536] {
            let pages = Arc::new(HeapPages::with_page_size(page_size).unwrap());
            let pool = Z3fold::new(pages).unwrap();
            assert_eq!(pool.caps().max_object_size, page_size);
            let objects = [(7, page_size), (8, page_size / 2), (9, page_size / 4), (10, 1000)];
            let handles = objects.map(|(byte, len)| pool.malloc_from(&vec![byte; len]).unwrap());
            assert_eq!(pool.total_pages(), 2);
            for (handle, (byte, len)) in handles.into_iter().zip(objects) {
                assert!(*pool.obj_read_begin(handle).unwrap() == *vec![byte; len]);
            }
        }
    }
}
