//! A pool of a store: a backend, a compressor, and the contexts that belong to both.
//!
//! This is where a page becomes an object and back. Nothing here knows of entries.

use std::sync::Arc;

use compressors::{Compressor, CompressorError, guard};
use zpool_api::{Handle, ObjRead, PoolTag, Zpool, ZpoolError, prefetch};

use crate::acomp_ctx::{AcompCtxs, Busy};
use crate::batch::Spares;
use crate::{PAGE_SIZE, Page};

/// A backend with its compressor.
#[derive(Debug)]
pub(crate) struct Pool {
    /// What the backend was asked for by.
    pub(crate) zpool_name: String,
    /// What the compressor calls itself, with its parameters.
    pub(crate) spec: String,
    pub(crate) zpool: Arc<dyn Zpool>,
    pub(crate) compressor: Arc<dyn Compressor>,
    pub(crate) ctxs: AcompCtxs,
    /// Contexts and buffers of requests.
    pub(crate) spares: Spares,
    /// Bytes of the backend's pages.
    page_size: usize,
    /// Asked once: the handles of a pool share it, so entries keep the other 52 bits.
    tag: PoolTag,
}

/// A page that became an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stored {
    pub(crate) handle: Handle,
    /// Bytes of the object.
    pub(crate) len: usize,
    /// Kept as it is, because it did not get smaller.
    pub(crate) raw: bool,
}

/// Why a page did not become an object, or not a page again.
#[derive(Debug)]
pub(crate) enum Fault {
    Reentrant,
    Incompressible,
    Codec(CompressorError),
    Pool(ZpoolError),
}

impl From<Busy> for Fault {
    fn from(busy: Busy) -> Self {
        match busy {
            Busy::Reentrant => Fault::Reentrant,
            Busy::SetUp(error) => Fault::Codec(error),
        }
    }
}

impl Pool {
    pub(crate) fn new(
        zpool_name: String,
        zpool: Arc<dyn Zpool>,
        compressor: Arc<dyn Compressor>,
    ) -> Self {
        let (tag, spec) = (zpool.tag(), compressor.spec());
        let page_size = zpool.stats().page_size;
        Pool {
            spec,
            zpool_name,
            zpool,
            compressor,
            ctxs: AcompCtxs::new(),
            spares: Spares::default(),
            page_size,
            tag,
        }
    }

    /// Bytes of the pages that hold objects.
    #[inline]
    pub(crate) fn resident_bytes(&self) -> usize {
        self.zpool.total_pages() * self.page_size
    }

    /// Bytes of the backend's pages.
    pub(crate) fn page_size(&self) -> usize {
        self.page_size
    }

    /// Whether it is of the same backend and compressor.
    pub(crate) fn is_like(&self, zpool_name: &str, spec: &str) -> bool {
        self.zpool_name == zpool_name && self.spec == spec
    }

    /// Makes this CPU's context, as the first page would.
    pub(crate) fn prepare(&self) -> Result<(), Fault> {
        self.ctxs.hold(&*self.compressor).map(drop).map_err(Fault::from)
    }

    /// The tag of this pool's handles.
    pub(crate) fn tag(&self) -> PoolTag {
        self.tag
    }

    /// Compresses the page and puts it in the backend. A page that does not get smaller is put
    /// there as it is if `keep_raw`, else refused.
    #[inline]
    pub(crate) fn put(&self, page: &Page, keep_raw: bool) -> Result<Stored, Fault> {
        let mut ctx = self.ctxs.hold(&*self.compressor)?;
        let len = ctx.compress(page).map_err(Fault::Codec)?;
        self.insert(page, ctx.output(), len, keep_raw)
    }

    /// Puts a page in the backend that was compressed into the first `len` bytes of `buffer`.
    #[inline]
    pub(crate) fn insert(
        &self,
        page: &[u8],
        buffer: &[u8],
        len: usize,
        keep_raw: bool,
    ) -> Result<Stored, Fault> {
        let raw = len >= PAGE_SIZE;
        if raw && !keep_raw {
            return Err(Fault::Incompressible);
        }
        let capacity = buffer.len();
        let bytes = if raw { Some(page) } else { buffer.get(..len) };
        // A codec that says it wrote more than it was given.
        let lied = CompressorError::OutputTooSmall { codec: "acomp", src_len: PAGE_SIZE, capacity };
        let bytes = bytes.ok_or(Fault::Codec(lied))?;
        let handle = self.zpool.malloc_from(bytes).map_err(Fault::Pool)?;
        Ok(Stored { handle, len: bytes.len(), raw })
    }

    /// Turns the object's bytes into the page again. What the page holds after an error is
    /// unspecified.
    #[inline]
    pub(crate) fn restore(&self, object: &ObjRead<'_>, page: &mut Page) -> Result<(), Fault> {
        if object.len() == PAGE_SIZE {
            // Only a page kept as it is has the length of a page.
            page.copy_from_slice(object);
            return Ok(());
        }
        prefetch::read_soon(object);
        let done = match self.compressor.stateless() {
            Some(codec) => guard::decompress_stateless(codec, object, page),
            None => self.ctxs.hold(&*self.compressor)?.decompress(object, page),
        };
        done.map_err(Fault::Codec)
    }
}
