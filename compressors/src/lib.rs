//! Page compressors behind one trait: lz4, lz4hc, zstd, deflate, lzo and null,
//! which have the kernel's names, and linewords, which the kernel does not have.
//!
//! They are made for many small inputs, mainly memory pages. A [`Compressor`] is a
//! codec with its parameters, and all threads share it. It makes
//! [`CompressorCtx`]s: each is the working memory of one thread, allocated once and
//! reused for every page. A codec that decompresses without working memory also
//! offers [`StatelessDecompress`], which needs no context.
//!
#![cfg_attr(feature = "zstd", doc = "```")]
#![cfg_attr(not(feature = "zstd"), doc = "```ignore")]
//! let zstd = compressors::build("zstd:level=6")?;
//! let mut ctx = zstd.new_ctx()?;
//!
//! let page: Vec<u8> = (0..4096u32).map(|i| (i / 100) as u8).collect();
//! let mut buffer = vec![0; zstd.max_compressed_len(page.len())];
//! let len = ctx.compress(&page, &mut buffer)?;
//! assert!(len < page.len() / 4);
//!
//! let mut back = vec![0; page.len()];
//! ctx.decompress(&buffer[..len], &mut back)?;
//! assert_eq!(back, page);
//!
//! // A page cut short is an error, not a crash.
//! assert!(ctx.decompress(&buffer[..len - 1], &mut back).is_err());
//! # Ok::<(), compressors::CompressorError>(())
//! ```
//!
//! # Common rules
//!
//! - The caller must know how long a page is: decompression fills its output buffer
//!   exactly, or it fails.
//! - Truncated input is an error. Garbage and altered input is an error or gives
//!   some other page. No access is ever out of bounds.
//! - Contexts allocate when they are made, not per page. There are two exceptions:
//!   `lz4hc` from level 10 on allocates in each compression, and `zstd` may allocate
//!   for an input that needs larger tables than its `page` parameter provides.
//! - An error leaves the context ready for the next page. After a panic, which a third party's codec may
//!   cause, drop the context. [`guard`] turns panics into errors.
//! - No call of these codecs blocks or takes a lock.
//!
//! # Asynchronous requests
//!
//! [`Acomp`] takes requests that own all they need. [`Scomp`] runs each request in the caller,
//! [`AcompEngine`] runs them on worker threads. Both report completions to an [`AcompCompletions`].
//! A [`CompletionsPool`] lends such queues, so that a batch need not allocate one.
//!
//! # Codecs
//!
//! The default of each parameter is in parentheses.
//!
//! | name | parameters | decompresses without a context | cargo feature |
//! |---|---|---|---|
//! | `lz4` | `accel` 1 to 65537 (1) | yes | `lz4` (default) |
//! | `lz4hc` | `level` 3 to 12 (9) | yes | `lz4` (default) |
//! | `linewords` | `page` (4096) | yes | `linewords` (default) |
//! | `zstd` | `level` to 22, negative ones too (3); `page` (4096) | no | `zstd` (default) |
//! | `deflate` | `level` 1 to 12 (6) | no | `deflate` (default) |
//! | `lzo` | | yes | `lzo` (off: GPL-2.0, builds with cmake) |
//! | `null` | | yes | always on |
//!
//! If no compressor is named, the page store of `zswap-core` and the disk of `zram` use [`default_compressor`],
//! which depends on the processor.
//!
//! The builders of lz4, lz4hc and zstd also take a dictionary. Register compressors with a dictionary, and
//! those of third parties, in a [`Registry`] under names of their own. [`resolve`](Registry::resolve) returns
//! the key that builds a compressor again. The module `training` (feature `zstd`) trains dictionaries from samples of
//! what a program compresses.
//!
//! Compressed pages are meant only for the process that made them. They have no header
//! and no checksum, and are not in the file formats of these libraries.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod acomp;
#[cfg(any(
    feature = "lz4",
    feature = "linewords",
    feature = "zstd",
    feature = "deflate",
    feature = "lzo"
))]
mod boxed;
mod compressor;
mod default_compressor;
#[cfg(feature = "deflate")]
mod deflate;
#[cfg(any(feature = "lz4", feature = "zstd"))]
mod dictionary;
mod error;
pub mod guard;
#[cfg(feature = "deflate")]
mod libdeflate;
#[cfg(feature = "lz4")]
mod liblz4;
#[cfg(feature = "lzo")]
mod liblzo;
#[cfg(feature = "zstd")]
mod libzdict;
#[cfg(feature = "zstd")]
mod libzstd;
#[cfg(feature = "linewords")]
mod linewords;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "lz4")]
mod lz4codec;
#[cfg(feature = "lz4")]
mod lz4hc;
#[cfg(feature = "lzo")]
mod lzo;
mod names;
mod null;
mod registry;
#[cfg(any(feature = "lz4", feature = "lzo", feature = "zstd"))]
mod scratch;
mod spec;
#[cfg(feature = "zstd")]
pub mod training;
#[cfg(feature = "zstd")]
mod zstd;

pub use acomp::{
    Acomp, AcompCompletions, AcompDone, AcompEngine, AcompOp, AcompRequest, AcompTicket,
    CompletionsPool, Scomp,
};
pub use compressor::{Compressor, CompressorCtx, StatelessDecompress};
pub use default_compressor::{DefaultCompressor, default_compressor};
#[cfg(feature = "deflate")]
pub use deflate::Deflate;
pub use error::CompressorError;
#[cfg(feature = "linewords")]
pub use linewords::Linewords;
#[cfg(feature = "lz4")]
pub use lz4::{Lz4, Lz4Builder};
#[cfg(feature = "lz4")]
pub use lz4hc::{Lz4Hc, Lz4HcBuilder};
#[cfg(feature = "lzo")]
pub use lzo::Lzo;
pub use null::Null;
pub use registry::{Built, Registry, build};
pub use spec::Spec;
#[cfg(feature = "zstd")]
pub use zstd::{Zstd, ZstdBuilder};
