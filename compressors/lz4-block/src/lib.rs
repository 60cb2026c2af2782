//! The LZ4 block format for inputs of up to 64 KiB, memory pages above all.
//!
//! [`compress`] is written for pages: on 4 KiB pages of real processes it takes less time than liblz4 at its
//! default acceleration and gives blocks of the same size. Any LZ4 decoder reads them. It needs no
//! allocator: the caller keeps a [`Table`] for each thread and lends it to every call.
//! [`decompress`] is liblz4's decoder behind a safe function.
//!
//! ```
//! let page = [7; 4096];
//! let mut table = lz4_block::Table::new();
//! let mut block = [0; lz4_block::max_compressed_len(4096)];
//! let len = lz4_block::compress(&page, &mut block, &mut table)?;
//! assert!(len < 40);
//!
//! let mut back = [0; 4096];
//! assert_eq!(lz4_block::decompress(&block[..len], &mut back), Ok(4096));
//! assert_eq!(back, page);
//! # Ok::<(), lz4_block::CompressError>(())
//! ```
//!
//! # What holds
//!
//! - A block never reaches past the end of its output: one that does not fit is an error, one that fits
//!   to the byte is not. What lies behind the block in the output is unspecified after a call.
//! - The bytes of a block depend on the input alone: not on the processor, not on the length of the
//!   output, not on what the table was used for before.
//! - No call allocates, blocks, or keeps anything but the table.
//! - [`decompress`] takes any bytes whatsoever.
//!
//! # How it works
//!
//! | file | idea |
//! |---|---|
//! | `mem.rs` | unaligned loads and copies: every raw access to memory |
//! | `table.rs` | where a sequence of five bytes was seen last |
//! | `matches.rs` | how far two places of the input agree, forwards and backwards |
//! | `sequences.rs` | the output: literals and a match, as the format has them |
//! | `encode.rs` | the search: greedy, one candidate for each position |
//! | `decode.rs` | liblz4's decoder |
//!
//! Files use those above them only.

#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod decode;
mod encode;
mod matches;
mod mem;
mod sequences;
mod table;

pub use decode::{DecompressError, decompress};
pub use encode::{CompressError, MAX_INPUT, compress, max_compressed_len};
pub use table::Table;
