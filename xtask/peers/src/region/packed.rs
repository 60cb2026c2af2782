//! Pages compressed by liblz4, one after another. A page that liblz4 does not make smaller is kept as
//! it is.

use compressors::{Compressor, CompressorCtx};
use measure::Page;

use crate::error::Result;
use crate::liblz4::Liblz4;
use crate::source::PAGE;

#[derive(Debug)]
pub(crate) struct Packed {
    bytes: Vec<u8>,
    /// Where each page begins, and where the last one ends.
    at: Vec<usize>,
}

/// Room for the compressed form of any page, and then some.
pub(crate) const ROOM: usize = 2 * PAGE;

impl Packed {
    pub(crate) fn new(pages: &[Page]) -> Result<Self> {
        let mut packed = Packed { bytes: Vec::new(), at: vec![0] };
        let (mut ctx, mut room) = (Liblz4.new_ctx()?, vec![0; ROOM]);
        for page in pages {
            let len = compress(&mut *ctx, page, &mut room)?;
            packed.bytes.extend_from_slice(if len < PAGE { &room[..len] } else { page });
            packed.at.push(packed.bytes.len());
        }
        Ok(packed)
    }

    /// Returns the number of pages.
    pub(crate) fn count(&self) -> usize {
        self.at.len() - 1
    }

    /// Decompresses a page. Returns false if it is damaged.
    #[inline]
    pub(crate) fn decode(&self, page: usize, to: &mut Page) -> bool {
        let bytes = &self.bytes[self.at[page]..self.at[page + 1]];
        match <&Page>::try_from(bytes) {
            Ok(raw) => {
                to.copy_from_slice(raw);
                true
            }
            Err(_) => lz4_block::decompress(bytes, to) == Ok(PAGE),
        }
    }
}

/// Compresses a page and returns the length.
#[inline]
pub(crate) fn compress(ctx: &mut dyn CompressorCtx, page: &Page, room: &mut [u8]) -> Result<usize> {
    Ok(ctx.compress(page, room)?)
}
