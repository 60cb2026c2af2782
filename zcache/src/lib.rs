//! A cache of compressed values: bytes of any length under keys, within a hard budget of memory.
//!
//! A program that keeps JSON, rows, tiles or answers of other services in memory gives them to a [`Cache`]. Each value
//! is compressed as a whole, and its bytes are packed into a pool of `zpool` objects, as the kernel packs pages in
//! zswap. What the cache takes, with its index, keys and codec contexts, stays within the budget. When the budget is
//! used up, the entries that are least likely to be used again go first (S3-FIFO).
//!
//! ```
//! use zswap_cache::Cache;
//!
//! let cache = Cache::builder().max_bytes(64 << 20).build()?;
//! cache.insert("user:17", br#"{"id": 17, "name": "Ada", "visible": true}"#)?;
//! cache.insert(17, b"a number is a key, too")?;
//!
//! let mut value = Vec::new();
//! if cache.get_into("user:17", &mut value)? {
//!     assert_eq!(value, br#"{"id": 17, "name": "Ada", "visible": true}"#);
//! }
//! assert_eq!(cache.stats().entries, 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | item | idea |
//! |---|---|
//! | [`Cache`] | `insert`, `insert_or_keep`, `replace_if`, `get_into`, `get`, `contains`, `remove`, `for_each`, `clear` |
//! | [`CacheBuilder`] | budget, backend, compressor, dictionaries, background thread, a listener of evictions |
//! | [`Key`] | a number or bytes |
//! | [`CacheStats`] | figures |
//! | [`CacheError`], [`BuildError`] | why a call failed |
//!
//! # What to expect
//! * **Length.** A value has up to 256 MiB. One that compresses to at most 64 KiB is a single object; longer ones are
//!   cut. A value of more than 256 KiB is compressed in frames of that length.
//! * **Memory.** An entry takes about 40 bytes beside its key and its compressed value. A thread in the background
//!   moves objects together after removals, so that memory goes back to the system.
//! * **Dictionaries.** Short values compress badly one by one. With zstd, the default, the cache trains a dictionary
//!   from its own values of up to 4 KiB, uses it while it saves more memory than it takes, and trains another when the
//!   values change.
//! * **Threads.** Gets do not exclude each other, and no lock is held while a value is compressed or decompressed,
//!   except for the context of a processor.
//! * **After an error** the cache stays usable. A failed [`Cache::insert`] drops the key's old value, so that nobody
//!   reads a value that was meant to be replaced; [`Cache::insert_or_keep`] keeps it.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a failure in a test's helper is the test's own message"
    )
)]

mod background;
mod builder;
mod cache;
#[cfg_attr(not(feature = "zstd"), allow(dead_code, reason = "dictionaries are for zstd only"))]
mod codecs;
mod engine;
mod error;
mod frugal;
mod index;
mod invariant;
mod key;
#[cfg_attr(not(feature = "zstd"), allow(dead_code, reason = "dictionaries are for zstd only"))]
mod ledger;
mod listener;
mod listening;
mod long;
mod object;
mod pool;
mod shard;
mod stats;
mod values;
#[cfg_attr(not(feature = "zstd"), allow(dead_code, reason = "dictionaries are for zstd only"))]
mod word;

pub use builder::CacheBuilder;
pub use cache::Cache;
pub use error::{BuildError, CacheError};
pub use key::{Key, MOST_KEY};
pub use ledger::LEAST_BYTES;
pub use stats::CacheStats;
