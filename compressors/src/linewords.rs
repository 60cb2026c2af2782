//! `linewords`: a page becomes lines of words, made by vector instructions, or an LZ4 block if that is denser.
//! Decompression needs no context.

use std::fmt;
use std::ops::RangeInclusive;

use ::linewords::{Context, Error, LargeContext, PageContext};

use crate::boxed::try_box;
use crate::compressor::{Compressor, CompressorCtx, StatelessDecompress};
use crate::error::CompressorError;
use crate::names::LINEWORDS as NAME;
use crate::spec::{Spec, write_spec};

const PAGE: &str = "page";
const DEFAULT_PAGE: i32 = 4096;
const PAGES: RangeInclusive<i32> = 1..=65536;

/// Linewords. It is denser than LZ4 on pages of real processes, and on some processors faster
/// ([`DefaultCompressor`](crate::DefaultCompressor)). It compresses text as LZ4 does.
///
/// The parameter `page` is the length in bytes of the units to compress: 1 to 65536, by default 4096. It selects
/// one of two contexts. One makes lines of words of units up to 4096 bytes, the other of units up to 65536 bytes.
/// Longer units become LZ4 blocks. The parameter does not matter for decompression.
///
/// `Send` and `Sync`. A context keeps 17 KiB if `page` is at most 4096, otherwise 73 KiB.
///
/// ```
/// use compressors::{Compressor, Linewords};
///
/// assert_eq!(Linewords::default().spec(), "linewords");
/// assert!(Linewords::default().stateless().is_some());
/// ```
#[derive(Debug, Clone)]
pub struct Linewords {
    page: i32,
}

impl Linewords {
    pub(crate) fn from_spec(spec: &Spec) -> Result<Self, CompressorError> {
        spec.refuse_dictionary()?;
        spec.allow_keys(&[PAGE])?;
        Ok(Linewords { page: spec.int(PAGE, DEFAULT_PAGE, PAGES)? })
    }
}

impl Default for Linewords {
    fn default() -> Self {
        Linewords { page: DEFAULT_PAGE }
    }
}

fn told(error: Error) -> CompressorError {
    match error {
        Error::OutputTooSmall { src_len, capacity } => {
            CompressorError::OutputTooSmall { codec: NAME, src_len, capacity }
        }
        Error::WrongLength { expected, got } => {
            CompressorError::WrongLength { codec: NAME, expected, got: Some(got) }
        }
        Error::TooLong { len, max } => CompressorError::InputTooLarge { codec: NAME, len, max },
        _ => CompressorError::Corrupt {
            codec: NAME,
            reason: "not lines of words or an LZ4 block, or one of more bytes than asked for",
        },
    }
}

impl Compressor for Linewords {
    fn name(&self) -> &str {
        NAME
    }

    fn spec(&self) -> String {
        let page = (self.page != DEFAULT_PAGE).then(|| self.page.to_string());
        write_spec(NAME, &[(PAGE, page)])
    }

    fn max_compressed_len(&self, src_len: usize) -> usize {
        ::linewords::max_compressed_len(src_len)
    }

    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        self.new_ctx_for(0)
    }

    fn new_ctx_for(&self, len: usize) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        const DEFAULT: usize = DEFAULT_PAGE as usize;
        if self.page <= DEFAULT_PAGE && len <= DEFAULT {
            Ok(try_box(NAME, Ctx(PageContext::new()))?)
        } else {
            Ok(try_box(NAME, Ctx(LargeContext::new()))?)
        }
    }

    fn stateless(&self) -> Option<&dyn StatelessDecompress> {
        Some(self)
    }
}

impl StatelessDecompress for Linewords {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        ::linewords::decompress(src, dst).map_err(told)
    }
}

struct Ctx<const TABLE: usize, const CONTROL: usize>(Context<TABLE, CONTROL>);

impl<const TABLE: usize, const CONTROL: usize> fmt::Debug for Ctx<TABLE, CONTROL> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("linewords::Ctx").field(&self.0).finish()
    }
}

impl<const TABLE: usize, const CONTROL: usize> CompressorCtx for Ctx<TABLE, CONTROL> {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        self.0.compress(src, dst).map_err(told)
    }

    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        ::linewords::decompress(src, dst).map_err(told)
    }

    fn memory_bytes(&self) -> usize {
        size_of::<Self>()
    }
}

#[cfg(test)]
mod tests {
    use super::{Compressor, Linewords};
    use crate::registry::build;

    const _: fn() = || {
        fn check<T: Send + Sync + Clone + 'static>() {}
        check::<Linewords>();
    };

    #[test]
    fn a_context_for_longer_units_is_the_larger_one() {
        let codec = Linewords::default();
        let bytes = |len| codec.new_ctx_for(len).unwrap().memory_bytes();
        assert_eq!(bytes(4096), codec.new_ctx().unwrap().memory_bytes());
        assert_eq!(
            bytes(8192),
            build("linewords:page=65536").unwrap().new_ctx().unwrap().memory_bytes()
        );
    }

    #[test]
    fn the_page_is_bounded_and_told() {
        assert_eq!(build("linewords:page=4096").unwrap().spec(), "linewords");
        assert_eq!(build("linewords:page=65536").unwrap().spec(), "linewords:page=65536");
        for spec in ["linewords:page=0", "linewords:page=65537", "linewords:level=1"] {
            assert!(build(spec).is_err(), "{spec}");
        }
    }

    #[test]
    fn the_page_decides_what_a_context_takes() {
        let bytes = |spec: &str| build(spec).unwrap().new_ctx().unwrap().memory_bytes();
        assert!(bytes("linewords") <= 20 << 10);
        assert_eq!(bytes("linewords:page=64"), bytes("linewords"));
        assert!((65536..=80 << 10).contains(&bytes("linewords:page=8192")));
    }
}
