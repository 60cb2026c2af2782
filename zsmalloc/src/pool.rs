//! The pool's public face: the type, its constructors, and the `Zpool` trait. Each operation has
//! its own file; `shared.rs` has what the operations share and the invariants that they keep.

use core::fmt;
use core::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use zpool_api::{
    Compaction, Handle, Migration, ObjRead, ObjWrite, PageProvider, PoolTag, SlotRef, Zpool,
    ZpoolCaps, ZpoolConfig, ZpoolError, ZpoolStats,
};
use zpool_base::fork::Leaked;
use zpool_base::prefetch;

use crate::class_table::HEADER;
use crate::config::Config;
use crate::shared::{Core, NAME};

/// A compressed-memory pool with size classes. See the crate's front page.
///
/// `Send` and `Sync`; usable as `Arc<dyn Zpool>`. Dropping it returns all pages to the provider. In
/// a forked child every call returns [`ZpoolError::Forked`] or answers as an empty pool would, and
/// nothing is returned to the provider.
pub struct Zsmalloc {
    pub(crate) core: Leaked<Core>,
}

impl Zsmalloc {
    /// Makes an empty pool over `provider` with the default configuration. Takes no page yet.
    ///
    /// # Errors
    /// [`ZpoolError::UnsupportedPageSize`] if the provider's pages are smaller than 4 KiB, larger
    /// than 64 KiB, or not a power of two.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zpool_api::Zpool;
    /// use zpool_pages::HeapPages;
    /// use zsmalloc::Zsmalloc;
    ///
    /// let pool = Zsmalloc::new(Arc::new(HeapPages::new()))?;
    /// let handle = pool.malloc_from(b"compressed")?;
    /// assert_eq!(&*pool.obj_read_begin(handle)?, b"compressed");
    /// pool.free(handle)?;
    /// assert_eq!(pool.total_pages(), 0);
    /// # Ok::<(), zpool_api::ZpoolError>(())
    /// ```
    pub fn new(provider: Arc<dyn PageProvider>) -> Result<Self, ZpoolError> {
        Self::with_config(provider, Config::new())
    }

    /// Makes an empty pool over `provider` with the given configuration. Takes no page yet.
    ///
    /// # Errors
    /// The same as [`Zsmalloc::new`].
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zpool_api::Zpool;
    /// use zpool_pages::HeapPages;
    /// use zsmalloc::{Config, Zsmalloc};
    ///
    /// // The kernel's classes: zspages of at most 4 pages, all classes active from the start.
    /// let config = Config::new().chain(4).refine(false);
    /// let pool = Zsmalloc::with_config(Arc::new(HeapPages::new()), config)?;
    /// assert_eq!(pool.name(), "zsmalloc");
    /// # Ok::<(), zpool_api::ZpoolError>(())
    /// ```
    pub fn with_config(
        provider: Arc<dyn PageProvider>,
        config: Config,
    ) -> Result<Self, ZpoolError> {
        let pages = ZpoolConfig::new(provider);
        Self::from_config(&pages, config)
    }

    /// Makes an empty pool with the provider, the budget and the largest object of a [`ZpoolConfig`]. Code
    /// that can use any backend has them in this form. The pool admits objects of that size, up to 64 KiB,
    /// or of a page if that is larger.
    ///
    /// # Errors
    /// The same as [`Zsmalloc::new`].
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zpool_api::{PageBudget, Zpool, ZpoolConfig, ZpoolError};
    /// use zpool_pages::HeapPages;
    /// use zsmalloc::{Config, Zsmalloc};
    ///
    /// let budget = Arc::new(PageBudget::new(4096));
    /// let pages = ZpoolConfig::new(Arc::new(HeapPages::new())).with_budget(budget.clone());
    /// let pool = Zsmalloc::from_config(&pages, Config::new().chain(1))?;
    /// let object = pool.malloc_from(&[1; 3000])?;
    /// assert!(matches!(pool.malloc_from(&[2; 3000]), Err(ZpoolError::OutOfMemory { .. })));
    /// pool.free(object)?;
    /// assert_eq!(budget.used(), 0);
    /// # Ok::<(), ZpoolError>(())
    /// ```
    pub fn from_config(pages: &ZpoolConfig, config: Config) -> Result<Self, ZpoolError> {
        let (provider, budget) = (pages.pages.clone(), pages.budget.clone());
        Ok(Zsmalloc {
            core: Leaked::new(Core::new(provider, budget, pages.max_object_size, config)?),
        })
    }

    /// Moves every zspage whose run begins at an address in `range` to other pages of the provider.
    /// Leaves a zspage where it is, and counts it as left, if one of its objects is in use or if another
    /// thread works on the zspage. [`Zpool::migrate`] does the same for a block that the provider
    /// chooses; this method is for callers that choose the range themselves.
    ///
    /// # Errors
    /// [`ZpoolError::OutOfMemory`] if the provider has no run for a zspage. The zspages that were
    /// moved before stay moved; no object is lost. [`ZpoolError::Forked`] in a forked child.
    ///
    /// # Blocking
    /// Calls the provider, which may make system calls. Do not call it while holding a lock.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zpool_api::Zpool;
    /// use zpool_pages::HeapPages;
    /// use zsmalloc::Zsmalloc;
    ///
    /// let pool = Zsmalloc::new(Arc::new(HeapPages::new()))?;
    /// let handle = pool.malloc_from(&[7; 1000])?;
    /// let moved = pool.migrate_within(0..usize::MAX)?;
    /// assert_eq!((moved.zspages, moved.left), (1, 0));
    /// assert_eq!(pool.obj_read_begin(handle)?[..], [7; 1000]);
    /// # Ok::<(), zpool_api::ZpoolError>(())
    /// ```
    pub fn migrate_within(&self, range: Range<usize>) -> Result<Migration, ZpoolError> {
        self.core.check_maker()?;
        self.core.tidy_up();
        self.core.migrate(&range)
    }
}

impl Zpool for Zsmalloc {
    fn name(&self) -> &'static str {
        NAME
    }

    fn tag(&self) -> PoolTag {
        self.core.tag
    }

    fn caps(&self) -> ZpoolCaps {
        ZpoolCaps::new(self.core.max_object)
            .with_compaction()
            .with_migration()
            .with_alignment(HEADER)
    }

    fn malloc(&self, size: usize) -> Result<ObjWrite<'_>, ZpoolError> {
        self.core.malloc(size)
    }

    fn malloc_from(&self, bytes: &[u8]) -> Result<Handle, ZpoolError> {
        self.core.malloc_from(bytes)
    }

    fn free(&self, handle: Handle) -> Result<(), ZpoolError> {
        self.core.free(handle)
    }

    fn prefetch(&self, handle: Handle) {
        if !self.core.maker.is_here() {
            return;
        }
        if let Some(slot) = self.core.slots.get(SlotRef::from_bits(handle.backend_bits()).slot()) {
            prefetch::look_soon(slot);
        }
    }

    fn obj_read_begin(&self, handle: Handle) -> Result<ObjRead<'_>, ZpoolError> {
        self.core.read(handle)
    }

    fn footprint(&self, len: usize) -> usize {
        let own = self.core.routes.class_of(len.min(self.core.max_object));
        let class = self.core.routes.goes_to(own);
        let size = &self.core.classes[class].size;
        usize::from(size.pages) * self.core.page_size() / usize::from(size.objects)
    }

    fn total_pages(&self) -> usize {
        if !self.core.maker.is_here() {
            return 0;
        }
        self.core.reclaim_queued();
        self.core.accounts.resident()
    }

    /// Empties each zspage at most once. The size of the pool at the start of the call limits the
    /// work of the call, whatever guards are open and whatever other threads or the provider do
    /// meanwhile. The limit allows one visit for each place, and one search for pages without an
    /// object for each page and for each class.
    fn compact(&self) -> Result<usize, ZpoolError> {
        self.core.check_maker()?;
        Ok(self.core.compact())
    }

    /// A call moves at most 256 objects, and makes about 4096 visits at most. Each taken place that
    /// it examines is a visit, and so is each of the eight zspages that a search for holes may
    /// isolate. Holes are pages without an object. They are returned, too, and count as freed. Each
    /// call continues in the class where the last one stopped. The pass is complete when a whole
    /// round over the classes has freed nothing. `pages` of 0 counts as 1. The provider's cached
    /// pages are not returned.
    ///
    /// A loop that calls this until the pass is complete ends even if other threads or the provider
    /// keep changing the pool. All calls of a pass together make a limited number of visits to
    /// classes: 8 for each class, 2 for each page, and one for every 16 objects that the pool had
    /// at the start of the pass. If one call completes a pass, the pass is complete for all other
    /// calls that take part in it.
    fn compact_some(&self, pages: usize) -> Result<Compaction, ZpoolError> {
        self.core.check_maker()?;
        Ok(self.core.compact_some(pages))
    }

    fn migrate(&self) -> Result<Migration, ZpoolError> {
        self.core.check_maker()?;
        self.core.tidy_up();
        let Some(block) = self.core.provider.isolate_block() else {
            return Ok(Migration::default());
        };
        let (range, bytes) = (block.range(), block.bytes());
        // Put the block back even if the provider panics.
        let result = catch_unwind(AssertUnwindSafe(|| self.core.migrate(&range)));
        let whole = self.core.provider.putback_block(block);
        let mut done = result.unwrap_or_else(|panic| resume_unwind(panic))?;
        done.block_bytes = if whole { bytes } else { 0 };
        Ok(done)
    }

    fn trim(&self) -> usize {
        if !self.core.maker.is_here() {
            return 0;
        }
        self.core.reclaim_queued();
        let left = self.core.left.pages();
        if left == 0 {
            return self.core.provider.trim();
        }
        let cached = self.core.provider.cached_pages().saturating_add(left);
        self.core.tidy_up();
        self.core.provider.trim();
        cached.saturating_sub(self.core.provider.cached_pages())
    }

    fn stats(&self) -> ZpoolStats {
        let core = &*self.core;
        let mut stats = ZpoolStats::default();
        if !core.maker.is_here() {
            return stats;
        }
        core.reclaim_queued();
        let (mut used, mut bytes) = (0, 0);
        for class in &core.classes {
            let counts = class.counts();
            used += counts.0;
            bytes += counts.1;
        }
        stats.parked_objects = core.accounts.parked();
        let (uncommitted, uncommitted_bytes) = core.accounts.uncommitted();
        stats.page_size = core.page_size();
        stats.total_pages = core.accounts.resident();
        stats.cached_pages = core.provider.cached_pages().saturating_add(core.left.pages());
        stats.objects = used.saturating_sub(stats.parked_objects + uncommitted);
        stats.object_bytes = bytes.saturating_sub(uncommitted_bytes);
        stats.metadata_bytes = core.metadata_bytes();
        stats
    }
}

impl fmt::Debug for Zsmalloc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zsmalloc")
            .field("tag", &self.core.tag)
            .field("page_size", &self.core.page_size())
            .field("classes", &self.core.classes.len())
            .field("pages", &self.core.accounts.resident())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::lane::READER_LIMIT;
    use std::collections::HashSet;
    use zpool_pages::{FailingPages, HeapPages};

    const _: fn() = || {
        fn both<T: Send + Sync>() {}
        both::<Zsmalloc>();
        both::<Config>();
        both::<crate::ClassStats>();
    };

    fn pool() -> Zsmalloc {
        Zsmalloc::new(Arc::new(HeapPages::new())).unwrap()
    }

    #[test]
    fn a_slot_is_retired_when_its_generations_are_used_up() {
        let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
        let pool = Zsmalloc::with_config(pages.clone(), Config::new().generations_left(3)).unwrap();
        let mut seen = HashSet::new();
        for round in 0..40u8 {
            let handle = pool.malloc_from(&[round; 10]).unwrap();
            assert!(seen.insert(handle), "a handle came twice");
            assert_eq!(&*pool.obj_read_begin(handle).unwrap(), &[round; 10]);
            pool.free(handle).unwrap();
        }
        for handle in &seen {
            assert!(pool.obj_read_begin(*handle).is_err() && pool.free(*handle).is_err());
        }
        // Each slot has 4 generations.
        assert_eq!(pool.core.slots.len(), 10);
        assert_eq!((pool.total_pages(), pages.pages_out()), (0, 0));
    }

    #[test]
    fn too_many_readers_is_an_error_that_passes() {
        let pool = pool();
        let handle = pool.malloc_from(b"popular").unwrap();
        let lane = pool.core.lane(pool.core.zspages.at(0), 0);
        lane.set_readers_for_test(READER_LIMIT);
        assert!(matches!(pool.obj_read_begin(handle), Err(ZpoolError::TooManyReaders { .. })));
        lane.set_readers_for_test(0);
        assert_eq!(&*pool.obj_read_begin(handle).unwrap(), b"popular");
    }

    /// Makes a pool whose pages are touched one by one and returned one by one.
    #[cfg(all(target_os = "linux", not(miri)))]
    fn mapped() -> Zsmalloc {
        Zsmalloc::new(Arc::new(zpool_pages::MmapPages::new())).unwrap()
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    #[test]
    fn a_zspage_costs_the_pages_that_its_objects_touch() {
        let pool = mapped();
        let handles: Vec<Handle> =
            (0..8u8).map(|n| pool.malloc_from(&[n; 3000]).unwrap()).collect();
        // A place has 3024 bytes, so the eighth ends in the sixth of the zspage's sixteen pages.
        assert_eq!(pool.total_pages(), 6);
        // The first five objects have three pages to themselves, and share the fourth.
        for handle in &handles[..5] {
            pool.free(*handle).unwrap();
        }
        assert_eq!(pool.total_pages(), 6, "holes are kept to be filled again");
        assert_eq!(pool.compact().unwrap(), 3);
        assert_eq!(pool.total_pages(), 3);
        for (n, handle) in handles.iter().enumerate().skip(5) {
            assert_eq!(pool.obj_read_begin(*handle).unwrap()[..], [n as u8; 3000]);
        }
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    #[test]
    fn compaction_gives_back_what_freeable_says_and_moves_no_read_object() {
        let pool = mapped();
        let mut handles: Vec<(u32, Handle)> = (0..2000u32)
            .map(|n| {
                let object = vec![n as u8; 200 + n as usize * 7 % 3600];
                (n, pool.malloc_from(&object).unwrap())
            })
            .collect();
        handles.retain(|(n, handle)| {
            let stays = n % 4 == 0;
            if !stays {
                pool.free(*handle).unwrap();
            }
            stays
        });
        let read = pool.obj_read_begin(handles[100].1).unwrap();
        let at = read.as_ptr();
        let freeable: usize = pool.class_stats().iter().map(|class| class.freeable).sum();
        let before = pool.total_pages();
        let freed = pool.compact().unwrap();
        assert_eq!(before - pool.total_pages(), freed);
        assert!(
            freed > 0 && freed <= freeable && freed * 100 >= freeable * 95,
            "{freed} of {freeable}"
        );
        assert_eq!((read.as_ptr(), read[0]), (at, 144));
        for (n, handle) in &handles {
            let object = pool.obj_read_begin(*handle).unwrap();
            assert_eq!(object.len(), 200 + *n as usize * 7 % 3600);
            assert!(object.iter().all(|byte| *byte == *n as u8), "{n}");
        }
        drop(read);
        for (_, handle) in handles {
            pool.free(handle).unwrap();
        }
        let stats = pool.stats();
        assert_eq!((stats.objects, stats.object_bytes, stats.total_pages), (0, 0, 0));
    }

    #[test]
    fn larger_pages_hold_larger_objects() {
        for page_size in [16384, 65536] {
            let pages = Arc::new(HeapPages::with_page_size(page_size).unwrap());
            let pool = Zsmalloc::new(pages).unwrap();
            assert_eq!(pool.caps().max_object_size, page_size);
            let handles: Vec<(usize, Handle)> = (0..40)
                .map(|n| 1 + n * (page_size - 1) / 39)
                .map(|len| (len, pool.malloc_from(&vec![len as u8; len]).unwrap()))
                .collect();
            for (len, handle) in handles {
                let object = pool.obj_read_begin(handle).unwrap();
                assert!(*object == *vec![len as u8; len], "{len} of {page_size}");
            }
        }
    }
}
