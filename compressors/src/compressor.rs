//! The three traits every codec implements: the shareable compressor, the
//! context that does the work, and decompression that needs no context.
//!
//! A [`Compressor`] is the codec with its parameters. It is shared by all
//! threads and holds nothing that changes. A [`CompressorCtx`] is working
//! memory. It is made once and reused for every page. It needs no lock, since
//! its methods take `&mut self`: one thread uses it at a time.
//!
//! Invariants every implementation keeps:
//! - a context allocates when it is made, not per page (except lz4hc from level 10 on);
//! - no input, however malformed, makes a call read or write out of bounds;
//! - after an error, the context is ready for the next call.

use std::fmt;

use crate::error::CompressorError;

/// A codec with its parameters. It makes contexts and is cheap to share.
///
/// Implementations do not block and take no locks. All methods may be called
/// from any thread at any time.
pub trait Compressor: Send + Sync + fmt::Debug {
    /// Returns the kernel's name of the algorithm: `lz4`, `lz4hc`, `zstd`, `deflate`,
    /// `lzo`, `null`. Third parties use their own.
    fn name(&self) -> &str;

    /// Returns the spec that builds this compressor again, e.g. `zstd:level=19`
    /// or `lz4`. It is canonical: parameters at their default are left out, so
    /// two compressors with the same spec read each other's output.
    ///
    /// If the compressor has a dictionary, the spec contains the dictionary's
    /// fingerprint (`dict=…`). Such a spec distinguishes compressors, but it
    /// does not suffice to build one: only the codec's builder can, given the
    /// dictionary's bytes. For a compressor from a registry,
    /// [`Built::key`](crate::Built::key) is the spec that builds it again.
    fn spec(&self) -> String;

    /// Returns the most bytes that `src_len` bytes can compress to.
    ///
    /// Returns `usize::MAX` if the codec does not take `src_len` bytes.
    fn max_compressed_len(&self, src_len: usize) -> usize;

    /// Makes a context. All memory that the codec needs is allocated here, none
    /// per page. After an error nothing stays allocated.
    ///
    /// ```
    /// use compressors::{Compressor, Null};
    ///
    /// let mut ctx = Null.new_ctx()?;
    /// let mut out = [0; 8];
    /// assert_eq!(ctx.compress(b"page", &mut out)?, 4);
    /// # Ok::<(), compressors::CompressorError>(())
    /// ```
    ///
    /// # Errors
    /// [`CompressorError::OutOfMemory`] or [`CompressorError::Codec`].
    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError>;

    /// Returns the decompressor that needs no context, if the codec has one
    /// (lz4, lz4hc, lzo, null); by default `None`. A page store that
    /// decompresses with it takes no per-CPU lock.
    fn stateless(&self) -> Option<&dyn StatelessDecompress> {
        None
    }
}

/// Decompression without a context. Any number of threads can use it at the same time.
///
/// ```
/// use compressors::{Compressor, Null};
///
/// let stateless = Null.stateless().expect("null needs no context");
/// let mut back = [0; 4];
/// stateless.decompress(b"page", &mut back)?;
/// assert_eq!(&back, b"page");
/// # Ok::<(), compressors::CompressorError>(())
/// ```
pub trait StatelessDecompress: Send + Sync {
    /// Decompresses `src` and fills all of `dst`. After an error the content
    /// of `dst` is unspecified, but initialised.
    ///
    /// # Errors
    /// [`CompressorError::Corrupt`] if `src` is not output of this codec,
    /// [`CompressorError::WrongLength`] if it does not decompress to exactly
    /// `dst.len()` bytes, [`CompressorError::InputTooLarge`] if a buffer is
    /// longer than the codec can handle.
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError>;
}

/// The working memory of a codec. One thread at a time uses it, and it is reused for every page.
///
/// Neither `compress` nor `decompress` blocks, and neither allocates for inputs of the page size. Only
/// lz4hc from level 10 on allocates in each call of `compress`.
pub trait CompressorCtx: Send + fmt::Debug {
    /// Compresses `src` into `dst` and returns the compressed length in bytes.
    ///
    /// With `dst.len() >= max_compressed_len(src.len())` it never fails for
    /// lack of room. `src` may have any length, including zero.
    ///
    /// # Errors
    /// [`CompressorError::OutputTooSmall`] if `dst` cannot hold the result,
    /// [`CompressorError::InputTooLarge`] if `src` is longer than the codec can handle,
    /// [`CompressorError::OutOfMemory`] or [`CompressorError::Codec`] if the codec
    /// itself failed.
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError>;

    /// Decompresses `src` and fills all of `dst`. After an error the content
    /// of `dst` is unspecified, but initialised.
    ///
    /// # Errors
    /// Those of [`StatelessDecompress::decompress`].
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError>;

    /// Returns the heap bytes that this context keeps, for statistics.
    fn memory_bytes(&self) -> usize;
}

/// The longest input or output that the C codecs are called with, in bytes.
/// Several of them take lengths as an `int`.
#[cfg(any(feature = "lz4", feature = "zstd", feature = "deflate", feature = "lzo"))]
pub(crate) const MAX_LEN: usize = i32::MAX as usize;

/// Fails with [`CompressorError::InputTooLarge`] if `len` exceeds `max`.
#[cfg(any(feature = "lz4", feature = "zstd", feature = "deflate", feature = "lzo"))]
pub(crate) fn check_len(
    codec: &'static str,
    len: usize,
    max: usize,
) -> Result<(), CompressorError> {
    if len > max {
        return Err(CompressorError::InputTooLarge { codec, len, max });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Compressor, CompressorCtx, StatelessDecompress};

    const _: fn() = || {
        fn send<T: Send + ?Sized>() {}
        fn sync<T: Sync + ?Sized>() {}
        send::<dyn Compressor>();
        sync::<dyn Compressor>();
        send::<dyn StatelessDecompress>();
        sync::<dyn StatelessDecompress>();
        send::<dyn CompressorCtx>();
    };
}
