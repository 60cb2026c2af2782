//! The page store: connects entries with the pools that hold their pages.
//!
//! # Order of events
//! * `store` recognises a same-filled page, or compresses the page under this CPU's `AcompCtx` and puts the
//!   object into the backend. It holds no entry lock while it does so. Then it locks the entry, installs the
//!   new word, unlocks, and frees the old content. If several threads store under one entry, the page of the
//!   thread that locks the entry last stays.
//! * `load` reads a pattern that fits in the entry's word without the lock. Otherwise it locks the entry, pins
//!   the object, in its pool or on the device, unlocks, and reads the pinned bytes. Two readers of one entry exclude each other only
//!   while they pin. If another thread overwrites or invalidates the entry during a read, the object is freed,
//!   but its bytes stay until the reader drops its guard.
//! * `take` reads the page as `load` does. Then it empties the entry if the entry still holds the object that
//!   was read; otherwise it reads again. If the page is a pattern, `take` reads it and empties the entry
//!   under one hold of the lock.
//!
//! # Rules
//! * Under an entry lock, no codec runs, and no page is requested or freed.
//! * A word that leaves its entry is discarded exactly once, by the thread that took it out.

use core::fmt;
use std::sync::Arc;

use compressors::{Acomp, CompletionsPool};
use zpool_api::{BackendBits, ObjRead};
use zpool_base::fork::Leaked;

use crate::area::table::Areas;
use crate::area::{Area, Switch};
use crate::checksum;
use crate::counters::Counter;
use crate::departure::{CleanFilter, Departure, Listener};
use crate::device_health::DeviceHealth;
#[cfg(feature = "zstd")]
use crate::dictionary::sampling::Training;
use crate::entry::index::{Entry, Index};
use crate::entry::word::{Content, Word};
use crate::error::{LoadError, StoreError};
use crate::limits::Limits;
#[cfg(feature = "metrics")]
use crate::metrics::{StoreMetrics, Timed};
use crate::moves::promotion::Turnover;
use crate::moves::tried::Tried;
use crate::pool::pools::PoolRef;
use crate::pool::recipe::PoolRecipe;
use crate::pool::{Encoded, Fault, Pool, Stored};
use crate::refusal::Refusal;
use crate::sync::atomic::AtomicUsize;
use crate::{Page, SwapEntry};
use zpage::same_filled::{self, Patterns};
use zpage::segments::{Pinned, Segments};
use zpool_base::contained::Contained;

/// A store of compressed pages. The [crate's front page](crate) describes it.
///
/// A store is `Send` and `Sync`: it can be shared by reference or in an `Arc`, and called from any thread.
/// Operations on different entries may still wait for each other, but not for long: for the backend's locks
/// and, when nodes of the index are added or removed, for the index's lock. Each pool has one compression
/// context per CPU; operations that need the same context take turns.
pub struct Zswap {
    pub(crate) index: Leaked<Index>,
    pub(crate) patterns: Leaked<Patterns>,
    pub(crate) areas: Leaked<Areas>,
    pub(crate) recipe: Leaked<PoolRecipe>,
    /// Bytes of a page.
    pub(crate) unit: usize,
    pub(crate) tried: Leaked<Tried>,
    /// The turn with which recompression begins (`recompress.rs`).
    pub(crate) next_recompressed: AtomicUsize,
    pub(crate) store_incompressible: bool,
    pub(crate) acomp: Leaked<Contained<Arc<dyn Acomp>>>,
    /// The queues on which batches wait for their requests.
    pub(crate) completions: Leaked<CompletionsPool>,
    pub(crate) limits: Leaked<Limits>,
    pub(crate) backing: Leaked<Option<Segments>>,
    pub(crate) device_health: Leaked<DeviceHealth>,
    pub(crate) writeback: Switch,
    pub(crate) listener: Leaked<Option<Contained<Listener>>>,
    pub(crate) clean_filter: Leaked<Option<Contained<CleanFilter>>>,
    pub(crate) turnover: Turnover,
    /// Boxed, so that a store is small: it is moved while it is built.
    #[cfg(feature = "zstd")]
    pub(crate) training: Leaked<Box<Training>>,
    #[cfg(feature = "metrics")]
    pub(crate) metrics: Leaked<Option<StoreMetrics>>,
}

/// The settings with which a store is built.
pub(crate) struct Settings {
    pub(crate) store_incompressible: bool,
    pub(crate) checksums: bool,
    pub(crate) limits: Limits,
    pub(crate) segments: Option<Segments>,
    pub(crate) writeback_enabled: bool,
    pub(crate) listener: Option<Contained<Listener>>,
    pub(crate) clean_filter: Option<Contained<CleanFilter>>,
    pub(crate) acomp: Contained<Arc<dyn Acomp>>,
    pub(crate) completions: CompletionsPool,
    #[cfg(feature = "metrics")]
    pub(crate) metrics: Option<StoreMetrics>,
}

impl Zswap {
    pub(crate) fn from_parts(shared: Box<Area>, recipe: PoolRecipe, settings: Settings) -> Self {
        let index = if settings.checksums { Index::with_sums() } else { Index::new() };
        Zswap {
            index: Leaked::new(index),
            patterns: Leaked::new(Patterns::new()),
            areas: Leaked::new(Areas::new(shared)),
            unit: recipe.unit,
            recipe: Leaked::new(recipe),
            tried: Leaked::default(),
            next_recompressed: AtomicUsize::new(0),
            store_incompressible: settings.store_incompressible,
            acomp: Leaked::new(settings.acomp),
            completions: Leaked::new(settings.completions),
            limits: Leaked::new(settings.limits),
            backing: Leaked::new(settings.segments),
            device_health: Leaked::default(),
            writeback: Switch::new(settings.writeback_enabled),
            listener: Leaked::new(settings.listener),
            clean_filter: Leaked::new(settings.clean_filter),
            turnover: Turnover::default(),
            #[cfg(feature = "zstd")]
            training: Leaked::default(),
            #[cfg(feature = "metrics")]
            metrics: Leaked::new(settings.metrics),
        }
    }

    /// Stores a copy of `page` under `entry`. Replaces any older page.
    ///
    /// ```
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().build()?;
    /// let entry = SwapEntry::new(0, 7)?;
    /// store.store(entry, &[b'a'; zswap_core::PAGE_SIZE])?;
    /// store.store(entry, &[b'b'; zswap_core::PAGE_SIZE])?;
    /// assert_eq!(store.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// * [`StoreError::PoolLimit`] or [`StoreError::MemoryLimit`] if the store is at a limit and can free no
    ///   memory for the page.
    /// * [`StoreError::Pool`] if the backend fails, or the system has no memory for the page;
    ///   [`StoreError::Index`] if the system has no memory for the index.
    /// * [`StoreError::Compress`] if the codec fails; [`StoreError::Incompressible`] if the page does not get
    ///   smaller and the store was built to refuse such pages.
    /// * [`StoreError::Reentrant`] if a codec or backend calls this while a store is calling that codec or
    ///   backend, or if devices that call stores are nested too deeply.
    /// * [`StoreError::WrongLength`] if the store's unit is not 4096 bytes; then the older page stays.
    /// * [`StoreError::Forked`] in a child after `fork`.
    ///
    /// After any other error the older page is gone, too; [`Zswap::try_replace`] keeps it. If the store is at its
    /// limit and cannot write pages back, it drops the older page before it tries again. So a concurrent load
    /// may find no page, even if this call succeeds.
    ///
    /// # Blocking
    /// Waits for this CPU's compression context, and rarely for memory from the system. At the limit, it may
    /// also wait for the device.
    pub fn store(&self, entry: SwapEntry, page: &Page) -> Result<(), StoreError> {
        self.store_one(entry, page, false)
    }

    /// Stores a page like [`Zswap::store`], but keeps the older page if the new one is refused. At its limit, a
    /// store that cannot write pages back refuses the new page; [`Zswap::store`] would drop the older one to
    /// make room.
    ///
    /// ```
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().compressor("null").store_incompressible(false).build()?;
    /// let entry = SwapEntry::new(0, 7)?;
    /// store.store(entry, &[0; zswap_core::PAGE_SIZE])?;
    /// let incompressible = core::array::from_fn(|i| (i % 251) as u8);
    /// assert!(store.try_replace(entry, &incompressible).is_err());
    /// assert!(store.contains(entry), "the older page is still there");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Zswap::store`]. The entry is unchanged after an error.
    ///
    /// # Blocking
    /// Waits as [`Zswap::store`] does.
    pub fn try_replace(&self, entry: SwapEntry, page: &Page) -> Result<(), StoreError> {
        self.store_one(entry, page, true)
    }

    /// Does what [`Zswap::store`] does, for a store of any unit. `page` has the length that
    /// [`ZswapBuilder::unit`](crate::ZswapBuilder::unit) set.
    ///
    /// ```
    /// use zswap_core::{StoreError, SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().unit(16 << 10).build()?;
    /// let entry = SwapEntry::new(0, 7)?;
    /// store.store_unit(entry, &[b'a'; 16 << 10])?;
    /// let refused = store.store_unit(entry, &[b'b'; 4096]);
    /// assert!(matches!(refused, Err(StoreError::WrongLength { len: 4096, unit: 16384, .. })));
    /// assert!(store.contains(entry));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Zswap::store`]; [`StoreError::WrongLength`] if `page` has another length. Then the entry is unchanged.
    ///
    /// # Blocking
    /// Waits as [`Zswap::store`] does.
    pub fn store_unit(&self, entry: SwapEntry, page: &[u8]) -> Result<(), StoreError> {
        self.store_one(entry, page, false)
    }

    /// Does what [`Zswap::try_replace`] does, for a store of any unit.
    ///
    /// ```
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let builder = Zswap::builder().unit(8192).compressor("null").store_incompressible(false);
    /// let (store, entry) = (builder.build()?, SwapEntry::new(0, 7)?);
    /// store.store_unit(entry, &[0; 8192])?;
    /// let incompressible: Vec<u8> = (0..8192).map(|i| (i % 251) as u8).collect();
    /// assert!(store.try_replace_unit(entry, &incompressible).is_err());
    /// assert!(store.contains(entry), "the older page is still there");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Zswap::store_unit`]. The entry is unchanged after an error.
    ///
    /// # Blocking
    /// Waits as [`Zswap::store`] does.
    pub fn try_replace_unit(&self, entry: SwapEntry, page: &[u8]) -> Result<(), StoreError> {
        self.store_one(entry, page, true)
    }

    /// Returns the bytes of a page of this store ([`ZswapBuilder::unit`](crate::ZswapBuilder::unit)).
    ///
    /// ```
    /// assert_eq!(zswap_core::Zswap::builder().unit(32 << 10).build()?.unit(), 32 << 10);
    /// # Ok::<(), zswap_core::BuildError>(())
    /// ```
    pub fn unit(&self) -> usize {
        self.unit
    }

    /// Checks that a page has the length of a unit.
    #[inline]
    pub(crate) fn check_page(&self, entry: SwapEntry, page: &[u8]) -> Result<(), StoreError> {
        let (len, unit) = (page.len(), self.unit);
        if len == unit { Ok(()) } else { Err(StoreError::WrongLength { entry, len, unit }) }
    }

    /// Checks that a buffer has the length of a unit.
    #[inline]
    fn check_buffer(&self, entry: SwapEntry, page: &[u8]) -> Result<(), LoadError> {
        let (len, unit) = (page.len(), self.unit);
        if len == unit { Ok(()) } else { Err(LoadError::WrongLength { entry, len, unit }) }
    }

    fn store_one(&self, entry: SwapEntry, page: &[u8], keep_older: bool) -> Result<(), StoreError> {
        if !self.is_here() {
            return Err(StoreError::Forked { entry });
        }
        self.check_page(entry, page)?;
        #[cfg(feature = "metrics")]
        let _timed = Timed::start((*self.metrics).as_ref(), |metrics| &metrics.store);
        let content = self.encode(entry, page, keep_older);
        self.install(entry, page, content, keep_older)
    }

    /// Installs an encoded page under its entry. If the page was refused, counts the refusal and, unless
    /// `keep_older`, drops the older page.
    pub(crate) fn install(
        &self,
        entry: SwapEntry,
        page: &[u8],
        content: Result<Content, Refusal>,
        keep_older: bool,
    ) -> Result<(), StoreError> {
        let wanted = self.index.has_sums() && matches!(content, Ok(Content::Stored { .. }));
        let sum = wanted.then(|| checksum::of(page));
        let replaced = content.and_then(|content| match self.index.lock_or_insert(entry.key()) {
            Ok(mut locked) => {
                locked.set_sum(sum);
                let new = Word::new(content);
                Ok((locked.replace(new), new))
            }
            Err(no_node) => {
                // SAFETY: `content` is in no entry, and this thread encoded it.
                unsafe { self.discard(entry, content) };
                Err(Refusal::Index(no_node.bytes))
            }
        });
        match replaced {
            Ok((old, new)) => {
                let area = self.areas.of(entry);
                if old.is_empty() {
                    area.counters.add(Counter::StoredPages, 1);
                }
                self.index.note_replaced(entry.key(), old, new);
                // SAFETY: this thread took the old word out of the entry, under the entry's lock.
                unsafe { self.discard(entry, old.content()) };
                if self.limits.is_limited() || area.limits.is_limited() {
                    self.look_at_limits(area);
                }
                Ok(())
            }
            Err(refusal) => {
                if !keep_older {
                    self.drop_page(entry, Departure::Superseded);
                }
                Err(self.count_refusal(entry, refusal))
            }
        }
    }

    /// Turns a page into the content of an entry: a pattern, or an object in the current pool.
    #[inline]
    fn encode(&self, entry: SwapEntry, page: &[u8], keep_older: bool) -> Result<Content, Refusal> {
        self.look_at_unwritable(entry)?;
        let area = self.areas.settle(entry);
        if let Some(pattern) = self.pattern_of(area, page) {
            return Ok(pattern);
        }
        #[cfg(feature = "zstd")]
        self.training.offer(area, page);
        let pool = area.pools.current();
        self.prefetch(entry, &pool);
        let mut kept = None;
        let put = pool.put(page, self.store_incompressible, &mut kept);
        self.encoded(entry, pool, put, &kept, keep_older)
    }

    /// Returns the content for a page. `put` is the result of putting the page into `pool`. If the pool had
    /// no room, makes room and tries again.
    #[inline]
    pub(crate) fn encoded(
        &self,
        entry: SwapEntry,
        pool: PoolRef<'_>,
        put: Result<Stored, Fault>,
        kept: &Option<Encoded<'_>>,
        keep_older: bool,
    ) -> Result<Content, Refusal> {
        let stored = match (put, kept) {
            (Err(fault), Some(kept)) if fault.is_shortage() => {
                self.put_after_reclaim(entry, &pool, kept, fault, keep_older)?
            }
            (put, _) => put.map_err(Refusal::Fault)?,
        };
        Ok(stored_content(self.areas.of(entry), pool, stored))
    }

    /// Refuses a page for a new entry if memory that cannot be written back has reached `max_bytes`.
    #[inline]
    pub(crate) fn look_at_unwritable(&self, entry: SwapEntry) -> Result<(), Refusal> {
        match self.limits.max_all() {
            Some(limit) if self.limits.rest() >= limit => self.refuse_unwritable(entry, limit),
            _ => Ok(()),
        }
    }

    #[cold]
    fn refuse_unwritable(&self, entry: SwapEntry, limit: usize) -> Result<(), Refusal> {
        self.trim();
        self.refresh_limits();
        let unwritable = self.limits.rest();
        if unwritable < limit || self.contains(entry) {
            return Ok(());
        }
        Err(Refusal::Memory { unwritable, limit })
    }

    /// Prefetches the memory that freeing the older page will read, so that it arrives in the cache while the
    /// new page is compressed.
    #[inline]
    fn prefetch(&self, entry: SwapEntry, current: &Pool) {
        if let Content::Stored { bits, .. } = self.index.peek(entry.key()).content() {
            // The older page may be in another pool, so the handle may mean nothing to `current`. Then the
            // prefetch is useless but harmless.
            current.prefetch(bits);
        }
    }

    /// Counts the page as same-filled and returns its pattern as a content. Returns `None` if the page has no
    /// pattern, or the pattern cannot be kept.
    #[inline]
    pub(crate) fn pattern_of(&self, area: &Area, page: &[u8]) -> Option<Content> {
        let packed = same_filled::pattern(page).and_then(|pattern| self.patterns.pack(pattern))?;
        area.counters.add(Counter::SameFilledPages, 1);
        Some(Content::SameFilled(packed))
    }

    pub(crate) fn count_refusal(&self, entry: SwapEntry, refusal: Refusal) -> StoreError {
        let counters = &self.areas.of(entry).counters;
        let (counter, error) = match refusal {
            Refusal::Limit { reason, limit } => {
                counters.add(Counter::RejectReclaimFail, 1);
                (Counter::of_limit(reason), StoreError::PoolLimit { entry, limit, reason })
            }
            Refusal::Memory { unwritable, limit } => {
                (Counter::RejectMemoryLimit, StoreError::MemoryLimit { entry, unwritable, limit })
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
                StoreError::Incompressible { entry, page_size: self.unit },
            ),
            Refusal::Fault(Fault::Reentrant) => {
                (Counter::RejectCompressFail, StoreError::Reentrant { entry })
            }
        };
        counters.add(counter, 1);
        error
    }

    /// Frees a content that is in no entry: the object in the pool or on the device, or the place of the pattern.
    ///
    /// # Safety
    /// `content` is in no entry: this thread took it out of `entry`, or made it for `entry` and installed it
    /// nowhere. No content may be discarded twice.
    pub(crate) unsafe fn discard(&self, entry: SwapEntry, content: Content) {
        let area = self.areas.of(entry);
        match content {
            Content::Empty => {}
            Content::SameFilled(packed) => {
                area.counters.add(Counter::SameFilledPages, -1);
                self.patterns.release(packed);
            }
            Content::OnDevice(at) => {
                area.counters.add(Counter::DevicePages, -1);
                self.segments().give_up(at);
            }
            Content::Stored { pool, bits, raw } => {
                if raw {
                    area.counters.add(Counter::IncompressiblePages, -1);
                }
                // SAFETY: the page is in no entry and is discarded once (this function's contract), so its
                // reference is taken back once.
                unsafe { area.pools.page_reference(pool) }.free(bits);
            }
        }
    }

    /// Writes the entry's page into `page`.
    #[inline]
    fn read(&self, entry: SwapEntry, page: &mut [u8]) -> Result<(), LoadError> {
        // An empty word can be read without the lock, and so can a pattern that fits in the word.
        let see = |word: Word| match word.content() {
            Content::SameFilled(packed) => Patterns::whole(packed).map(Some),
            Content::Empty => Some(None),
            _ => None,
        };
        match self.index.see_or_lock(entry.key(), see) {
            None | Some(Ok(None)) => Err(LoadError::NotFound { entry }),
            Some(Ok(Some(pattern))) => {
                same_filled::fill(page, pattern);
                Ok(())
            }
            Some(Err(locked)) => self.read_locked(entry, locked, page, |word, page| {
                self.promote_if_wanted(entry, word, page);
            }),
        }
    }

    /// Writes the page of a locked entry into `page`, then calls `read` with the entry's word.
    ///
    /// Until `read` returns, the object stays allocated, and the object's pool stays alive. So, if
    /// `read` finds a word with equal content, that word names the page that was read. This does not hold for
    /// a pattern, since the pattern's place in the side table may be reused.
    #[inline]
    fn read_locked<'s, T>(
        &'s self,
        entry: SwapEntry,
        mut locked: Entry<'s>,
        page: &mut [u8],
        read: impl FnOnce(Word, &[u8]) -> T,
    ) -> Result<T, LoadError> {
        let word = locked.word();
        match word.content() {
            Content::Empty => Err(LoadError::NotFound { entry }),
            Content::OnDevice(at) => {
                let object = self.segments().pin(at).ok_or(LoadError::Forked { entry })?;
                locked.replace(self.seen_on_device(word));
                let sum = locked.sum();
                drop(locked);
                self.load_from_device(entry, &object, page, sum)?;
                Ok(read(word, page))
            }
            Content::SameFilled(packed) => {
                let pattern = self.patterns.unpack(packed);
                locked.replace(word.referenced());
                drop(locked);
                same_filled::fill(page, pattern);
                Ok(read(word, page))
            }
            Content::Stored { pool, bits, .. } => {
                locked.replace(word.referenced());
                let sum = locked.sum();
                let pool = self.areas.of(entry).pools.of_page(pool);
                self.with_object(entry, locked, pool, bits, |pool, object| {
                    self.restore(entry, pool, &object, page, sum)?;
                    Ok(read(word, page))
                })
            }
        }
    }

    /// Reads the page of a pinned object on the device. Checks it against the checksum `sum`, if there is one.
    pub(crate) fn load_from_device(
        &self,
        entry: SwapEntry,
        object: &Pinned<'_>,
        page: &mut [u8],
        sum: Option<u32>,
    ) -> Result<(), LoadError> {
        object
            .read(entry.key(), |bytes| self.restore_from_device(entry, object, bytes, page, sum))
            .map_err(|source| LoadError::Device { entry, source })?
    }

    /// Turns the bytes of an object that was read from the device back into the page. Checks the page against the
    /// checksum `sum`, if there is one.
    pub(crate) fn restore_from_device(
        &self,
        entry: SwapEntry,
        object: &Pinned<'_>,
        bytes: &[u8],
        page: &mut [u8],
        sum: Option<u32>,
    ) -> Result<(), LoadError> {
        object.restore(bytes, page).map_err(|fault| self.count_fault(entry, fault.into()))?;
        self.areas.of(entry).counters.add(Counter::DeviceLoads, 1);
        self.verify(entry, page, sum)
    }

    /// Returns the device's segments. Called only for a page that is on the device, so there is a device.
    #[expect(
        clippy::expect_used,
        reason = "entries name objects there only in a store with a device"
    )]
    pub(crate) fn segments(&self) -> &Segments {
        self.backing.as_ref().expect("a page is on the device of a store without one")
    }

    /// Pins the object of a locked entry, unlocks the entry, and calls `then` with the pool and the object.
    #[inline]
    pub(crate) fn with_object<'s, T>(
        &'s self,
        entry: SwapEntry,
        locked: Entry<'_>,
        pool: PoolRef<'s>,
        bits: BackendBits,
        then: impl FnOnce(&PoolRef<'s>, Contained<ObjRead<'_>>) -> Result<T, LoadError>,
    ) -> Result<T, LoadError> {
        let object = pool.pin(bits);
        // Unlock before `then` runs, which may block, and before the reference to the pool is dropped.
        drop(locked);
        then(&pool, object.map_err(|source| LoadError::Pool { entry, source })?)
    }

    /// Turns an object back into its page. Checks the page against the checksum `sum`, if there is one.
    #[inline]
    pub(crate) fn restore(
        &self,
        entry: SwapEntry,
        pool: &Pool,
        object: &ObjRead<'_>,
        page: &mut [u8],
        sum: Option<u32>,
    ) -> Result<(), LoadError> {
        pool.restore(object, page).map_err(|fault| self.count_fault(entry, fault))?;
        self.verify(entry, page, sum)
    }

    /// Checks a page that was read against the checksum `sum`, if there is one. Counts a mismatch.
    #[inline]
    pub(crate) fn verify(
        &self,
        entry: SwapEntry,
        page: &[u8],
        sum: Option<u32>,
    ) -> Result<(), LoadError> {
        let verified = checksum::check(entry, page, sum);
        if verified.is_err() {
            self.areas.of(entry).counters.add(Counter::CorruptPages, 1);
        }
        verified
    }

    pub(crate) fn count_fault(&self, entry: SwapEntry, fault: Fault) -> LoadError {
        self.areas.of(entry).counters.add(Counter::DecompressFail, 1);
        match fault {
            Fault::Codec(source) => LoadError::Decompress { entry, source },
            Fault::Pool(source) => LoadError::Pool { entry, source },
            Fault::Reentrant | Fault::Incompressible => LoadError::Reentrant { entry },
        }
    }

    /// Writes the page kept under `entry` into `page`. The entry stays.
    ///
    /// ```
    /// use zswap_core::{LoadError, SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().build()?;
    /// let (entry, other) = (SwapEntry::new(0, 7)?, SwapEntry::new(0, 8)?);
    /// store.store(entry, &[b'a'; zswap_core::PAGE_SIZE])?;
    ///
    /// let mut page = [0; zswap_core::PAGE_SIZE];
    /// store.load(entry, &mut page)?;
    /// assert_eq!(page, [b'a'; zswap_core::PAGE_SIZE]);
    /// assert_eq!(store.load(other, &mut page), Err(LoadError::NotFound { entry: other }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// * [`LoadError::NotFound`] if no page is kept under `entry`.
    /// * [`LoadError::Decompress`], [`LoadError::Pool`] or [`LoadError::Device`] if the codec, the backend or
    ///   the device fails; [`LoadError::Corrupt`] if the page does not match its checksum.
    /// * [`LoadError::Reentrant`] if a codec or backend calls this while a store is calling that codec or
    ///   backend; [`LoadError::Forked`] in a child after `fork`.
    /// * [`LoadError::WrongLength`] if the store's unit is not 4096 bytes.
    ///
    /// After an error the entry is unchanged. [`LoadError::NotFound`], [`LoadError::WrongLength`] and
    /// [`LoadError::Forked`] leave `page` unchanged, too; after other errors its contents are unspecified.
    ///
    /// # Blocking
    /// Waits for this CPU's compression context if the codec needs a context to decompress. If the page is on the
    /// device, waits for the device, and, if the page comes back into a pool ([`Promotion`](crate::Promotion)), for
    /// the compression context and perhaps for memory from the system.
    pub fn load(&self, entry: SwapEntry, page: &mut Page) -> Result<(), LoadError> {
        self.load_unit(entry, page)
    }

    /// Does what [`Zswap::load`] does, for a store of any unit. `page` has the length that
    /// [`ZswapBuilder::unit`](crate::ZswapBuilder::unit) set.
    ///
    /// ```
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().unit(16 << 10).build()?;
    /// let entry = SwapEntry::new(0, 7)?;
    /// store.store_unit(entry, &[b'a'; 16 << 10])?;
    /// let mut page = vec![0; store.unit()];
    /// store.load_unit(entry, &mut page)?;
    /// assert_eq!(page, [b'a'; 16 << 10]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Zswap::load`]; [`LoadError::WrongLength`] if `page` has another length. Then it is unchanged.
    ///
    /// # Blocking
    /// Waits as [`Zswap::load`] does.
    pub fn load_unit(&self, entry: SwapEntry, page: &mut [u8]) -> Result<(), LoadError> {
        if !self.is_here() {
            return Err(LoadError::Forked { entry });
        }
        #[cfg(feature = "metrics")]
        let _timed = Timed::start((*self.metrics).as_ref(), |metrics| &metrics.load);
        self.check_buffer(entry, page)?;
        self.read(entry, page)
    }

    /// Loads the page kept under `entry` and removes it from the store, in one step. If several threads take
    /// the page at the same time, one of them gets it; the others get [`LoadError::NotFound`].
    ///
    /// ```
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().build()?;
    /// let entry = SwapEntry::new(0, 7)?;
    /// store.store(entry, &[b'a'; zswap_core::PAGE_SIZE])?;
    ///
    /// let mut page = [0; zswap_core::PAGE_SIZE];
    /// store.take(entry, &mut page)?;
    /// assert_eq!(page, [b'a'; zswap_core::PAGE_SIZE]);
    /// assert!(store.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Zswap::load`]. But after [`LoadError::NotFound`] the contents of `page` are unspecified,
    /// too.
    ///
    /// # Blocking
    /// Waits as [`Zswap::load`] does.
    pub fn take(&self, entry: SwapEntry, page: &mut Page) -> Result<(), LoadError> {
        self.take_unit(entry, page)
    }

    /// Does what [`Zswap::take`] does, for a store of any unit.
    ///
    /// ```
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().unit(8192).build()?;
    /// let entry = SwapEntry::new(0, 7)?;
    /// store.store_unit(entry, &[b'a'; 8192])?;
    /// let mut page = vec![0; store.unit()];
    /// assert!(store.take_unit(entry, &mut page[1..]).is_err() && store.contains(entry));
    /// store.take_unit(entry, &mut page)?;
    /// assert!(page == [b'a'; 8192] && store.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Zswap::take`]; [`LoadError::WrongLength`] if `page` has not the length of a unit. Then nothing was
    /// removed.
    ///
    /// # Blocking
    /// Waits as [`Zswap::load`] does.
    pub fn take_unit(&self, entry: SwapEntry, page: &mut [u8]) -> Result<(), LoadError> {
        if !self.is_here() {
            return Err(LoadError::Forked { entry });
        }
        self.check_buffer(entry, page)?;
        loop {
            let mut locked = self.index.lock(entry.key()).ok_or(LoadError::NotFound { entry })?;
            if let Content::SameFilled(packed) = locked.word().content() {
                let pattern = self.patterns.unpack(packed);
                let old = locked.replace(Word::EMPTY);
                drop(locked);
                same_filled::fill(page, pattern);
                // SAFETY: this thread took `old` out of the entry, under the entry's lock.
                unsafe { self.forget(entry, old, Departure::Taken) };
                return Ok(());
            }
            if let Some(old) =
                self.read_locked(entry, locked, page, |word, _| self.empty(entry, word))?
            {
                // SAFETY: `empty` took `old` out of the entry, on this thread and under the entry's lock.
                unsafe { self.forget(entry, old, Departure::Taken) };
                return Ok(());
            }
        }
    }

    /// Empties the entry and returns its old word, if the entry still holds the object of the word
    /// `read`; returns `None` otherwise. The caller has kept that object allocated since it read the
    /// word.
    fn empty(&self, entry: SwapEntry, read: Word) -> Option<Word> {
        let mut locked = self.index.lock(entry.key())?;
        let now = locked.word();
        let kept = matches!(now.content(), Content::Stored { .. } | Content::OnDevice(_));
        (kept && now.content() == read.content()).then(|| locked.replace(Word::EMPTY))
    }

    /// Updates the counters and the index after the word `old` was replaced by EMPTY, discards its content, and
    /// notifies the listener. The caller holds no lock.
    ///
    /// # Safety
    /// The contract of [`Zswap::discard`] holds for the content of `old`.
    unsafe fn forget(&self, entry: SwapEntry, old: Word, departure: Departure) {
        self.areas.of(entry).counters.add(Counter::StoredPages, -1);
        self.index.note_replaced(entry.key(), old, Word::EMPTY);
        // SAFETY: this function has the same contract as `discard`, and the caller keeps it.
        unsafe { self.discard(entry, old.content()) };
        self.notify(entry, departure);
    }

    /// Drops the page of an entry if the entry still holds the object that `read` names. Returns whether it did.
    /// `pinned` has kept that object pinned, and its pool referenced, since the word was read.
    pub(crate) fn drop_if_same<T>(
        &self,
        entry: SwapEntry,
        read: Word,
        pinned: T,
        departure: Departure,
    ) -> bool {
        let old = self.empty(entry, read);
        // The comparison is done, so the object need not stay pinned.
        drop(pinned);
        let Some(old) = old else { return false };
        // SAFETY: `empty` took `old` out of the entry, on this thread and under the entry's lock.
        unsafe { self.forget(entry, old, departure) };
        true
    }

    /// Returns whether a page is kept under `entry`; false in a child after `fork`.
    pub fn contains(&self, entry: SwapEntry) -> bool {
        self.is_here() && !self.index.peek(entry.key()).is_empty()
    }

    /// Drops the page kept under `entry`; returns whether there was one. Returns false in a child after
    /// `fork`.
    ///
    /// ```
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().build()?;
    /// let entry = SwapEntry::new(0, 7)?;
    /// store.store(entry, &[b'a'; zswap_core::PAGE_SIZE])?;
    /// assert!(store.invalidate(entry));
    /// assert!(!store.invalidate(entry), "it is gone");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn invalidate(&self, entry: SwapEntry) -> bool {
        self.is_here() && self.drop_page(entry, Departure::Invalidated)
    }

    pub(crate) fn drop_page(&self, entry: SwapEntry, departure: Departure) -> bool {
        let Some(mut locked) = self.index.lock(entry.key()) else { return false };
        let old = locked.replace(Word::EMPTY);
        drop(locked);
        if old.is_empty() {
            return false;
        }
        // SAFETY: this thread took `old` out of the entry, under the entry's lock.
        unsafe { self.forget(entry, old, departure) };
        true
    }

    /// Drops all pages of an area; returns how many. Pages that other threads store in the area during the
    /// call may stay. Returns 0 in a child after `fork`.
    ///
    /// ```
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().build()?;
    /// for (area, offset) in [(0, 1), (0, 2), (1, 1)] {
    ///     store.store(SwapEntry::new(area, offset)?, &[b'a'; zswap_core::PAGE_SIZE])?;
    /// }
    /// assert_eq!(store.invalidate_area(0), 2);
    /// assert!(store.contains(SwapEntry::new(1, 1)?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn invalidate_area(&self, swap_type: u8) -> usize {
        if !self.is_here() {
            return 0;
        }
        self.entries_of(swap_type).filter(|entry| self.invalidate(*entry)).count()
    }

    /// Returns the number of pages held; 0 in a child after `fork`. The number is exact if no page is stored
    /// or dropped during the call.
    pub fn len(&self) -> usize {
        if self.is_here() { self.areas.count(Counter::StoredPages) as usize } else { 0 }
    }

    /// Returns whether the store holds no page; true in a child after `fork`.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Releases the warm pages of the pools to the system, and returns how many. Warm pages are empty pages
    /// that a pool keeps for its next objects. Returns 0 in a child after `fork`.
    ///
    /// ```
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().build()?;
    /// let (entry, page) = (SwapEntry::new(0, 7)?, core::array::from_fn(|i| (i % 251) as u8));
    /// store.store(entry, &page)?;
    /// store.invalidate(entry);
    /// store.trim();
    /// assert_eq!(store.stats().pool_total_size, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Blocking
    /// Waits for the system to take the pages back.
    pub fn trim(&self) -> usize {
        if self.is_here() {
            self.all_pools().fold(0, |sum: usize, pool| sum.saturating_add(pool.trim()))
        } else {
            0
        }
    }

    /// Returns whether the store has a device to write pages back to.
    ///
    /// ```
    /// assert!(!zswap_core::Zswap::builder().build()?.has_device());
    /// # Ok::<(), zswap_core::BuildError>(())
    /// ```
    pub fn has_device(&self) -> bool {
        self.backing.is_some()
    }

    /// Returns all pools that are alive, of all areas. Allocates nothing.
    pub(crate) fn all_pools(&self) -> impl Iterator<Item = Arc<Pool>> {
        self.areas.all().flat_map(|area| area.pools.all())
    }

    /// Returns whether this process built the store: false in a child after `fork`.
    pub(crate) fn is_here(&self) -> bool {
        self.areas.is_here()
    }
}

/// Returns the content for an object in a pool of an area. The content takes over the reference to the pool.
#[inline]
pub(crate) fn stored_content(area: &Area, pool: PoolRef<'_>, stored: Stored) -> Content {
    if stored.raw {
        area.counters.add(Counter::IncompressiblePages, 1);
    }
    let bits = stored.handle.backend_bits();
    Content::Stored { pool: pool.into_page(), bits, raw: stored.raw }
}

impl fmt::Debug for Zswap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zswap").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::PAGE_SIZE;
    use zpool_base::sync::test_rng::Rng;

    fn noise(seed: u64) -> Page {
        let (mut rng, mut page) = (Rng::new(seed), [0; PAGE_SIZE]);
        page.chunks_exact_mut(8).for_each(|w| w.copy_from_slice(&rng.next().to_ne_bytes()));
        page
    }

    #[test]
    fn a_full_index_refuses_and_leaks_nothing() {
        let mut store = Zswap::builder().build().unwrap();
        store.index = Leaked::new(Index::with_node_limit(2));
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
        // When a leaf becomes empty, the index has room again.
        assert!(store.invalidate(at(0)));
        store.store(at(1 << 40), &noise(3)).unwrap();
        let mut back = [0; PAGE_SIZE];
        store.load(at(1 << 40), &mut back).unwrap();
        assert!(back == noise(3));
    }
}
