//! The LZ4 block format, mainly for memory pages.
//!
//! [`compress`] is made for pages: on 4 KiB pages of real processes it takes less time than liblz4 at its
//! default acceleration and gives blocks of the same size. It takes inputs of up to 64 KiB. Any LZ4 decoder can
//! read its blocks. It needs no allocator: the caller keeps a [`Table`] for each thread and passes it to every call.
//!
//! [`Stream`] is liblz4's compressor behind a safe type, for longer inputs and other accelerations. [`decompress`]
//! is liblz4's decoder behind a safe function.
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
//! # Guarantees
//!
//! - No call writes past the end of the output. After a call, the bytes of the output after the block are
//!   unspecified.
//! - If the block of [`compress`] fits exactly, the call succeeds; if it does not fit, the call fails.
//! - The bytes of a block of [`compress`] depend only on the input. The processor, the length of the output and
//!   earlier uses of the table do not matter.
//! - No call allocates or blocks. A table or a stream is the only state, and it keeps nothing for the next call.
//! - Any bytes may be passed to [`decompress`].
//!
//! # How it works
//!
//! | file | contents |
//! |---|---|
//! | `mem.rs` | unaligned loads and stores without bounds checks |
//! | `table.rs` | the place where a sequence of five bytes was last seen |
//! | `matches.rs` | the number of equal bytes at two places of the input, forwards and backwards |
//! | `sequences.rs` | the output: literals and matches in LZ4's format |
//! | `encode.rs` | the search: greedy, with one candidate for each position |
//! | `stream.rs` | liblz4's compressor |
//! | `decode.rs` | liblz4's decoder |
//!
//! A file uses only those above it.

#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod decode;
mod encode;
mod matches;
mod mem;
mod sequences;
mod stream;
mod table;

pub use decode::{DecompressError, decompress};
pub use encode::{CompressError, MAX_INPUT, compress, max_compressed_len};
pub use stream::Stream;
pub use table::Table;
