//! A request, and what becomes of it.

use core::fmt;

use zpool_base::unwind::dropped;

use crate::{CompressorCtx, CompressorError, guard};

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcompOp {
    /// The input is compressed into the output.
    Compress,
    /// The input is decompressed into all of the output.
    Decompress,
}

/// Something to be done, with all that it takes.
pub struct AcompRequest {
    /// What.
    pub op: AcompOp,
    /// Bytes in.
    pub input: Vec<u8>,
    /// Bytes out: as long as the codec's worst case, or as the page.
    pub output: Vec<u8>,
    /// The codec's context.
    pub ctx: Box<dyn CompressorCtx>,
}

/// A request that has completed.
#[derive(Debug)]
pub struct AcompDone {
    /// Bytes of the output that mean something, or what went wrong. After an error the output is
    /// unspecified.
    pub result: Result<usize, CompressorError>,
    /// The request's input.
    pub input: Vec<u8>,
    /// The request's output.
    pub output: Vec<u8>,
    /// The context, unless the codec panicked: then it is of no use any more.
    pub ctx: Option<Box<dyn CompressorCtx>>,
}

impl AcompRequest {
    /// Does it.
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
