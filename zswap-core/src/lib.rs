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
//! A store combines a *backend* with a *compressor*. The backends are `zsmalloc`, `z3fold` and `zbud`; the
//! crate `zpool-api` says how to add your own. The compressors are `linewords`, `lz4`, `lz4hc`,
//! `zstd`, `deflate`, `null` and, behind a feature, `lzo`; the crate `compressors` says how to add your own.
//! Both are chosen by name and may be changed while the store is in use:
//!
//! ```
//! # use zswap_core::{SwapEntry, Zswap};
//! use zswap_core::Recompress;
//! # if cfg!(not(all(feature = "lz4", feature = "zstd", feature = "zbud"))) { return Ok(()); }
//! # let store = Zswap::builder().zpool("zbud").compressor("lz4").build()?;
//! # let page = [7u8; zswap_core::PAGE_SIZE];
//! # store.store(SwapEntry::new(0, 1)?, &page)?;
//! store.set_compressor("zstd")?; // for new pages; older pages stay readable in their pool
//! store.migrate_pools(1000)?; // moves up to 1000 older pages into the new pool
//! // Recompress only pages that nobody has loaded for a while:
//! store.recompress(&Recompress::new("zstd:level=9").max_pages(1000).idle())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The folder `examples` has programs to start from: `database_cache` (a page cache for a file-backed
//! database), `cold_tier` (an in-memory map that moves values not used recently into a store) and
//! `memory_pressure` (a store that changes its settings as the kernel's pressure figures rise and fall).
//!
//! # Limits and writeback
//! [`max_pool_bytes`](ZswapBuilder::max_pool_bytes) and [`max_bytes`](ZswapBuilder::max_bytes) limit a store.
//! A store at its limit makes room: it compacts its pools. If it has a
//! [`swap_device`](ZswapBuilder::swap_device), it also writes pages that were not loaded recently to the
//! device; later loads read them from there. The store refuses a page only if it can free no memory for it;
//! the error says why ([`LimitReason`]). [`Zswap::shrink`] writes pages back on demand.
//! [`Zswap::shrink_in_background`] starts a thread that does so before the limit is reached.
//!
//! # Compaction
//! Overwritten and dropped pages leave holes in the pools' memory. [`Zswap::compact`] moves the remaining
//! compressed pages together and returns the freed memory to the system. [`Zswap::compact_in_background`]
//! starts a thread that does so when there is enough to free.
//!
//! # Dictionaries
//! A store that compresses with zstd can train a dictionary from its pages, and use it while it pays:
//! `Zswap::train_dictionaries_in_background` (feature `zstd`).
//!
//! # Areas
//! The pages of one `swap_type` can be an area of their own ([`Zswap::add_area`]): with its own limit, backend and
//! compressor, writeback policy and figures, for instance for a tenant of a program. A tenant that floods its area
//! makes room with its own pages. The store's limits hold over all areas. The device is shared: one
//! tenant can fill it, and then others are refused at their limits.
//!
//! # Guarantees
//! * Any thread may call anything at any time. Each entry has its own lock.
//! * `load` returns the page of the last finished `store`, byte for byte, or an error.
//! * A `store` that fails returns the reason and leaves the entry empty, so an older page is gone, too. A
//!   [`Zswap::try_replace`] that fails keeps the older page.
//! * A store with its pools at their limit refuses no page for lack of room, as long as its device accepts
//!   writes and the pages in its pools can be read. But when memory that cannot be written back reaches
//!   `max_bytes`, the store refuses pages for new entries.
//! * A codec, backend or device of your own may fail or panic. The call then returns an error, and the store
//!   stays usable: no lock stays held, and no page is lost except the one being handled.
//! * When memory runs out, calls on a built store return errors. Some calls may abort the process instead:
//!   calls that start a thread, the thread that trains dictionaries, and calls that build a pool. The last are [`Zswap::set_zpool`],
//!   [`Zswap::set_compressor`], the functions of these names of [`AreaRef`], [`Zswap::add_area`], and
//!   [`Zswap::recompress`] with a compressor that is new to an area.
//! * In a child process after `fork`, calls return errors or report an empty store, and dropping a store does
//!   nothing.
//!
//! # Files
//!
//! | file | contents |
//! |---|---|
//! | `entry/` | the name of a page (`mod.rs`), the 8-byte word of an entry (`word.rs`), its lock (`lock.rs`), and the radix index that finds the words (`index/`) |
//! | `checksum.rs` | checks that a page is the one that was stored |
//! | `area/` | an area with pools, limits and figures of its own (`mod.rs`), how the area of an entry is found (`table.rs`), and what a program sees of it (`handle.rs`, `settings.rs`) |
//! | `departure.rs`, `listener.rs` | how pages leave; calls of the listener and the filter of the program |
//! | `pool/` | a pool, which turns pages into objects and back (`mod.rs`), the list of living pools (`pools.rs`), their reference counts (`percpu_ref.rs`), and the codecs that pages on the device keep (`kept_codecs.rs`) |
//! | `moves/` | walks over the entries, like a clock's hand (`walk.rs`), the replacement of an object by a copy (`relocate.rs`), and the movers: `migrate.rs`, `recompress.rs`, `writeback.rs` with `outgoing.rs`, `promote.rs` with `promotion.rs`, `clean.rs`; and whose pages go first (`victims.rs`) |
//! | `background/` | a thread that works on a store (`mod.rs`), and four kinds of such threads: `shrinker.rs`, `cleaner.rs`, `compactor.rs`, `migrator.rs` |
//! | `dictionary/` | dictionaries that are trained from the store's pages: samples of them (`sampling.rs`), the dictionaries that pools and segments use (`known.rs`), and the thread that trains (`thread.rs`) by its settings (`policy.rs`) |
//! | `limits.rs`, `room.rs`, `device_health.rs` | the limits; how a store makes room at its limit; the pauses after failures of a device |
//! | `accounting.rs` | the memory that a store takes |
//! | `store.rs`, `iter.rs`, `batch.rs`, `switch.rs` | the store; iteration over its entries; batches, which are compressed in parallel; switches to another backend or compressor |
//! | `counters.rs`, `stats.rs` | counters without contention; the snapshot of all figures |
//! | `metrics.rs`, `publish.rs` | figures and latencies for the `metrics` crate, behind the feature of that name |
//! | `builder.rs` | the settings, and how a store is built from them |
//!
//! The crate `zpage` has the parts that `zram` uses, too: the codecs' contexts, the patterns, the devices
//! with their segments, and the built-in backends.

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
mod area;
mod background;
mod batch;
mod builder;
mod checksum;
mod compaction_bound;
mod counters;
mod departure;
mod device_health;
#[cfg(feature = "zstd")]
mod dictionary;
mod entry;
mod error;
mod iter;
mod limits;
mod listener;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(feature = "metrics")]
mod metrics;
mod moves;
mod nesting;
mod page_buffer;
mod pool;
#[cfg(feature = "metrics")]
mod publish;
mod refusal;
mod room;
mod stats;
mod switch;
mod sync;

pub use area::handle::AreaRef;
pub use area::settings::AreaSettings;
pub use background::Background;
pub use background::cleaner::{BackgroundCleaner, CleanerPolicy, CleanerReport};
pub use background::compactor::{BackgroundCompactor, CompactorPolicy, CompactorReport};
pub use background::migrator::{BackgroundMigration, MigrationReport};
pub use background::shrinker::{BackgroundShrinker, ShrinkerPolicy, ShrinkerReport};
pub use builder::ZswapBuilder;
pub use departure::Departure;
#[cfg(feature = "zstd")]
pub use dictionary::policy::{DictionaryError, DictionaryPolicy, DictionaryReport};
#[cfg(feature = "zstd")]
pub use dictionary::thread::BackgroundDictionaries;
pub use entry::{EntryError, SwapEntry};
pub use error::{BatchError, BuildError, LoadError, MigrateError, StoreError, WritebackError};
pub use iter::Entries;
pub use moves::migrate::PoolMigration;
pub use moves::promotion::Promotion;
pub use moves::recompress::{Recompress, Recompressed};
pub use page_buffer::NoBuffer;
pub use refusal::LimitReason;
pub use stats::{PoolStats, ZswapStats};
pub use store::Zswap;

pub use compressors::CompressorError;
pub use zpage::{MOST_UNIT, PAGE_SIZE, Page, UnitError, builtin, check_unit, device};
pub use zpool_api::{PageError, ZpoolError};

/// Compiles the README's example as a doctest.
#[cfg(all(doctest, feature = "zstd"))]
#[doc = include_str!("../../README.md")]
struct Readme;
