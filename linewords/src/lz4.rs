//! LZ4, for units that are not stored as lines of words. The caller provides the memory.
//!
//! Invariants:
//! 1. Each length that is passed to C was checked against [`MAX_LEN`] and fits an `int`.
//! 2. The state is as large as the library requires, aligned to 8 or more, and used through `&mut`.

use core::ffi::{c_char, c_int, c_void};

// Links the library that has the functions declared below.
use lz4_sys as _;

/// The longest input that LZ4 compresses, in bytes.
pub(crate) const MAX_LEN: usize = 0x7E00_0000;
/// The length of LZ4's state, in words of four bytes.
pub(crate) const STATE_WORDS: usize = 16416 / 4;

// lz4-sys does not declare these functions, but the library exports them.
unsafe extern "C" {
    fn LZ4_initStream(buffer: *mut c_void, size: usize) -> *mut c_void;
    fn LZ4_compress_fast_continue(
        stream: *mut c_void,
        src: *const c_char,
        dst: *mut c_char,
        src_size: c_int,
        dst_capacity: c_int,
        acceleration: c_int,
    ) -> c_int;
}

/// Returns a length as a C `int`. If it does not fit, returns the largest `int`: C then uses only the start of
/// an output buffer.
fn int(len: usize) -> c_int {
    c_int::try_from(len).unwrap_or(c_int::MAX)
}

/// Compresses `src` and returns the length of the block. Returns `None` if `dst` is too short, if `src` is empty
/// or longer than [`MAX_LEN`], or if `state` is too short or not aligned to 64 bytes.
pub(crate) fn compress_block(state: &mut [u32], src: &[u8], dst: &mut [u8]) -> Option<usize> {
    if src.is_empty() || src.len() > MAX_LEN {
        return None;
    }
    if src.len() > lz4_block::MAX_INPUT {
        return compress_long_block(state, src, dst);
    }
    // SAFETY: each word is four bytes, and any four bytes are a word.
    let (_, state, _) = unsafe { state.align_to_mut::<u8>() };
    let table = lz4_block::Table::in_memory(state)?;
    lz4_block::compress(src, dst, table).ok()
}

/// Does the same with liblz4, for more bytes than lz4-block takes.
fn compress_long_block(state: &mut [u32], src: &[u8], dst: &mut [u8]) -> Option<usize> {
    // SAFETY: the memory is valid for its length; the library checks size and alignment.
    let stream = unsafe { LZ4_initStream(state.as_mut_ptr().cast(), size_of_val(state)) };
    if stream.is_null() {
        return None;
    }
    // SAFETY: invariants 1 and 2; the stream was just initialised; the slices are valid for their lengths,
    // and `int` can only shorten that of `dst`.
    let written = unsafe {
        LZ4_compress_fast_continue(
            stream,
            src.as_ptr().cast(),
            dst.as_mut_ptr().cast(),
            int(src.len()),
            int(dst.len()),
            1,
        )
    };
    usize::try_from(written).ok().filter(|&len| len > 0)
}

/// Decompresses `src` into the start of `dst` and returns how many bytes that gave. Returns `None` if `src` is
/// not an LZ4 block, or if the bytes do not fit `dst`.
pub(crate) fn decompress_block(src: &[u8], dst: &mut [u8]) -> Option<usize> {
    lz4_block::decompress(src, dst).ok()
}
