//! A compressor for memory pages that is quicker and denser than LZ4 on pages of real processes.
//!
//! A page is lines of sixteen words. Whatever a word refers to lies before its line, so vector
//! instructions compress and decompress a whole line at once. A page that does better as LZ4, text above
//! all, is an LZ4 block behind one byte. The repository's `docs/linewords.md` has the format.
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
//! # What holds
//! - The caller knows how long a unit is: a stream decompresses to exactly the length of the buffer, or
//!   the call is an error.
//! - Arbitrary bytes are an error or some unit. They never make a call read or write out of bounds, loop
//!   or panic. That a stream is the one that was made is for a checksum to say.
//! - No call allocates. A context is a value of fixed size that its owner keeps where it likes.
//! - All [`Variant`]s write the same bytes, and accept and refuse the same streams.
//!
//! # Lengths
//! Units of 2048 to 65536 bytes in steps of 2048 have lines of words. Those up to 4096 take a
//! [`PageContext`] of 17 KiB, longer ones a [`LargeContext`] of 73 KiB. Units of every other length, and
//! longer ones than the context is for, are LZ4 blocks, or stored where LZ4 does not shorten them.
//!
//! # Features
//! `std` (default) chooses the variant by the processor at run time. Without it the crate is `no_std`, and
//! the target features of the build choose.

#![cfg_attr(not(any(feature = "std", test)), no_std)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(all(target_arch = "x86_64", linewords_avx512))]
mod avx512;
mod context;
mod error;
mod format;
mod lz4;
mod plan;
mod portable;
mod variant;

pub use context::{
    Context, LargeContext, PageContext, decompress, decompress_with, max_compressed_len,
};
pub use error::Error;
#[doc(hidden)]
pub use variant::Variant;
