//! Allocation, reads and frees: where slots, lanes, class locks and the runs' bytes meet.
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
//! * read: slot, lane, slot again. The second look, after the lane was locked, is what counts.
//! * free: under the class lock the slot is invalidated, then the lane cleared, or parked and later
//!   cleared, under the class lock again, by the last reader.
//! * a zspage without objects leaves its class under the class lock, and its run goes back to the
//!   provider once the lock is dropped, before the descriptor may serve again.

use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use std::sync::Arc;

use zpool_api::lockdep::{self, Rank, might_sleep};
use zpool_api::stable::{StableTable, TableError};
use zpool_api::{
    Handle, Migration, ObjCommit, ObjPin, ObjRead, ObjWrite, PageProvider, PageRun, PoolTag,
    SlotRef, Zpool, ZpoolCaps, ZpoolError, ZpoolStats, prefetch,
};

use crate::class::{Class, Detached, Locked, Place};
use crate::class_table::{HEADER, SizeClass};
use crate::config::Config;
use crate::lane::{Freed, Lane, READER_LIMIT};
use crate::route::Routes;
use crate::slot::{Location, MAX_ZSPAGES, Slot, Slots};
use crate::sync::atomic::Ordering;
use crate::sync::counters::AtomicUsize;
use crate::sync::yield_now;
use crate::sync::{MODEL, Mutex};
use crate::zspage::{NIL, Zspage};

pub(crate) const NAME: &str = "zsmalloc";
/// Looks at a lane before its reader sleeps: a mover is done in microseconds. None under the model
/// checker, where looking in vain teaches nothing.
const SPINS: u32 = if MODEL { 0 } else { 64 };
/// Free slots that a class keeps for itself.
const CLASS_SLOTS: usize = 32;
/// Descriptors come with lanes for a multiple of so many objects.
const LANE_STEP: usize = 8;
/// Pages without an object that may wait in zspages before some are given back: so many, or
/// one 64th of the pool if that is more.
const HOLES: usize = 16;

/// All of the pool; private, so that nobody else can end pins or commit objects.
pub(crate) struct Core {
    pub(crate) provider: Arc<dyn PageProvider>,
    tag: PoolTag,
    pub(crate) page_size: usize,
    pub(crate) classes: Vec<Class>,
    routes: Routes,
    pub(crate) slots: Slots,
    pub(crate) zspages: StableTable<Zspage>,
    lanes: StableTable<Lane>,
    /// Vacant descriptors by the number of their lanes. A leaf lock.
    vacant: Mutex<Vec<u32>>,
    resident: AtomicUsize,
    holes: AtomicUsize,
    /// Objects whose writer has not committed yet, and their bytes.
    uncommitted: AtomicUsize,
    uncommitted_bytes: AtomicUsize,
    parked: AtomicUsize,
}

/// A pool of size classes over multi-page zspages. See the crate's front page.
///
/// `Send` and `Sync`; used as `Arc<dyn Zpool>`. Dropping it gives all pages back to the provider.
pub struct Zsmalloc {
    pub(crate) core: Core,
}

/// A place whose writer is the caller.
struct Reserved {
    slot: u32,
    place: Place,
    bytes: NonNull<[u8]>,
}

/// A run that is no class's yet, with a descriptor for it.
struct Fresh {
    zspage: u32,
    run: PageRun,
}

/// Why there is no guard.
enum PinError {
    NotLive,
    TooManyReaders,
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
        let page_size = provider.page_size();
        if !page_size.is_power_of_two() || !(4096..=65536).contains(&page_size) {
            let allowed = "powers of two from 4096 to 65536";
            return Err(ZpoolError::UnsupportedPageSize { backend: NAME, page_size, allowed });
        }
        let sizes = config.classes(page_size);
        let step = config.class_step();
        let tiers = sizes.iter().map(|size| lanes_of(size) / LANE_STEP).max().unwrap_or(0) + 2;
        let core = Core {
            provider,
            tag: PoolTag::next(),
            page_size,
            routes: Routes::new(&sizes, page_size, step, config.refines()),
            classes: sizes.into_iter().map(Class::new).collect(),
            slots: Slots::new(config.first_generation()),
            zspages: StableTable::with_limit(MAX_ZSPAGES),
            lanes: StableTable::new(),
            vacant: Mutex::new(vec![NIL; tiers]),
            resident: AtomicUsize::new(0),
            holes: AtomicUsize::new(0),
            uncommitted: AtomicUsize::new(0),
            uncommitted_bytes: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
        };
        Ok(Zsmalloc { core })
    }

    /// Moves every zspage whose run begins in a range of addresses to other pages of the provider,
    /// except those in use by guards or writers. [`Zpool::migrate`] does so for a block that the
    /// provider chooses; this is for a holder of the provider that knows better.
    ///
    /// Errors of the provider, after which all objects are as they were.
    pub fn migrate_within(&self, range: Range<usize>) -> Result<Migration, ZpoolError> {
        self.core.migrate(&range)
    }
}

/// Lanes that a zspage of the class gets: one an object, and of the huge class two more each, which
/// hold the number of its slot, since there is no header.
fn lanes_of(size: &SizeClass) -> usize {
    let lanes = usize::from(size.objects) * if size.huge { 3 } else { 1 };
    lanes.next_multiple_of(LANE_STEP)
}

/// Which list of vacant descriptors those with so many lanes are on; huge ones have their own.
fn tier(lanes: usize, huge: bool) -> usize {
    if huge { 0 } else { lanes / LANE_STEP }
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
    fn lane_at(&self, number: u32) -> &Lane {
        match self.lanes.get(number) {
            Some(lane) => lane,
            // Every descriptor has its lanes from the start: `first_lane` and `lanes` say so.
            None => unreachable_lane(),
        }
    }

    pub(crate) fn count_resident(&self, change: i32) {
        // Relaxed, here and below: counters, each right by itself.
        self.resident.fetch_add(change as isize as usize, Ordering::Relaxed);
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

    /// Takes a slot and a place for `len` bytes; the caller is the place's writer afterwards.
    fn reserve(&self, len: usize) -> Result<Reserved, ZpoolError> {
        if len == 0 {
            return Err(ZpoolError::EmptyObject);
        }
        if len > self.page_size {
            let max = self.page_size;
            return Err(ZpoolError::ObjectTooLarge { size: len, max, backend: NAME });
        }
        let bytes = (len + HEADER).min(self.page_size);
        let class = self.routes.route(self.routes.own_class(bytes)) as u16;
        let mut slot = None;
        let mut fresh = None;
        let result = self.reserve_in(class, len, &mut slot, &mut fresh);
        if let Some(fresh) = fresh {
            self.give_up_fresh(fresh);
        }
        if let (Err(_), Some(slot)) = (&result, slot) {
            self.slots.give(slot);
        }
        result
    }

    fn reserve_in(
        &self,
        class: u16,
        len: usize,
        slot: &mut Option<u32>,
        fresh: &mut Option<Fresh>,
    ) -> Result<Reserved, ZpoolError> {
        let mut surplus = self.surplus(class);
        loop {
            let Some(mut locked) = self.lock(class) else {
                return Err(ZpoolError::EmptyObject);
            };
            let Some(number) = slot.take().or_else(|| locked.inner.slots.pop(&self.slots)) else {
                drop(locked);
                *slot = Some(self.slots.take().map_err(|error| self.refused(error))?);
                continue;
            };
            *slot = Some(number);
            let bytes = len + locked.size.header();
            if let Some(place) = locked.take_resident(bytes) {
                return Ok(self.found(locked, place, number, len));
            }
            if let Some(other) = surplus.take() {
                drop(locked);
                if let Some(mut locked) = self.lock(other) {
                    let bytes = len + locked.size.header();
                    if let Some(place) = locked.take_resident(bytes) {
                        return Ok(self.found(locked, place, number, len));
                    }
                }
                continue;
            }
            if let Some(place) = locked.take_touching(bytes) {
                return Ok(self.found(locked, place, number, len));
            }
            if let Some(Fresh { zspage, run }) = fresh.take() {
                locked.attach(zspage, run.base().as_ptr(), run.resident());
                continue;
            }
            let size = *locked.size;
            drop(locked);
            *fresh = Some(self.fresh(&size)?);
        }
    }

    /// A place was found: the slot is pointed at it.
    fn found(&self, mut locked: Locked<'_>, place: Place, slot: u32, len: usize) -> Reserved {
        let size = locked.size;
        let start = size.start_of(place.index) + size.header();
        // A zspage has at most 2^16 bytes.
        let last = (start + len - 1) as u16;
        if let Some(slot) = self.slots.get(slot) {
            slot.reserve(Location { zspage: place.zspage, last });
        }
        locked.count_bytes(len as isize);
        let base = match self.zspages.get(place.zspage) {
            Some(z) => {
                if size.huge {
                    self.note_huge_slot(z, place.index, slot);
                }
                self.lane(z, place.index).bytes.write();
                z.base()
            }
            None => core::ptr::null_mut(),
        };
        drop(locked);
        debug_assert!(!base.is_null());
        if !size.huge {
            // SAFETY: the place begins in the zspage's run, and its writer is this caller.
            let header = unsafe { base.add(size.start_of(place.index)) };
            // SAFETY: the header's bytes are the place's first four (invariant 1).
            unsafe { header.cast::<[u8; HEADER]>().write(slot.to_ne_bytes()) };
        }
        // SAFETY: `start` is inside the run.
        let start = unsafe { base.add(start) };
        // SAFETY: inside an allocation, hence not null.
        let start = unsafe { NonNull::new_unchecked(start) };
        Reserved { slot, place, bytes: NonNull::slice_from_raw_parts(start, len) }
    }

    /// A larger class, little larger than `class`, that has much touched room.
    ///
    /// Room is left in a class when the sizes that went there got classes of their own; it would
    /// wait there for objects that do not come.
    fn surplus(&self, class: u16) -> Option<u16> {
        let class = usize::from(class);
        let size = self.classes.get(class)?.size;
        let more = 32 * (self.page_size / 4096);
        (class + 1..self.classes.len())
            .take_while(|&other| {
                let other = &self.classes[other].size;
                !other.huge && (other.size - size.size) as usize <= more
            })
            .find(|&other| {
                let (free, resident) = self.classes[other].free_bytes(self.page_size);
                self.routes.is_active(other) && free > self.page_size + resident / 32
            })
            .map(|other| other as u16)
    }

    /// A run for a zspage of a class, and a descriptor. No lock is held.
    fn fresh(&self, size: &SizeClass) -> Result<Fresh, ZpoolError> {
        might_sleep("zsmalloc: a page request");
        let run = self.provider.alloc_run(usize::from(size.pages))?;
        match self.descriptor(size) {
            Ok(zspage) => Ok(Fresh { zspage, run }),
            Err(error) => {
                // SAFETY: just allocated here, attached to nothing.
                unsafe { self.provider.free_run(run) };
                Err(self.refused(error))
            }
        }
    }

    fn descriptor(&self, size: &SizeClass) -> Result<u32, TableError> {
        let lanes = lanes_of(size);
        let tier = tier(lanes, size.huge);
        {
            let _held = lockdep::acquire(Rank::Leaf);
            let mut vacant = self.vacant.lock();
            let zspage = vacant[tier];
            if let Some(z) = self.zspages.get(zspage) {
                vacant[tier] = z.next.get();
                return Ok(zspage);
            }
        }
        let first = self.lanes.extend(lanes, Lane::default)?;
        self.zspages.push(Zspage::new(first, lanes as u16, size.huge))
    }

    fn give_up_fresh(&self, fresh: Fresh) {
        // SAFETY: allocated from this provider and attached to nothing.
        unsafe { self.provider.free_run(fresh.run) };
        self.recycle(fresh.zspage);
    }

    /// Lets a vacant descriptor serve again.
    fn recycle(&self, zspage: u32) {
        let Some(z) = self.zspages.get(zspage) else { return };
        let tier = tier(z.lanes(), z.is_huge());
        let _held = lockdep::acquire(Rank::Leaf);
        let mut vacant = self.vacant.lock();
        z.next.set(vacant[tier]);
        vacant[tier] = zspage;
    }

    /// Gives a detached zspage's run back. No lock is held.
    pub(crate) fn give_back(&self, detached: Detached) {
        let Detached { zspage, base, pages, touched } = detached;
        if let Some(base) = NonNull::new(base) {
            // SAFETY: the run that `attach` was given, from this provider; no lane of the zspage is
            // USED, so nobody touches it (invariant 2).
            let run = unsafe { PageRun::new(base, pages, touched) };
            // SAFETY: as above.
            unsafe { self.provider.free_run(run) };
        }
        self.recycle(zspage);
    }

    fn refused(&self, error: TableError) -> ZpoolError {
        match error {
            TableError::NoMemory { bytes } => ZpoolError::OutOfMetadata { backend: NAME, bytes },
            _ => ZpoolError::TooManyObjects { backend: NAME, limit: u64::from(u32::MAX) },
        }
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

    /// Takes a reader off, and frees the place if the object was parked and this was the last.
    #[inline]
    fn unlock_reader(&self, zspage: u32, lane: u32) {
        if self.lane_at(lane).read_unlock() {
            self.reclaim_parked(zspage, lane);
        }
    }

    /// A parked object was left to this thread. Takes the class lock; see `lane`.
    #[cold]
    fn reclaim_parked(&self, zspage: u32, lane: u32) {
        let Some(z) = self.zspages.get(zspage) else { return };
        let place = Place { zspage, index: (lane - z.first_lane) as usize };
        // While the place is parked its zspage stays what it is. If it is something else under the
        // lock, somebody else has reclaimed the place.
        let Some(locked) = z.class().and_then(|class| self.lock(class)) else { return };
        if z.class() != Some(locked.number) {
            return;
        }
        let lane = self.lane_at(lane);
        if place.index < usize::from(locked.size.objects) && lane.reclaim() {
            lane.bytes.write();
            // Relaxed: a counter.
            self.parked.fetch_sub(1, Ordering::Relaxed);
            self.vacated(locked, place, z);
        }
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

    fn free_slot(&self, at: SlotRef) -> Option<()> {
        let slot = self.slots.get(at.slot())?;
        loop {
            let word = slot.load();
            let location = word.object(at.generation())?;
            let z = self.zspages.get(location.zspage)?;
            let locked = z.class().and_then(|class| self.lock(class));
            // Under the lock both are exact: a zspage leaves its class and a slot changes under it
            // only.
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
        let invalid = || ZpoolError::invalid(handle);
        let bits = handle.bits_of(self.tag).ok_or_else(invalid)?;
        self.free_slot(SlotRef::from_bits(bits)).ok_or_else(invalid)
    }

    /// Pins the object of this slot and generation.
    #[inline]
    fn read(&self, at: SlotRef) -> Result<ObjRead<'_>, PinError> {
        let slot = self.slots.get(at.slot()).ok_or(PinError::NotLive)?;
        let mut word = slot.load();
        loop {
            let location = word.object(at.generation()).ok_or(PinError::NotLive)?;
            let z = self.zspages.get(location.zspage).ok_or(PinError::NotLive)?;
            if let Some(class) = z.class().and_then(|c| self.classes.get(usize::from(c))) {
                let size = &class.size;
                let index = size.index_of(location.last);
                let number = z.lane_number(index);
                let lane = self.lane_at(number);
                let writer = lane.read_lock().map_err(|_| PinError::TooManyReaders)?;
                if writer {
                    self.wait_for_writer(lane, class);
                }
                let again = slot.load();
                if again == word {
                    lane.bytes.read();
                    return Ok(self.guard(z, number, size, index, location));
                }
                self.unlock_reader(location.zspage, number);
                word = again;
            } else {
                // The zspage has left its class, so the slot has changed or is about to be seen so.
                yield_now();
                word = slot.load();
            }
        }
    }

    #[inline]
    fn guard(
        &self,
        z: &Zspage,
        lane: u32,
        size: &SizeClass,
        index: usize,
        location: Location,
    ) -> ObjRead<'_> {
        let start = size.start_of(index) + size.header();
        let len = usize::from(location.last) + 1 - start;
        // SAFETY: the object is in its zspage's run, where the slot says.
        let bytes = unsafe { z.base().add(start) };
        // SAFETY: inside an allocation, hence not null.
        let bytes = unsafe { NonNull::new_unchecked(bytes) };
        let token = u64::from(location.zspage) << 32 | u64::from(lane);
        // SAFETY: this reader is counted in the object's lane until `unpin`, and the slot led here
        // after it was: the bytes stay, unchanged (invariant 1), and the run with them (invariant 2).
        unsafe { ObjRead::from_pin(NonNull::slice_from_raw_parts(bytes, len), self, token) }
    }

    /// A writer moves the object: a few kilobytes at most, under the class lock. Spins briefly, lets
    /// others run, then sleeps until the lock is free: the writer may have lost its processor.
    #[cold]
    fn wait_for_writer(&self, lane: &Lane, class: &Class) {
        for round in 0..SPINS {
            if !lane.has_writer() {
                return;
            }
            if round < SPINS / 2 { core::hint::spin_loop() } else { yield_now() }
        }
        while lane.has_writer() {
            drop(class.lock());
        }
    }

    /// Huge objects have no header: their slots' numbers are in the lanes after the objects'.
    pub(crate) fn note_huge_slot(&self, z: &Zspage, index: usize, slot: u32) {
        let at = z.lanes() / 3 + 2 * index;
        self.lane(z, at).note(slot as u16);
        self.lane(z, at + 1).note((slot >> 16) as u16);
    }

    /// The slot of the object at a place. Under the class lock, the lane write-locked.
    pub(crate) fn slot_of(&self, size: &SizeClass, z: &Zspage, index: usize) -> u32 {
        if size.huge {
            let at = z.lanes() / 3 + 2 * index;
            let (low, high) = (self.lane(z, at).noted(), self.lane(z, at + 1).noted());
            return u32::from(high) << 16 | u32::from(low);
        }
        // SAFETY: the place begins in the zspage's run.
        let header = unsafe { z.base().add(size.start_of(index)) };
        // SAFETY: the place is USED and its object published, so the header was written, and nobody
        // writes while the lane is locked (invariant 1).
        u32::from_ne_bytes(unsafe { header.cast::<[u8; HEADER]>().read() })
    }

    pub(crate) fn metadata_bytes(&self) -> usize {
        self.slots.memory_bytes()
            + self.zspages.memory_bytes()
            + self.lanes.memory_bytes()
            + self.routes.memory_bytes()
            + self.classes.len() * size_of::<Class>()
            + self.provider.metadata_bytes()
    }
}

/// Lanes exist from before their descriptor is known to anyone.
#[cold]
fn unreachable_lane() -> &'static Lane {
    static NOBODYS: once_cell::sync::Lazy<Lane> = once_cell::sync::Lazy::new(Lane::default);
    debug_assert!(false, "a descriptor without lanes");
    &NOBODYS
}

impl ObjPin for Core {
    #[inline]
    fn unpin(&self, token: u64) {
        let (zspage, lane) = ((token >> 32) as u32, token as u32);
        if MODEL {
            self.lane_at(lane).bytes.read();
        }
        self.unlock_reader(zspage, lane);
    }
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

    fn committed(&self, len: usize) {
        // Relaxed: counters.
        self.uncommitted.fetch_sub(1, Ordering::Relaxed);
        // Relaxed: as above.
        self.uncommitted_bytes.fetch_sub(len, Ordering::Relaxed);
    }
}

impl ObjCommit for Core {
    fn commit(&self, token: u64) -> Result<Handle, ZpoolError> {
        let found = self.reserved(token);
        let (slot, place, len) = found.ok_or(ZpoolError::InvalidHandle { handle: token })?;
        self.committed(len);
        self.publish(slot, place)
    }

    fn abort(&self, token: u64) {
        let Some((slot, place, len)) = self.reserved(token) else { return };
        let Some(z) = self.zspages.get(place.zspage) else { return };
        let Some(mut locked) = z.class().and_then(|class| self.lock(class)) else { return };
        self.committed(len);
        locked.count_bytes(-(len as isize));
        // No handle was ever given out for this generation: it serves again.
        self.keep_slot(&mut locked, slot);
        let lane = self.lane(z, place.index);
        let last = lane.read_unlock();
        debug_assert!(!last, "parked before it was published");
        match lane.free() {
            Freed::Now => self.vacated(locked, place, z),
            // A passing reader: the place is left to it.
            Freed::Parked => self.count_parked(),
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
        Ok(unsafe { ObjWrite::in_place(reserved.bytes, &self.core, u64::from(reserved.slot)) })
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
        if let Some(slot) = self.core.slots.get(SlotRef::from_bits(handle.backend_bits()).slot()) {
            prefetch::look_soon(slot);
        }
    }

    fn obj_read_begin(&self, handle: Handle) -> Result<ObjRead<'_>, ZpoolError> {
        let bits = handle.bits_of(self.core.tag).ok_or_else(|| ZpoolError::invalid(handle))?;
        self.core.read(SlotRef::from_bits(bits)).map_err(|error| match error {
            PinError::NotLive => ZpoolError::invalid(handle),
            PinError::TooManyReaders => {
                let limit = u64::from(READER_LIMIT);
                ZpoolError::TooManyReaders { handle: handle.as_u64(), limit }
            }
        })
    }

    fn total_pages(&self) -> usize {
        self.core.resident()
    }

    fn compact(&self) -> Result<usize, ZpoolError> {
        Ok(self.core.compact())
    }

    fn migrate(&self) -> Result<Migration, ZpoolError> {
        let Some(block) = self.core.provider.isolate_block() else {
            return Ok(Migration::default());
        };
        let (range, bytes) = (block.range(), block.bytes());
        let result = self.core.migrate(&range);
        let whole = self.core.provider.put_back_block(block);
        let mut done = result?;
        done.block_bytes = if whole { bytes } else { 0 };
        Ok(done)
    }

    fn trim(&self) -> usize {
        self.core.provider.trim()
    }

    fn stats(&self) -> ZpoolStats {
        let core = &self.core;
        let mut stats = ZpoolStats::default();
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
        stats.cached_pages = core.provider.cached_pages();
        stats.objects = used.saturating_sub(stats.parked_objects + uncommitted);
        stats.object_bytes = bytes.saturating_sub(uncommitted_bytes);
        stats.metadata_bytes = core.metadata_bytes();
        stats
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        for z in self.zspages.iter() {
            let class = z.class().and_then(|class| self.classes.get(usize::from(class)));
            if let (Some(class), Some(base)) = (class, NonNull::new(z.base())) {
                let (pages, touched) = (usize::from(class.size.pages), z.touched.get());
                // SAFETY: the run that `attach` was given, from this provider. Guards borrow the pool,
                // so none is left that would touch it; forgotten ones cannot.
                let run = unsafe { PageRun::new(base, pages, touched) };
                // SAFETY: as above.
                unsafe { self.provider.free_run(run) };
            }
        }
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
    use zpool_api::{FailingPages, HeapPages};

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
        Zsmalloc::new(Arc::new(zpool_api::MmapPages::new())).unwrap()
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
