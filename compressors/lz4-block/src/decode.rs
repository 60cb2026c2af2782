//! liblz4's decoder, which reads and writes within its two slices, whatever the bytes.

use core::ffi::c_int;

/// Why a block cannot be decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecompressError {
    /// It is no LZ4 block, or one of more bytes than the output has.
    #[error("not an LZ4 block, or one of more than {capacity} bytes")]
    Corrupt {
        /// Bytes of the output.
        capacity: usize,
    },

    /// The block or the output is longer than liblz4 takes.
    #[error("{len} bytes are too long: at most {max} are taken", max = c_int::MAX)]
    TooLong {
        /// Bytes of the block or of the output.
        len: usize,
    },
}

/// Decompresses a block of any LZ4 encoder into `dst` and returns the length of what came out.
///
/// What `dst` holds behind that, or after an error, is unspecified.
///
/// # Errors
/// [`DecompressError::Corrupt`] if `src` is not a block or does not fit `dst`,
/// [`DecompressError::TooLong`] if one of the two has 2 GiB or more.
pub fn decompress(src: &[u8], dst: &mut [u8]) -> Result<usize, DecompressError> {
    let int = |len| c_int::try_from(len).map_err(|_| DecompressError::TooLong { len });
    let (src_len, capacity) = (int(src.len())?, int(dst.len())?);
    // SAFETY: both slices are valid for the lengths given. Whatever the bytes, the call reads within `src`
    // and writes within `dst`.
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
