//! The pool. It implements the backend trait for zbud and z3fold, over a [`Layout`].

use core::fmt;
use std::sync::Arc;

use zpool_api::{
    Evict, Handle, ObjRead, ObjWrite, PageBudget, PageProvider, PoolTag, SlotRef, Zpool, ZpoolCaps,
    ZpoolError, ZpoolStats,
};
use zpool_base::fork::Leaked;
use zpool_base::prefetch;

use crate::core::Core;
use crate::desc::PageDesc;
use crate::layout::{Layout, Slot};
use crate::locks::{HeldPage, ListsOf};
use crate::page::Page;
use crate::reclaim::{Reclaim, reclaim};
use crate::states::Who;

const FIRST_GENERATION: u32 = 1;

/// A pool with up to `N` objects per page. The crate's front page has an example.
///
/// `Send` and `Sync`. Dropping it returns all pages to the provider. After `fork`, in a child of the
/// process that made the pool, calls fail with [`ZpoolError::Forked`] or answer as an empty pool would. In
/// the child, dropping the pool or a guard frees nothing.
pub struct Pool<L: Layout<N>, const N: usize> {
    core: Leaked<Core<L, N>>,
}

impl<L: Layout<N>, const N: usize> Pool<L, N> {
    /// Makes an empty pool over `provider`. The pool charges its [`total_pages`](Zpool::total_pages) to
    /// `budget`, if there is one. Allocates no page yet.
    ///
    /// # Errors
    /// [`ZpoolError::UnsupportedPageSize`] if the provider's pages are smaller than 4 KiB, larger than 64
    /// KiB, or not a power of two.
    pub fn new(
        provider: Arc<dyn PageProvider>,
        budget: Option<Arc<PageBudget>>,
    ) -> Result<Self, ZpoolError> {
        Self::starting_at_for_test(provider, budget, FIRST_GENERATION)
    }

    /// Makes an empty pool like [`Pool::new`], but the first object of each slot gets this generation.
    ///
    /// # Errors
    /// The same as [`Pool::new`].
    #[doc(hidden)]
    pub fn starting_at_for_test(
        provider: Arc<dyn PageProvider>,
        budget: Option<Arc<PageBudget>>,
        first_generation: u32,
    ) -> Result<Self, ZpoolError> {
        Ok(Pool { core: Leaked::new(Core::new(provider, budget, first_generation)?) })
    }

    /// The bytes that a page number costs. The first value is the size of its descriptor, the second the
    /// size of its record in the lists.
    #[doc(hidden)]
    pub const PAGE_BYTES: (usize, usize) =
        (size_of::<PageDesc<L, N>>(), ListsOf::<L::Locks, Page<L, N>>::RECORD_BYTES);

    /// Returns the number of page numbers that have ever been used.
    #[doc(hidden)]
    pub fn page_numbers_for_test(&self) -> usize {
        self.core.table.len()
    }

    /// Sets the reader count of a page's first object. Meant for counts that a test cannot reach with real
    /// guards.
    #[doc(hidden)]
    pub fn set_readers_for_test(&self, page: u32, readers: u64) {
        let buddy = self.core.known(Slot::<N>::new(page, 0).number());
        buddy.word().set_readers_for_test(readers);
    }

    /// Writes what `Debug` would write, but under another name. Meant for newtypes over the pool.
    ///
    /// # Errors
    /// The error of the formatter.
    pub fn fmt_as(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("tag", &self.core.tag)
            .field("page_size", &self.core.source.page_size())
            .field("objects", &self.core.objects.get())
            .finish_non_exhaustive()
    }
}

impl<L: Layout<N>, const N: usize> fmt::Debug for Pool<L, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_as("Pool", f)
    }
}

impl<L: Layout<N>, const N: usize> Zpool for Pool<L, N> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn tag(&self) -> PoolTag {
        self.core.tag
    }

    fn caps(&self) -> ZpoolCaps {
        let page_size = self.core.source.page_size();
        ZpoolCaps::new(page_size).with_reclaim().with_alignment(self.core.chunk_size.bytes(1))
    }

    fn malloc(&self, size: usize) -> Result<ObjWrite<'_>, ZpoolError> {
        let core = &*self.core;
        core.source.here()?;
        let buddy = core.reserve(size)?;
        buddy.watched().write();
        // SAFETY: the word is OWNED. The guard owns it until commit or abort.
        let bytes = unsafe { buddy.bytes(size, core.chunk_size) };
        // SAFETY: the guard owns the word, so nobody else touches the bytes until commit or abort
        // (invariant 2 of `desc.rs`).
        Ok(unsafe { ObjWrite::in_place(bytes, core, u64::from(buddy.slot.number())) })
    }

    fn malloc_from(&self, bytes: &[u8]) -> Result<Handle, ZpoolError> {
        let core = &*self.core;
        core.source.here()?;
        let buddy = core.reserve(bytes.len())?;
        buddy.watched().write();
        // SAFETY: the word is OWNED, and this thread is its owner.
        let to = unsafe { buddy.bytes(bytes.len(), core.chunk_size) }.cast::<u8>();
        // SAFETY: `to` is `bytes.len()` bytes of a page. They belong to this owner alone (invariant 2 of
        // `desc.rs`), so they cannot overlap `bytes`, which the caller borrows from elsewhere.
        unsafe { to.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(core.publish(buddy))
    }

    fn free(&self, handle: Handle) -> Result<(), ZpoolError> {
        self.core.source.here()?;
        // First frees this object, and then the objects that readers left. So this object is freed even if
        // the provider panics while the others are freed.
        let freed = self.core.free(handle);
        self.core.finish_left();
        freed
    }

    fn prefetch(&self, handle: Handle) {
        let slot = SlotRef::from_bits(handle.backend_bits()).slot();
        if let Some(buddy) = self.core.find(slot) {
            prefetch::look_soon(buddy.word());
        }
    }

    fn obj_read_begin(&self, handle: Handle) -> Result<ObjRead<'_>, ZpoolError> {
        self.core.source.here()?;
        self.core.read(handle)
    }

    /// Returns `len`, but never less than an `N`-th part of a page. A page holds at most `N` objects, so a
    /// smaller object saves no memory.
    fn footprint(&self, len: usize) -> usize {
        len.max(self.core.source.page_size() / N)
    }

    fn total_pages(&self) -> usize {
        if self.core.is_here() { self.core.source.total_pages() } else { 0 }
    }

    fn reclaim(&self, target_pages: usize, evict: &dyn Evict) -> Result<usize, ZpoolError> {
        self.core.source.here()?;
        self.core.finish_left();
        let freed = reclaim(&*self.core, target_pages, evict);
        // The callback may have forked and returned in the child.
        self.core.source.here()?;
        Ok(freed)
    }

    fn trim(&self) -> usize {
        if !self.core.is_here() {
            return 0;
        }
        self.core.finish_left();
        self.core.source.provider().trim()
    }

    fn stats(&self) -> ZpoolStats {
        let core = &*self.core;
        let mut stats = ZpoolStats::default();
        stats.page_size = core.source.page_size();
        if !core.source.is_here() {
            return stats;
        }
        stats.cached_pages = core.source.provider().cached_pages();
        let provider = core.source.provider().metadata_bytes();
        stats.metadata_bytes = core.table.memory_bytes().saturating_add(provider);
        stats.total_pages = core.source.total_pages();
        stats.objects = core.objects.get() as usize;
        stats.object_bytes = core.object_bytes.get() as usize;
        stats.parked_objects = (core.parked.get() as i64).max(0) as usize;
        let lists = core.lists.lock();
        stats.reclaimed_pages = lists.reclaimed();
        stats.metadata_bytes = stats.metadata_bytes.saturating_add(lists.memory_bytes());
        stats
    }
}

/// Between `begin` and `end`, reclaim is the page's holder, like an allocation: it has the reference that
/// the lists had.
impl<L: Layout<N>, const N: usize> Reclaim for Core<L, N> {
    const OBJECTS: usize = N;

    fn is_here(&self) -> bool {
        self.source.is_here()
    }

    fn finish_left(&self) {
        self.finish_left();
    }

    fn now(&self) -> u64 {
        self.lists.lock().now()
    }

    fn begin(&self, before: u64) -> Option<u32> {
        self.lists.lock().take_for_reclaim(before)
    }

    fn read(&self, page: u32, nth: usize) -> Option<(Handle, ObjRead<'_>)> {
        self.read_current(page, nth)
    }

    fn free(&self, handle: Handle) {
        let _ = self.free(handle);
    }

    fn end(&self, page: u32) -> bool {
        let mut held = self.lock(page, self.desc(page));
        let to = held.page().resting_state(true);
        let unreferenced = self.settle(page, &mut held, Who::Holder, to);
        drop(held);
        let freed = unreferenced.is_some();
        if freed {
            self.lists.lock().count_reclaimed();
        }
        self.give_back(unreferenced);
        freed
    }
}
