//! A compressed-memory backend with size classes. Objects of similar size share *zspages*, which are
//! runs of up to 16 pages, contiguous in virtual memory. An object that spans two pages is still one
//! slice.
//!
//! A zspage costs only the pages that its objects touch. Pages without an object are returned to the
//! system, and no object has to move for that. Compaction moves objects into fewer pages. Readers
//! take no lock.
//!
//! ```
//! use std::sync::Arc;
//! use zpool_api::Zpool;
//! use zpool_pages::HeapPages;
//! use zsmalloc::Zsmalloc;
//!
//! let pool = Zsmalloc::new(Arc::new(HeapPages::new()))?;
//! let handles: Vec<_> =
//!     (0..100u8).map(|n| pool.malloc_from(&[n; 1000])).collect::<Result<_, _>>()?;
//!
//! // Keep every fourth object. Compaction packs them; their handles stay valid.
//! for (n, handle) in handles.iter().enumerate().filter(|(n, _)| n % 4 != 0) {
//!     pool.free(*handle)?;
//! }
//! let before = pool.total_pages();
//! let freed = pool.compact()?;
//! assert!(freed > 0 && pool.total_pages() == before - freed);
//! assert_eq!(pool.obj_read_begin(handles[96])?[..], [96; 1000]);
//! # Ok::<(), zpool_api::ZpoolError>(())
//! ```
//!
//! # How it works
//!
//! | file | idea |
//! |---|---|
//! | `class_table.rs` | the size classes, a pure function |
//! | `route.rs` | which class a size goes to: as the pool grows, more classes are used |
//! | `slot.rs` | handle slots: an object's place and length in one atomic word |
//! | `lane.rs` | the zspage lock: one lane for each object |
//! | `zspage.rs` | the descriptor of a zspage; a reader with an outdated slot word may still refer to it |
//! | `zspages.rs` | all descriptors and their lanes: tables that only grow |
//! | `accounts.rs` | the pool's page counts and their budget |
//! | `class.rs` | what a class lock guards: lists by fullness, places, touched pages |
//! | `left.rs` | work that readers leave to others: a queue and a list |
//! | `progress.rs` | the progress of compaction that is done in parts |
//! | `shared.rs` | what all operations share, and the invariants they keep |
//! | `reclaim.rs` | reclaiming parked places and returning runs |
//! | `holes.rs` | returning pages without an object |
//! | `free.rs` | freeing |
//! | `read.rs` | reading without a lock, and the proof that it is sound |
//! | `fresh.rs` | a fresh run, charged to the budget |
//! | `alloc.rs` | taking a slot and a place for an object, and publishing it |
//! | `compact.rs` | compaction |
//! | `migrate.rs` | moving a zspage to other pages |
//! | `pool.rs` | the type, its constructors, the trait |
//! | `class_stats.rs` | per-class figures, as in the kernel's `classes` file |
//!
//! A file uses only files above it.
//!
//! # Locks
//! The *class lock* guards the zspages of one size class. It is held for a bounded number of steps:
//! no system call, no `PageProvider` call, no waiting and no user code runs under it. A thread
//! holds at most one class lock. Readers take no lock: they count themselves in the object's
//! *lane*. A mover holds the class lock and only tries to write-lock a lane: it never waits for one.
//! All other locks are leaves: those of the tables, of the spare slots, of the vacant descriptors, of
//! the runs that wait to be returned, and of the progress of compaction. A thread takes no other lock
//! while it holds one of them.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a failure in a test's helper is the test's own message"
    )
)]

mod accounts;
mod alloc;
mod class;
mod class_stats;
mod class_table;
mod compact;
mod config;
mod free;
mod fresh;
mod holes;
mod hooks;
mod lane;
mod left;
mod migrate;
mod pool;
mod progress;
mod read;
mod reclaim;
mod route;
mod shared;
mod slot;
mod sync;
mod zspage;
mod zspages;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod race_tests;

pub use class_stats::ClassStats;
pub use config::Config;
pub use pool::Zsmalloc;
pub use zpool_api::ZpoolError;
