//! The pool: what all operations share, publishing and freeing of objects, and the trait.
//!
//! # Invariants of the bytes
//! 1. A place whose lane is USED belongs to one object. Until its slot is published the bytes are
//!    its writer's alone, who is counted in the lane; afterwards they do not change while any reader
//!    is counted or the object lives, except that a mover that holds the lane's write lock copies
//!    them elsewhere.
//! 2. A run is given back only when no lane of its zspage is USED; pages of it are given back only
//!    while the zspage is isolated and no place that overlaps them is USED.
//!
//! # Order of events
//! * allocate: a free slot and a free place are taken under the class lock, the lane with its writer
//!   counted; the bytes are written outside of it; `publish` makes the slot lead there, then the
//!   writer is taken off the lane.
//! * read: slot, class, lane; then class and slot again, which is what counts (`read.rs`).
//! * free: under the class lock the slot is invalidated, then the lane cleared, or parked and later
//!   cleared, under the class lock again, by the last reader.
//! * a zspage without objects leaves its class under the class lock, and its run goes back to the
//!   provider once the lock is dropped.
//!
//! # What is compared, and why it cannot have recurred
//! `free` compares the slot's word and the zspage's class under the class lock: both change under it
//! only, so they are exact, and a zspage whose class it is cannot have been another's in between that
//! matters: the slot is compared after the lock was taken. `commit` and `abort` compare nothing: the
//! slot is reserved by the caller, whose count in the lane keeps the zspage.
//!
//! # Fork
//! In a child of the process that made it the pool takes no lock and calls no provider: another
//! thread may have held the one, and the other's memory is a copy. Calls are errors, drops leak.

use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use zpool_api::{
    Compaction, Handle, Migration, ObjCommit, ObjRead, ObjWrite, PageBudget, PageError,
    PageProvider, PageRun, PoolTag, SlotRef, Zpool, ZpoolCaps, ZpoolConfig, ZpoolError, ZpoolStats,
};
use zpool_base::fork::{Leaked, Maker};
use zpool_base::prefetch;
use zpool_base::stable::StableTable;
use zpool_base::unwind::each_in_destructor;

use crate::class::{Class, Locked, Place};
use crate::class_table::HEADER;
use crate::compact::Progress;
use crate::config::Config;
use crate::lane::{Freed, Lane, READER_LIMIT};
use crate::left::Left;
use crate::read::PinError;
use crate::reserve::Reserved;
use crate::route::Routes;
use crate::slot::{Location, MAX_ZSPAGES, Slot, Slots};
use crate::sync::Mutex;
use crate::sync::atomic::Ordering;
use crate::sync::counters::AtomicUsize;
use crate::sync::yield_now;
use crate::zspage::{NIL, Zspage};

pub(crate) const NAME: &str = "zsmalloc";
/// Free slots that a class keeps for itself.
const CLASS_SLOTS: usize = 32;
/// Descriptors come with lanes for a multiple of this many objects.
pub(crate) const LANE_STEP: usize = 8;
/// Pages without an object that may wait in zspages before some are given back: this many, or one
/// 64th of the pool if that is more.
const HOLES: usize = 16;

/// All of the pool; private, so that nobody else can end pins or commit objects.
pub(crate) struct Core {
    pub(crate) maker: Maker,
    pub(crate) provider: Arc<dyn PageProvider>,
    budget: Option<Arc<PageBudget>>,
    tag: PoolTag,
    pub(crate) page_size: usize,
    pub(crate) classes: Vec<Class>,
    pub(crate) routes: Routes,
    pub(crate) slots: Slots,
    pub(crate) zspages: StableTable<Zspage>,
    pub(crate) lanes: StableTable<Lane>,
    /// Vacant descriptors by the number of their lanes. A leaf lock.
    pub(crate) vacant: Mutex<Vec<u32>>,
    pub(crate) left: Left,
    /// How far compaction in parts has come. A leaf lock.
    pub(crate) progress: Mutex<Progress>,
    resident: AtomicUsize,
    holes: AtomicUsize,
    /// Objects whose writer has not committed yet, and their bytes.
    uncommitted: AtomicUsize,
    uncommitted_bytes: AtomicUsize,
    parked: AtomicUsize,
}

/// A pool of size classes over multi-page zspages. See the crate's front page.
///
/// `Send` and `Sync`; used as `Arc<dyn Zpool>`. Dropping it gives all pages back to the provider. In a
/// child after `fork` every call is [`ZpoolError::Forked`], or what an empty pool answers, and nothing
/// is given back.
pub struct Zsmalloc {
    pub(crate) core: Leaked<Core>,
}

impl Zsmalloc {
    /// An empty pool over `provider` with the default configuration. Takes no page yet.
    ///
    /// [`ZpoolError::UnsupportedPageSize`] for pages of less than 4 KiB or more than 64 KiB.
    pub fn new(provider: Arc<dyn PageProvider>) -> Result<Self, ZpoolError> {
        Self::with_config(provider, Config::new())
    }

    /// An empty pool with a configuration of its own. Errors as [`Zsmalloc::new`].
    pub fn with_config(
        provider: Arc<dyn PageProvider>,
        config: Config,
    ) -> Result<Self, ZpoolError> {
        Self::with_budget(provider, None, config)
    }

    /// An empty pool for a consumer of backends: with the provider and the budget that it chose.
    ///
    /// # Errors
    /// As [`Zsmalloc::new`].
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
        Self::with_budget(pages.pages.clone(), pages.budget.clone(), config)
    }

    fn with_budget(
        provider: Arc<dyn PageProvider>,
        budget: Option<Arc<PageBudget>>,
        config: Config,
    ) -> Result<Self, ZpoolError> {
        let page_size = provider.page_size();
        if !page_size.is_power_of_two() || !(4096..=65536).contains(&page_size) {
            let allowed = "powers of two from 4096 to 65536";
            return Err(ZpoolError::UnsupportedPageSize { backend: NAME, page_size, allowed });
        }
        let sizes = config.classes(page_size);
        let step = config.class_step();
        let most = sizes.iter().map(|size| usize::from(size.objects)).max().unwrap_or(0);
        let tiers = Zspage::tier(most.next_multiple_of(LANE_STEP)) + 1;
        let core = Core {
            maker: Maker::here(),
            provider,
            budget,
            tag: PoolTag::next(),
            page_size,
            routes: Routes::new(&sizes, page_size, step, config.refines()),
            classes: sizes.into_iter().map(Class::new).collect(),
            slots: Slots::new(config.first_generation()),
            zspages: StableTable::with_limit(MAX_ZSPAGES),
            lanes: StableTable::new(),
            vacant: Mutex::new(vec![NIL; tiers]),
            left: Left::new(),
            progress: Mutex::new(Progress::default()),
            resident: AtomicUsize::new(0),
            holes: AtomicUsize::new(0),
            uncommitted: AtomicUsize::new(0),
            uncommitted_bytes: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
        };
        Ok(Zsmalloc { core: Leaked::new(core) })
    }

    /// Moves every zspage whose run begins in a range of addresses to other pages of the provider,
    /// except those in use by guards or writers. [`Zpool::migrate`] does so for a block that the
    /// provider chooses; this is for a holder of the provider that knows better.
    ///
    /// Errors of the provider, after which all objects are as they were.
    pub fn migrate_within(&self, range: Range<usize>) -> Result<Migration, ZpoolError> {
        self.core.check_maker()?;
        self.core.tidy_up();
        self.core.migrate(&range)
    }
}

impl Core {
    pub(crate) fn lock(&self, class: u16) -> Option<Locked<'_>> {
        let found = self.classes.get(usize::from(class))?;
        Some(Locked::new(self, class, found))
    }

    /// The lane of an object of a zspage; a lane that nobody uses for a number beyond its own.
    #[inline]
    pub(crate) fn lane(&self, z: &Zspage, index: usize) -> &Lane {
        self.lane_at(z.lane_number(index))
    }

    #[inline]
    pub(crate) fn lane_at(&self, number: u32) -> &Lane {
        match self.lanes.get(number) {
            Some(lane) => lane,
            // Every descriptor has its lanes from the start: `first_lane` and `lanes` say so.
            None => unreachable_lane(),
        }
    }

    /// An error in a child of the process that made the pool.
    #[inline]
    pub(crate) fn check_maker(&self) -> Result<(), ZpoolError> {
        if self.maker.is_here() { Ok(()) } else { Err(ZpoolError::Forked { backend: NAME }) }
    }

    /// Pages become resident, which were charged, or cease to be.
    pub(crate) fn count_resident(&self, change: i32) {
        // Relaxed, here and below: counters, each right by itself.
        self.resident.fetch_add(change as isize as usize, Ordering::Relaxed);
        if change < 0 {
            self.uncharge(change.unsigned_abs() as usize);
        }
    }

    /// Takes pages of the budget that will be touched next, or nothing.
    pub(crate) fn charge(&self, pages: usize) -> Result<(), PageError> {
        match &self.budget {
            Some(budget) if pages != 0 => budget.charge(pages * self.page_size),
            _ => Ok(()),
        }
    }

    /// Takes pages whatever the limit, to win others.
    pub(crate) fn charge_beyond(&self, pages: usize) {
        if let Some(budget) = &self.budget {
            budget.charge_beyond(pages * self.page_size);
        }
    }

    /// Gives pages of the budget back.
    pub(crate) fn uncharge(&self, pages: usize) {
        if let Some(budget) = &self.budget {
            budget.uncharge(pages * self.page_size);
        }
    }

    pub(crate) fn count_holes(&self, change: i32) {
        // Relaxed: as above.
        self.holes.fetch_add(change as isize as usize, Ordering::Relaxed);
    }

    /// A place was left to its last reader. Under the class lock, as it is taken off.
    pub(crate) fn count_parked(&self) {
        // Relaxed: as above.
        self.parked.fetch_add(1, Ordering::Relaxed);
    }

    /// A parked place was cleared.
    pub(crate) fn uncount_parked(&self) {
        // Relaxed: as above.
        self.parked.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn resident(&self) -> usize {
        // Relaxed: as above.
        self.resident.load(Ordering::Relaxed)
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn holes(&self) -> usize {
        self.holes.load(Ordering::SeqCst)
    }

    /// Whether more pages without an object wait than should.
    fn too_many_holes(&self) -> bool {
        // Relaxed: as above.
        let holes = self.holes.load(Ordering::Relaxed);
        holes > HOLES && holes > self.resident() / 64
    }

    /// Makes a written object visible; its handle.
    fn publish(&self, slot: u32, place: Place) -> Result<Handle, ZpoolError> {
        let invalid = || ZpoolError::InvalidHandle { handle: u64::from(slot) };
        let generation = self.slots.get(slot).map(Slot::publish).ok_or_else(invalid)?;
        // The handle is not out yet, but a guess might free the object: then the place is this
        // thread's to free.
        if let Some(z) = self.zspages.get(place.zspage) {
            self.unlock_reader(place.zspage, z.lane_number(place.index));
        }
        let bits = SlotRef::new(generation, slot).ok_or_else(invalid)?;
        Ok(Handle::new(self.tag, bits.to_bits()))
    }

    /// The rest of a free, the lane cleared.
    fn vacated(&self, mut locked: Locked<'_>, place: Place, z: &Zspage) {
        let detached = locked.vacate(place.zspage, z, place.index);
        let class = locked.number;
        let holes = locked.inner.holes;
        drop(locked);
        if let Some(detached) = detached {
            self.give_back(detached);
        } else if holes > 0 && self.too_many_holes() {
            self.give_back_holes(class);
        }
    }

    pub(crate) fn free_slot(&self, at: SlotRef) -> Option<()> {
        let slot = self.slots.get(at.slot())?;
        loop {
            let word = slot.load();
            let location = word.object(at.generation())?;
            let z = self.zspages.get(location.zspage)?;
            let locked = z.class().and_then(|class| self.lock(class));
            // Under the lock both are exact: a zspage leaves its class and a slot changes under it
            // only. A slot that still leads here does so in the zspage's present term.
            if let Some(mut locked) = locked.filter(|l| z.class() == Some(l.number)) {
                if slot.load() == word {
                    let usable = slot.invalidate();
                    let place = self.free_locked(&mut locked, at.slot(), usable, location, z);
                    if let Some(place) = place {
                        self.vacated(locked, place, z);
                    }
                    return Some(());
                }
            }
            yield_now();
        }
    }

    /// The slot is invalid now. The place, if it is free; else its last reader frees it.
    fn free_locked(
        &self,
        locked: &mut Locked<'_>,
        slot: u32,
        usable: bool,
        location: Location,
        z: &Zspage,
    ) -> Option<Place> {
        let size = locked.size;
        let index = size.index_of(location.last);
        let len = usize::from(location.last) + 1 - size.start_of(index) - size.header();
        locked.count_bytes(-(len as isize));
        let own = self.routes.own_class((len + HEADER).min(self.page_size));
        self.routes.unroute(own, usize::from(locked.number));
        if usable {
            self.keep_slot(locked, slot);
        }
        match self.lane(z, index).free() {
            Freed::Now => {
                self.lane(z, index).bytes.write();
                Some(Place { zspage: location.zspage, index })
            }
            Freed::Parked => {
                self.count_parked();
                None
            }
        }
    }

    /// Keeps a free slot with the class, or with the pool if the class has enough.
    fn keep_slot(&self, locked: &mut Locked<'_>, slot: u32) {
        if locked.inner.slots.len() < CLASS_SLOTS {
            locked.inner.slots.push(&self.slots, slot);
        } else {
            self.slots.give(slot);
        }
    }

    fn free(&self, handle: Handle) -> Result<(), ZpoolError> {
        self.check_maker()?;
        let invalid = || ZpoolError::invalid(handle);
        let bits = handle.bits_of(self.tag).ok_or_else(invalid)?;
        let freed = self.free_slot(SlotRef::from_bits(bits)).ok_or_else(invalid);
        // Last, since the provider may panic.
        self.tidy_up();
        freed
    }

    pub(crate) fn metadata_bytes(&self) -> usize {
        let own = self.slots.memory_bytes()
            + self.zspages.memory_bytes()
            + self.lanes.memory_bytes()
            + self.routes.memory_bytes()
            + self.classes.len() * size_of::<Class>();
        own.saturating_add(self.provider.metadata_bytes())
    }
}

/// Lanes exist from before their descriptor is known to anyone.
#[cold]
fn unreachable_lane() -> &'static Lane {
    static NOBODYS: once_cell::sync::Lazy<Lane> = once_cell::sync::Lazy::new(Lane::default);
    debug_assert!(false, "a descriptor without lanes");
    &NOBODYS
}

impl Core {
    /// The place of a slot that `reserve` gave out and nobody published.
    fn reserved(&self, token: u64) -> Option<(u32, Place, usize)> {
        let slot = token as u32;
        let location = self.slots.get(slot)?.reserved()?;
        let class = self.zspages.get(location.zspage)?.class()?;
        let size = &self.classes.get(usize::from(class))?.size;
        let index = size.index_of(location.last);
        let len = usize::from(location.last) + 1 - size.start_of(index) - size.header();
        Some((slot, Place { zspage: location.zspage, index }, len))
    }

    /// Ends a reservation that was not published. What comes free waits for a call that may call the
    /// provider: this may run under a caller's lock, or because the provider panicked.
    pub(crate) fn give_up(&self, slot: u32) {
        let Some((slot, place, len)) = self.reserved(u64::from(slot)) else { return };
        let Some(z) = self.zspages.get(place.zspage) else { return };
        // Exact: the writer is counted in a USED lane.
        let Some(mut locked) = z.class().and_then(|class| self.lock(class)) else { return };
        locked.count_bytes(-(len as isize));
        // No handle was ever given out for this generation: it serves again.
        self.keep_slot(&mut locked, slot);
        let lane = self.lane(z, place.index);
        let last = lane.read_unlock();
        debug_assert!(!last, "parked before it was published");
        match lane.free() {
            Freed::Now => {
                let detached = locked.vacate(place.zspage, z, place.index);
                drop(locked);
                if let Some(detached) = detached {
                    self.leave(detached);
                }
            }
            // A passing reader: the place is left to it.
            Freed::Parked => self.count_parked(),
        }
    }

    fn committed(&self, len: usize) {
        // Relaxed: counters.
        self.uncommitted.fetch_sub(1, Ordering::Relaxed);
        // Relaxed: as above.
        self.uncommitted_bytes.fetch_sub(len, Ordering::Relaxed);
    }
}

impl ObjCommit for Core {
    fn commit(&self, token: u64) -> Result<Handle, ZpoolError> {
        self.check_maker()?;
        let found = self.reserved(token);
        let (slot, place, len) = found.ok_or(ZpoolError::InvalidHandle { handle: token })?;
        self.committed(len);
        self.publish(slot, place)
    }

    fn abort(&self, token: u64) {
        if !self.maker.is_here() {
            return;
        }
        if let Some((_, _, len)) = self.reserved(token) {
            self.committed(len);
            self.give_up(token as u32);
        }
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
        ZpoolCaps::new(self.core.page_size)
            .with_compaction()
            .with_migration()
            .with_alignment(HEADER)
    }

    fn malloc(&self, size: usize) -> Result<ObjWrite<'_>, ZpoolError> {
        let reserved = self.core.reserve(size)?;
        // Relaxed: counters.
        self.core.uncommitted.fetch_add(1, Ordering::Relaxed);
        // Relaxed: as above.
        self.core.uncommitted_bytes.fetch_add(size, Ordering::Relaxed);
        // SAFETY: the place's writer is the guard: nobody else touches the bytes until commit or
        // abort (invariant 1).
        Ok(unsafe { ObjWrite::in_place(reserved.bytes, &*self.core, u64::from(reserved.slot)) })
    }

    fn malloc_from(&self, bytes: &[u8]) -> Result<Handle, ZpoolError> {
        let Reserved { slot, place, bytes: to } = self.core.reserve(bytes.len())?;
        let to = to.cast::<u8>().as_ptr();
        // SAFETY: `bytes.len()` bytes of a place whose writer is this call (invariant 1), so they
        // cannot overlap `bytes`, which somebody else lent.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.core.publish(slot, place)
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
        let bits = handle.bits_of(self.core.tag).ok_or_else(|| ZpoolError::invalid(handle))?;
        self.core.read(SlotRef::from_bits(bits)).map_err(|error| match error {
            PinError::NotLive => ZpoolError::invalid(handle),
            PinError::Forked => ZpoolError::Forked { backend: NAME },
            PinError::TooManyReaders => {
                let limit = u64::from(READER_LIMIT);
                ZpoolError::TooManyReaders { handle: handle.as_u64(), limit }
            }
        })
    }

    fn footprint(&self, len: usize) -> usize {
        let bytes = (len + HEADER).min(self.core.page_size);
        let class = self.core.routes.goes_to(self.core.routes.own_class(bytes));
        let size = &self.core.classes[class].size;
        usize::from(size.pages) * self.core.page_size / usize::from(size.objects)
    }

    fn total_pages(&self) -> usize {
        if !self.core.maker.is_here() {
            return 0;
        }
        self.core.reclaim_queued();
        self.core.resident()
    }

    /// Each zspage is emptied at most once, and each of its places visited at most once: whatever
    /// guards are open, whatever other threads do and whatever the provider calls, a call visits at most
    /// as many places as the pool has when it begins, and gives pages without an object back at most as
    /// often as there are pages then.
    fn compact(&self) -> Result<usize, ZpoolError> {
        self.core.check_maker()?;
        Ok(self.core.compact())
    }

    /// Moves at most 256 objects a call, and visits at most 4096 places, and zspages with pages without
    /// an object, which are given back, too, and count as won. Goes on with the class where the last
    /// call ended. Complete when all classes in turn gave nothing since the last page won. `while
    /// !complete` ends also if other threads or the provider go on changing the pool: after 8 visits of
    /// each class, 2 a page and one for 16 objects that there were at the begin, all calls together,
    /// or when another call was complete meanwhile. Leaves the provider's warm pages alone. `pages` of
    /// 0 counts as 1.
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
        // The block is put back also if the provider panics meanwhile.
        let result = catch_unwind(AssertUnwindSafe(|| self.core.migrate(&range)));
        let whole = self.core.provider.put_back_block(block);
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
        // Relaxed, all: counters, each right by itself.
        stats.parked_objects = core.parked.load(Ordering::Relaxed);
        // Relaxed: as above.
        let uncommitted = core.uncommitted.load(Ordering::Relaxed);
        // Relaxed: as above.
        let uncommitted_bytes = core.uncommitted_bytes.load(Ordering::Relaxed);
        stats.page_size = core.page_size;
        stats.total_pages = core.resident();
        stats.cached_pages = core.provider.cached_pages().saturating_add(core.left.pages());
        stats.objects = used.saturating_sub(stats.parked_objects + uncommitted);
        stats.object_bytes = bytes.saturating_sub(uncommitted_bytes);
        stats.metadata_bytes = core.metadata_bytes();
        stats
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.uncharge(self.resident());
        let (classes, provider) = (&self.classes, &self.provider);
        each_in_destructor(self.zspages.iter().filter_map(|z| {
            let base = NonNull::new(z.base())?;
            let class = z.class().and_then(|class| classes.get(usize::from(class)));
            // One without a class is on the list of those that wait to be given back.
            let pages = class.map_or(z.used.get(), |class| u16::from(class.size.pages));
            let (pages, touched) = (usize::from(pages), z.touched.get());
            // SAFETY: the run that `attach` was given, from this provider. Guards borrow the pool,
            // so none is left that would touch it; forgotten ones cannot.
            let run = unsafe { PageRun::new(base, pages, touched) };
            // SAFETY: as above.
            Some(move || unsafe { provider.free_run(run) })
        }));
    }
}

impl fmt::Debug for Zsmalloc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zsmalloc")
            .field("tag", &self.core.tag)
            .field("page_size", &self.core.page_size)
            .field("classes", &self.core.classes.len())
            .field("pages", &self.core.resident())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
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
        // 4 generations a slot.
        assert_eq!(pool.core.slots.len(), 10);
        assert_eq!((pool.total_pages(), pages.pages_out()), (0, 0));
    }

    #[test]
    fn too_many_readers_is_an_error_that_passes() {
        let pool = pool();
        let handle = pool.malloc_from(b"popular").unwrap();
        let lane = pool.core.lane(pool.core.zspages.get(0).unwrap(), 0);
        lane.set_readers_for_test(READER_LIMIT);
        assert!(matches!(pool.obj_read_begin(handle), Err(ZpoolError::TooManyReaders { .. })));
        lane.set_readers_for_test(0);
        assert_eq!(&*pool.obj_read_begin(handle).unwrap(), b"popular");
    }

    /// Pages that are touched one by one and given back one by one.
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
        // 3024 bytes a place: 8 of them end in the sixth page of sixteen.
        assert_eq!(pool.total_pages(), 6);
        // The pages of the first five hold nothing else, except the last one's.
        for handle in &handles[..5] {
            pool.free(*handle).unwrap();
        }
        assert_eq!(pool.total_pages(), 6, "they wait to be filled again");
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
        let won = pool.compact().unwrap();
        assert_eq!(before - pool.total_pages(), won);
        assert!(won > 0 && won <= freeable && won * 100 >= freeable * 95, "{won} of {freeable}");
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
