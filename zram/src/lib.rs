//! A compressed block device as a library: a disk of a declared size that keeps its 4 KiB pages compressed in
//! memory. A VMM, a network block device or a test can put a file system on it.
//!
//! ```
//! use zram::{Recompress, Zram};
//!
//! # if cfg!(not(all(feature = "lz4", feature = "zstd"))) { return Ok(()); }
//! let disk = Zram::builder().disksize(64 << 20).algorithm("lz4").recompression("zstd").build()?;
//!
//! disk.write(5000, b"any range of bytes")?;
//! let mut back = [0; 18];
//! disk.read(5000, &mut back)?;
//! assert_eq!(&back, b"any range of bytes");
//!
//! disk.mark_idle();
//! let done = disk.recompress(&Recompress::new().idle())?;
//! assert_eq!(done.recompressed + done.not_smaller, 1);
//! disk.read(5000, &mut back)?;
//! assert_eq!(&back, b"any range of bytes");
//!
//! disk.discard(0, 64 << 20)?;
//! assert_eq!(disk.mm_stat().orig_data_size, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Guarantees
//! * Any thread may call anything at any time. Pages that were never written, or were discarded, read
//!   as zeros.
//! * A write to one page, whole or in part, is atomic. A range of several pages is written page by page.
//! * If a write fails, the page that failed is unchanged, and the pages before it are written.
//!   If a recompression or writeback fails, its page is unchanged, too.
//! * If a user's codec, backend or device fails or panics, the disk stays usable, and every page that can be
//!   read still reads as its last acknowledged write. A callback must not access the page that it is called
//!   for: the page's lock may be held, and the callback would wait for itself.
//!
//! # Locks
//! Each page has a slot, which is one word. A bit of the word is the slot's lock. A read, or a write of a
//! whole page, holds the lock for a few instructions, and so does writeback: it neither writes to the device nor
//! waits under the lock. Writes of a part of a page and recompression hold the lock while they sleep in the codec
//! and the backend, and a write of a part of a page that is on the device while the device reads. The order is:
//! slot lock, then a compression context (`AcompCtx`), then the backend's locks. No thread waits for a slot's lock
//! while it holds a context or another slot's lock, and none waits for the device to be cleaned while it holds a
//! slot's lock.
//!
//! # Files
//!
//! | file | idea |
//! |---|---|
//! | `word.rs`, `table.rs` | the 8 bytes of a slot; all slots, and their lock |
//! | `page.rs` | writing, reading and discarding a page |
//! | `range.rs` | the same for ranges of bytes |
//! | `recompress.rs`, `idle.rs` | making unused pages smaller; which pages are unused |
//! | `writeback.rs`, `outgoing.rs` | which pages move to the device; how they are packed, written and cleaned |
//! | `counts.rs`, `stat.rs` | counters; statistics, in the kernel's order |
//! | `builder.rs`, `error.rs` | building a disk; errors |

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

mod builder;
mod counts;
mod error;
mod idle;
mod outgoing;
mod page;
mod page_buffer;
mod range;
mod recent;
mod recompress;
mod stat;
mod table;
mod word;
mod writeback;

pub use builder::ZramBuilder;
pub use compressors::CompressorError;
pub use error::{BuildError, ZramError};
pub use page::Zram;
pub use recompress::{Recompress, Recompressed};
pub use stat::{BdStat, BlockState, IoStat, MmStat};
pub use writeback::{Writeback, WrittenBack};
pub use zpage::{MOST_UNIT, PAGE_SIZE, Page, UnitError, device};
pub use zpool_api::{PageError, ZpoolError};
