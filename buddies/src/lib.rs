//! The engine of zbud and z3fold: a pool that keeps a few objects, the *buddies*, in each page.
//!
//! A page is divided into 64 chunks. A [`Layout`] defines how the buddies of a page share the chunks. A
//! [`Pool`] does everything else. The macro [`backend!`] turns a crate's own newtype over a `Pool` into a
//! backend. Here is a layout with one object per page:
//!
//! ```
//! use std::sync::Arc;
//! use buddies::{CHUNKS, Layout, NoMiddle, OneLock, Pool, Room};
//! use zpool_api::Zpool;
//! use zpool_pages::HeapPages;
//!
//! #[derive(Debug)]
//! struct Alone(usize);
//!
//! // SAFETY: the only object of a page begins where the page does.
//! unsafe impl Layout<1> for Alone {
//!     const NAME: &'static str = "alone";
//!     const EMPTY: Self = Alone(0);
//!     type Locks = OneLock;
//!     type Middle = NoMiddle;
//!     fn is_empty(&self) -> bool {
//!         self.0 == 0
//!     }
//!     fn is_headless(&self) -> bool {
//!         self.0 == CHUNKS
//!     }
//!     fn largest(&self, _moves: bool) -> usize {
//!         if self.is_empty() { CHUNKS } else { 0 }
//!     }
//!     fn room(&self, _chunks: usize) -> Option<Room> {
//!         self.is_empty().then_some(Room { nth: 0, at: 0, move_middle_to: None })
//!     }
//!     fn occupy(&mut self, _room: Room, chunks: usize) {
//!         self.0 = chunks;
//!     }
//!     fn vacate(&mut self, _nth: usize) {
//!         self.0 = 0;
//!     }
//!     fn start(_nth: usize, _chunks: usize, _middle_at: u8) -> usize {
//!         0
//!     }
//! }
//!
//! let pool = Pool::<Alone, 1>::new(Arc::new(HeapPages::new()), None)?;
//! let handles = [pool.malloc_from(b"one")?, pool.malloc_from(b"other")?];
//! assert_eq!((pool.name(), pool.total_pages()), ("alone", 2));
//! assert_eq!(*pool.obj_read_begin(handles[1])?, *b"other");
//! # Ok::<(), zpool_api::ZpoolError>(())
//! ```
//!
//! # How it works
//!
//! | file | contents |
//! |---|---|
//! | `layout.rs`, `middle.rs`, `chunks.rs` | the trait of layouts; the place of the middle object; the unit of room |
//! | `word.rs` | the object word: generation, length, state and readers of a buddy in one atomic |
//! | `page.rs` | the objects of a page and its reference count, which the page's lock guards |
//! | `states.rs` | the states of pages, which the pool lock guards |
//! | `shelves.rs` | the lists of pages by free chunks, and the LRU |
//! | `lists.rs`, `records.rs` | linked lists of page numbers, and the records that hold the links |
//! | `locks.rs` | the two lock policies: a lock for each page beside the pool lock, or only the pool lock |
//! | `desc.rs` | the descriptor of a page, and the place of each object's bytes |
//! | `left.rs` | keeps the objects that their last readers left, until a call that may block frees them |
//! | `reclaim.rs` | goes through the LRU and calls the evict callback |
//! | `core.rs`, `free.rs`, `read.rs`, `alloc.rs` | a pool's state and operations; each file uses only those before it |
//! | `pool.rs`, `backend.rs` | the backend trait, implemented by these operations; the macro for a crate's own type |
//!
//! # Locks
//! `locks.rs` describes the locks. No page provider call, no system call and no user code runs under a
//! lock. Reads take no lock: a reader pins the object's word. Only a reader that finds its object being
//! moved waits for the page's lock.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a failure in a test's helper is the test's own message"
    )
)]

mod alloc;
mod backend;
mod chunks;
mod core;
mod desc;
mod free;
mod layout;
mod left;
mod lists;
mod locks;
mod middle;
mod page;
mod pool;
mod read;
mod reclaim;
mod records;
mod shelves;
mod source;
mod states;
mod sync;
mod word;

#[cfg(all(test, loom))]
mod loom_tests;

pub use chunks::CHUNKS;
pub use layout::{Layout, Room};
pub use locks::{OneLock, PageLocks};
pub use middle::{MiddleAt, NoMiddle};
pub use pool::Pool;
#[doc(hidden)]
pub use word::READER_LIMIT;
pub use zpool_api::ZpoolError;
