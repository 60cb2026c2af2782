//! The foundation that the crates of a compressed-memory store share. Nothing here knows about compression.
//!
//! | module | contents |
//! |---|---|
//! | [`sync`] | mutexes, atomics and threads, of std or of the model checker loom |
//! | [`lockdep`] | debug-build checks of the lock order and of sleeping under a lock |
//! | [`stable`] | a growing table whose elements never move; any index may be looked up at any time |
//! | [`zeroed`] | a table of atomics; the memory of a group of elements can return to the system |
//! | [`numbers`], [`bitmap`] | keep track of which elements of such a table are in use; find the lowest free number |
//! | `mapping` | on Linux: anonymous memory, and the system calls that map and release it |
//! | [`counter`] | a number that threads share; reading it orders no other memory access |
//! | [`patience`] | waits for other threads, but not for ever |
//! | [`prefetch`] | hints to the processor about memory that will be read soon |
//! | [`fork`] | tells a child after `fork` from its parent |
//! | [`unwind`] | ends panics of user code and of destructors |
//! | [`contained`] | turns panics of user code into a `Result`; wraps values whose destructor may panic |
//!
//! This crate exists only for its sibling crates. Anything in it may change in any version.
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
pub mod patience;
pub mod prefetch;
pub mod stable;
pub mod sync;
pub mod unwind;
pub mod zeroed;
