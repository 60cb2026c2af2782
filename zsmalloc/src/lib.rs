//! A compressed-memory backend of size classes: objects of like size share *zspages*, runs of up to
//! 16 pages that are contiguous in virtual memory, so that an object that spans two pages is still
//! one slice.
//!
//! A zspage costs only the pages that its objects touch, pages without an object go back to the
//! system without anything being moved, and compaction packs what is left. Objects are read without
//! a lock.
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
//! // Every fourth object stays: compaction brings them together, under the same handles.
//! for (n, handle) in handles.iter().enumerate().filter(|(n, _)| n % 4 != 0) {
//!     pool.free(*handle)?;
//! }
//! let before = pool.total_pages();
//! let won = pool.compact()?;
//! assert!(won > 0 && pool.total_pages() == before - won);
//! assert_eq!(pool.obj_read_begin(handles[96])?[..], [96; 1000]);
//! # Ok::<(), zpool_api::ZpoolError>(())
//! ```
//!
//! # How it works
//!
//! | file | idea |
//! |---|---|
//! | `class_table.rs` | the size classes, a pure function |
//! | `route.rs` | which class a size goes to: a table that grows finer with the pool |
//! | `slot.rs` | handle slots: an object's place and length in one atomic |
//! | `lane.rs` | the zspage lock, object by object |
//! | `zspage.rs` | the descriptor that readers may hold on to |
//! | `zspages.rs` | all descriptors and their lanes: tables that only grow |
//! | `accounts.rs` | the pages that a pool has, and their budget |
//! | `class.rs` | what a class lock guards: lists by fullness, places, touched pages |
//! | `left.rs` | what readers leave behind: a queue and a list |
//! | `progress.rs` | how far compaction in parts has come |
//! | `shared.rs` | what all operations share, and the invariants they keep |
//! | `reclaim.rs` | parked places, and runs that go back |
//! | `holes.rs` | pages without an object, given back |
//! | `free.rs` | freeing |
//! | `read.rs` | reading without a lock, and why that is right |
//! | `fresh.rs` | a fresh run, charged to the budget |
//! | `alloc.rs` | a slot and a place for an object; publishing it |
//! | `compact.rs` | compaction |
//! | `migrate.rs` | a zspage moved to other pages |
//! | `pool.rs` | the type, its constructors, the trait |
//! | `class_stats.rs` | the kernel's `classes` figures |
//!
//! Files use those above them only.
//!
//! # Locks
//! The *class lock* guards the zspages of one size class for a bounded number of steps. No system
//! call, no `PageProvider` call, no waiting and no user code runs under it; a thread holds one at a
//! time. Reads take no lock: they count themselves in the object's *lane*, which a mover can
//! write-lock by trying only, under the class lock. The tables' growth, the spare slots and the
//! vacant descriptors are leaves.

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
