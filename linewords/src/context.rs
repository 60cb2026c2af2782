//! The crate's calls. They choose the form in which a unit is stored.

use core::fmt;

use crate::error::Error;
use crate::format::{Header, NARROW_MAX, Narrow, Unit, WIDE_MAX, Wide, Width};
use crate::lz4;
use crate::processor;
use crate::variant::Variant;

/// The length of the longest unit, in bytes.
const MAX_LEN: usize = lz4::MAX_LEN;
/// The length of the longest stream, in bytes: that of a stored unit.
const MAX_STREAM: usize = 1 + MAX_LEN;

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

/// Words in a context's table: its slots, and a surplus one for words that are not entered. LZ4 keeps its state
/// in the same memory.
const PAGE_TABLE: usize = max(Narrow::SLOTS + 1, lz4::STATE_WORDS);
const LARGE_TABLE: usize = max(Wide::SLOTS + 1, lz4::STATE_WORDS);
/// Bytes for control: eight for each line, and eight more because a write may pass the end of the last.
const PAGE_CONTROL: usize = NARROW_MAX / 8 + 8;
const LARGE_CONTROL: usize = WIDE_MAX / 8 + 8;

/// Working memory for compression, for one thread at a time: a [`PageContext`] or a [`LargeContext`].
///
/// Earlier uses of a context do not affect a compression.
#[repr(C, align(64))]
pub struct Context<const TABLE: usize, const CONTROL: usize> {
    table: [u32; TABLE],
    control: [u8; CONTROL],
    variant: Variant,
}

/// The context for units up to 4096 bytes. Longer units become LZ4 blocks. It takes 17 KiB.
pub type PageContext = Context<PAGE_TABLE, PAGE_CONTROL>;
/// The context for units up to 65536 bytes. Longer units become LZ4 blocks. It takes 73 KiB.
pub type LargeContext = Context<LARGE_TABLE, LARGE_CONTROL>;

const _: () = assert!(size_of::<PageContext>() <= 20 << 10);
const _: () = assert!(size_of::<LargeContext>() <= 80 << 10);

impl<const TABLE: usize, const CONTROL: usize> Context<TABLE, CONTROL> {
    /// Makes a context that compresses with the quickest [`Variant`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_variant(processor::best())
    }

    /// Makes a context that compresses with the given variant.
    #[doc(hidden)]
    #[must_use]
    pub fn with_variant(variant: Variant) -> Self {
        const {
            assert!(
                TABLE >= PAGE_TABLE && CONTROL >= PAGE_CONTROL,
                "use PageContext or LargeContext: this context is smaller than both"
            );
        }
        Context { table: [0; TABLE], control: [0; CONTROL], variant }
    }

    /// Compresses `src` into `dst` and returns the length of the stream.
    ///
    /// Never fails for lack of room if `dst` has [`max_compressed_len`] bytes. Lines of words that do not fit `dst`
    /// are replaced by an LZ4 block or the unit itself, if that fits. So streams of the same unit can differ if one of
    /// the buffers is short.
    ///
    /// # Errors
    /// [`Error::OutputTooSmall`] if no form of the stream fits `dst`; [`Error::TooLong`] if `src` has more than
    /// 2 113 929 216 bytes.
    #[inline]
    pub fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let words = Unit::of(src.len()).is_some_and(|unit| unit.len() <= 8 * (CONTROL - 8));
        if words {
            let Context { table, control, variant } = self;
            if let Some(len) = variant.compress(table, control, src, dst) {
                return Ok(len);
            }
        }
        self.compress_bytes(src, dst)
    }

    /// Stores `src` as an LZ4 block, or unchanged if LZ4 does not shorten it.
    fn compress_bytes(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        if src.len() > MAX_LEN {
            return Err(Error::TooLong { len: src.len(), max: MAX_LEN });
        }
        let capacity = dst.len();
        let too_small = Error::OutputTooSmall { src_len: src.len(), capacity };
        let (header, rest) = dst.split_first_mut().ok_or(too_small)?;
        if let Some(len) = lz4::compress_block(&mut self.table, src, rest) {
            if len < src.len() {
                *header = Header::Lz4.byte();
                return Ok(1 + len);
            }
        }
        *header = Header::Stored.byte();
        rest.get_mut(..src.len()).ok_or(too_small)?.copy_from_slice(src);
        Ok(1 + src.len())
    }
}

impl<const TABLE: usize, const CONTROL: usize> Default for Context<TABLE, CONTROL> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const TABLE: usize, const CONTROL: usize> fmt::Debug for Context<TABLE, CONTROL> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("variant", &self.variant).finish_non_exhaustive()
    }
}

/// Returns a length of the output buffer with which compressing `src_len` bytes never fails, or `usize::MAX` if
/// such a unit is too long to compress.
///
/// A stream is at most one byte longer than its unit. The rest is room for LZ4, which may write a longer block
/// before the unit is stored unchanged.
#[must_use]
pub fn max_compressed_len(src_len: usize) -> usize {
    if src_len > MAX_LEN { usize::MAX } else { 1 + lz4_block::max_compressed_len(src_len) }
}

/// Decompresses `src` and fills all of `dst`. Needs no context, so any number of threads may call it at the
/// same time.
///
/// After an error the content of `dst` is unspecified, but initialised.
///
/// # Errors
/// [`Error::Corrupt`] if `src` is malformed; [`Error::WrongLength`] if it decompresses to another length than
/// that of `dst`; [`Error::TooLong`] if `dst` has more than 2 113 929 216 bytes, or `src` more than one byte more. An
/// LZ4 block of more bytes than `dst` has counts as malformed.
#[inline]
pub fn decompress(src: &[u8], dst: &mut [u8]) -> Result<(), Error> {
    decompress_with(processor::best(), src, dst)
}

/// Does what [`decompress`] does, with the given variant.
///
/// # Errors
/// Those of [`decompress`].
#[doc(hidden)]
#[inline]
pub fn decompress_with(variant: Variant, src: &[u8], dst: &mut [u8]) -> Result<(), Error> {
    for (len, max) in [(src.len(), MAX_STREAM), (dst.len(), MAX_LEN)] {
        if len > max {
            return Err(Error::TooLong { len, max });
        }
    }
    let (&header, body) = src.split_first().ok_or(Error::Corrupt)?;
    let wrong = |got| Error::WrongLength { expected: dst.len(), got };
    match Header::parse(header).ok_or(Error::Corrupt)? {
        Header::Words(unit) | Header::Deltas(unit) if unit.len() != dst.len() => {
            Err(wrong(unit.len()))
        }
        Header::Deltas(_) => {
            if variant.decompress_deltas(body, dst) {
                Ok(())
            } else {
                Err(Error::Corrupt)
            }
        }
        Header::Words(unit) => {
            let whole = src.len();
            let body = body
                .split_first_chunk()
                .filter(|&(&len, _)| usize::from(u16::from_le_bytes(len)) == whole);
            match body {
                Some((_, body)) if variant.decompress_words(unit, body, dst) => Ok(()),
                _ => Err(Error::Corrupt),
            }
        }
        Header::Stored if body.len() != dst.len() => Err(wrong(body.len())),
        Header::Stored => {
            dst.copy_from_slice(body);
            Ok(())
        }
        Header::Lz4 => {
            let expected = dst.len();
            match lz4::decompress_block(body, dst) {
                None => Err(Error::Corrupt),
                Some(got) if got != expected => Err(Error::WrongLength { expected, got }),
                Some(_) => Ok(()),
            }
        }
    }
}
