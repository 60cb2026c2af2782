//! What every crate of a compressed-memory store stands on, and none of its own ideas.
//!
//! | module | what is there |
//! |---|---|
//! | [`sync`] | the one place that knows which threads and atomics are in use (std or loom) |
//! | [`lockdep`] | debug-build checks of the lock order and of sleeping under a lock |
//! | [`stable`] | a table whose elements never move, for descriptors that any index may reach |
//! | [`zeroed`] | a table of atomics whose memory goes back to the system group by group |
//! | [`numbers`], [`bitmap`] | which elements of such a table are given out; the lowest free number |
//! | `mapping` | on Linux: anonymous memory of the system's, and the calls that get it and give it back |
//! | [`counter`] | a number by which nothing is published |
//! | [`prefetch`] | telling the processor what will be looked at soon |
//! | [`fork`] | a child after `fork` told apart from its parent |
//! | [`unwind`] | panics of code that is the user's, or is called from a destructor |
//! | [`contained`] | such panics as a `Result`; values whose destructor may panic |
//!
//! It serves the crates beside it and promises nothing to others: any of it may change in any version.
//!
//! ```
//! use zpool_base::stable::StableTable;
//!
//! let table = StableTable::new();
//! let index = table.push("a descriptor")?;
//! assert_eq!(table.get(index), Some(&"a descriptor"));
//! # Ok::<(), zpool_base::stable::TableError>(())
//! ```

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a failure in a test's helper is the test's own message"
    )
)]

pub mod bitmap;
pub mod contained;
pub mod counter;
pub mod fork;
pub mod lockdep;
#[cfg(target_os = "linux")]
pub mod mapping;
pub mod numbers;
pub mod prefetch;
pub mod stable;
pub mod sync;
pub mod unwind;
pub mod zeroed;
