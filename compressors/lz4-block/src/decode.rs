//! liblz4's decoder. Whatever the input, it reads and writes only within its two slices.

use core::ffi::c_int;

/// Why a block cannot be decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecompressError {
    /// The input is not an LZ4 block, or it decompresses to more bytes than the output has.
    #[error("not an LZ4 block, or one of more than {capacity} bytes")]
    Corrupt {
        /// The length of the output, in bytes.
        capacity: usize,
    },

    /// The block or the output is longer than liblz4 can handle.
    #[error("{len} bytes are too long: at most {max} are taken", max = c_int::MAX)]
    TooLong {
        /// The length of the block or of the output, in bytes.
        len: usize,
    },
}

/// Decompresses a block into the start of `dst` and returns the decompressed length. The block may come from any
/// LZ4 encoder.
///
/// The bytes of `dst` after that length are unspecified. After an error, all bytes of `dst` are unspecified.
///
/// # Errors
/// [`DecompressError::Corrupt`] if `src` is not a block or decompresses to more bytes than `dst` has;
/// [`DecompressError::TooLong`] if `src` or `dst` has 2 GiB or more.
pub fn decompress(src: &[u8], dst: &mut [u8]) -> Result<usize, DecompressError> {
    let int = |len| c_int::try_from(len).map_err(|_| DecompressError::TooLong { len });
    let (src_len, capacity) = (int(src.len())?, int(dst.len())?);
    // SAFETY: both slices are valid for the lengths given. Whatever the bytes of `src`, the call reads within
    // `src` and writes within `dst`.
    let got = unsafe {
        lz4_sys::LZ4_decompress_safe(
            src.as_ptr().cast(),
            dst.as_mut_ptr().cast(),
            src_len,
            capacity,
        )
    };
    usize::try_from(got).map_err(|_| DecompressError::Corrupt { capacity: dst.len() })
}
