//! A pool of a store: a backend, a compressor, and the compressor's contexts.
//!
//! This module turns pages into objects and objects into pages. It does not know about entries. It calls the
//! backends and codecs, and turns their panics into errors.

mod encoded;
pub(crate) mod kept_codecs;
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

pub(crate) use crate::pool::encoded::Encoded;
use crate::pool::spares::Spares;
use crate::sync::atomic::{AtomicBool, Ordering};
use zpage::{BuiltCompressor, BuiltZpool, Codec, CodecFault};
use zpool_base::contained::{Contained, Panicked, contain};

/// A backend with its compressor.
#[derive(Debug)]
pub(crate) struct Pool {
    /// The name by which the backend was found in the registry.
    pub(crate) zpool_name: String,
    /// The compressor's canonical name. Specs with and without defaults spelled out have the same canonical
    /// name.
    pub(crate) spec: String,
    /// The spec that was given for the compressor.
    asked: String,
    zpool: BuiltZpool,
    /// Segments of the device keep it, too, for the pool's pages that were written back.
    pub(crate) codec: Arc<Codec>,
    /// Contexts and buffers for the requests of batches.
    pub(crate) spares: Spares,
    /// The budget to which the backend's pages are charged. Its charges count in the store's budget, too.
    charged: Arc<PageBudget>,
    /// Set if the backend does not charge its pages. Then the pool charges them.
    uncharged: AtomicBool,
    /// Set when `recompress` adds the pool; cleared when the pool becomes current.
    pub(crate) recompressed: AtomicBool,
    /// The size of the backend's pages, in bytes.
    page_size: usize,
    /// The tag that all handles of the backend have, read once. So entries keep only the other 52 bits of a
    /// handle.
    tag: PoolTag,
    compaction: bool,
}

/// The object that a page became.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stored {
    pub(crate) handle: Handle,
    /// Bytes of the object.
    pub(crate) len: usize,
    /// Whether the page is kept uncompressed, because it did not get smaller.
    pub(crate) raw: bool,
}

/// Why a page could not be turned into an object, or an object into a page.
#[derive(Debug)]
pub(crate) enum Fault {
    Reentrant,
    Incompressible,
    Codec(CompressorError),
    Pool(ZpoolError),
}

impl Fault {
    /// Returns whether memory ran out. If so, making room may help.
    pub(crate) fn is_shortage(&self) -> bool {
        matches!(
            self,
            Fault::Pool(ZpoolError::OutOfMemory { .. } | ZpoolError::OutOfMetadata { .. })
        )
    }

    /// Returns whether a limit of the store, and not the system, refused the memory.
    pub(crate) fn is_limit(&self) -> bool {
        self.refused_limit().is_some()
    }

    /// Returns the limit of the store that refused the memory; `None` if something else failed.
    pub(crate) fn refused_limit(&self) -> Option<usize> {
        match self {
            Fault::Pool(ZpoolError::OutOfMemory { source: PageError::Limit { limit, .. } }) => {
                Some(*limit)
            }
            _ => None,
        }
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

/// The parts from which a recipe makes a [`Pool`].
#[derive(Debug)]
pub(crate) struct Ingredients {
    pub(crate) zpool_name: String,
    pub(crate) zpool: BuiltZpool,
    pub(crate) compressor: BuiltCompressor,
    pub(crate) asked: String,
    pub(crate) charged: Arc<PageBudget>,
    /// Whether the codec's contexts are for a fault handler.
    pub(crate) in_fault_handler: bool,
    /// Bytes of a page of the store.
    pub(crate) unit: usize,
}

impl Pool {
    pub(crate) fn new(parts: Ingredients) -> Self {
        let Ingredients { zpool_name, zpool, compressor, asked, charged, in_fault_handler, unit } =
            parts;
        let BuiltCompressor { compressor, key } = compressor;
        Pool {
            spec: key,
            asked,
            zpool_name,
            tag: zpool.tag(),
            page_size: zpool.stats().page_size,
            compaction: zpool.caps().compaction,
            zpool,
            codec: Arc::new(
                Codec::new(compressor).for_unit(unit).in_fault_handler(in_fault_handler),
            ),
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

    /// Returns the figures that the backend reports. They are all zero if the backend panics.
    pub(crate) fn stats(&self) -> ZpoolStats {
        self.try_stats().unwrap_or_default()
    }

    /// Returns the figures that the backend reports, or an error if the backend panics.
    pub(crate) fn try_stats(&self) -> Result<ZpoolStats, ZpoolError> {
        self.backend("stats", |zpool| Ok(zpool.stats()))
    }

    /// Returns the name that the backend reports; "the backend" if it panics.
    pub(crate) fn backend_name(&self) -> &'static str {
        contain(|| self.zpool.name()).unwrap_or("the backend")
    }

    /// Returns the heap bytes of the contexts and buffers that are kept for batches.
    pub(crate) fn spare_bytes(&self) -> usize {
        self.spares.memory_bytes()
    }

    /// Returns the bytes of a page of the store.
    #[inline]
    fn unit(&self) -> usize {
        self.codec.unit()
    }

    /// Returns the size of the backend's pages, in bytes.
    pub(crate) fn page_size(&self) -> usize {
        self.page_size
    }

    /// Returns the bytes of memory that one object may need: a page of the backend, or as many as a unit has.
    pub(crate) fn most_of_object(&self) -> usize {
        self.page_size.max(self.unit())
    }

    /// Returns whether the backend can be compacted.
    pub(crate) fn can_compact(&self) -> bool {
        self.compaction
    }

    /// Returns whether the pool has the backend `zpool_name`, and `text` is the spec that its compressor was
    /// built from, or the compressor's canonical name. May return false although `text` means the same
    /// compressor. Unlike resolving `text`, this allocates nothing.
    pub(crate) fn answers_to(&self, zpool_name: &str, text: &str) -> bool {
        self.zpool_name == zpool_name && (self.spec == text || self.asked == text)
    }

    /// Returns whether the pool has the backend of this name, and the compressor of this canonical name.
    pub(crate) fn is_like(&self, zpool_name: &str, spec: &str) -> bool {
        self.zpool_name == zpool_name && self.spec == spec
    }

    fn handle(&self, bits: BackendBits) -> Handle {
        Handle::new(self.tag, bits)
    }

    /// Compresses the page and puts it into the backend. If the page does not get smaller, puts it there
    /// uncompressed if `keep_raw` is true, and returns [`Fault::Incompressible`] otherwise. If the backend
    /// has no room, returns its error and leaves the compressed page in `kept`.
    #[inline]
    pub(crate) fn put<'p>(
        &self,
        page: &'p [u8],
        keep_raw: bool,
        kept: &mut Option<Encoded<'p>>,
    ) -> Result<Stored, Fault> {
        self.codec.compress(page, |bytes| self.insert(page, bytes, keep_raw, kept))?
    }

    /// Does what [`Pool::put`] does, but returns `None` if the page does not get smaller, or if its object
    /// would take `limit` bytes of memory or more.
    pub(crate) fn put_if_below<'p>(
        &self,
        page: &'p [u8],
        limit: usize,
        kept: &mut Option<Encoded<'p>>,
    ) -> Result<Option<Stored>, Fault> {
        self.codec.compress(page, |bytes| {
            if bytes.len() >= self.unit() || self.footprint(bytes.len()) >= limit {
                return Ok(None);
            }
            self.insert(page, bytes, false, kept).map(Some)
        })?
    }

    /// Returns the bytes of memory that an object of `len` bytes takes after the backend has rounded them up.
    pub(crate) fn footprint(&self, len: usize) -> usize {
        self.backend("footprint", |zpool| Ok(zpool.footprint(len))).unwrap_or(len)
    }

    /// Puts the compressed bytes of a page into the backend. They are the page itself if it did not get smaller.
    /// `keep_raw` and `kept` are as for [`Pool::put`].
    #[inline]
    pub(crate) fn insert<'p>(
        &self,
        page: &'p [u8],
        bytes: &[u8],
        keep_raw: bool,
        kept: &mut Option<Encoded<'p>>,
    ) -> Result<Stored, Fault> {
        let raw = bytes.len() >= self.unit();
        if raw && !keep_raw {
            return Err(Fault::Incompressible);
        }
        let stored = self.malloc(bytes, raw);
        if stored.as_ref().is_err_and(Fault::is_shortage) {
            *kept = Some(Encoded::new(page, bytes, keep_raw));
        }
        stored
    }

    /// Tries once more to put the kept page into the backend.
    pub(crate) fn put_again(&self, kept: &Encoded<'_>) -> Result<Stored, Fault> {
        match kept.bytes() {
            Some(bytes) => self.malloc(bytes, bytes.len() >= self.unit()),
            None => self.put(kept.page(), kept.keep_raw(), &mut None),
        }
    }

    #[inline]
    fn malloc(&self, bytes: &[u8], raw: bool) -> Result<Stored, Fault> {
        // Relaxed: the flag is a hint that the backend does not charge. A thread that does not see it set yet
        // finds this out itself.
        if self.uncharged.load(Ordering::Relaxed) {
            self.charge_for_the_backend(bytes.len()).map_err(Fault::Pool)?;
        }
        let handle = self.backend("malloc", |zpool| zpool.malloc_from(bytes));
        let handle = handle.map_err(Fault::Pool)?;
        // Relaxed: a hint, as at the start of `malloc`.
        if self.charged.used() == 0 || self.uncharged.load(Ordering::Relaxed) {
            self.look_whether_it_charges();
        }
        Ok(Stored { handle, len: bytes.len(), raw })
    }

    /// Finds out whether the backend charges its pages. If it does not, charges them. Called when nothing is
    /// charged, or when the backend is known not to charge. In the first case the caller has an object in the
    /// backend. If the backend charged, that object's page would be charged now, whatever other threads free.
    /// So, if the backend has pages and still nothing is charged, it does not charge.
    #[cold]
    fn look_whether_it_charges(&self) {
        // Relaxed, here and below: as in `malloc`.
        let uncharged = self.uncharged.load(Ordering::Relaxed);
        let pages = self.backend("total_pages", |zpool| Ok(zpool.total_pages())).unwrap_or(0);
        if uncharged || pages > 0 && self.charged.used() == 0 {
            // Relaxed: a hint, as at the start of `malloc`.
            self.uncharged.store(true, Ordering::Relaxed);
            self.charged.set_used(pages.saturating_mul(self.page_size));
        }
    }

    /// Checks the limit for a backend that does not charge its pages. Returns an error if its pages have
    /// reached the limit.
    #[cold]
    fn charge_for_the_backend(&self, bytes: usize) -> Result<(), ZpoolError> {
        self.look_whether_it_charges();
        // Only check, and do not charge the object itself: another thread's `set_used` could overwrite such a
        // charge before it is undone.
        Ok(self.charged.check(bytes)?)
    }

    /// Frees an object.
    #[inline]
    pub(crate) fn free(&self, bits: BackendBits) {
        // Only the caller had the handle, so only a backend that breaks its contract fails here. Nothing can
        // be done about the object then.
        let _ = self.backend("free", |zpool| zpool.free(self.handle(bits)));
        // Relaxed: as in `malloc`.
        if self.uncharged.load(Ordering::Relaxed) {
            self.look_whether_it_charges();
        }
    }

    /// Prefetches the memory that the backend will read to free the object.
    #[inline]
    pub(crate) fn prefetch(&self, bits: BackendBits) {
        let _ = contain(|| self.zpool.prefetch(self.handle(bits)));
    }

    /// Pins an object and returns its bytes. They stay where they are until the result is dropped.
    #[inline]
    pub(crate) fn pin(&self, bits: BackendBits) -> Result<Contained<ObjRead<'_>>, ZpoolError> {
        self.backend("obj_read_begin", |zpool| zpool.obj_read_begin(self.handle(bits)))
            .map(Contained::new)
    }

    /// Turns the object's bytes back into the page. After an error, the contents of `page` are unspecified.
    #[inline]
    pub(crate) fn restore(&self, object: &ObjRead<'_>, page: &mut [u8]) -> Result<(), Fault> {
        if object.len() == self.unit() {
            // Only the object of an uncompressed page is as long as a page.
            page.copy_from_slice(object);
            return Ok(());
        }
        self.codec.decompress(object, page).map_err(Fault::from)
    }

    /// Moves objects together until `pages` pages are freed, the backend is complete, or the work of one call
    /// is done.
    pub(crate) fn compact_some(&self, pages: usize) -> Result<Compaction, ZpoolError> {
        self.backend("compact", |zpool| zpool.compact_some(pages))
    }

    /// Releases warm pages to the system, and returns how many. Returns 0 if the backend panics.
    pub(crate) fn trim(&self) -> usize {
        self.backend("trim", |zpool| Ok(zpool.trim())).unwrap_or(0)
    }
}
