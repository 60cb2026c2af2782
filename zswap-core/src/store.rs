//! The page store: entries on one side, a pool on the other.
//!
//! # Order of events
//! * `store`: same-filled? else compress under this CPU's AcompCtx and put the object into the
//!   backend, still without any entry lock; then lock the entry, put the new word in place, unlock;
//!   then free what was there. Whoever locks the entry last wins, and only its object stays.
//! * `load`: lock the entry, pin the object, unlock; decompress from the pinned bytes. Two readers
//!   of one entry exclude each other for the pin only; an overwrite or invalidate meanwhile frees
//!   the object, whose bytes stay until the guard is dropped.
//! * `take`: as `load`; then the entry is emptied if it still holds the very object that was read,
//!   else read again. A pattern is taken under the lock at once.
//!
//! # Rules
//! * No codec, no page request and no free runs under an entry lock.
//! * A word that leaves its entry is discarded by the thread that took it out, once.

use core::fmt;
use std::sync::Arc;

use compressors::Acomp;
use zpool_api::{BackendBits, Handle, ObjRead, ZpoolError};

use crate::checksum;
use crate::counters::{Counter, Counters};
use crate::error::{LoadError, StoreError};
use crate::index::Index;
use crate::limits::Limits;
use crate::lock::EntryGuard;
#[cfg(feature = "metrics")]
use crate::metrics::{StoreMetrics, Timed};
use crate::pool::{Fault, Pool, Stored};
use crate::pools::{Hold, Pools};
use crate::rehome::Cursors;
use crate::same_filled::{self, Patterns};
use crate::slots::{ReadSlot, Slots};
use crate::stats::{PoolStats, ZswapStats};
use crate::switch::Recipe;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::word::{Content, PoolId, Word};
use crate::{Entries, PAGE_SIZE, Page, SwapEntry, ZswapBuilder};

/// A store of compressed pages. See the crate's front page.
///
/// `Send` and `Sync`: share it by reference or `Arc` and call it from any thread. Pages under
/// different entries never wait for each other beyond the backend's short locks.
pub struct Zswap {
    pub(crate) index: Index,
    pub(crate) patterns: Patterns,
    pub(crate) pools: Pools,
    pub(crate) recipe: Recipe,
    pub(crate) counters: Counters,
    /// Where each kind of walk over the entries goes on.
    pub(crate) cursors: Cursors,
    pub(crate) store_incompressible: bool,
    pub(crate) acomp: Arc<dyn Acomp>,
    pub(crate) limits: Option<Limits>,
    pub(crate) backing: Option<Slots>,
    pub(crate) writeback: Switch,
    #[cfg(feature = "metrics")]
    pub(crate) metrics: Option<StoreMetrics>,
}

/// A setting that may change at any time.
#[derive(Debug)]
pub(crate) struct Switch(AtomicBool);

impl Switch {
    pub(crate) fn new(on: bool) -> Self {
        Switch(AtomicBool::new(on))
    }

    pub(crate) fn get(&self) -> bool {
        // Relaxed: a setting, which publishes nothing.
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, on: bool) {
        // Relaxed: as in `get`.
        self.0.store(on, Ordering::Relaxed);
    }
}

/// How a store is set up.
pub(crate) struct Settings {
    pub(crate) store_incompressible: bool,
    pub(crate) checksums: bool,
    pub(crate) limits: Option<Limits>,
    pub(crate) device: Option<Slots>,
    pub(crate) writeback_enabled: bool,
    pub(crate) acomp: Arc<dyn Acomp>,
    #[cfg(feature = "metrics")]
    pub(crate) metrics: Option<StoreMetrics>,
}

impl Zswap {
    /// Starts building a store.
    pub fn builder() -> ZswapBuilder {
        ZswapBuilder::new()
    }

    pub(crate) fn from_parts(pool: Pool, recipe: Recipe, settings: Settings) -> Self {
        Zswap {
            index: if settings.checksums { Index::with_sums() } else { Index::new() },
            patterns: Patterns::new(),
            pools: Pools::new(pool),
            recipe,
            cursors: Cursors::default(),
            counters: Counters::new(),
            store_incompressible: settings.store_incompressible,
            acomp: settings.acomp,
            limits: settings.limits,
            backing: settings.device,
            writeback: Switch::new(settings.writeback_enabled),
            #[cfg(feature = "metrics")]
            metrics: settings.metrics,
        }
    }

    /// Keeps a copy of `page` under `entry`, in place of any older one.
    ///
    /// On error nothing is kept under the entry, not the older page either. Blocks for other users
    /// of this CPU's compression context and, rarely, in the system for more memory.
    pub fn store(&self, entry: SwapEntry, page: &Page) -> Result<(), StoreError> {
        #[cfg(feature = "metrics")]
        let _timed = Timed::start(self.metrics.as_ref(), |metrics| &metrics.store);
        let content = self.content_of(entry, page);
        self.keep(entry, page, content)
    }

    /// Puts what a page became under its entry, or what is to be told if it became nothing.
    pub(crate) fn keep(
        &self,
        entry: SwapEntry,
        page: &Page,
        content: Result<Content, Refusal>,
    ) -> Result<(), StoreError> {
        let wanted = self.index.has_sums() && matches!(content, Ok(Content::Stored { .. }));
        let sum = wanted.then(|| checksum::of(page));
        let replaced = content.and_then(|content| match self.index.lock_or_insert(entry.key()) {
            Ok(mut locked) => {
                locked.set_sum(sum);
                Ok(locked.replace(Word::new(content)))
            }
            Err(no_node) => {
                self.discard(content);
                Err(Refusal::Index(no_node.bytes))
            }
        });
        match replaced {
            Ok(old) => {
                if old.is_empty() {
                    self.counters.add(Counter::StoredPages, 1);
                }
                self.discard(old.content());
                Ok(())
            }
            Err(refusal) => {
                self.invalidate(entry);
                Err(self.count_refusal(entry, refusal))
            }
        }
    }

    /// Turns a page into what an entry can hold.
    #[inline]
    fn content_of(&self, entry: SwapEntry, page: &Page) -> Result<Content, Refusal> {
        if let Some(pattern) = self.pattern_of(page) {
            return Ok(pattern);
        }
        if !self.admit() {
            return Err(Refusal::Limit);
        }
        let pool = self.pools.current();
        self.prefetch(entry, &pool);
        let stored = pool.put(page, self.store_incompressible);
        self.content_in(pool, page, stored)
    }

    /// While the page is compressed, what is needed to free an older one comes from memory.
    #[inline]
    fn prefetch(&self, entry: SwapEntry, current: &Pool) {
        if let Content::Stored { bits, .. } = self.index.peek(entry.key()).content() {
            // A hint: in another pool the handle means nothing, which does no harm.
            current.zpool.prefetch(Handle::new(current.tag(), bits));
        }
    }

    /// The pattern of a page that has one.
    #[inline]
    pub(crate) fn pattern_of(&self, page: &Page) -> Option<Content> {
        let packed = same_filled::pattern(page).and_then(|pattern| self.patterns.pack(pattern))?;
        self.counters.add(Counter::SameFilledPages, 1);
        Some(Content::SameFilled(packed))
    }

    /// What an entry can hold of a page that was put into a pool. Out of memory, some pages are written
    /// back, and the page is put there again.
    #[inline]
    pub(crate) fn content_in(
        &self,
        pool: Hold<'_>,
        page: &Page,
        mut stored: Result<Stored, Fault>,
    ) -> Result<Content, Refusal> {
        // With no context held: room can be made, and the page compressed again.
        if matches!(stored, Err(Fault::Pool(ZpoolError::OutOfMemory { .. }))) && self.make_room() {
            stored = pool.put(page, self.store_incompressible);
        }
        Ok(self.stored_in(pool, stored.map_err(Refusal::Fault)?))
    }

    /// What an entry can hold of an object in a pool, whose reference goes over to it.
    #[inline]
    pub(crate) fn stored_in(&self, pool: Hold<'_>, stored: Stored) -> Content {
        if stored.raw {
            self.counters.add(Counter::IncompressiblePages, 1);
        }
        let bits = stored.handle.backend_bits();
        Content::Stored { pool: pool.into_page(), bits, raw: stored.raw }
    }

    pub(crate) fn count_refusal(&self, entry: SwapEntry, refusal: Refusal) -> StoreError {
        let (counter, error) = match refusal {
            Refusal::Limit => {
                let limit = self.limits.as_ref().map_or(0, Limits::max);
                return StoreError::PoolLimit { entry, limit };
            }
            Refusal::Index(bytes) => (Counter::RejectAllocFail, StoreError::Index { entry, bytes }),
            Refusal::Fault(Fault::Pool(source)) => {
                (Counter::RejectAllocFail, StoreError::Pool { entry, source })
            }
            Refusal::Fault(Fault::Codec(source)) => {
                (Counter::RejectCompressFail, StoreError::Compress { entry, source })
            }
            Refusal::Fault(Fault::Incompressible) => (
                Counter::RejectCompressPoor,
                StoreError::Incompressible { entry, page_size: PAGE_SIZE },
            ),
            Refusal::Fault(Fault::Reentrant) => {
                (Counter::RejectCompressFail, StoreError::Reentrant { entry })
            }
        };
        self.counters.add(counter, 1);
        error
    }

    /// Frees what a word that left its entry stood for.
    pub(crate) fn discard(&self, content: Content) {
        match content {
            Content::Empty => {}
            Content::SameFilled(packed) => {
                self.counters.add(Counter::SameFilledPages, -1);
                self.patterns.release(packed);
            }
            Content::OnDevice(slot) => {
                if let Some(slots) = &self.backing {
                    slots.give_up(slot);
                }
            }
            Content::Stored { pool, bits, raw } => {
                if raw {
                    self.counters.add(Counter::IncompressiblePages, -1);
                }
                let pool = self.pools.page_reference(pool);
                // The handle was the entry's alone: only a backend that broke its promise fails
                // here, and there is nothing left to do about that object.
                let _ = pool.zpool.free(Handle::new(pool.tag(), bits));
            }
        }
    }

    /// Writes the entry's page into `page`; the word that said what it is, and the slot that it was
    /// read from, which is nobody else's until that is dropped.
    #[inline]
    fn read(
        &self,
        entry: SwapEntry,
        page: &mut Page,
    ) -> Result<(Word, Option<ReadSlot<'_>>), LoadError> {
        // A pattern that is all in the word needs no lock.
        let see = |word: Word| match word.content() {
            Content::SameFilled(packed) => Some((word, Patterns::whole(packed)?)),
            _ => None,
        };
        let seen = self.index.see_or_lock(entry.key(), see);
        let mut locked = match seen.ok_or(LoadError::NotFound { entry })? {
            Err(locked) => locked,
            Ok((word, pattern)) => {
                same_filled::fill(page, pattern);
                return Ok((word, None));
            }
        };
        let word = locked.word();
        match word.content() {
            Content::Empty => return Err(LoadError::NotFound { entry }),
            Content::OnDevice(slot) => {
                let Some(slots) = &self.backing else { return Err(LoadError::NotFound { entry }) };
                let Some(slot) = slots.pin(slot) else {
                    drop(locked);
                    slots.wait_for_readers();
                    return self.read(entry, page);
                };
                let sum = locked.sum();
                drop(locked);
                slot.read(page).map_err(|source| LoadError::Device { entry, source })?;
                self.counters.add(Counter::DeviceLoads, 1);
                self.verify(entry, page, sum)?;
                return Ok((word, Some(slot)));
            }
            Content::SameFilled(packed) => {
                let pattern = self.patterns.unpack(packed);
                locked.replace(word.referenced());
                drop(locked);
                same_filled::fill(page, pattern);
            }
            Content::Stored { pool, bits, .. } => {
                locked.replace(word.referenced());
                let sum = locked.sum();
                self.with_object(entry, locked, (pool, bits), |pool, object| {
                    self.restore(entry, pool, &object, page, sum)
                })?;
            }
        }
        Ok((word.referenced(), None))
    }

    /// Pins the object of a locked entry, unlocks the entry, and does something with pool and object.
    #[inline]
    pub(crate) fn with_object<'s, T>(
        &'s self,
        entry: SwapEntry,
        locked: EntryGuard<'_>,
        (pool, bits): (PoolId, BackendBits),
        then: impl FnOnce(&Hold<'s>, ObjRead<'_>) -> Result<T, LoadError>,
    ) -> Result<T, LoadError> {
        // The page's reference keeps the pool until the entry is unlocked, this one after.
        let Some(pool) = self.pools.of_page(pool) else {
            return Err(LoadError::NotFound { entry });
        };
        let object = pool.zpool.obj_read_begin(Handle::new(pool.tag(), bits));
        // Before anything that may block, and before the pool's reference is put.
        drop(locked);
        then(&pool, object.map_err(|source| LoadError::Pool { entry, source })?)
    }

    /// Turns an entry's object into its page again, and looks whether it is that page.
    #[inline]
    pub(crate) fn restore(
        &self,
        entry: SwapEntry,
        pool: &Pool,
        object: &ObjRead<'_>,
        page: &mut Page,
        sum: Option<u32>,
    ) -> Result<(), LoadError> {
        pool.restore(object, page).map_err(|fault| self.count_fault(entry, fault))?;
        self.verify(entry, page, sum)
    }

    /// Looks whether what was read is the page that was stored, if that was noted.
    #[inline]
    pub(crate) fn verify(
        &self,
        entry: SwapEntry,
        page: &Page,
        sum: Option<u32>,
    ) -> Result<(), LoadError> {
        let verified = checksum::check(entry, page, sum);
        if verified.is_err() {
            self.counters.add(Counter::CorruptPages, 1);
        }
        verified
    }

    pub(crate) fn count_fault(&self, entry: SwapEntry, fault: Fault) -> LoadError {
        self.counters.add(Counter::DecompressFail, 1);
        match fault {
            Fault::Codec(source) => LoadError::Decompress { entry, source },
            Fault::Pool(source) => LoadError::Pool { entry, source },
            Fault::Reentrant | Fault::Incompressible => LoadError::Reentrant { entry },
        }
    }

    /// Writes the page kept under `entry` into `page`. The entry stays.
    ///
    /// After an error `page` is unspecified, except that [`LoadError::NotFound`] leaves it alone.
    /// Blocks for other users of this CPU's context only if the codec needs one to decompress.
    pub fn load(&self, entry: SwapEntry, page: &mut Page) -> Result<(), LoadError> {
        #[cfg(feature = "metrics")]
        let _timed = Timed::start(self.metrics.as_ref(), |metrics| &metrics.load);
        self.read(entry, page).map(drop)
    }

    /// [`Zswap::load`] and [`Zswap::invalidate`] in one: of several takers one gets the page. On
    /// error the entry stays.
    pub fn take(&self, entry: SwapEntry, page: &mut Page) -> Result<(), LoadError> {
        loop {
            let mut locked = self.index.lock(entry.key()).ok_or(LoadError::NotFound { entry })?;
            if let Content::SameFilled(packed) = locked.word().content() {
                let pattern = self.patterns.unpack(packed);
                let old = locked.replace(Word::EMPTY);
                drop(locked);
                same_filled::fill(page, pattern);
                self.forget(entry, old);
                return Ok(());
            }
            drop(locked);
            let (read, slot) = self.read(entry, page)?;
            let mut locked = self.index.lock(entry.key()).ok_or(LoadError::NotFound { entry })?;
            // A handle never names two objects, and a slot no other page while it is held, so an
            // equal word is the page that was read. A pattern's place may be used again, which is why
            // patterns are taken above.
            let now = locked.word();
            let kept = matches!(now.content(), Content::Stored { .. } | Content::OnDevice(_));
            if kept && now.content() == read.content() {
                locked.replace(Word::EMPTY);
                drop(locked);
                drop(slot);
                self.forget(entry, now);
                return Ok(());
            }
        }
    }

    /// What is to be done for a word that was replaced by EMPTY.
    fn forget(&self, entry: SwapEntry, old: Word) {
        self.counters.add(Counter::StoredPages, -1);
        self.discard(old.content());
        self.index.prune(entry.key());
    }

    /// Whether a page is kept under `entry`.
    pub fn contains(&self, entry: SwapEntry) -> bool {
        !self.index.peek(entry.key()).is_empty()
    }

    /// Drops the page kept under `entry`; tells whether there was one.
    pub fn invalidate(&self, entry: SwapEntry) -> bool {
        let Some(mut locked) = self.index.lock(entry.key()) else { return false };
        let old = locked.replace(Word::EMPTY);
        drop(locked);
        if old.is_empty() {
            // A store that failed may have left an empty leaf.
            self.index.prune(entry.key());
            return false;
        }
        self.forget(entry, old);
        true
    }

    /// Drops all pages of an area; tells how many. Pages stored there meanwhile may stay.
    pub fn invalidate_area(&self, swap_type: u8) -> usize {
        self.area(swap_type).filter(|entry| self.invalidate(*entry)).count()
    }

    fn area(&self, swap_type: u8) -> Entries<'_> {
        let first = u64::from(swap_type) << crate::entry::OFFSET_BITS;
        let last = first | ((1 << crate::entry::OFFSET_BITS) - 1);
        Entries::new(&self.index, first, last)
    }

    /// All entries that hold a page, in order of area and offset.
    pub fn entries(&self) -> Entries<'_> {
        Entries::new(&self.index, 0, u64::MAX)
    }

    /// Pages held. Exact when nothing is stored or dropped meanwhile.
    pub fn len(&self) -> usize {
        self.counters.get(Counter::StoredPages) as usize
    }

    /// Whether no page is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives the pages that the pools keep warm back to the system; returns how many.
    pub fn trim(&self) -> usize {
        self.pools.all().iter().map(|pool| pool.zpool.trim()).sum()
    }

    /// A snapshot of the counters and of the memory in use.
    pub fn stats(&self) -> ZswapStats {
        let mut stats = ZswapStats {
            stored_pages: self.len(),
            same_filled_pages: self.counters.get(Counter::SameFilledPages) as usize,
            stored_incompressible_pages: self.counters.get(Counter::IncompressiblePages) as usize,
            metadata_bytes: self.index.memory_bytes()
                + self.patterns.memory_bytes()
                + self.backing.as_ref().map_or(0, Slots::memory_bytes),
            reject_compress_poor: self.counters.get(Counter::RejectCompressPoor),
            reject_compress_fail: self.counters.get(Counter::RejectCompressFail),
            reject_alloc_fail: self.counters.get(Counter::RejectAllocFail),
            decompress_fail: self.counters.get(Counter::DecompressFail),
            corrupt_pages: self.counters.get(Counter::CorruptPages),
            pool_limit_hit: self.counters.get(Counter::PoolLimitHit),
            reject_reclaim_fail: self.counters.get(Counter::RejectReclaimFail),
            written_back_pages: self.counters.get(Counter::WrittenBackPages),
            device_loads: self.counters.get(Counter::DeviceLoads),
            device_pages: self.backing.as_ref().map_or(0, |slots| slots.taken() as usize),
            ..ZswapStats::default()
        };
        for pool in self.pools.all() {
            let figures = pool.zpool.stats();
            stats.pool_total_size += figures.pool_bytes();
            stats.compressed_bytes += figures.object_bytes;
            stats.metadata_bytes += figures.metadata_bytes;
            stats.context_bytes += pool.ctxs.memory_bytes() + pool.spares.memory_bytes();
            stats.pools.push(PoolStats {
                zpool: pool.zpool.name().to_owned(),
                compressor: pool.spec.clone(),
                objects: figures.objects,
                pool_bytes: figures.pool_bytes(),
                compressed_bytes: figures.object_bytes,
            });
        }
        stats
    }
}

/// Why `store` kept nothing.
pub(crate) enum Refusal {
    Fault(Fault),
    Index(usize),
    Limit,
}

impl fmt::Debug for Zswap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zswap").field("len", &self.len()).field("pools", &self.pools.all()).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use zpool_api::sync::test_rng::Rng;

    fn noise(seed: u64) -> Page {
        let (mut rng, mut page) = (Rng::new(seed), [0; PAGE_SIZE]);
        page.chunks_exact_mut(8).for_each(|w| w.copy_from_slice(&rng.next().to_ne_bytes()));
        page
    }

    #[test]
    fn a_full_index_refuses_and_leaks_nothing() {
        let mut store = Zswap::builder().build().unwrap();
        store.index = Index::with_node_limit(2);
        let at = |offset| SwapEntry::new(0, offset).unwrap();
        let mut filled = [0; PAGE_SIZE];
        same_filled::fill(&mut filled, u64::MAX - 5);
        store.store(at(0), &noise(1)).unwrap();
        store.store(at(1 << 20), &noise(2)).unwrap();
        for refused in [&noise(3), &filled] {
            let error = store.store(at(1 << 40), refused).unwrap_err();
            assert!(matches!(error, StoreError::Index { .. }), "{error}");
        }
        let stats = store.stats();
        assert_eq!((stats.stored_pages, stats.pools[0].objects), (2, 2));
        assert_eq!((stats.same_filled_pages, stats.reject_alloc_fail), (0, 2));
        assert_eq!(stats.stored_incompressible_pages, 2);
        // Room again once a leaf is empty.
        assert!(store.invalidate(at(0)));
        store.store(at(1 << 40), &noise(3)).unwrap();
        let mut back = [0; PAGE_SIZE];
        store.load(at(1 << 40), &mut back).unwrap();
        assert!(back == noise(3));
    }
}
