//! A region, as a program sees it.

use core::fmt;
use core::ops::Range;
use std::sync::Arc;

use crate::RegionStats;
use crate::counters::Event;
use crate::engine::MOST_IDLE;
use crate::error::{AdviceError, Chosen, LimitError, RangeError};
use crate::evictor::Evictor;
use crate::fault::Access;
use crate::limbo::BLOCK;
use crate::range::pages_of;
use crate::registry::{self, Place};
use crate::room::{least_resident, reserve, room_for, store_limit};
use crate::served::Served;
use crate::table::next_chunk;
use crate::word::State;
use zpool_base::fork::Leaked;
use zswap_core::{BuildError as StoreBuildError, MigrateError, PoolMigration, Zswap};

/// Memory that is compressed when cold. The [crate's front page](crate) describes it, and what a program promises.
///
/// `Send` and `Sync`. Dropping it waits for faults that other threads are in; nobody may touch its memory afterwards.
/// In a child after `fork` the region has no memory: a touch raises SIGSEGV there, calls return empty results, and
/// dropping it does nothing.
pub struct Region(Leaked<Owner>);

struct Owner {
    place: &'static Place,
    /// Dropped before `served`: the thread uses it.
    evictor: Option<Evictor>,
    served: Arc<Served>,
    store: Arc<Zswap>,
    /// The limit on the store that the program has set.
    own_store_limit: Option<usize>,
    chosen: Chosen,
}

impl Drop for Owner {
    fn drop(&mut self) {
        registry::remove(self.place);
        self.evictor = None;
    }
}

impl Region {
    pub(crate) fn new(
        place: &'static Place,
        evictor: Option<Evictor>,
        served: Arc<Served>,
        store: Arc<Zswap>,
        own_store_limit: Option<usize>,
        chosen: Chosen,
    ) -> Region {
        Region(Leaked::new(Owner { place, evictor, served, store, own_store_limit, chosen }))
    }

    pub(crate) fn served(&self) -> &Served {
        &self.0.served
    }

    pub(crate) fn is_here(&self) -> bool {
        self.0.is_here()
    }

    /// Returns the address of the first byte, a multiple of 4096. Bytes behind it may be read and written as those of any
    /// memory, from any thread, under Rust's rules for raw pointers, until the region is dropped.
    pub fn as_ptr(&self) -> *mut u8 {
        self.served().engine.backend.base()
    }

    /// Returns the capacity in bytes.
    #[expect(clippy::len_without_is_empty, reason = "none is empty")]
    pub fn len(&self) -> usize {
        self.served().len()
    }

    /// Returns all bytes. Bytes that were never written are zero.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the bytes are initialised and mapped, or a touch maps them, as long as the region lives. Nobody writes
        // them while this borrow lives: `as_mut_slice` needs the region alone, and who writes through a raw pointer
        // keeps Rust's rules (`as_ptr`). Eviction does not change what is read.
        unsafe { self.served().engine.bytes(0, self.len()) }
    }

    /// Returns all bytes, to write them.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and this borrow is the only one.
        unsafe { core::slice::from_raw_parts_mut(self.as_ptr(), self.len()) }
    }

    pub(crate) fn check(&self, range: &Range<usize>) -> Result<Range<usize>, RangeError> {
        if range.start > range.end || range.end > self.len() {
            return Err(RangeError { range: range.clone(), len: self.len() });
        }
        Ok(if self.is_here() { pages_of(range, self.unit()) } else { 0..0 })
    }

    /// Brings evicted pages of a range back before they are touched: in groups of 16, which is cheaper than a fault for
    /// each. Stops at half of what may be resident. Returns how many pages came.
    ///
    /// # Errors
    /// [`AdviceError::Range`] if the range is not in the region, [`AdviceError::Page`] if a page cannot be read or there
    /// is no room.
    ///
    /// # Blocking
    /// Waits for the codec, and for the device if a page is there.
    pub fn prefetch(&self, range: Range<usize>) -> Result<usize, AdviceError> {
        let pages = self.check(&range)?;
        if pages.is_empty() {
            return Ok(0);
        }
        let served = self.served();
        let (mut stage, mut came, mut page) = (served.stage(), 0, pages.start);
        while page < pages.end {
            if !served.engine.table.is_touched(page) {
                page = next_chunk(page);
                continue;
            }
            if came > served.engine.room.limit() / 2 {
                break;
            }
            if matches!(
                served.engine.table.get(page).state(),
                State::Cold | State::Limbo | State::Compressing
            ) {
                let mut buffers = stage.buffers(pages.end - page);
                let done = served.engine.fault(page, Access::Prefetch, &mut buffers);
                came += done.map_err(AdviceError::Page)?;
            }
            page += 1;
        }
        Ok(came)
    }

    /// Evicts the resident pages of a range now. Returns how many left; pinned ones stay, and those that the kernel uses
    /// or the store refuses.
    ///
    /// # Errors
    /// [`RangeError`] if the range is not in the region.
    ///
    /// # Blocking
    /// Compresses the pages. Waits for the device if the store is at its limit.
    pub fn advise_cold(&self, range: Range<usize>) -> Result<usize, RangeError> {
        let pages = self.check(&range)?;
        if pages.is_empty() {
            return Ok(0);
        }
        let served = self.served();
        let mut stage = served.stage();
        Ok(served.engine.evict_range(pages.start, pages.end, stage.buffers(0).room))
    }

    /// Gives up the content of the pages that lie wholly in a range: they are zero afterwards, and take no memory, neither
    /// resident nor compressed. Returns how many pages that concerned. Pinned pages keep their content.
    ///
    /// # Errors
    /// [`RangeError`] if the range is not in the region.
    ///
    /// # Safety
    /// The bytes of these pages change to zeros: nobody has a reference to them, or uses them meanwhile.
    pub unsafe fn discard(&self, range: Range<usize>) -> Result<usize, RangeError> {
        self.check(&range)?;
        if !self.is_here() {
            return Ok(0);
        }
        let unit = self.unit();
        Ok(self.served().engine.discard(range.start.div_ceil(unit), range.end / unit))
    }

    /// Changes the limit on everything; `None` removes it. If more is in use, evicts until it is not, as far as possible.
    ///
    /// # Errors
    /// [`LimitError`] if the limit is less than what tables and compressed pages take now plus 256 KiB, or plus
    /// four thirds of what is pinned. Then nothing has changed.
    ///
    /// # Blocking
    /// Compresses pages if the region is above the limit.
    pub fn set_budget(&self, bytes: Option<usize>) -> Result<(), LimitError> {
        let served = self.served();
        if let Some(bytes) = bytes {
            let needed = self.least_budget();
            if bytes < needed {
                return Err(LimitError { limit: "budget", bytes, needed });
            }
        }
        served.engine.room.set_budget(bytes);
        self.apply_limits();
        Ok(())
    }

    /// Changes the limit on resident pages, with the limbo and the buffers; `None` removes it. If more is in use, evicts
    /// until it is not, as far as possible.
    ///
    /// # Errors
    /// [`LimitError`] if the limit is less than the buffers in use plus 256 KiB. Then nothing has changed.
    ///
    /// # Blocking
    /// Compresses pages if the region is above the limit.
    pub fn set_resident_bytes(&self, bytes: Option<usize>) -> Result<(), LimitError> {
        let served = self.served();
        if let Some(bytes) = bytes {
            let needed = least_resident(
                served.engine.staging_bytes.get(),
                served.engine.pinned.get(),
                self.unit(),
            );
            if bytes < needed {
                return Err(LimitError { limit: "resident_bytes", bytes, needed });
            }
        }
        served.engine.room.set_max_resident(bytes);
        self.apply_limits();
        Ok(())
    }

    /// Returns the least budget that is possible now.
    fn least_budget(&self) -> usize {
        let engine = &self.served().engine;
        engine.refresh();
        engine.room.beside()
            + room_for(engine.pinned.get()) * self.unit()
            + reserve(engine.room.beside(), self.unit())
    }

    /// Applies changed limits: to the limbo, to the store, and to what is resident.
    pub(crate) fn apply_limits(&self) {
        if !self.is_here() {
            return;
        }
        let served = self.served();
        let engine = &served.engine;
        // A store with a device writes pages back before they take the whole budget. Too small a limit is refused, and
        // then the old one stays. The program's own limit of the store holds beside.
        let store = &self.0.store;
        let limit = store_limit(
            engine.room.budget(),
            self.unit(),
            store.has_device(),
            self.0.own_store_limit,
        );
        if limit != store.max_bytes() {
            let _ = store.set_max_bytes(limit);
        }
        engine.refresh();
        engine.limbo.lock().reserve(engine.limbo_blocks() + crate::limbo::SPARE_BLOCKS);
        let mut stage = served.stage();
        // What cannot leave now, stays.
        let _ = engine.make_some_room(stage.buffers(0).room, MOST_IDLE);
    }

    /// Makes the store put pages into a new pool of this backend from now on. Older pages stay readable.
    ///
    /// # Errors
    /// Those of [`Zswap::set_zpool`].
    pub fn set_zpool(&self, name: &str) -> Result<(), StoreBuildError> {
        self.0.store.set_zpool(name)
    }

    /// Makes the store compress pages with this compressor from now on. Older pages stay readable.
    ///
    /// # Errors
    /// Those of [`Zswap::set_compressor`].
    pub fn set_compressor(&self, spec: &str) -> Result<(), StoreBuildError> {
        self.0.store.set_compressor(spec)
    }

    /// Moves up to `budget` pages of older pools into the current one.
    ///
    /// # Errors
    /// Those of [`Zswap::migrate_pools`].
    pub fn migrate_pools(&self, budget: usize) -> Result<PoolMigration, MigrateError> {
        self.0.store.migrate_pools(budget)
    }

    /// Returns the bytes of a page of this region ([`RegionBuilder::unit`](crate::RegionBuilder::unit)).
    pub fn unit(&self) -> usize {
        self.served().engine.backend.unit()
    }

    /// Returns which backend this region uses, and why.
    pub fn backend(&self) -> &Chosen {
        &self.0.chosen
    }

    /// Returns a snapshot of the figures. In a child after `fork`, all are zero.
    pub fn stats(&self) -> RegionStats {
        if !self.is_here() {
            return RegionStats::default();
        }
        let served = self.served();
        let engine = &served.engine;
        engine.refresh();
        let resident_bytes = engine.room.resident() * self.unit();
        let count = |event| engine.counters.get(event);
        RegionStats {
            budget: engine.room.budget(),
            resident_limit: engine.room.limit() * self.unit(),
            resident_bytes,
            limbo_bytes: engine.limbo.lock().blocks() * BLOCK * self.unit(),
            pinned_bytes: engine.pinned.get() * self.unit(),
            cold_bytes: engine.cold_pages.not_negative() * self.unit(),
            memory_bytes: engine.room.beside() + resident_bytes,
            zero_faults: count(Event::ZeroFault),
            cold_faults: count(Event::ColdFault),
            clean_faults: count(Event::CleanFault),
            rescued: count(Event::Rescued),
            write_faults: count(Event::WriteFault),
            waited: count(Event::Waited),
            around_pages: count(Event::Around),
            prefetched_pages: count(Event::Prefetched),
            evicted_pages: count(Event::Evicted),
            evicted_clean_pages: count(Event::EvictedClean),
            undone_pages: count(Event::Undone),
            busy_pages: count(Event::Busy),
            direct_reclaims: count(Event::DirectReclaim),
            refused_evictions: count(Event::Refused),
            exceeded: count(Event::Exceeded),
            discarded_pages: count(Event::Discarded),
            fault_latency: served.times.snapshot(),
            store: self.0.store.stats(),
        }
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, len) = (self.as_ptr(), self.len());
        f.debug_struct("Region").field("start", &start).field("len", &len).finish_non_exhaustive()
    }
}
