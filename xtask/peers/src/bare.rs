//! Adapts third-party codecs of the LZ4 format, and single implementations of `linewords`, to this project's
//! codec trait.

use std::sync::Arc;

use compressors::{Compressor, CompressorCtx, CompressorError};
use linewords::{PageContext, Variant};
use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size,
};
use measure::Page;

use crate::error::Result;
use crate::liblz4::{LIBLZ4, Liblz4};

/// Returns the codec of this name: a third-party one, or one of this project.
pub(crate) fn build(name: &str) -> Result<Arc<dyn Compressor>> {
    Ok(match name {
        LIBLZ4 => Arc::new(Liblz4),
        "lz4_flex" => Arc::new(Lz4Flex),
        "trueno-zram-core" => Arc::new(Trueno),
        other => match other.strip_prefix("linewords-").and_then(Variant::by_name) {
            Some(variant) => Arc::new(LinewordsVariant { name: name.to_owned(), variant }),
            None => compressors::build(other)?,
        },
    })
}

fn corrupt(codec: &'static str) -> CompressorError {
    CompressorError::Corrupt { codec, reason: "the codec refused it" }
}

fn failed(codec: &'static str, reason: &'static str) -> CompressorError {
    CompressorError::Codec { codec, code: 0, reason }
}

/// lz4_flex. Its table is kept from page to page. Its unsafe, bounds-checked decoder is used.
#[derive(Debug)]
struct Lz4Flex;

impl Compressor for Lz4Flex {
    fn name(&self) -> &str {
        "lz4_flex"
    }

    fn spec(&self) -> String {
        self.name().to_owned()
    }

    fn max_compressed_len(&self, src_len: usize) -> usize {
        get_maximum_output_size(src_len)
    }

    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        Ok(Box::new(Lz4FlexCtx { table: CompressTable::default() }))
    }
}

struct Lz4FlexCtx {
    table: CompressTable,
}

impl std::fmt::Debug for Lz4FlexCtx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lz4FlexCtx").finish_non_exhaustive()
    }
}

impl CompressorCtx for Lz4FlexCtx {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        compress_into_with_table(src, dst, &mut self.table)
            .map_err(|_| failed("lz4_flex", "no room for its output"))
    }

    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        let expected = dst.len();
        match decompress_into(src, dst) {
            Ok(got) if got == expected => Ok(()),
            Ok(got) => {
                Err(CompressorError::WrongLength { codec: "lz4_flex", expected, got: Some(got) })
            }
            Err(_) => Err(corrupt("lz4_flex")),
        }
    }

    fn memory_bytes(&self) -> usize {
        size_of::<CompressTable>()
    }
}

/// The LZ4 codec of trueno-zram-core, called through its fastest functions. Its compression returns a
/// new vector, which is then copied to the output. The copy is timed, too, since no caller can
/// avoid it.
#[derive(Debug)]
struct Trueno;

const TRUENO: &str = "trueno-zram-core";

impl Compressor for Trueno {
    fn name(&self) -> &str {
        TRUENO
    }

    fn spec(&self) -> String {
        TRUENO.to_owned()
    }

    fn max_compressed_len(&self, src_len: usize) -> usize {
        get_maximum_output_size(src_len)
    }

    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        Ok(Box::new(TruenoCtx))
    }
}

#[derive(Debug)]
struct TruenoCtx;

impl CompressorCtx for TruenoCtx {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        let packed = trueno_zram_core::lz4::compress_tls(src)
            .map_err(|_| failed(TRUENO, "compression failed"))?;
        let to = dst.get_mut(..packed.len()).ok_or(failed(TRUENO, "no room for its output"))?;
        to.copy_from_slice(&packed);
        Ok(packed.len())
    }

    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        let page: &mut Page = dst.try_into().map_err(|_| corrupt(TRUENO))?;
        let expected = page.len();
        match trueno_zram_core::lz4::decompress_simd(src, page) {
            Ok(got) if got == expected => Ok(()),
            Ok(got) => {
                Err(CompressorError::WrongLength { codec: TRUENO, expected, got: Some(got) })
            }
            Err(_) => Err(corrupt(TRUENO)),
        }
    }

    fn memory_bytes(&self) -> usize {
        0
    }
}

/// `linewords` with one of its implementations, which need not be the quickest here.
#[derive(Debug)]
struct LinewordsVariant {
    name: String,
    variant: Variant,
}

impl Compressor for LinewordsVariant {
    fn name(&self) -> &str {
        &self.name
    }

    fn spec(&self) -> String {
        self.name.clone()
    }

    fn max_compressed_len(&self, src_len: usize) -> usize {
        linewords::max_compressed_len(src_len)
    }

    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        let Self { variant, .. } = *self;
        Ok(Box::new(LinewordsCtx { variant, ctx: PageContext::with_variant(variant) }))
    }
}

#[derive(Debug)]
struct LinewordsCtx {
    variant: Variant,
    ctx: PageContext,
}

impl CompressorCtx for LinewordsCtx {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        self.ctx.compress(src, dst).map_err(|_| failed("linewords", "no room for its output"))
    }

    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        linewords::decompress_with(self.variant, src, dst).map_err(|_| corrupt("linewords"))
    }

    fn memory_bytes(&self) -> usize {
        size_of::<PageContext>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_read_each_other() {
        let page: Page = std::array::from_fn(|i| ((i / 7) % 90) as u8);
        for name in ["lz4_flex", "trueno-zram-core", "lz4", "liblz4"] {
            let codec = build(name).unwrap();
            let mut packed = vec![0; codec.max_compressed_len(page.len())];
            let len = codec.new_ctx().unwrap().compress(&page, &mut packed).unwrap();
            assert!(len < 2048, "{name}: {len}");
            // All have the same format: each reads what the others wrote.
            for reader in ["lz4_flex", "trueno-zram-core", "lz4", "liblz4"] {
                let mut back = [0; size_of::<Page>()];
                let mut ctx = build(reader).unwrap().new_ctx().unwrap();
                ctx.decompress(&packed[..len], &mut back).unwrap();
                assert!(back == page, "{reader} of {name}");
            }
        }
    }
}
