//! `deflate`: raw DEFLATE, without the header and checksum of zlib or gzip.
//! Decompression needs memory for tables, so it needs a context.

use std::fmt;
use std::ops::RangeInclusive;

use crate::boxed::try_box;
use crate::compressor::{Compressor, CompressorCtx, MAX_LEN, check_len};
use crate::error::CompressorError;
use crate::libdeflate::{self, Deflater, Inflater};
use crate::names::DEFLATE as NAME;
use crate::spec::{Spec, bad_int, write_spec};

const LEVEL: &str = "level";
const DEFAULT_LEVEL: i32 = 6;
const LEVELS: RangeInclusive<i32> = 1..=12;

/// DEFLATE at a chosen level.
///
/// The parameter `level` is 1 to 12, by default 6. From 10 on, the parse is
/// near optimal, and a context takes several MiB.
///
/// `Send` and `Sync`.
///
/// ```
/// use compressors::{Compressor, Deflate};
///
/// let deflate = Deflate::with_level(9)?;
/// assert_eq!(deflate.spec(), "deflate:level=9");
/// assert!(Deflate::with_level(13).is_err());
/// # Ok::<(), compressors::CompressorError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deflate {
    level: i32,
}

impl Deflate {
    /// Makes a compressor of the given level.
    ///
    /// # Errors
    /// [`CompressorError::BadParameter`] if the level is not within 1 to 12.
    pub fn with_level(level: i32) -> Result<Self, CompressorError> {
        if !LEVELS.contains(&level) {
            return Err(bad_int(NAME, LEVEL, level, &LEVELS));
        }
        Ok(Deflate { level })
    }

    pub(crate) fn from_spec(spec: &Spec) -> Result<Self, CompressorError> {
        spec.allow_keys(&[LEVEL])?;
        Self::with_level(spec.int(LEVEL, DEFAULT_LEVEL, LEVELS)?)
    }
}

impl Default for Deflate {
    fn default() -> Self {
        Deflate { level: DEFAULT_LEVEL }
    }
}

impl Compressor for Deflate {
    fn name(&self) -> &str {
        NAME
    }

    fn spec(&self) -> String {
        let level = (self.level != DEFAULT_LEVEL).then(|| self.level.to_string());
        write_spec(NAME, &[(LEVEL, level)])
    }

    fn max_compressed_len(&self, src_len: usize) -> usize {
        if src_len > MAX_LEN { usize::MAX } else { libdeflate::compress_bound(src_len) }
    }

    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        let ctx = Ctx { deflater: Deflater::new(self.level)?, inflater: Inflater::new()? };
        Ok(try_box(NAME, ctx)?)
    }
}

struct Ctx {
    deflater: Deflater,
    inflater: Inflater,
}

impl fmt::Debug for Ctx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("deflate::Ctx").field("memory_bytes", &self.memory_bytes()).finish()
    }
}

impl CompressorCtx for Ctx {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        check_len(NAME, src.len(), MAX_LEN)?;
        self.deflater.compress(src, dst).ok_or(CompressorError::OutputTooSmall {
            codec: NAME,
            src_len: src.len(),
            capacity: dst.len(),
        })
    }

    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        check_len(NAME, src.len(), MAX_LEN)?;
        check_len(NAME, dst.len(), MAX_LEN)?;
        self.inflater.decompress(src, dst)
    }

    fn memory_bytes(&self) -> usize {
        self.deflater.memory_bytes() + self.inflater.memory_bytes() + size_of::<Self>()
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::Deflate;
    use crate::compressor::Compressor;
    use crate::error::CompressorError;
    use crate::registry::build;

    const _: fn() = || {
        fn check<T: Send + Sync + Clone + 'static>() {}
        check::<Deflate>();
    };

    #[test]
    fn levels_are_bounded_and_told() {
        assert_eq!(Deflate::default().spec(), "deflate");
        assert_eq!(build("deflate:level=6").unwrap().spec(), "deflate");
        assert_eq!(build("deflate:level=12").unwrap().spec(), "deflate:level=12");
        for spec in ["deflate:level=0", "deflate:level=13", "deflate:window=15"] {
            assert!(build(spec).is_err(), "{spec}");
        }
        assert!(Deflate::with_level(0).is_err());
    }

    #[test]
    fn what_a_context_takes_is_counted() {
        let bytes = |level| Deflate::with_level(level).unwrap().new_ctx().unwrap().memory_bytes();
        assert!(bytes(1) > 64 << 10);
        assert!(bytes(6) > bytes(1));
        assert!(bytes(12) > 1 << 20);
    }

    #[test]
    fn lengths_and_loose_ends_are_judged() {
        let codec = Deflate::default();
        let mut ctx = codec.new_ctx().unwrap();
        let page = b"abcdefgh".repeat(64);
        let mut out = vec![0; codec.max_compressed_len(page.len())];
        let len = ctx.compress(&page, &mut out).unwrap();
        let wrong =
            |expected, got| Err(CompressorError::WrongLength { codec: "deflate", expected, got });
        assert_eq!(ctx.decompress(&out[..len], &mut [0; 513]), wrong(513, Some(512)));
        assert_eq!(ctx.decompress(&out[..len], &mut [0; 511]), wrong(511, None));
        assert!(matches!(
            ctx.decompress(&out[..=len], &mut [0; 512]),
            Err(CompressorError::Corrupt { .. })
        ));
        let mut back = [0; 512];
        assert_eq!(ctx.decompress(&out[..len], &mut back), Ok(()));
        assert_eq!(back[..], page[..]);
    }
}
