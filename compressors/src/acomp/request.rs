//! A request and its completion.

use core::fmt;

use zpool_base::unwind::dropped;

use crate::{CompressorCtx, CompressorError, guard};

/// The operation of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcompOp {
    /// Compresses the input into the output.
    Compress,
    /// Decompresses the input and fills all of the output.
    Decompress,
}

/// An operation, with the buffers and the context that it needs.
pub struct AcompRequest {
    /// The operation.
    pub op: AcompOp,
    /// The bytes to compress or decompress.
    pub input: Vec<u8>,
    /// The output buffer. For compression, give it room for the codec's worst case. For decompression, it must
    /// be exactly as long as the page.
    pub output: Vec<u8>,
    /// The codec's context.
    pub ctx: Box<dyn CompressorCtx>,
}

/// A request that has completed.
#[derive(Debug)]
pub struct AcompDone {
    /// The length of the result in `output`, or the error. After an error the content of `output` is
    /// unspecified.
    pub result: Result<usize, CompressorError>,
    /// The input of the request.
    pub input: Vec<u8>,
    /// The output buffer of the request.
    pub output: Vec<u8>,
    /// The context of the request; `None` if the codec panicked.
    pub ctx: Option<Box<dyn CompressorCtx>>,
}

impl AcompRequest {
    /// Runs the operation in the caller and returns the completion. If the codec panics, the context is dropped.
    pub(super) fn run(mut self) -> AcompDone {
        let result = match self.op {
            AcompOp::Compress => guard::compress(&mut *self.ctx, &self.input, &mut self.output),
            AcompOp::Decompress => {
                let done = guard::decompress(&mut *self.ctx, &self.input, &mut self.output);
                done.map(|()| self.output.len())
            }
        };
        let AcompRequest { input, output, ctx, .. } = self;
        let ctx = if matches!(result, Err(CompressorError::Panicked { .. })) {
            dropped(ctx);
            None
        } else {
            Some(ctx)
        };
        AcompDone { result, input, output, ctx }
    }
}

impl fmt::Debug for AcompRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcompRequest")
            .field("op", &self.op)
            .field("input", &self.input.len())
            .field("output", &self.output.len())
            .field("ctx", &self.ctx)
            .finish()
    }
}
