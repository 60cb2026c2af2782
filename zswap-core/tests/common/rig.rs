//! Makes a store that counts its codec contexts and pool pages, and pages that are marked with their entry.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use compressors::{Compressor, CompressorCtx, CompressorError};
use zpool_api::ZpoolConfig;
use zpool_pages::{FailingPages, HeapPages};
use zswap_core::{PAGE_SIZE, Page, Zswap, ZswapBuilder, builtin};

use super::at;

/// A codec that omits the zeros at a page's end, and counts its live contexts.
#[derive(Clone)]
struct Trim {
    name: String,
    contexts: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
    spoils: Arc<AtomicBool>,
    inside: Inside,
}

impl core::fmt::Debug for Trim {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.name)
    }
}

#[derive(Debug)]
struct TrimCtx(Trim);

impl Drop for TrimCtx {
    fn drop(&mut self) {
        self.0.contexts.fetch_sub(1, SeqCst);
    }
}

impl Compressor for Trim {
    fn name(&self) -> &str {
        &self.name
    }
    fn spec(&self) -> String {
        self.name.clone()
    }
    fn max_compressed_len(&self, len: usize) -> usize {
        len
    }
    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        if self.fails.load(SeqCst) {
            return Err(CompressorError::OutOfMemory { codec: "trim", what: "a test" });
        }
        self.contexts.fetch_add(1, SeqCst);
        Ok(Box::new(TrimCtx(self.clone())))
    }
}

impl CompressorCtx for TrimCtx {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        if let Some(inside) = &*self.0.inside.lock().unwrap_or_else(PoisonError::into_inner) {
            inside();
        }
        let len = src.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        dst[..len].copy_from_slice(&src[..len]);
        Ok(len)
    }

    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        dst.fill(0);
        dst[..src.len()].copy_from_slice(src);
        if self.0.spoils.load(SeqCst) {
            dst[src.len() / 2] ^= 1;
        }
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        0
    }
}

/// A store, with a provider that counts its pool pages. Besides the built-in codecs and backends, the store
/// knows the codecs `trim0` to `trim19` and the backend `other`.
pub(crate) struct Rig {
    pub(crate) store: Arc<Zswap>,
    pub(crate) pages: Arc<FailingPages>,
    /// The number of live contexts of the `trim` codecs.
    pub(crate) contexts: Arc<AtomicUsize>,
    /// While set, no context of a `trim` codec can be made.
    pub(crate) fails: Arc<AtomicBool>,
    /// While set, decompression flips a bit.
    pub(crate) spoils: Arc<AtomicBool>,
    /// Called whenever a `trim` codec compresses a page.
    pub(crate) inside: Inside,
}

pub(crate) type Inside = Arc<Mutex<Option<Box<dyn Fn() + Send>>>>;

pub(crate) fn rig() -> Rig {
    rig_with(|builder| builder)
}

/// Makes a rig. `more` changes the settings of its store.
pub(crate) fn rig_with(more: impl FnOnce(ZswapBuilder) -> ZswapBuilder) -> Rig {
    let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
    let (contexts, fails) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let spoils = Arc::new(AtomicBool::new(false));
    let inside = Inside::default();
    let mut codecs = builtin::compressors();
    for n in 0..20 {
        let name = format!("trim{n}");
        let codec = Trim {
            name: name.clone(),
            contexts: contexts.clone(),
            fails: fails.clone(),
            spoils: spoils.clone(),
            inside: inside.clone(),
        };
        codecs.register(&name, move |_| Ok(Arc::new(codec.clone()))).unwrap();
    }
    let mut zpools = builtin::zpools();
    let build = |config: &ZpoolConfig| builtin::zpools().build("zbud", config);
    zpools.register("other", build).unwrap();
    let given = pages.clone();
    let store = Zswap::builder()
        .zpool_registry(zpools)
        .compressor_registry(codecs)
        .pages(move || Ok(given.clone()))
        .zpool("zbud")
        .compressor("trim0");
    let store = more(store).build().unwrap();
    Rig { store: Arc::new(store), pages, contexts, fails, spoils, inside }
}

/// Makes a page whose contents depend on its entry and round, so that tests can tell pages apart. A quarter
/// of the page is not zero.
pub(crate) fn marked(entry: u64, round: u64) -> Box<Page> {
    let mut page = Box::new([0; PAGE_SIZE]);
    let seed = (entry * 1000 + round + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for (word, n) in page[..PAGE_SIZE / 4].chunks_exact_mut(8).zip(1u64..) {
        word.copy_from_slice(&seed.wrapping_mul(2 * n + 1).to_le_bytes());
    }
    page
}

pub(crate) fn check(store: &Zswap, entry: u64, round: u64) {
    let mut back = Box::new([1; PAGE_SIZE]);
    store.load(at(entry), &mut back).unwrap();
    assert!(back == marked(entry, round), "entry {entry}");
}

/// Returns the backend, compressor and number of pages of each pool, the current pool first.
pub(crate) fn pools(store: &Zswap) -> Vec<(String, String, usize)> {
    store.stats().pools.into_iter().map(|p| (p.zpool, p.compressor, p.objects)).collect()
}
