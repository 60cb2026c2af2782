//! A compressed-memory backend that keeps at most two objects a page.
//!
//! An object sits at the start of its page (the *first* buddy) or at the end (the *last*). A page
//! with one object waits on the unbuddied list of its free chunks (64 a page) until an object
//! comes that fits; the tightest fit is taken. So density is at most 2, whatever is stored, and
//! giving up a page costs at most two objects: that is zbud's promise, and why one would choose
//! it over denser backends.
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
//! // Give the oldest page back; the callback may keep an object, and so its page.
//! let freed = pool.reclaim(1, &|_handle, _object: zpool_api::ObjRead<'_>| Evicted::Evicted)?;
//! assert_eq!(freed, 1);
//! assert!(pool.obj_read_begin(a).is_err());
//! # Ok::<(), zpool_api::ZpoolError>(())
//! ```
//!
//! # How it works
//!
//! | file | idea |
//! |---|---|
//! | `pages.rs` | a page's states, who keeps a page |
//! | `pool.rs` | allocation, read, free; where the bytes are touched |
//! | `reclaim.rs` | what the reclaim loop needs of a pool |
//!
//! The object word, the lists by free chunks with the LRU, and the reclaim loop are z3fold's, too, and
//! stand in the crate `buddies`.
//!
//! # Locks
//! The *pool lock* guards the records and lists of `pages.rs`, for a few dozen instructions at a
//! time. No page provider call, no system call and no user code runs under it. Reads take no lock:
//! they pin the object's word. The descriptor table's growth lock is a leaf, taken with the pool
//! lock held or without. An object that is freed while it is read is parked in its word; its last
//! reader takes the pool lock to give the space back.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a failure in a test's helper is the test's own message"
    )
)]

mod pages;
mod pool;
mod reclaim;
mod sync;

#[cfg(all(test, loom))]
mod loom_tests;

pub use pool::Zbud;
