//! The compressors of a disk by priority: 0 compresses what is written, 1 to 3 recompress.

use std::sync::Arc;

use compressors::{Compressor, CompressorError, guard};
use zpage::acomp_ctx::{AcompCtxs, Busy};
use zpage::{PAGE_SIZE, Page};
use zpool_base::prefetch;

/// Algorithms that a disk can have.
pub(crate) const MOST: usize = 4;

/// A compressor with its contexts.
#[derive(Debug)]
pub(crate) struct Algorithm {
    pub(crate) compressor: Arc<dyn Compressor>,
    ctxs: AcompCtxs,
}

/// Why a codec did nothing.
#[derive(Debug)]
pub(crate) enum Fault {
    Reentrant,
    Codec(CompressorError),
}

impl From<Busy> for Fault {
    fn from(busy: Busy) -> Self {
        match busy {
            Busy::Reentrant => Fault::Reentrant,
            Busy::SetUp(error) => Fault::Codec(error),
        }
    }
}

impl Algorithm {
    pub(crate) fn new(compressor: Arc<dyn Compressor>) -> Self {
        Algorithm { compressor, ctxs: AcompCtxs::new() }
    }

    /// Compresses a page, and passes on what it became; the bytes are the context's.
    pub(crate) fn compress<T>(
        &self,
        page: &Page,
        then: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, Fault> {
        let mut ctx = self.ctxs.hold(&*self.compressor)?;
        let len = ctx.compress(page).map_err(Fault::Codec)?;
        let capacity = ctx.output().len();
        // A codec that says it wrote more than it was given.
        let lied = CompressorError::OutputTooSmall { codec: "zram", src_len: PAGE_SIZE, capacity };
        Ok(then(ctx.output().get(..len).ok_or(Fault::Codec(lied))?))
    }

    /// Writes the page that `bytes` were into `page`.
    pub(crate) fn decompress(&self, bytes: &[u8], page: &mut Page) -> Result<(), Fault> {
        prefetch::read_soon(bytes);
        let done = match self.compressor.stateless() {
            Some(codec) => guard::decompress_stateless(codec, bytes, page),
            None => self.ctxs.hold(&*self.compressor)?.decompress(bytes, page),
        };
        done.map_err(Fault::Codec)
    }

    /// Heap bytes of the contexts made so far.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.ctxs.memory_bytes()
    }
}
