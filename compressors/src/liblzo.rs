//! Safe wrappers around the C library LZO. All `unsafe` code of lzo is here.
//!
//! Invariants: the library's compression does not check the bounds of its output, so it
//! is called only with room for the worst case. Decompression uses the function that
//! checks bounds. Working memory is used through `&mut`, so by one thread at a time.

use std::os::raw::c_int;

use lzo_sys::{lzo1x, lzoconf};

use crate::error::CompressorError;
use crate::names::LZO as NAME;
use crate::scratch::Scratch;

/// Returns the most bytes that `src_len` bytes compress to. `src_len` must fit an `i32`.
pub(crate) fn compress_bound(src_len: usize) -> usize {
    src_len + src_len / 16 + 64 + 3
}

/// Returns the meaning of an error code of the library.
fn reason(code: c_int) -> &'static str {
    match code {
        lzoconf::LZO_E_OUT_OF_MEMORY => "out of memory",
        lzoconf::LZO_E_NOT_COMPRESSIBLE => "not compressible",
        lzoconf::LZO_E_INPUT_OVERRUN => "input overrun",
        lzoconf::LZO_E_OUTPUT_OVERRUN => "output overrun",
        lzoconf::LZO_E_LOOKBEHIND_OVERRUN => "a match reaches before the start",
        lzoconf::LZO_E_EOF_NOT_FOUND => "no end mark",
        lzoconf::LZO_E_INPUT_NOT_CONSUMED => "bytes follow the end mark",
        lzoconf::LZO_E_INVALID_ARGUMENT => "invalid argument",
        lzoconf::LZO_E_INVALID_ALIGNMENT => "invalid alignment",
        _ => "error",
    }
}

fn failure(code: c_int) -> CompressorError {
    CompressorError::Codec { codec: NAME, code: i64::from(code), reason: reason(code) }
}

/// Working memory for compression.
pub(crate) struct Work {
    memory: Scratch,
}

impl Work {
    pub(crate) fn new() -> Result<Self, CompressorError> {
        // SAFETY: the call compares type sizes and tests itself; it may run any
        // number of times on any thread.
        let code = unsafe { lzoconf::lzo_init() };
        if code != lzoconf::LZO_E_OK {
            return Err(failure(code));
        }
        Ok(Work { memory: Scratch::new(NAME, lzo1x::LZO1X_1_MEM_COMPRESS as usize)? })
    }

    /// Compresses `src` into `dst` and returns the length. Fails if `dst` has no room for the worst case, even if
    /// the result would fit.
    pub(crate) fn compress(
        &mut self,
        src: &[u8],
        dst: &mut [u8],
    ) -> Result<usize, CompressorError> {
        if dst.len() < compress_bound(src.len()) {
            return Err(CompressorError::OutputTooSmall {
                codec: NAME,
                src_len: src.len(),
                capacity: dst.len(),
            });
        }
        let mut written = dst.len();
        // SAFETY: `dst` has room for the worst case, checked above; the working
        // memory is as large as the library requires, aligned to 64 and ours.
        let code = unsafe {
            lzo1x::lzo1x_1_compress(
                src.as_ptr(),
                src.len(),
                dst.as_mut_ptr(),
                &mut written,
                self.memory.as_mut_ptr().cast(),
            )
        };
        if code == lzoconf::LZO_E_OK { Ok(written) } else { Err(failure(code)) }
    }

    /// Returns the heap bytes of the working memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory.len()
    }
}

/// Decompresses `src` and fills all of `dst`.
pub(crate) fn decompress(src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
    let expected = dst.len();
    let mut written = expected;
    // SAFETY: whatever the bytes, the call reads within `src` and writes within
    // `dst`; it needs no working memory.
    let code = unsafe {
        lzo1x::lzo1x_decompress_safe(
            src.as_ptr(),
            src.len(),
            dst.as_mut_ptr(),
            &mut written,
            std::ptr::null_mut(),
        )
    };
    match code {
        lzoconf::LZO_E_OK if written == expected => Ok(()),
        lzoconf::LZO_E_OK => {
            Err(CompressorError::WrongLength { codec: NAME, expected, got: Some(written) })
        }
        lzoconf::LZO_E_OUTPUT_OVERRUN => {
            Err(CompressorError::WrongLength { codec: NAME, expected, got: None })
        }
        code => Err(CompressorError::Corrupt { codec: NAME, reason: reason(code) }),
    }
}
