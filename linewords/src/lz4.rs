//! The LZ4 that lines of words fall back to: two calls, on memory of the caller's.
//!
//! Invariants:
//! 1. each length handed to C was checked against [`MAX_LEN`] and fits an `int`;
//! 2. the state is as large as the library asks for, aligned to 8 or more, and used through `&mut`.

use core::ffi::{c_char, c_int, c_void};

// Links the library that has the functions below.
use lz4_sys as _;

/// The longest input of a compression, in bytes.
pub(crate) const MAX_LEN: usize = 0x7E00_0000;
/// Words of a state.
pub(crate) const STATE_WORDS: usize = 16416 / 4;

// Exported by the library but not declared by lz4-sys.
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

/// A length as C takes it. A longer output buffer is offered in part.
fn int(len: usize) -> c_int {
    c_int::try_from(len).unwrap_or(c_int::MAX)
}

/// Worst-case output for `src_len` bytes.
pub(crate) fn bound(src_len: usize) -> usize {
    src_len + src_len / 255 + 16
}

/// Compresses `src` and returns the length of the block; `None` if `dst` is too short, or `src` is empty or
/// longer than [`MAX_LEN`].
pub(crate) fn compress_block(state: &mut [u32], src: &[u8], dst: &mut [u8]) -> Option<usize> {
    if src.is_empty() || src.len() > MAX_LEN {
        return None;
    }
    if src.len() > lz4_block::MAX_INPUT {
        return compress_long_block(state, src, dst);
    }
    // SAFETY: a word is four bytes of any value.
    let (_, state, _) = unsafe { state.align_to_mut::<u8>() };
    let table = lz4_block::Table::in_memory(state)?;
    lz4_block::compress(src, dst, table).ok()
}

/// The same for more bytes than lz4-block takes, by liblz4.
fn compress_long_block(state: &mut [u32], src: &[u8], dst: &mut [u8]) -> Option<usize> {
    // SAFETY: the memory is valid for its length; the library checks size and alignment.
    let stream = unsafe { LZ4_initStream(state.as_mut_ptr().cast(), size_of_val(state)) };
    if stream.is_null() {
        return None;
    }
    // SAFETY: invariants 1 and 2; the stream was just initialised; the slices are valid for their lengths,
    // and `int` only ever shortens that of `dst`.
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

/// Decompresses `src` into `dst` and returns how many bytes that gave; nothing if `src` is no block, or
/// one of more bytes.
pub(crate) fn decompress_block(src: &[u8], dst: &mut [u8]) -> Option<usize> {
    lz4_block::decompress(src, dst).ok()
}
