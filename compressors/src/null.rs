//! `null` copies its input. It serves to measure the cost of everything except
//! the codec, to store pages that are already compressed, and to test.

use crate::compressor::{Compressor, CompressorCtx, StatelessDecompress};
use crate::error::CompressorError;
use crate::names::NULL as NAME;

/// A compressor that copies its input without compressing it.
///
/// `Send` and `Sync`. It needs no memory. It fails only if the output is shorter
/// than the input or, in a decompression, longer.
///
/// ```
/// use compressors::{Compressor, Null};
///
/// let mut out = [0; 4];
/// assert_eq!(Null.new_ctx()?.compress(b"page", &mut out)?, 4);
/// assert_eq!(&out, b"page");
/// # Ok::<(), compressors::CompressorError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Null;

#[derive(Debug)]
struct Ctx;

impl Compressor for Null {
    fn name(&self) -> &str {
        NAME
    }

    fn spec(&self) -> String {
        NAME.to_owned()
    }

    fn max_compressed_len(&self, src_len: usize) -> usize {
        src_len
    }

    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        Ok(Box::new(Ctx))
    }

    fn stateless(&self) -> Option<&dyn StatelessDecompress> {
        Some(self)
    }
}

impl StatelessDecompress for Null {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        if src.len() != dst.len() {
            return Err(CompressorError::WrongLength {
                codec: NAME,
                expected: dst.len(),
                got: Some(src.len()),
            });
        }
        dst.copy_from_slice(src);
        Ok(())
    }
}

impl CompressorCtx for Ctx {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        let Some(room) = dst.get_mut(..src.len()) else {
            return Err(CompressorError::OutputTooSmall {
                codec: NAME,
                src_len: src.len(),
                capacity: dst.len(),
            });
        };
        room.copy_from_slice(src);
        Ok(src.len())
    }

    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        Null.decompress(src, dst)
    }

    fn memory_bytes(&self) -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::Null;
    use crate::compressor::Compressor;
    use crate::error::CompressorError;

    const _: fn() = || {
        fn check<T: Send + Sync + 'static>() {}
        check::<Null>();
    };

    #[test]
    fn copies_and_keeps_the_length() {
        let mut ctx = Null.new_ctx().unwrap();
        let mut out = [0u8; 8];
        assert_eq!(ctx.compress(b"abcde", &mut out), Ok(5));
        assert_eq!(&out, b"abcde\0\0\0");
        let mut back = [0u8; 5];
        ctx.decompress(&out[..5], &mut back).unwrap();
        assert_eq!(&back, b"abcde");
        assert_eq!(ctx.memory_bytes(), 0);
    }

    #[test]
    fn a_wrong_length_is_an_error_either_way() {
        let mut ctx = Null.new_ctx().unwrap();
        let mut four = [0u8; 4];
        assert_eq!(
            ctx.compress(b"abcde", &mut four),
            Err(CompressorError::OutputTooSmall { codec: "null", src_len: 5, capacity: 4 })
        );
        let stateless = Null.stateless().unwrap();
        for src in [&b"abc"[..], b"abcde"] {
            assert_eq!(
                stateless.decompress(src, &mut four),
                Err(CompressorError::WrongLength {
                    codec: "null",
                    expected: 4,
                    got: Some(src.len())
                })
            );
        }
    }
}
