//! The foundation that the crates of a compressed-memory store share. Nothing here knows about compression.
//!
//! | module | contents |
//! |---|---|
//! | [`sync`] | the only place that knows whether std's or loom's threads and atomics are in use |
//! | [`lockdep`] | debug-build checks of the lock order and of sleeping under a lock |
//! | [`stable`] | a table whose elements never move, for descriptors that any index may reach |
//! | [`zeroed`] | a table of atomics whose memory returns to the system group by group |
//! | [`numbers`], [`bitmap`] | which elements of such a table are in use; the lowest free number |
//! | `mapping` | on Linux: anonymous memory, and the system calls that map and release it |
//! | [`counter`] | a number that publishes nothing |
//! | [`prefetch`] | hints to the processor about memory that will be read soon |
//! | [`fork`] | distinguishes a child after `fork` from its parent |
//! | [`unwind`] | panics in user code and in destructors |
//! | [`contained`] | such panics as a `Result`; values whose destructor may panic |
//!
//! This crate exists only for its sibling crates. Any of it may change in any version.
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
