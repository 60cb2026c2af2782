//! A compressed block device as a library: a disk of a declared size whose 4 KiB pages are compressed in
//! memory, for a VMM, a network block device or a test to put a file system on.
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
//! # What may be relied on
//! * Any thread may call anything at any time. Pages that were never written, or were discarded, read
//!   as zeros.
//! * A write of one page, or of a part of one, is seen whole or not at all. A range of several pages is
//!   written page by page.
//! * A write that fails leaves the page that it failed at, which the error names, as it was; pages before
//!   it are written. An error half-way through recompression or writeback leaves its page alone, too.
//! * A codec, backend or device of your own that fails or panics leaves the disk usable, and every page
//!   as it was acknowledged last. Callbacks must not touch the page they were called for: its lock may be
//!   held, and they would wait for themselves.
//!
//! # Locks
//! A lock for each slot, a bit of its word: held for a few instructions by whole-page reads and writes,
//! and while sleeping, through codec, backend and device, by writes of a part of a page,
//! recompression and writeback. Order: slot lock, then AcompCtx, then the backend's. Nobody waits for a
//! slot's lock while holding a context or another slot's lock.
//!
//! # Files
//!
//! | file | idea |
//! |---|---|
//! | `word.rs`, `table.rs` | the 8 bytes of a slot; all slots, and their lock |
//! | `page.rs` | a page written, read, discarded |
//! | `range.rs` | ranges of bytes |
//! | `recompress.rs`, `writeback.rs`, `idle.rs` | what is done with pages that nobody uses |
//! | `counts.rs`, `stat.rs` | what is counted; figures, in the kernel's order |
//! | `builder.rs`, `error.rs` | putting it together; what can go wrong |

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
mod page;
mod range;
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
pub use zpage::{PAGE_SIZE, Page, device};
pub use zpool_api::{PageError, ZpoolError};
