//! `lzo`: LZO1X-1, for a long time the kernel's default. Decompression needs no
//! context.
//!
//! The library is GPL-2.0, so a program built with this feature is as well.

use std::fmt;

use crate::boxed::try_box;
use crate::compressor::{Compressor, CompressorCtx, MAX_LEN, StatelessDecompress, check_len};
use crate::error::CompressorError;
use crate::liblzo::{self, Work};
use crate::names::LZO as NAME;
use crate::spec::Spec;

/// LZO1X-1. Takes no parameters.
///
/// The library does not check bounds when it compresses. So the output buffer
/// must have [`max_compressed_len`](Compressor::max_compressed_len) bytes, even
/// if the result is shorter. If it has fewer, compression fails with
/// [`CompressorError::OutputTooSmall`].
///
/// `Send` and `Sync`. A context keeps 128 KiB.
///
/// ```
/// use compressors::{Compressor, Lzo};
///
/// let page = [7; 4096];
/// let mut out = vec![0; Lzo.max_compressed_len(page.len())];
/// let len = Lzo.new_ctx()?.compress(&page, &mut out)?;
/// assert!(len < 100);
/// # Ok::<(), compressors::CompressorError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lzo;

impl Lzo {
    pub(crate) fn from_spec(spec: &Spec) -> Result<Self, CompressorError> {
        spec.allow_keys(&[])?;
        Ok(Lzo)
    }
}

impl Compressor for Lzo {
    fn name(&self) -> &str {
        NAME
    }

    fn spec(&self) -> String {
        NAME.to_owned()
    }

    fn max_compressed_len(&self, src_len: usize) -> usize {
        if src_len > MAX_LEN { usize::MAX } else { liblzo::compress_bound(src_len) }
    }

    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        let ctx = Ctx { work: Work::new()? };
        Ok(try_box(NAME, ctx)?)
    }

    fn stateless(&self) -> Option<&dyn StatelessDecompress> {
        Some(self)
    }
}

impl StatelessDecompress for Lzo {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        check_len(NAME, src.len(), MAX_LEN)?;
        check_len(NAME, dst.len(), MAX_LEN)?;
        liblzo::decompress(src, dst)
    }
}

struct Ctx {
    work: Work,
}

impl fmt::Debug for Ctx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("lzo::Ctx").field("memory_bytes", &self.memory_bytes()).finish()
    }
}

impl CompressorCtx for Ctx {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        check_len(NAME, src.len(), MAX_LEN)?;
        self.work.compress(src, dst)
    }

    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        StatelessDecompress::decompress(&Lzo, src, dst)
    }

    fn memory_bytes(&self) -> usize {
        self.work.memory_bytes() + size_of::<Self>()
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::Lzo;
    use crate::compressor::Compressor;
    use crate::error::CompressorError;
    use crate::registry::build;

    const _: fn() = || {
        fn check<T: Send + Sync + Clone + 'static>() {}
        check::<Lzo>();
    };

    #[test]
    fn takes_no_parameters() {
        assert_eq!(build("lzo").unwrap().spec(), "lzo");
        assert!(matches!(build("lzo:level=1"), Err(CompressorError::BadParameter { .. })));
    }

    #[test]
    fn demands_room_for_the_worst_case() {
        let mut ctx = Lzo.new_ctx().unwrap();
        let page = [0u8; 4096];
        let bound = Lzo.max_compressed_len(page.len());
        let mut out = vec![0xa5; bound];
        assert_eq!(
            ctx.compress(&page, &mut out[..bound - 1]),
            Err(CompressorError::OutputTooSmall {
                codec: "lzo",
                src_len: 4096,
                capacity: bound - 1
            })
        );
        assert!(out.iter().all(|byte| *byte == 0xa5));
        assert!(ctx.compress(&page, &mut out).unwrap() < 100);
    }
}
