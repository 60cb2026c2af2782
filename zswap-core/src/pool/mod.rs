//! A pool of a store: a backend, a compressor, and the contexts that belong to both.
//!
//! This is where a page becomes an object and back. Nothing here knows of entries. Backends and codecs are
//! called from here, and their panics become errors here.

mod percpu_ref;
pub(crate) mod pools;
pub(crate) mod recipe;
pub(crate) mod spares;

use std::sync::Arc;

use compressors::CompressorError;
use zpool_api::{
    BackendBits, Compaction, Handle, ObjRead, PageBudget, PageError, PoolTag, Zpool, ZpoolError,
    ZpoolStats,
};

use crate::pool::spares::Spares;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::{PAGE_SIZE, Page};
use zpage::recipe::{BuiltCompressor, BuiltZpool};
use zpage::{Codec, CodecFault};
use zpool_base::contained::{Contained, Panicked, contain};

/// A backend with its compressor.
#[derive(Debug)]
pub(crate) struct Pool {
    /// The registry name that the backend was built from.
    pub(crate) zpool_name: String,
    /// The registry text that the compressor was built from.
    pub(crate) spec: String,
    /// The spec that was given for the compressor, with or without its defaults spelt out.
    asked: String,
    zpool: BuiltZpool,
    pub(crate) codec: Codec,
    /// Contexts and buffers of requests.
    pub(crate) spares: Spares,
    /// What the backend's pages are charged to: a part of the store's budget.
    charged: Arc<PageBudget>,
    /// The backend does not charge its pages, so they are charged for it.
    uncharged: AtomicBool,
    /// `recompress` put pages here, and the pool has not been current since.
    pub(crate) recompressed: AtomicBool,
    /// Bytes of the backend's pages.
    page_size: usize,
    /// Read once: all handles of a pool share it, so entries keep only the other 52 bits.
    tag: PoolTag,
    compaction: bool,
}

/// A page that became an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stored {
    pub(crate) handle: Handle,
    /// Bytes of the object.
    pub(crate) len: usize,
    /// Kept uncompressed, because it did not get smaller.
    pub(crate) raw: bool,
}

/// A compressed page, kept while room is made for it.
pub(crate) struct Encoded {
    /// The whole page if it did not get smaller.
    len: usize,
    bytes: [u8; PAGE_SIZE],
}

impl Encoded {
    #[cold]
    fn copy(from: &[u8]) -> Self {
        let mut bytes = [0; PAGE_SIZE];
        bytes[..from.len()].copy_from_slice(from);
        Encoded { len: from.len(), bytes }
    }
}

/// Why a page could not become an object, or an object a page.
#[derive(Debug)]
pub(crate) enum Fault {
    Reentrant,
    Incompressible,
    Codec(CompressorError),
    Pool(ZpoolError),
}

impl Fault {
    /// A lack of memory, which making room may end.
    pub(crate) fn is_shortage(&self) -> bool {
        matches!(
            self,
            Fault::Pool(ZpoolError::OutOfMemory { .. } | ZpoolError::OutOfMetadata { .. })
        )
    }

    /// The store's own limit refused the memory, not the system.
    pub(crate) fn is_limit(&self) -> bool {
        matches!(self, Fault::Pool(ZpoolError::OutOfMemory { source: PageError::Limit { .. } }))
    }
}

impl From<CodecFault> for Fault {
    fn from(fault: CodecFault) -> Self {
        match fault {
            CodecFault::Reentrant => Fault::Reentrant,
            CodecFault::Failed(error) => Fault::Codec(error),
        }
    }
}

/// Parts of a [`Pool`] that a recipe puts together.
#[derive(Debug)]
pub(crate) struct Ingredients {
    pub(crate) zpool_name: String,
    pub(crate) zpool: BuiltZpool,
    pub(crate) compressor: BuiltCompressor,
    pub(crate) asked: String,
    pub(crate) charged: Arc<PageBudget>,
}

impl Pool {
    pub(crate) fn new(parts: Ingredients) -> Self {
        let Ingredients { zpool_name, zpool, compressor, asked, charged } = parts;
        let BuiltCompressor { compressor, key } = compressor;
        Pool {
            spec: key,
            asked,
            zpool_name,
            tag: zpool.tag(),
            page_size: zpool.stats().page_size,
            compaction: zpool.caps().compaction,
            zpool,
            codec: Codec::new(compressor),
            spares: Spares::default(),
            charged,
            uncharged: AtomicBool::new(false),
            recompressed: AtomicBool::new(false),
        }
    }

    #[inline]
    fn backend<'a, T>(
        &'a self,
        operation: &'static str,
        call: impl FnOnce(&'a dyn Zpool) -> Result<T, ZpoolError>,
    ) -> Result<T, ZpoolError> {
        contain(|| call(&*self.zpool)).unwrap_or_else(|Panicked| {
            Err(ZpoolError::Panicked { backend: "the backend", operation })
        })
    }

    /// The backend's own figures; all zero if it panics.
    pub(crate) fn stats(&self) -> ZpoolStats {
        self.try_stats().unwrap_or_default()
    }

    /// The backend's own figures, unless it panics.
    pub(crate) fn try_stats(&self) -> Result<ZpoolStats, ZpoolError> {
        self.backend("stats", |zpool| Ok(zpool.stats()))
    }

    /// The backend's own name.
    pub(crate) fn backend_name(&self) -> &'static str {
        contain(|| self.zpool.name()).unwrap_or("the backend")
    }

    /// Heap bytes of the contexts made so far.
    pub(crate) fn context_bytes(&self) -> usize {
        self.codec.memory_bytes().saturating_add(self.spares.memory_bytes())
    }

    /// Bytes of the backend's pages.
    pub(crate) fn page_size(&self) -> usize {
        self.page_size
    }

    /// Whether the backend can be compacted.
    pub(crate) fn can_compact(&self) -> bool {
        self.compaction
    }

    /// Whether it has this backend, and a compressor that was requested by this text or has it as its name.
    /// Allocates nothing, unlike resolving the text.
    pub(crate) fn answers_to(&self, zpool_name: &str, text: &str) -> bool {
        self.zpool_name == zpool_name && (self.spec == text || self.asked == text)
    }

    /// Whether it has this backend and this compressor.
    pub(crate) fn is_like(&self, zpool_name: &str, spec: &str) -> bool {
        self.zpool_name == zpool_name && self.spec == spec
    }

    fn handle(&self, bits: BackendBits) -> Handle {
        Handle::new(self.tag, bits)
    }

    /// Compresses the page and puts it in the backend. A page that does not get smaller is put there
    /// uncompressed if `keep_raw`, else refused. If the backend has no room, the compressed page is left in
    /// `kept`.
    #[inline]
    pub(crate) fn put(
        &self,
        page: &Page,
        keep_raw: bool,
        kept: &mut Option<Encoded>,
    ) -> Result<Stored, Fault> {
        self.codec.compress(page, |bytes| self.insert(bytes, keep_raw, kept))?
    }

    /// As [`Pool::put`], if the object takes less than `limit` bytes of memory.
    pub(crate) fn put_if_below(
        &self,
        page: &Page,
        limit: usize,
        kept: &mut Option<Encoded>,
    ) -> Result<Option<Stored>, Fault> {
        self.codec.compress(page, |bytes| {
            if bytes.len() >= PAGE_SIZE || self.footprint(bytes.len()) >= limit {
                return Ok(None);
            }
            self.insert(bytes, false, kept).map(Some)
        })?
    }

    /// Bytes of memory that an object of `len` bytes takes, as the backend rounds it.
    pub(crate) fn footprint(&self, len: usize) -> usize {
        self.backend("footprint", |zpool| Ok(zpool.footprint(len))).unwrap_or(len)
    }

    /// Puts a compressed page in the backend: all of the page if it did not get smaller.
    #[inline]
    pub(crate) fn insert(
        &self,
        bytes: &[u8],
        keep_raw: bool,
        kept: &mut Option<Encoded>,
    ) -> Result<Stored, Fault> {
        let raw = bytes.len() >= PAGE_SIZE;
        if raw && !keep_raw {
            return Err(Fault::Incompressible);
        }
        let stored = self.malloc(bytes, raw);
        if stored.as_ref().is_err_and(Fault::is_shortage) {
            *kept = Some(Encoded::copy(bytes));
        }
        stored
    }

    /// Puts the kept page in the backend.
    pub(crate) fn put_again(&self, kept: &Encoded) -> Result<Stored, Fault> {
        self.malloc(&kept.bytes[..kept.len], kept.len == PAGE_SIZE)
    }

    #[inline]
    fn malloc(&self, bytes: &[u8], raw: bool) -> Result<Stored, Fault> {
        // Relaxed: a hint that the backend does not charge, which each thread would find out itself.
        if self.uncharged.load(Ordering::Relaxed) {
            self.charge_for_the_backend(bytes.len()).map_err(Fault::Pool)?;
        }
        let handle = self.backend("malloc", |zpool| zpool.malloc_from(bytes));
        let handle = handle.map_err(Fault::Pool)?;
        // Relaxed: as above.
        if self.charged.used() == 0 || self.uncharged.load(Ordering::Relaxed) {
            self.look_whether_it_charges();
        }
        Ok(Stored { handle, len: bytes.len(), raw })
    }

    /// Called with an object of the caller's in the backend, when nothing is charged or the backend does
    /// not charge. That object lives, so a backend that charges has charged its page by now, whatever other
    /// threads free meanwhile.
    #[cold]
    fn look_whether_it_charges(&self) {
        // Relaxed, here and below: as in `malloc`.
        let uncharged = self.uncharged.load(Ordering::Relaxed);
        let pages = self.backend("total_pages", |zpool| Ok(zpool.total_pages())).unwrap_or(0);
        if uncharged || pages > 0 && self.charged.used() == 0 {
            // Relaxed: as above.
            self.uncharged.store(true, Ordering::Relaxed);
            self.charged.set_used(pages.saturating_mul(self.page_size));
        }
    }

    /// For a backend that ignores budgets: it is full when its pages have reached the limit.
    #[cold]
    fn charge_for_the_backend(&self, bytes: usize) -> Result<(), ZpoolError> {
        self.look_whether_it_charges();
        // Nothing is charged for the object: another thread's check would overwrite that before it was
        // uncharged.
        Ok(self.charged.check(bytes)?)
    }

    /// Frees an object.
    #[inline]
    pub(crate) fn free(&self, bits: BackendBits) {
        // The handle was the caller's alone: only a backend that breaks its contract fails here, and then
        // nothing can be done about that object.
        let _ = self.backend("free", |zpool| zpool.free(self.handle(bits)));
        // Relaxed: as in `malloc`.
        if self.uncharged.load(Ordering::Relaxed) {
            self.look_whether_it_charges();
        }
    }

    /// Prefetches what freeing the object needs.
    #[inline]
    pub(crate) fn prefetch(&self, bits: BackendBits) {
        let _ = contain(|| self.zpool.prefetch(self.handle(bits)));
    }

    /// Pins an object.
    #[inline]
    pub(crate) fn pin(&self, bits: BackendBits) -> Result<Contained<ObjRead<'_>>, ZpoolError> {
        self.backend("obj_read_begin", |zpool| zpool.obj_read_begin(self.handle(bits)))
            .map(Contained::new)
    }

    /// Turns the object's bytes back into the page. After an error the contents of the page are
    /// unspecified.
    #[inline]
    pub(crate) fn restore(&self, object: &ObjRead<'_>, page: &mut Page) -> Result<(), Fault> {
        if object.len() == PAGE_SIZE {
            // Only an uncompressed page has the length of a page.
            page.copy_from_slice(object);
            return Ok(());
        }
        self.codec.decompress(object, page).map_err(Fault::from)
    }

    /// Moves objects together until `pages` pages are freed, or for a bounded time.
    pub(crate) fn compact_some(&self, pages: usize) -> Result<Compaction, ZpoolError> {
        self.backend("compact", |zpool| zpool.compact_some(pages))
    }

    /// Releases warm pages to the system; returns how many.
    pub(crate) fn trim(&self) -> usize {
        self.backend("trim", |zpool| Ok(zpool.trim())).unwrap_or(0)
    }
}
