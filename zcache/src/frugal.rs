//! A compressor that makes few contexts: as many as an allowance has room for, and one in any case.
//!
//! A [`zpage::Codec`] makes a context for each processor. If it cannot make one, it uses another processor's. So with
//! many processors, contexts do not take the memory that the cache is for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use compressors::{Compressor, CompressorCtx, CompressorError, StatelessDecompress};

/// Returns what the contexts may take of a budget: an eighth, or 1 MiB, which is enough for two threads with short
/// values.
pub(crate) fn allowance(max_bytes: usize) -> usize {
    (max_bytes / 8).max(1 << 20)
}

/// How many bytes all contexts of a cache may take together.
#[derive(Debug)]
pub(crate) struct Allowance {
    most: AtomicUsize,
    used: AtomicUsize,
}

impl Allowance {
    pub(crate) fn new(most: usize) -> Self {
        Allowance { most: AtomicUsize::new(most), used: AtomicUsize::new(0) }
    }

    /// Changes the allowance. Contexts that are there stay.
    pub(crate) fn set(&self, most: usize) {
        self.most.store(most, SeqCst);
    }
}

/// The compressor.
#[derive(Debug)]
pub(crate) struct Frugal {
    inner: Arc<dyn Compressor>,
    allowance: Arc<Allowance>,
    contexts: Arc<AtomicUsize>,
    /// The bytes of the largest context so far.
    largest: AtomicUsize,
}

impl Frugal {
    pub(crate) fn new(inner: Arc<dyn Compressor>, allowance: Arc<Allowance>) -> Self {
        let (contexts, largest) = (Arc::default(), AtomicUsize::new(0));
        Frugal { inner, allowance, contexts, largest }
    }

    fn make(
        &self,
        make: impl FnOnce() -> Result<Box<dyn CompressorCtx>, CompressorError>,
    ) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        let Allowance { most, used } = &*self.allowance;
        let would_use = used.load(SeqCst).saturating_add(self.largest.load(SeqCst));
        if self.contexts.load(SeqCst) > 0 && would_use > most.load(SeqCst) {
            return Err(CompressorError::OutOfMemory {
                codec: "a cache's codec",
                what: "another context within the budget",
            });
        }
        let inner = make()?;
        let bytes = inner.memory_bytes();
        self.largest.fetch_max(bytes, SeqCst);
        self.contexts.fetch_add(1, SeqCst);
        used.fetch_add(bytes, SeqCst);
        let (allowance, contexts) = (self.allowance.clone(), self.contexts.clone());
        Ok(Box::new(Ctx { inner, bytes, allowance, contexts }))
    }
}

impl Compressor for Frugal {
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
        self.make(|| self.inner.new_ctx())
    }

    fn new_ctx_for(&self, len: usize) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        self.make(|| self.inner.new_ctx_for(len))
    }

    fn stateless(&self) -> Option<&dyn StatelessDecompress> {
        self.inner.stateless()
    }
}

/// A context, which uses the allowance while it lives.
#[derive(Debug)]
struct Ctx {
    inner: Box<dyn CompressorCtx>,
    bytes: usize,
    allowance: Arc<Allowance>,
    contexts: Arc<AtomicUsize>,
}

impl CompressorCtx for Ctx {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        self.inner.compress(src, dst)
    }

    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        self.inner.decompress(src, dst)
    }

    fn memory_bytes(&self) -> usize {
        self.inner.memory_bytes()
    }
}

impl Drop for Ctx {
    fn drop(&mut self) {
        self.allowance.used.fetch_sub(self.bytes, SeqCst);
        self.contexts.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::{Allowance, Frugal};
    use compressors::{Compressor, CompressorCtx, CompressorError};
    use std::sync::Arc;

    /// Its contexts say that they take 1000 bytes.
    #[derive(Debug)]
    struct Kilo;

    impl Compressor for Kilo {
        fn name(&self) -> &str {
            "kilo"
        }
        fn spec(&self) -> String {
            "kilo".into()
        }
        fn max_compressed_len(&self, len: usize) -> usize {
            len
        }
        fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
            Ok(Box::new(Kilo))
        }
    }

    impl CompressorCtx for Kilo {
        fn compress(&mut self, src: &[u8], _: &mut [u8]) -> Result<usize, CompressorError> {
            Ok(src.len())
        }
        fn decompress(&mut self, _: &[u8], _: &mut [u8]) -> Result<(), CompressorError> {
            Ok(())
        }
        fn memory_bytes(&self) -> usize {
            1000
        }
    }

    #[test]
    fn there_is_one_in_any_case_and_more_within_the_allowance() {
        let allowance = Arc::new(Allowance::new(2500));
        let codec = |allowance: &Arc<Allowance>| Frugal::new(Arc::new(Kilo), allowance.clone());
        let (one, other) = (codec(&allowance), codec(&allowance));
        let first = one.new_ctx().unwrap();
        let second = one.new_ctx_for(9).unwrap();
        assert!(matches!(one.new_ctx(), Err(CompressorError::OutOfMemory { .. })));
        let third = other.new_ctx().unwrap();
        assert!(other.new_ctx().is_err());
        drop((first, second));
        let again = one.new_ctx().unwrap();
        assert!(one.new_ctx().is_err());
        allowance.set(3000);
        assert!(one.new_ctx().is_ok());
        drop((third, again));
    }
}
