//! A compressed-memory backend that keeps at most three objects a page: one at its start (the *first*
//! buddy), one at its end (the *last*), one between them (the *middle*).
//!
//! Pages with room wait on lists by free chunks (64 a page); the tightest fit is taken, and the middle
//! object moved if it stands in the way. Denser than zbud, as simple to reclaim: giving up a page costs
//! at most three objects.
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
//! // Give the oldest page back; the callback may keep an object, and so its page.
//! let freed = pool.reclaim(1, &|_handle, _object: zpool_api::ObjRead<'_>| Evicted::Evicted)?;
//! assert_eq!(freed, 1);
//! assert!(pool.obj_read_begin(handles[0]).is_err());
//! # Ok::<(), zpool_api::ZpoolError>(())
//! ```
//!
//! # How it works
//!
//! | file | idea |
//! |---|---|
//! | `page.rs` | a page's objects and its reference count: what the page lock guards |
//! | `states.rs` | the states of pages and the lists: what the pool lock guards |
//! | `pool.rs` | allocation, read, free, reclaim; where the bytes are touched |
//!
//! The object word, the lists by free chunks with the LRU, and the reclaim loop are zbud's, too, and
//! stand in the crate `buddies`.
//!
//! # Locks
//! The *page lock*, one for each page, guards everything in one page: its objects, their moving, its
//! references. The *pool lock* guards the lists only and is the innermost. No page provider call, no
//! system call and no user code runs under either. Reads take no lock: they pin the object's word, and
//! wait for the page lock only if they find the object being moved.

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
mod pool;
mod states;
mod sync;

#[cfg(all(test, loom))]
mod loom_tests;

pub use pool::Z3fold;
