//! A compressed page store for programs: hand over 4 KiB pages that are not needed now, get them
//! back on demand.
//!
//! ```
//! use zswap_core::{SwapEntry, Zswap};
//!
//! # if cfg!(not(feature = "lz4")) { return Ok(()); }
//! let store = Zswap::builder().zpool("zbud").compressor("lz4").build()?;
//!
//! // A page of text, and where the program wants to find it again.
//! let mut page = [0; zswap_core::PAGE_SIZE];
//! for (i, byte) in page.iter_mut().enumerate() {
//!     *byte = b"compressed memory "[i % 18];
//! }
//! let entry = SwapEntry::new(0, 7)?;
//! store.store(entry, &page)?;
//!
//! let mut back = [0; zswap_core::PAGE_SIZE];
//! store.load(entry, &mut back)?;
//! assert_eq!(back, page);
//!
//! let stats = store.stats();
//! assert_eq!(stats.stored_pages, 1);
//! assert!(stats.compressed_bytes < 200);
//!
//! assert!(store.invalidate(entry));
//! assert!(!store.contains(entry));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A store composes a *backend* (`zsmalloc`, `z3fold`, `zbud`; `zpool-api` says how to add your own) and a *compressor*
//! (`lz4`, `lz4hc`, `linewords`, `zstd`, `deflate`, `null`, and `lzo` behind a feature; `compressors` says how to
//! add your own). Both are chosen by name, and may be changed while the store is in use:
//!
//! ```
//! # use zswap_core::{SwapEntry, Zswap};
//! use zswap_core::Recompress;
//! # if cfg!(not(all(feature = "lz4", feature = "zstd", feature = "zbud"))) { return Ok(()); }
//! # let store = Zswap::builder().zpool("zbud").compressor("lz4").build()?;
//! # let page = [7u8; zswap_core::PAGE_SIZE];
//! # store.store(SwapEntry::new(0, 1)?, &page)?;
//! store.set_compressor("zstd")?; // new pages; old ones stay readable where they are
//! store.migrate_pools(1000)?; // and may be brought along
//! // Or only what nobody has loaded for a while:
//! store.recompress(&Recompress::new("zstd:level=9").max_pages(1000).idle())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Programs to begin from are in the folder `examples`: `database_cache` (a page cache for a file-backed
//! database), `cold_tier` (behind an in-memory map) and `memory_pressure` (a switch driven by the
//! kernel's figures).
//!
//! # Limits and writeback
//! With [`max_pool_bytes`](ZswapBuilder::max_pool_bytes) or [`max_bytes`](ZswapBuilder::max_bytes) a store
//! that is full makes room: with a [`swap_device`](ZswapBuilder::swap_device) it writes back pages that
//! were not loaded for longest, and it compacts. It refuses a page only if no memory can be freed for it,
//! and says why ([`LimitReason`]). [`Zswap::shrink`] writes back by hand, [`Zswap::shrink_in_background`] on
//! a thread before the limit is reached. Loads find the pages there.
//!
//! # Compaction
//! Pages that are overwritten and dropped leave holes among the objects. [`Zswap::compact`] moves objects
//! together and gives the pages won back; [`Zswap::compact_in_background`] does so on a thread whenever
//! that would pay.
//!
//! # What may be relied on
//! * Any thread may call anything at any time. Two entries never contend in the store itself.
//! * `load` gives the page that the last finished `store` put there, byte for byte, or an error.
//! * A failed `store` leaves the caller's page with the caller, says why, and keeps nothing of an
//!   older page; [`Zswap::try_replace`] keeps the older page.
//! * A store whose device accepts writes refuses no page.
//! * A codec, backend or device of your own that fails or panics leaves the store usable: the call is an
//!   error, no lock stays held, no page is lost but the one at hand.
//! * No call on a built store aborts for want of memory. In a child after `fork` calls are errors, and
//!   drops do nothing.
//!
//! # Files
//!
//! | file | idea |
//! |---|---|
//! | `entry/` | the name of a page (`mod.rs`), the 8 bytes kept of it (`word.rs`), its lock (`lock.rs`), the radix index of entry words (`index/`) |
//! | `checksum.rs` | whether a page is what was stored |
//! | `pool/` | page to object and back (`mod.rs`), the pools that are alive (`pools.rs`), what keeps each (`percpu_ref.rs`) |
//! | `moves/` | a clock's hand over the entries (`walk.rs`), a copy that takes its page's place (`relocate.rs`), and who moves pages: `migrate.rs`, `recompress.rs`, `writeback.rs` |
//! | `background/` | a thread that works on a store (`mod.rs`): `shrinker.rs`, `compactor.rs`, `migrator.rs` |
//! | `limits.rs`, `room.rs`, `device_health.rs` | the limits; room at the limit; a device that failed |
//! | `accounting.rs` | what a store takes |
//! | `store.rs`, `iter.rs`, `batch.rs`, `switch.rs` | the store; its entries; several pages at a time, compressed in parallel; another backend or compressor |
//! | `counters.rs`, `stats.rs` | counting without contention |
//! | `metrics.rs` | figures and latencies for the `metrics` crate, behind the feature of that name |
//! | `builder.rs` | putting it together |
//!
//! Contexts of codecs, patterns, devices with their slots and the built-in backends are in the crate `zpage`,
//! which `zram` is made of, too.

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

mod store;

mod accounting;
mod background;
mod batch;
mod builder;
mod checksum;
mod compaction_bound;
mod counters;
mod device_health;
mod entry;
mod error;
mod iter;
mod limits;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(feature = "metrics")]
mod metrics;
mod moves;
mod nesting;
mod pool;
#[cfg(feature = "metrics")]
mod publish;
mod refusal;
mod room;
mod stats;
mod switch;
mod sync;

pub use background::Background;
pub use background::compactor::{BackgroundCompactor, CompactorPolicy, CompactorReport};
pub use background::migrator::{BackgroundMigration, MigrationReport};
pub use background::shrinker::{BackgroundShrinker, ShrinkerPolicy, ShrinkerReport};
pub use builder::ZswapBuilder;
pub use entry::{EntryError, OFFSET_BITS, SwapEntry};
pub use error::{BatchError, BuildError, LoadError, MigrateError, StoreError, WritebackError};
pub use iter::Entries;
pub use moves::migrate::PoolMigration;
pub use moves::recompress::{Recompress, Recompressed};
pub use refusal::LimitReason;
pub use stats::{PoolStats, ZswapStats};
pub use store::Zswap;

pub use device::{DeviceError, SwapDevice};
pub use zpage::{PAGE_SIZE, Page, builtin, device};

/// The README's example, kept compiling.
#[cfg(all(doctest, feature = "zstd"))]
#[doc = include_str!("../../README.md")]
struct Readme;
