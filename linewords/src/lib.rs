//! A compressor for memory pages that is quicker and denser than LZ4 on pages of real processes.
//!
//! A page is divided into lines of sixteen words. A word may refer only to words before its own line, so
//! vector instructions can compress or decompress a whole line at once. Smooth pages, such as those of images,
//! are stored as differences of bytes. Pages that LZ4 compresses better, mainly text, are stored as one byte and
//! an LZ4 block. The repository's `docs/linewords.md` describes the format.
//!
//! ```
//! use linewords::PageContext;
//!
//! // Pointers, as a heap is full of.
//! let page: Vec<u8> = (0..512u64).flat_map(|i| (0x7f3a_0000 + i % 60 * 32).to_le_bytes()).collect();
//! let mut context = Box::new(PageContext::new());
//! let mut buffer = vec![0; linewords::max_compressed_len(page.len())];
//! let len = context.compress(&page, &mut buffer)?;
//! assert!(len < page.len() / 2);
//!
//! // Decompression takes no context.
//! let mut back = vec![0; page.len()];
//! linewords::decompress(&buffer[..len], &mut back)?;
//! assert_eq!(back, page);
//! # Ok::<(), linewords::Error>(())
//! ```
//!
//! # Guarantees
//! - The caller must know the length of a unit. If a stream does not decompress to exactly the length of the
//!   buffer, the call returns an error.
//! - Any bytes may be decompressed. They give an error or some unit. They never cause an access out of
//!   bounds, an endless loop or a panic. Only a checksum can show that a stream was not changed.
//! - No call allocates. A context has a fixed size, and its owner may keep it anywhere.
//! - All [`Variant`]s write the same bytes, and accept and refuse the same streams.
//!
//! # Lengths
//! A unit whose length is a multiple of 2048 bytes, from 2048 to 65536, can be stored as lines of words or as
//! differences. A [`PageContext`] of 17 KiB does this for units up to 4096 bytes, a [`LargeContext`] of 73 KiB for all of
//! them. Every other unit becomes an LZ4 block. If LZ4 does not shorten a unit, it is stored unchanged.
//!
//! # Features
//! `std` (default): the variant is chosen at run time, by the features of the processor ([`processor`]).
//! Without it, the crate is `no_std`, and the target features of the build decide.

#![cfg_attr(not(any(feature = "std", test)), no_std)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(all(target_arch = "x86_64", linewords_avx512))]
mod avx512;
mod context;
mod deltas;
#[cfg(target_arch = "x86_64")]
mod deltas_avx2;
mod error;
mod format;
mod lz4;
mod parts;
mod plan;
mod portable;
mod processor;
#[cfg(target_arch = "x86_64")]
mod reader;
mod variant;

pub use context::{
    Context, LargeContext, PageContext, decompress, decompress_with, max_compressed_len,
};
pub use error::Error;
pub use processor::{Processor, processor};
#[doc(hidden)]
pub use variant::Variant;
