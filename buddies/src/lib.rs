//! What zbud and z3fold share: backends that keep a few objects, the *buddies*, in each page.
//!
//! A page is divided into 64 chunks; [`Shelves`] finds the page with the tightest room and the oldest
//! one; an [`ObjWord`] is all that a thread with a handle may look at of a buddy; [`Left`] keeps what
//! readers left until a call may give it up; [`reclaim()`] offers the oldest pages' objects to a
//! callback; a [`PageSource`] charges, counts and requests pages.
//!
//! ```
//! use buddies::{Shelf, Shelves};
//!
//! let mut shelves = Shelves::new();
//! for page in 0..3 {
//!     shelves.reserve().expect("little memory");
//!     shelves.add(());
//!     shelves.put(page, Shelf::Unbuddied(60 - 20 * page as u8));
//! }
//! assert_eq!(shelves.tightest(30), Some(1)); // 60, 40 and 20 chunks are free
//! assert_eq!(shelves.oldest(shelves.now()), Some(0));
//! ```
//!
//! # How it works
//!
//! | file | idea |
//! |---|---|
//! | `word.rs` | the object word: generation, length, state and readers of a buddy in one atomic |
//! | `shelves.rs` | pages by free chunks, and the LRU |
//! | `lists.rs`, `records.rs` | linked lists of page numbers, and what they link |
//! | `left.rs` | objects that their last reader left, until a call may block |
//! | `reclaim.rs` | the LRU walk with the evict callback |
//! | `source.rs` | pages of the provider, charged to a budget and counted |

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a failure in a test's helper is the test's own message"
    )
)]

mod left;
mod lists;
mod reclaim;
mod records;
mod shelves;
mod source;
mod sync;
mod word;

#[cfg(all(test, loom))]
mod loom_tests;

pub use left::{Leaves, Left};
pub use reclaim::{Reclaim, reclaim};
pub use shelves::{Shelf, Shelves};
pub use source::{FreshPage, PageSource};
pub use word::{Freed, ObjWord, PinError, READER_LIMIT, State, Word};

/// Chunks a page is divided into; a chunk is a page's 64th part.
pub const CHUNKS: usize = 64;
