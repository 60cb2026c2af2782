//! The three traits every codec implements: the shareable compressor, the
//! context that does the work, and decompression that needs no context.
//!
//! A [`Compressor`] is the codec with its parameters. It is shared by all
//! threads and holds nothing that changes. A [`CompressorCtx`] is the working
//! memory of one thread at a time. It is made once, reused for every page, and
//! takes no lock of its own: `&mut self` is its lock.
//!
//! Invariants every implementation keeps:
//! - a context allocates when it is made, not per page;
//! - no input, however malformed, makes a call read or write out of bounds;
//! - a call that returned an error leaves the context fit for the next call.

use std::fmt;

use crate::error::CompressorError;

/// A codec with its parameters; cheap to share, makes contexts.
///
/// Implementations do not block and take no locks. All methods may be called
/// from any thread at any time.
pub trait Compressor: Send + Sync + fmt::Debug {
    /// The kernel's name of the algorithm: `lz4`, `lz4hc`, `zstd`, `deflate`,
    /// `lzo`, `null`; or `linewords`. Third parties use their own.
    fn name(&self) -> &str;

    /// The spec that builds this compressor again, e.g. `zstd:level=19` or
    /// `lz4`. It is canonical: parameters at their default are left out, so
    /// two compressors with the same spec read each other's output.
    ///
    /// A compressor with a dictionary puts the dictionary's fingerprint into
    /// its spec (`dict=…`). Such a spec tells compressors apart, but only the
    /// codec's builder, given the dictionary's bytes, can build it again. What a
    /// registry builds again is [`Built::key`](crate::Built::key).
    fn spec(&self) -> String;

    /// Worst-case output size in bytes for `src_len` input bytes.
    ///
    /// `usize::MAX` when `src_len` is more than the codec takes.
    fn max_compressed_len(&self, src_len: usize) -> usize;

    /// Makes a context. All memory the codec needs is allocated here, none per
    /// page. A set-up that fails half-way unwinds and leaks nothing.
    ///
    /// # Errors
    /// [`CompressorError::OutOfMemory`] or [`CompressorError::Codec`].
    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError>;

    /// The decompressor that needs no context, for codecs that have one (lz4,
    /// lz4hc, linewords, lzo, null): a load then takes no per-CPU lock.
    fn stateless(&self) -> Option<&dyn StatelessDecompress> {
        None
    }
}

/// Decompression without a context, from any number of threads at once.
pub trait StatelessDecompress: Send + Sync {
    /// Decompresses `src` into all of `dst`.
    ///
    /// What `dst` holds after an error is unspecified, but initialised.
    ///
    /// # Errors
    /// [`CompressorError::Corrupt`] if `src` is not output of this codec,
    /// [`CompressorError::WrongLength`] if it does not decompress to exactly
    /// `dst.len()` bytes, [`CompressorError::InputTooLarge`] beyond the codec's
    /// limits.
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError>;
}

/// The working memory of a codec: one thread at a time, reused for every page.
///
/// Neither call blocks, and neither allocates for inputs of the page size.
pub trait CompressorCtx: Send + fmt::Debug {
    /// Compresses `src` into `dst` and returns the compressed length in bytes.
    ///
    /// With `dst.len() >= max_compressed_len(src.len())` it never fails for
    /// lack of room. Any length of `src` is taken, zero included.
    ///
    /// # Errors
    /// [`CompressorError::OutputTooSmall`] if `dst` cannot hold the result
    /// (never a write out of bounds), [`CompressorError::InputTooLarge`] beyond
    /// the codec's limits, [`CompressorError::OutOfMemory`] or
    /// [`CompressorError::Codec`] if the codec itself failed.
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError>;

    /// Decompresses `src` into all of `dst`: the output must be exactly
    /// `dst.len()` bytes, else it is an error, and so is hostile input.
    ///
    /// What `dst` holds after an error is unspecified, but initialised.
    ///
    /// # Errors
    /// As [`StatelessDecompress::decompress`].
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError>;

    /// Heap bytes this context keeps, for accounting.
    fn memory_bytes(&self) -> usize;
}

/// The longest input or output the C codecs are called with, in bytes: what
/// fits the `int` that several of them take.
#[cfg(any(feature = "lz4", feature = "zstd", feature = "deflate", feature = "lzo"))]
pub(crate) const MAX_LEN: usize = i32::MAX as usize;

/// Refuses a length that the codec cannot take.
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
