//! The calls: which form a unit takes, and the memory that it takes.

use core::fmt;

use crate::error::Error;
use crate::format::{Header, NARROW_MAX, Narrow, Unit, WIDE_MAX, Wide, Width};
use crate::lz4;
use crate::variant::Variant;

/// The longest unit.
const MAX_LEN: usize = lz4::MAX_LEN;

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

/// Words of the table of a context, and one for what is not entered; LZ4 keeps its own state in the same place.
const PAGE_TABLE: usize = max(Narrow::SLOTS + 1, lz4::STATE_WORDS);
const LARGE_TABLE: usize = max(Wide::SLOTS + 1, lz4::STATE_WORDS);
/// Bytes of control: eight for each line, and eight that a write may go beyond.
const PAGE_CONTROL: usize = NARROW_MAX / 8 + 8;
const LARGE_CONTROL: usize = WIDE_MAX / 8 + 8;

/// The working memory of one thread at a time: [`PageContext`] or [`LargeContext`].
///
/// Compressions do not depend on what the context was used for before.
#[repr(C, align(64))]
pub struct Context<const TABLE: usize, const CONTROL: usize> {
    table: [u32; TABLE],
    control: [u8; CONTROL],
    variant: Variant,
}

/// For units up to 4096 bytes; longer ones become LZ4 blocks. 17 KiB.
pub type PageContext = Context<PAGE_TABLE, PAGE_CONTROL>;
/// For units up to 65536 bytes; longer ones become LZ4 blocks. 73 KiB.
pub type LargeContext = Context<LARGE_TABLE, LARGE_CONTROL>;

const _: () = assert!(size_of::<PageContext>() <= 20 << 10);
const _: () = assert!(size_of::<LargeContext>() <= 80 << 10);

impl<const TABLE: usize, const CONTROL: usize> Context<TABLE, CONTROL> {
    /// A context that compresses by the best [`Variant`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_variant(Variant::best())
    }

    /// A context that compresses by this variant.
    #[doc(hidden)]
    #[must_use]
    pub fn with_variant(variant: Variant) -> Self {
        Context { table: [0; TABLE], control: [0; CONTROL], variant }
    }

    /// Compresses `src` into `dst` and returns the length of the stream.
    ///
    /// With [`max_compressed_len`] bytes of room it never fails.
    ///
    /// # Errors
    /// [`Error::OutputTooSmall`]; [`Error::TooLong`] for more than 2 113 929 216 bytes.
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

    /// LZ4, or the bytes as they are.
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

/// Room with which a compression of `src_len` bytes never fails. A stream is at most one byte longer than
/// its unit; the rest is for LZ4 to try in. `usize::MAX` for units that are too long.
#[must_use]
pub fn max_compressed_len(src_len: usize) -> usize {
    if src_len > MAX_LEN { usize::MAX } else { 1 + lz4::bound(src_len) }
}

/// Decompresses `src` into all of `dst`, from any number of threads at once.
///
/// What `dst` holds after an error is unspecified, but initialised.
///
/// # Errors
/// [`Error::Corrupt`], [`Error::WrongLength`] or [`Error::TooLong`].
#[inline]
pub fn decompress(src: &[u8], dst: &mut [u8]) -> Result<(), Error> {
    decompress_with(Variant::best(), src, dst)
}

/// As [`decompress`], by this variant.
///
/// # Errors
/// As [`decompress`].
#[doc(hidden)]
#[inline]
pub fn decompress_with(variant: Variant, src: &[u8], dst: &mut [u8]) -> Result<(), Error> {
    let longest = src.len().max(dst.len());
    if longest > MAX_LEN {
        return Err(Error::TooLong { len: longest, max: MAX_LEN });
    }
    let (&header, body) = src.split_first().ok_or(Error::Corrupt)?;
    let wrong = |got| Error::WrongLength { expected: dst.len(), got };
    match Header::parse(header).ok_or(Error::Corrupt)? {
        Header::Words(unit) if unit.len() != dst.len() => Err(wrong(unit.len())),
        Header::Words(unit) => {
            let whole = src.len();
            let body = body
                .split_first_chunk()
                .filter(|&(&len, _)| usize::from(u16::from_le_bytes(len)) == whole);
            match body {
                Some((_, body)) if variant.decompress(unit, body, dst) => Ok(()),
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
