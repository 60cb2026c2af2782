//! Page providers: the implementations of zpool-api's
//! [`PageProvider`](zpool_api::PageProvider).
//!
//! | type | source of pages | for |
//! |---|---|---|
//! | [`MmapPages`] | anonymous mappings, whose memory returns to the system | programs on Linux |
//! | [`HeapPages`] | the global allocator | other systems, Miri |
//! | [`FailingPages`] | another provider; fails on request | tests |
//!
//! An [`OwnedRun`] is a run of any provider. It derefs to a byte slice, and frees itself when it is
//! dropped.
//!
//! ```
//! use std::sync::Arc;
//! use zpool_api::PageProvider;
//! use zpool_pages::{HeapPages, OwnedRun};
//!
//! let pages = Arc::new(HeapPages::new());
//! let mut run = OwnedRun::alloc(pages.clone(), 4)?;
//! run.fill(7);
//! assert_eq!(run.len(), 4 * pages.page_size());
//! # Ok::<(), zpool_api::PageError>(())
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

#[cfg(all(test, not(loom)))]
mod exercise;
mod failing;
mod heap;
mod length;
#[cfg(target_os = "linux")]
mod mmap;
mod owned;

pub use failing::FailingPages;
pub use heap::HeapPages;
#[cfg(target_os = "linux")]
pub use mmap::{MmapOptions, MmapPages};
pub use owned::OwnedRun;
pub use zpool_api::PageError;

const _: fn() = || {
    fn both<T: Send + Sync>() {}
    both::<HeapPages>();
    both::<FailingPages>();
    both::<OwnedRun>();
};
