//! Contexts and buffers for the requests of batches. A pool keeps them for later batches.

use compressors::{CompressorCtx, CompressorError, guard};
use zpage::Codec;
use zpool_base::unwind::{caught, dropped};

use crate::sync::Mutex;

/// The most contexts that a pool keeps for requests: one for each page of a folio of 16 pages.
const MOST_SPARES: usize = 16;

/// The context and the buffers of a request.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) ctx: Box<dyn CompressorCtx>,
    /// The bytes that the context reported when `give` returned it to the pool.
    ctx_bytes: usize,
    pub(crate) input: Vec<u8>,
    pub(crate) output: Vec<u8>,
}

impl Spare {
    fn bytes(&self) -> usize {
        let buffers = self.input.capacity() + self.output.capacity();
        self.ctx_bytes.saturating_add(buffers)
    }
}

/// Contexts and buffers of completed requests. The mutex is held for a push, a pop or a sum, and no user code
/// runs under it.
#[derive(Debug, Default)]
pub(crate) struct Spares(Mutex<Vec<Spare>>);

impl Spares {
    pub(crate) fn take(&self, codec: &Codec) -> Result<Spare, CompressorError> {
        if let Some(spare) = self.0.lock().pop() {
            return Ok(spare);
        }
        let ctx = guard::new_ctx_for(codec.compressor(), codec.unit())?;
        Ok(Spare { ctx, ctx_bytes: 0, input: Vec::new(), output: Vec::new() })
    }

    pub(crate) fn give(
        &self,
        ctx: Option<Box<dyn CompressorCtx>>,
        input: Vec<u8>,
        output: Vec<u8>,
    ) {
        // If the pool already has enough, this is dropped after the lock is released.
        let mut spare = ctx.map(|ctx| {
            let ctx_bytes = caught(|| ctx.memory_bytes()).unwrap_or(0);
            Spare { ctx, ctx_bytes, input, output }
        });
        let mut spares = self.0.lock();
        if spares.len() < MOST_SPARES && spares.try_reserve(1).is_ok() {
            spares.extend(spare.take());
        }
        drop(spares);
        dropped(spare);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.0.lock().iter().map(Spare::bytes).fold(0, usize::saturating_add)
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        let spares = core::mem::take(&mut *self.0.lock());
        // If the destructor of one panics, the others are still dropped.
        for spare in spares {
            dropped(spare);
        }
    }
}
