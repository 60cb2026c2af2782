//! Compressors that pause or panic now and then. They also count overlaps of movers with operations
//! on keys.

use core::time::Duration;
use std::sync::Arc;

use compressors::{Compressor, CompressorCtx, CompressorError, Registry, StatelessDecompress};
use zpool_base::sync::test_rng::Rng;

use crate::action::{self, Marks, Tally};
use crate::clock::Clock;
use crate::panics::Panics;

/// What the compressors of a round share.
#[derive(Debug)]
pub struct Watch {
    /// The run's clock, which also seeds the pauses.
    pub clock: Arc<Clock>,
    /// Operations on keys under way.
    pub marks: Arc<Marks>,
    /// Counts overlaps.
    pub tally: Arc<Tally>,
    /// How many of 1000 calls pause. Movers pause 20 times as often.
    pub pauses: usize,
    /// Decides which calls panic.
    pub panics: Arc<Panics>,
}

impl Watch {
    fn pause(&self) {
        let mut rng = Rng::new(self.clock.last());
        // Movers pause more often. Meanwhile other threads can replace the page more than once, and
        // a new object can get the place of the object that the mover read.
        let often = if action::is_mover() { 20 * self.pauses } else { self.pauses };
        if rng.below(1000) < often {
            match rng.below(4) {
                0 => std::thread::sleep(Duration::from_micros(rng.below(2000) as u64)),
                _ => std::thread::yield_now(),
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Watched {
    inner: Arc<dyn Compressor>,
    watch: Arc<Watch>,
}

/// Returns the built-in compressors, wrapped so that `watch` sees their calls.
///
/// # Errors
/// Fails if a name is taken or malformed, which does not occur here.
pub fn registry(watch: &Arc<Watch>) -> Result<Registry, CompressorError> {
    let builtin = Registry::builtin();
    let mut registry = Registry::empty();
    for name in builtin.names() {
        let (builtin, watch) = (builtin.clone(), watch.clone());
        registry.register(name, move |spec| {
            let inner = builtin.build(&spec.to_string())?;
            Ok(Arc::new(Watched { inner, watch: watch.clone() }))
        })?;
    }
    Ok(registry)
}

impl Compressor for Watched {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn spec(&self) -> String {
        self.inner.spec()
    }

    fn max_compressed_len(&self, src_len: usize) -> usize {
        self.inner.max_compressed_len(src_len)
    }

    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        self.watch.panics.maybe();
        let inner = self.inner.new_ctx()?;
        Ok(Box::new(WatchedCtx { inner, watch: self.watch.clone() }))
    }

    fn new_ctx_for(&self, len: usize) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        self.watch.panics.maybe();
        let inner = self.inner.new_ctx_for(len)?;
        Ok(Box::new(WatchedCtx { inner, watch: self.watch.clone() }))
    }

    fn stateless(&self) -> Option<&dyn StatelessDecompress> {
        self.inner.stateless().map(|_| self as _)
    }
}

impl StatelessDecompress for Watched {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        self.watch.pause();
        self.watch.panics.maybe();
        let missing = CompressorError::Codec {
            codec: "watched",
            code: 0,
            reason: "its stateless decompressor is gone",
        };
        self.inner.stateless().ok_or(missing)?.decompress(src, dst)
    }
}

#[derive(Debug)]
struct WatchedCtx {
    inner: Box<dyn CompressorCtx>,
    watch: Arc<Watch>,
}

impl CompressorCtx for WatchedCtx {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        self.watch.marks.moves(src, &self.watch.tally);
        let len = self.inner.compress(src, dst)?;
        self.watch.pause();
        self.watch.panics.maybe();
        Ok(len)
    }

    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        self.watch.pause();
        self.watch.panics.maybe();
        self.inner.decompress(src, dst)
    }

    fn memory_bytes(&self) -> usize {
        self.inner.memory_bytes()
    }
}
