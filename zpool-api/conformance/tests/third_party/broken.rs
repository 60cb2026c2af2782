//! Tests the conformance suite itself, with a backend that has one fault at a time.
//!
//! `Broken` passes every call on to a correct pool, except where its fault requires something else. For
//! each fault, a table names the checks that must fail. Each check of the suite must be in the table at
//! least once. If no fault made a check fail, the check might test nothing.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use zpool_api::{
    BackendBits, Evict, Evicted, Handle, Migration, ObjPin, ObjRead, ObjSink, ObjWrite,
    PageProvider, PageRun, PoolTag, Zpool, ZpoolCaps, ZpoolError, ZpoolStats,
};
use zpool_base::lockdep::{self, Rank};
use zpool_conformance::{CHECKS, Check, Subject};
use zpool_pages::{HeapPages, OwnedRun};

use crate::onepage::OnePage;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// No fault. All checks must pass. This shows that other failures come from the faults and not from the
    /// wrapper.
    None,
    AlignmentIsALie,
    BytesAreRoundedUp,
    CapsChange,
    CompactionIsClaimed,
    CompactionIsNotClaimed,
    CountLeaks,
    DoubleFreeSucceeds,
    DroppedWriteLeaks,
    EmptyObjectIsTaken,
    FewReaders,
    FreeFailsWhileRead,
    FreeIsCheckedTooEarly,
    FreeKeepsTheObject,
    FreedSpaceIsLost,
    GuardBelongsToItsThread,
    HandleBitIsIgnored,
    HandleIsReused,
    LengthIsOffByOne,
    MigrationIsClaimed,
    MigrationIsNotClaimed,
    NeighbourOverwrites,
    NeighboursWaitForReaders,
    NeighboursWaitForWriters,
    OtherPoolsHandleIsTaken,
    OwnPages,
    PagesAreNotCounted,
    PagesOutliveThePool,
    ParkedForever,
    ParkedIsNotCounted,
    ReadIsRefusedNowAndThen,
    ReaderGivesPagesBack,
    ReadShowsLaterBytes,
    ReclaimCountsOffers,
    ReclaimDoesNotCount,
    ReclaimFollowsItsStores,
    ReclaimFreesKept,
    ReclaimFreesNeighbours,
    ReclaimFreesTheSuccessor,
    ReclaimGivesUpAtReaders,
    ReclaimHoldsItsLock,
    ReclaimIgnoresTheTarget,
    ReclaimIsNotClaimed,
    ReclaimLosesOnPanic,
    ReclaimOffersTheFreed,
    ReclaimOffersTwice,
    ReclaimStartsWithTheYoungest,
    ReclaimSwallowsThePanic,
    ReclaimTakesOpenWrites,
    ShortageIsForever,
    ShortageIsMisnamed,
    ShortageLeaks,
    StaleNamesTheLatest,
    #[cfg_attr(
        not(debug_assertions),
        expect(dead_code, reason = "lock order is checked in debug builds")
    )]
    StaleReadTakesALock,
    StaleReadTakesAPage,
    TagIsAnothers,
    TooLargeIsMisnamed,
    TrimMiscounts,
    WriteBelongsToItsThread,
    WriteIsTooLong,
    WritesShareTheirSize,
}

/// Each fault, and the checks that must find it.
const FOUND_BY: &[(Fault, &[&str])] = {
    use Fault::*;
    &[
        (AlignmentIsALie, &["objects_are_aligned"]),
        (BytesAreRoundedUp, &["counts_are_exact"]),
        (CapsChange, &["capabilities_are_constant"]),
        (CompactionIsClaimed, &["compaction_keeps_objects"]),
        (CompactionIsNotClaimed, &["compaction_keeps_objects"]),
        (CountLeaks, &["counts_are_exact", "emptied_pool_holds_nothing"]),
        (DoubleFreeSucceeds, &["freed_handle_is_invalid", "made_up_handles_free_nothing"]),
        (DroppedWriteLeaks, &["dropped_write_frees_the_space", "short_commit_frees_the_space"]),
        (EmptyObjectIsTaken, &["sizes_out_of_range_are_refused"]),
        (FewReaders, &["many_readers_of_one_object"]),
        (FreeFailsWhileRead, &["free_under_a_live_reader", "guards_are_held_across_a_wait"]),
        (FreeIsCheckedTooEarly, &["one_of_many_frees_wins"]),
        (FreeKeepsTheObject, &["freed_handle_is_invalid", "round_trip_every_size"]),
        (FreedSpaceIsLost, &["stale_handles_stay_invalid", "free_under_a_live_reader"]),
        (GuardBelongsToItsThread, &["guards_end_on_another_thread"]),
        (HandleBitIsIgnored, &["made_up_handles_are_safe_to_read", "made_up_handles_free_nothing"]),
        (HandleIsReused, &["stale_handles_stay_invalid", "random_mix_follows_the_model"]),
        (LengthIsOffByOne, &["round_trip_every_size", "all_sizes_at_once"]),
        (MigrationIsClaimed, &["migration_keeps_objects"]),
        (MigrationIsNotClaimed, &["migration_keeps_objects"]),
        (NeighbourOverwrites, &["all_sizes_at_once", "random_mix_follows_the_model"]),
        (
            NeighboursWaitForReaders,
            &[
                "neighbours_of_a_read_object_are_reusable",
                "forgotten_guard_costs_its_object_only",
                "evict_may_forget_its_guard",
            ],
        ),
        (NeighboursWaitForWriters, &["forgotten_write_guard_costs_its_space_only"]),
        (OtherPoolsHandleIsTaken, &["other_pools_handles_are_invalid"]),
        (OwnPages, &["given_pages_are_used"]),
        (PagesAreNotCounted, &["counts_are_exact"]),
        (PagesOutliveThePool, &["emptied_pool_holds_nothing", "owned_guard_outlives_the_pool"]),
        (ParkedForever, &["free_under_a_live_reader", "guards_end_on_another_thread"]),
        (ParkedIsNotCounted, &["free_under_a_live_reader"]),
        (
            ReadIsRefusedNowAndThen,
            &["readers_race_free_and_reuse", "concurrent_mix_follows_the_models"],
        ),
        (ReaderGivesPagesBack, &["reads_begin_and_end_under_a_callers_lock"]),
        (ReadShowsLaterBytes, &["free_under_a_live_reader", "random_mix_follows_the_model"]),
        (ReclaimCountsOffers, &["reclaim_that_is_refused_changes_nothing"]),
        (ReclaimDoesNotCount, &["reclaim_frees_what_is_given_up"]),
        (ReclaimFollowsItsStores, &["reclaim_offers_nothing_that_callbacks_store"]),
        (ReclaimFreesKept, &["reclaim_that_is_refused_changes_nothing"]),
        (ReclaimFreesNeighbours, &["reclaim_frees_what_is_given_up", "concurrent_reclaim"]),
        (ReclaimFreesTheSuccessor, &["evict_may_free_the_object"]),
        (ReclaimGivesUpAtReaders, &["reclaim_ends_despite_readers"]),
        (
            ReclaimHoldsItsLock,
            &[
                "evict_may_free_the_object",
                "evict_may_free_others",
                "evict_may_allocate",
                "evict_may_reclaim",
            ],
        ),
        (ReclaimIgnoresTheTarget, &["reclaim_frees_what_is_given_up"]),
        (ReclaimIsNotClaimed, &["reclaim_of_an_empty_pool"]),
        (ReclaimLosesOnPanic, &["evict_may_panic"]),
        (ReclaimOffersTheFreed, &["evict_may_free_others"]),
        (ReclaimOffersTwice, &["reclaim_that_is_refused_changes_nothing"]),
        (ReclaimStartsWithTheYoungest, &["reclaim_starts_with_the_oldest"]),
        (ReclaimSwallowsThePanic, &["evict_may_panic"]),
        (ReclaimTakesOpenWrites, &["open_write_guard_keeps_its_space"]),
        (ShortageIsForever, &["out_of_memory_at_every_step", "full_pool_recovers"]),
        (ShortageIsMisnamed, &["out_of_memory_at_every_step", "full_pool_recovers"]),
        (ShortageLeaks, &["out_of_memory_at_every_step"]),
        (StaleNamesTheLatest, &["freed_handle_is_invalid", "readers_race_free_and_reuse"]),
        // Only debug builds check the lock order.
        #[cfg(debug_assertions)]
        (StaleReadTakesALock, &["reads_begin_and_end_under_a_callers_lock"]),
        (StaleReadTakesAPage, &["reads_begin_and_end_under_a_callers_lock"]),
        (TagIsAnothers, &["round_trip_every_size"]),
        (TooLargeIsMisnamed, &["sizes_out_of_range_are_refused"]),
        (TrimMiscounts, &["trim_leaves_objects_alone"]),
        (WriteBelongsToItsThread, &["write_guard_moves_to_another_thread"]),
        (WriteIsTooLong, &["write_beyond_the_end_is_refused", "objects_are_written_in_pieces"]),
        (WritesShareTheirSize, &["write_guards_are_independent"]),
    ]
};

/// Pages that outlive their pool. They are kept here, so that leak checkers do not report them.
static OUTLIVING: Mutex<Vec<OwnedRun>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Broken {
    fault: Fault,
    inner: OnePage,
    pages: Arc<dyn PageProvider>,
    state: Arc<Mutex<State>>,
    reads: AtomicUsize,
    /// The thread that is in `reclaim`, if any. Used by `ReclaimHoldsItsLock`.
    reclaiming: Mutex<Option<ThreadId>>,
    arena: Option<Arena>,
}

#[derive(Debug, Default)]
struct State {
    /// Maps each live handle, as it was given out, to the handle of the inner pool.
    names: BTreeMap<Handle, Handle>,
    latest: Option<Handle>,
    stores: usize,
    frees: usize,
    parked: usize,
    short: bool,
    readers: usize,
    /// The number of write guards that were begun and not committed.
    open: usize,
    /// The thread and the size of the last `malloc`.
    last_malloc: Option<(ThreadId, usize)>,
    stolen: bool,
    lost: Vec<OwnedRun>,
}

/// A reader that updates the state of the pool when it is dropped.
struct Reader {
    bytes: Vec<u8>,
    fault: Fault,
    thread: ThreadId,
    state: Arc<Mutex<State>>,
}

impl AsRef<[u8]> for Reader {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.readers -= 1;
        if self.fault == Fault::GuardBelongsToItsThread && self.thread != thread::current().id() {
            state.parked += 1;
        }
        let back = if state.readers == 0 { std::mem::take(&mut state.lost) } else { Vec::new() };
        drop(state);
        drop(back);
    }
}

/// Sixteen slots of one page each. When a slot gets a new object, its bytes are overwritten even if the old
/// object has readers.
#[derive(Debug)]
struct Arena {
    run: Mutex<Option<PageRun>>,
    slots: Mutex<[Option<Handle>; 16]>,
}

/// A pin that pins nothing.
struct NoPin;

impl ObjPin for NoPin {
    fn unpin(&self, _token: u64) {}
}

impl Arena {
    fn new() -> Self {
        Arena {
            run: Mutex::new(Some(HeapPages::new().alloc_run(16).unwrap())),
            slots: Mutex::default(),
        }
    }

    fn slot(&self, slot: usize) -> NonNull<u8> {
        let base = self.run.lock().unwrap().as_ref().unwrap().base();
        // SAFETY: the run has 16 slots of one page each, and `slot` is one of them.
        unsafe { base.add(slot * 4096) }
    }

    fn store(&self, handle: Handle, bytes: &[u8]) {
        let mut slots = self.slots.lock().unwrap();
        if let Some(slot) = slots.iter().position(Option::is_none) {
            slots[slot] = Some(handle);
            let to = self.slot(slot);
            // SAFETY: a slot has room for any object. Guards may point to the slot: that is the fault. The
            // checks that run this are single-threaded, and no reference into the slot exists during the
            // copy.
            unsafe { to.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        }
    }

    fn read(&self, handle: Handle, len: usize) -> Option<ObjRead<'_>> {
        let slots = self.slots.lock().unwrap();
        let slot = slots.iter().position(|live| *live == Some(handle))?;
        let bytes = NonNull::slice_from_raw_parts(self.slot(slot), len);
        // SAFETY: the slot is readable and initialised as long as the pool lives. Its bytes may change:
        // that is the fault. There is only one thread, and it changes the bytes only between two borrows of
        // the guard.
        Some(unsafe { ObjRead::from_pin(bytes, &NoPin, 0) })
    }

    fn free(&self, handle: Handle) {
        let mut slots = self.slots.lock().unwrap();
        for slot in slots.iter_mut().filter(|live| **live == Some(handle)) {
            *slot = None;
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Some(run) = self.run.lock().unwrap().take() {
            // SAFETY: the run comes from a `HeapPages`. Guards borrow the pool, so none is left.
            unsafe { HeapPages::new().free_run(run) };
        }
    }
}

impl Broken {
    fn new(fault: Fault, pages: Arc<dyn PageProvider>) -> Self {
        let inner = match fault {
            Fault::OwnPages => OnePage::new(Arc::new(HeapPages::new())),
            _ => OnePage::new(pages.clone()),
        };
        if fault == Fault::PagesOutliveThePool {
            OUTLIVING.lock().unwrap().extend(OwnedRun::alloc(pages.clone(), 1));
        }
        Broken {
            fault,
            inner,
            pages,
            state: Arc::default(),
            reads: AtomicUsize::new(0),
            reclaiming: Mutex::default(),
            arena: (fault == Fault::ReadShowsLaterBytes).then(Arena::new),
        }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn state<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Panics where a call from a callback would deadlock. A test cannot wait for a real deadlock.
    fn enter(&self) {
        let me = Some(thread::current().id());
        if self.is(Fault::ReclaimHoldsItsLock) && *self.reclaiming.lock().unwrap() == me {
            panic!("deadlock: the lock is held by this thread's own reclaim");
        }
    }

    /// Returns the inner pool's handle of an object. If the pool does not know the handle, returns it
    /// unchanged.
    fn name_of(&self, handle: Handle) -> Handle {
        let handle = match self.fault {
            Fault::OtherPoolsHandleIsTaken => Handle::new(self.tag(), handle.backend_bits()),
            Fault::HandleBitIsIgnored => Handle::from_u64(handle.as_u64() & !(1 << 45)).unwrap(),
            _ => handle,
        };
        self.state(|state| state.names.get(&handle).copied()).unwrap_or(handle)
    }

    fn lose_a_page(&self) {
        let page = OwnedRun::alloc(self.pages.clone(), 1);
        self.state(|state| state.lost.extend(page));
    }
}

impl ObjSink for Broken {
    fn store(&self, bytes: &[u8]) -> Result<Handle, ZpoolError> {
        self.enter();
        let mut bytes = bytes.to_vec();
        let (last_malloc, stolen) = self.state(|state| {
            state.open -= 1;
            (state.last_malloc, std::mem::take(&mut state.stolen))
        });
        if self.is(Fault::DroppedWriteLeaks) {
            self.state(|state| drop(state.lost.pop()));
        }
        if self.is(Fault::WriteBelongsToItsThread)
            && last_malloc.is_some_and(|(thread, _)| thread != thread::current().id())
        {
            return Err(ZpoolError::EmptyObject);
        }
        if let (Fault::WritesShareTheirSize, Some((_, size))) = (self.fault, last_malloc) {
            bytes.resize(size, 0);
        }
        if stolen {
            bytes[0] ^= 1;
        }
        let stored = match self.fault {
            Fault::EmptyObjectIsTaken if bytes.is_empty() => self.inner.malloc_from(&[0]),
            Fault::ShortageIsForever if self.state(|state| state.short) => {
                let source = zpool_api::PageError::Injected { call: 0 };
                Err(ZpoolError::OutOfMemory { source })
            }
            _ => self.inner.malloc_from(&bytes),
        };
        let inner = stored.map_err(|error| match error {
            ZpoolError::OutOfMemory { .. } if self.is(Fault::ShortageIsMisnamed) => {
                ZpoolError::OutOfMetadata { backend: "onepage", bytes: 64 }
            }
            ZpoolError::OutOfMemory { .. } => {
                self.state(|state| state.short = true);
                if self.is(Fault::ShortageLeaks) {
                    self.lose_a_page();
                }
                error
            }
            _ => error,
        })?;
        let handle = self.state(|state| {
            let reused = (1..).find_map(|number| {
                let handle = Handle::new(inner_tag(inner), BackendBits::truncate(number));
                (!state.names.contains_key(&handle)).then_some(handle)
            });
            let handle = if self.is(Fault::HandleIsReused) { reused.unwrap() } else { inner };
            state.names.insert(handle, inner);
            state.latest = Some(handle);
            state.stores += 1;
            handle
        });
        if let Some(arena) = &self.arena {
            arena.store(handle, &bytes);
        }
        Ok(handle)
    }
}

fn inner_tag(handle: Handle) -> PoolTag {
    PoolTag::new(handle.tag_bits()).unwrap()
}

/// An [`Evict`] made from a pool and a closure. The closure gets the pool as well.
struct Answer<'a, F>(&'a Broken, F);

impl<F: Fn(&Broken, Handle, ObjRead<'_>) -> Evicted> Evict for Answer<'_, F> {
    fn evict(&self, handle: Handle, object: ObjRead<'_>) -> Evicted {
        (self.1)(self.0, handle, object)
    }
}

impl Zpool for Broken {
    fn name(&self) -> &'static str {
        "onepage"
    }

    fn tag(&self) -> PoolTag {
        let tag = self.inner.tag();
        if self.is(Fault::TagIsAnothers) {
            PoolTag::new(tag.get() % 4095 + 1).unwrap()
        } else {
            tag
        }
    }

    fn caps(&self) -> ZpoolCaps {
        let mut caps = self.inner.caps();
        match self.fault {
            Fault::AlignmentIsALie => caps.alignment = 1 << 24,
            Fault::CapsChange if self.state(|state| state.stores > 0) => caps.max_object_size -= 1,
            Fault::CompactionIsClaimed => caps.compaction = true,
            Fault::MigrationIsClaimed => caps.migration = true,
            Fault::ReclaimIsNotClaimed => caps.reclaim = false,
            _ => {}
        }
        caps
    }

    fn malloc(&self, size: usize) -> Result<ObjWrite<'_>, ZpoolError> {
        self.enter();
        let max = self.caps().max_object_size;
        if size == 0 && !self.is(Fault::EmptyObjectIsTaken) {
            return Err(ZpoolError::EmptyObject);
        }
        if size > max {
            let backend = if self.is(Fault::TooLargeIsMisnamed) { "twopage" } else { self.name() };
            return Err(ZpoolError::ObjectTooLarge { size, max, backend });
        }
        self.state(|state| {
            state.open += 1;
            state.last_malloc = Some((thread::current().id(), size));
        });
        if self.is(Fault::DroppedWriteLeaks) {
            self.lose_a_page();
        }
        let size = if self.is(Fault::WriteIsTooLong) { size + 1 } else { size };
        ObjWrite::buffered(size, self)
    }

    fn free(&self, handle: Handle) -> Result<(), ZpoolError> {
        self.enter();
        let name = self.name_of(handle);
        match self.fault {
            Fault::FreeKeepsTheObject => return self.inner.obj_read_begin(name).map(drop),
            Fault::FreeIsCheckedTooEarly => {
                drop(self.inner.obj_read_begin(name)?);
                for _ in 0..100 {
                    thread::yield_now();
                }
                let _ = self.inner.free(name);
                return Ok(());
            }
            Fault::DoubleFreeSucceeds => {
                let _ = self.inner.free(name);
                return Ok(());
            }
            Fault::FreeFailsWhileRead if self.state(|state| state.readers > 0) => {
                let handle = handle.as_u64();
                return Err(ZpoolError::TooManyReaders { handle, limit: 0 });
            }
            _ => {}
        }
        let parked = self.inner.stats().parked_objects;
        self.inner.free(name).map_err(|_| ZpoolError::invalid(handle))?;
        let parks = self.inner.stats().parked_objects > parked;
        let waits = self.state(|state| {
            state.names.retain(|_, live| *live != name);
            state.frees += 1;
            state.parked += usize::from(parks && self.is(Fault::ParkedForever));
            match self.fault {
                Fault::FreedSpaceIsLost => true,
                Fault::NeighboursWaitForReaders => state.readers > 0,
                Fault::NeighboursWaitForWriters => state.open > 0,
                _ => false,
            }
        });
        if waits {
            self.lose_a_page();
        }
        if let Some(arena) = &self.arena {
            arena.free(handle);
        }
        Ok(())
    }

    fn obj_read_begin(&self, handle: Handle) -> Result<ObjRead<'_>, ZpoolError> {
        self.enter();
        let nth = self.reads.fetch_add(1, SeqCst);
        if self.is(Fault::ReadIsRefusedNowAndThen) && nth % 50 == 49 {
            return Err(ZpoolError::invalid(handle));
        }
        let object = match self.inner.obj_read_begin(self.name_of(handle)) {
            Err(_) if self.is(Fault::StaleNamesTheLatest) => {
                let latest = self.state(|state| state.latest);
                return self.inner.obj_read_begin(latest.unwrap_or(handle));
            }
            Err(_) if self.is(Fault::StaleReadTakesALock) => {
                // This lock has the same rank as the caller's lock.
                drop(lockdep::acquire(Rank::Entry));
                return Err(ZpoolError::invalid(handle));
            }
            Err(_) if self.is(Fault::StaleReadTakesAPage) => {
                drop(OwnedRun::alloc(self.pages.clone(), 1));
                return Err(ZpoolError::invalid(handle));
            }
            result => result.map_err(|_| ZpoolError::invalid(handle))?,
        };
        let mut bytes = match self.fault {
            Fault::LengthIsOffByOne | Fault::NeighbourOverwrites => object.to_vec(),
            Fault::ReaderGivesPagesBack => {
                let mut page = OwnedRun::alloc(self.pages.clone(), 1)?;
                page[..object.len()].copy_from_slice(&object);
                return Ok(ObjRead::from_owner(Arc::new(page), object.len()));
            }
            Fault::FewReaders
            | Fault::FreeFailsWhileRead
            | Fault::GuardBelongsToItsThread
            | Fault::NeighboursWaitForReaders
            | Fault::ReclaimGivesUpAtReaders => {
                let thread = thread::current().id();
                let readers = self.state(|state| {
                    state.readers += 1;
                    state.readers
                });
                let state = self.state.clone();
                let bytes = object.to_vec();
                let reader = Arc::new(Reader { bytes, fault: self.fault, thread, state });
                if self.is(Fault::FewReaders) && readers > 40 {
                    return Err(ZpoolError::TooManyReaders { handle: handle.as_u64(), limit: 40 });
                }
                return Ok(ObjRead::from_owner(reader, usize::MAX));
            }
            _ => {
                let arena = self.arena.as_ref();
                return Ok(arena.and_then(|a| a.read(handle, object.len())).unwrap_or(object));
            }
        };
        if self.is(Fault::LengthIsOffByOne) {
            bytes.push(0);
        } else if let Some(next) = Handle::from_u64(handle.as_u64() + 1) {
            if let (Some(last), Ok(next)) = (bytes.last_mut(), self.inner.obj_read_begin(next)) {
                *last = next[0];
            }
        }
        Ok(ObjRead::from_owner(Arc::new(bytes), usize::MAX))
    }

    fn total_pages(&self) -> usize {
        self.stats().total_pages
    }

    fn compact(&self) -> Result<usize, ZpoolError> {
        match self.fault {
            Fault::CompactionIsClaimed => Ok(1),
            Fault::CompactionIsNotClaimed => Ok(0),
            _ => self.inner.compact(),
        }
    }

    fn migrate(&self) -> Result<Migration, ZpoolError> {
        match self.fault {
            Fault::MigrationIsClaimed | Fault::MigrationIsNotClaimed => Ok(Migration::default()),
            _ => self.inner.migrate(),
        }
    }

    fn reclaim(&self, target_pages: usize, evict: &dyn Evict) -> Result<usize, ZpoolError> {
        self.enter();
        let live = |up: bool| {
            let mut live: Vec<_> = self.state(|state| state.names.values().copied().collect());
            if !up {
                live.reverse();
            }
            live.into_iter()
        };
        // Reclaims the objects of any sequence of guards, in the order of the sequence.
        let over = |offers: &mut dyn Iterator<Item = (Handle, ObjRead<'_>)>| {
            let mut freed = 0;
            for (handle, object) in offers {
                if freed == target_pages {
                    break;
                }
                if evict.evict(handle, object) == Evicted::Evicted && self.free(handle).is_ok() {
                    freed += 1;
                }
            }
            Ok(freed)
        };
        match self.fault {
            Fault::ReclaimIgnoresTheTarget => self.inner.reclaim(usize::MAX, evict),
            Fault::ReclaimStartsWithTheYoungest => {
                over(&mut live(false).filter_map(|h| Some((h, self.inner.obj_read_begin(h).ok()?))))
            }
            Fault::NeighboursWaitForReaders => {
                over(&mut live(true).filter_map(|h| Some((h, self.obj_read_begin(h).ok()?))))
            }
            Fault::ReclaimOffersTheFreed => {
                let guard = |h| Some((h, self.inner.obj_read_begin(h).ok()?));
                over(&mut live(true).filter_map(guard).collect::<Vec<_>>().into_iter())
            }
            Fault::ReclaimGivesUpAtReaders if self.state(|state| state.readers > 0) => {
                Err(ZpoolError::TooManyReaders { handle: 0, limit: 0 })
            }
            Fault::ReclaimTakesOpenWrites => {
                self.state(|state| state.stolen = state.open > 0);
                self.inner.reclaim(target_pages, evict)
            }
            Fault::ReclaimFollowsItsStores => {
                let mut freed = 0;
                while freed < target_pages {
                    match self.inner.reclaim(1, evict)? {
                        0 => break,
                        more => freed += more,
                    }
                }
                Ok(freed)
            }
            Fault::ReclaimFreesKept => {
                let answer = Answer(self, |_: &Broken, handle, object: ObjRead<'_>| {
                    evict.evict(handle, object);
                    Evicted::Evicted
                });
                self.inner.reclaim(target_pages, &answer)
            }
            Fault::ReclaimCountsOffers => {
                let offers = AtomicUsize::new(0);
                let answer = Answer(self, |_: &Broken, handle, object: ObjRead<'_>| {
                    offers.fetch_add(1, SeqCst);
                    evict.evict(handle, object)
                });
                self.inner.reclaim(target_pages, &answer)?;
                Ok(offers.load(SeqCst))
            }
            Fault::ReclaimOffersTwice => {
                let answer = Answer(self, |pool: &Broken, handle, object: ObjRead<'_>| {
                    evict.evict(handle, object);
                    match pool.inner.obj_read_begin(handle) {
                        Ok(again) => evict.evict(handle, again),
                        Err(_) => Evicted::Evicted,
                    }
                });
                self.inner.reclaim(target_pages, &answer)
            }
            Fault::ReclaimLosesOnPanic | Fault::ReclaimSwallowsThePanic => {
                let answer = Answer(self, |pool: &Broken, handle, object: ObjRead<'_>| {
                    match catch_unwind(AssertUnwindSafe(|| evict.evict(handle, object))) {
                        Ok(answer) => answer,
                        Err(_) if pool.is(Fault::ReclaimSwallowsThePanic) => Evicted::Keep,
                        Err(payload) => {
                            let _ = pool.inner.free(handle);
                            resume_unwind(payload)
                        }
                    }
                });
                self.inner.reclaim(target_pages, &answer)
            }
            Fault::ReclaimFreesNeighbours | Fault::ReclaimFreesTheSuccessor => {
                let answer = Answer(self, |pool: &Broken, handle, object: ObjRead<'_>| {
                    let answer = evict.evict(handle, object);
                    let next = pool.state(|state| match pool.fault {
                        Fault::ReclaimFreesNeighbours => {
                            state.names.keys().copied().find(|live| *live > handle)
                        }
                        _ if state.names.contains_key(&handle) => None,
                        _ => state.latest,
                    });
                    if let (Evicted::Evicted, Some(next)) = (answer, next) {
                        let _ = pool.free(next);
                    }
                    answer
                });
                self.inner.reclaim(target_pages, &answer)
            }
            Fault::ReclaimHoldsItsLock => {
                *self.reclaiming.lock().unwrap() = Some(thread::current().id());
                let result = self.inner.reclaim(target_pages, evict);
                *self.reclaiming.lock().unwrap() = None;
                result
            }
            _ => self.inner.reclaim(target_pages, evict),
        }
    }

    fn trim(&self) -> usize {
        self.inner.trim() + usize::from(self.is(Fault::TrimMiscounts))
    }

    fn stats(&self) -> ZpoolStats {
        let mut stats = self.inner.stats();
        match self.fault {
            Fault::BytesAreRoundedUp => {
                stats.object_bytes = stats.object_bytes.next_multiple_of(16)
            }
            Fault::CountLeaks => stats.objects += self.state(|state| state.frees),
            Fault::PagesAreNotCounted => stats.total_pages = 0,
            Fault::ParkedIsNotCounted => stats.parked_objects = 0,
            Fault::ReclaimDoesNotCount => stats.reclaimed_pages = 0,
            _ => stats.parked_objects += self.state(|state| state.parked),
        }
        stats
    }
}

struct With(Fault, String);

impl Subject for With {
    fn name(&self) -> &str {
        &self.1
    }

    fn build(&self, pages: Arc<dyn PageProvider>) -> Result<Arc<dyn Zpool>, ZpoolError> {
        Ok(Arc::new(Broken::new(self.0, pages)))
    }

    fn providers(&self) -> Vec<(String, Arc<dyn PageProvider>)> {
        vec![("HeapPages".to_owned(), Arc::new(HeapPages::new()))]
    }
}

fn with(fault: Fault) -> With {
    With(fault, format!("onepage with {fault:?}"))
}

fn check(name: &str) -> &'static Check {
    let found = CHECKS.iter().find(|check| check.name == name);
    found.unwrap_or_else(|| panic!("no check is called {name}"))
}

/// Runs the check. Returns the suite's message if the check fails, or `None` if it passes.
fn verdict(check: &Check, subject: &dyn Subject) -> Option<String> {
    let payload = catch_unwind(AssertUnwindSafe(|| (check.run)(subject))).err()?;
    Some(payload.downcast_ref::<String>().cloned().unwrap_or_default())
}

#[test]
#[cfg_attr(miri, ignore = "runs the suite many times over")]
fn every_fault_is_found_by_its_checks() {
    let mut missed = Vec::new();
    for (fault, checks) in FOUND_BY {
        for name in *checks {
            match verdict(check(name), &with(*fault)) {
                Some(said) => {
                    let start = format!("onepage with {fault:?}: {name} over HeapPages: ");
                    assert!(said.starts_with(&start) && said.len() > start.len(), "said: {said}");
                    println!("{said}");
                }
                None => missed.push(format!("{fault:?} by {name}")),
            }
        }
    }
    assert!(missed.is_empty(), "faults not found: {missed:#?}");
}

#[test]
#[cfg_attr(miri, ignore = "runs the whole suite again")]
fn without_a_fault_nothing_is_found() {
    zpool_conformance::all(&with(Fault::None));
}

#[test]
fn every_check_finds_some_fault() {
    let idle: Vec<_> = CHECKS
        .iter()
        .filter(|check| !FOUND_BY.iter().any(|(_, checks)| checks.contains(&check.name)))
        .map(|check| check.name)
        .collect();
    assert!(idle.is_empty(), "checks that find none of the faults: {idle:?}");
}

/// A subject that uses the provider's pages, although its `uses_pages` returns false.
struct Denies;

impl Subject for Denies {
    fn name(&self) -> &str {
        "onepage in denial"
    }

    fn build(&self, pages: Arc<dyn PageProvider>) -> Result<Arc<dyn Zpool>, ZpoolError> {
        Ok(Arc::new(OnePage::new(pages)))
    }

    fn uses_pages(&self) -> bool {
        false
    }
}

#[test]
fn a_subject_is_held_to_what_it_says_of_pages() {
    let said = verdict(check("given_pages_are_used"), &Denies).unwrap();
    assert!(said.contains("uses_pages() is false"), "{said}");
}

#[test]
#[should_panic(expected = "onepage with CapsChange: capabilities_are_constant over HeapPages: ")]
fn all_names_the_subject_and_the_check() {
    zpool_conformance::all(&with(Fault::CapsChange));
}
