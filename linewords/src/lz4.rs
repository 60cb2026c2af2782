//! LZ4, for units that are not stored as lines of words. The caller provides the memory.

use lz4_block::{Stream, Table};

/// The longest input that LZ4 compresses, in bytes.
pub(crate) const MAX_LEN: usize = Stream::MAX_INPUT;
/// The length of LZ4's state, in words of four bytes.
pub(crate) const STATE_WORDS: usize = Stream::LEN / 4;

/// The library's default.
const ACCELERATION: i32 = 1;

const _: () = assert!(Stream::LEN % 4 == 0 && size_of::<Table>() <= Stream::LEN);

/// Compresses `src` and returns the length of the block. Returns `None` if `dst` is too short, if `src` is longer
/// than [`MAX_LEN`], or if `state` is too short or not aligned to 64 bytes.
pub(crate) fn compress_block(state: &mut [u32], src: &[u8], dst: &mut [u8]) -> Option<usize> {
    // SAFETY: each word is four bytes, and any four bytes are a word.
    let (_, state, _) = unsafe { state.align_to_mut::<u8>() };
    if src.len() > lz4_block::MAX_INPUT {
        return Stream::in_memory(state)?.compress(src, dst, ACCELERATION).ok();
    }
    lz4_block::compress(src, dst, Table::in_memory(state)?).ok()
}

/// Decompresses `src` into the start of `dst` and returns how many bytes that gave. Returns `None` if `src` is
/// not an LZ4 block, or if the bytes do not fit `dst`.
pub(crate) fn decompress_block(src: &[u8], dst: &mut [u8]) -> Option<usize> {
    lz4_block::decompress(src, dst).ok()
}
