//! The three traits of a codec: the compressor, which threads share, the
//! context, which does the work, and decompression without a context.
//!
//! A [`Compressor`] is the codec with its parameters. All threads share it, and
//! it never changes. A [`CompressorCtx`] is working memory. It is made once and
//! reused for every page. It needs no lock, since its methods take `&mut self`:
//! only one thread uses it at a time.
//!
//! Invariants that every implementation keeps:
//! - a context allocates when it is made, not per page (the crate's front page has the exceptions);
//! - no input, however malformed, makes a call read or write out of bounds;
//! - after an error, the context is ready for the next call.

use std::fmt;

use crate::error::CompressorError;

/// A codec with its parameters. It makes contexts, and threads can share it.
///
/// Implementations do not block and take no locks. All methods may be called
/// from any thread at any time.
pub trait Compressor: Send + Sync + fmt::Debug {
    /// Returns the algorithm's name: the kernel's (`lz4`, `lz4hc`, `zstd`, `deflate`,
    /// `lzo`, `null`), `linewords`, or a name that a third party chose.
    fn name(&self) -> &str;

    /// Returns the spec that builds this compressor again, for instance `lz4` or
    /// `zstd:level=19`. The spec leaves out parameters that have their default.
    /// Two compressors with the same spec can read each other's output.
    ///
    /// If the compressor has a dictionary, the spec contains the dictionary's
    /// fingerprint (`dict=…`). Such a spec distinguishes compressors, but it
    /// does not suffice to build one: only the codec's builder can, given the
    /// dictionary's bytes. For a compressor from a registry,
    /// [`Built::key`](crate::Built::key) is the spec that builds it again.
    fn spec(&self) -> String;

    /// Returns the most bytes that `src_len` bytes can compress to, or `usize::MAX`
    /// if the codec cannot compress that many.
    fn max_compressed_len(&self, src_len: usize) -> usize;

    /// Makes a context and allocates all memory that the codec needs, so that pages
    /// need none. If the call fails, nothing stays allocated.
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

    /// Makes a context for inputs of up to `len` bytes, as [`Compressor::new_ctx`] does for inputs of the codec's
    /// own length. So a codec that is prepared for pages serves longer units, too. The output is the same format:
    /// any context of this compressor reads it. The default calls `new_ctx`, which suits a codec whose contexts do
    /// not depend on the length.
    ///
    /// ```
    /// use compressors::{Compressor, Null};
    ///
    /// let mut out = [0; 8192];
    /// assert_eq!(Null.new_ctx_for(8192)?.compress(&[7; 8192], &mut out)?, 8192);
    /// # Ok::<(), compressors::CompressorError>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Compressor::new_ctx`].
    fn new_ctx_for(&self, len: usize) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        let _ = len;
        self.new_ctx()
    }

    /// Returns the decompressor that needs no context; `None` if the codec has none.
    /// `lz4`, `lz4hc`, `linewords`, `lzo` and `null` have one. A page store that
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
    /// [`CompressorError::Corrupt`] if `src` is not output of this codec;
    /// [`CompressorError::WrongLength`] if it does not decompress to exactly
    /// `dst.len()` bytes (some codecs return `Corrupt` if it gives more);
    /// [`CompressorError::InputTooLarge`] if a buffer is longer than the codec can
    /// handle.
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError>;
}

/// The working memory of a codec. One thread uses it at a time, and it is reused for every page.
///
/// No method blocks. No method allocates for inputs of the length that the codec is prepared for (zstd's parameter
/// `page`), except that `compress` of lz4hc does from level 10 on.
pub trait CompressorCtx: Send + fmt::Debug {
    /// Compresses `src` into `dst` and returns the compressed length in bytes.
    ///
    /// Never fails for lack of room if `dst` has `max_compressed_len(src.len())`
    /// bytes. `src` may be empty.
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

    /// Returns how many heap bytes this context holds, for statistics.
    fn memory_bytes(&self) -> usize;
}

/// The longest input or output that is passed to a C codec, in bytes. Several of
/// these codecs take lengths as an `int`.
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
