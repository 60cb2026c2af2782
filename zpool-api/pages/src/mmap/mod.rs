//! Pages directly from the system, by `mmap`. Runs are cut from large regions, and freed runs are reused
//! while they still hold memory.
//!
//! The slot of a run is in one of four states:
//! * *Cold*: the slot is free and has no memory. It is marked free in the bitmap of its block ([`block`],
//!   [`arena`]).
//! * *In use*: the run has a holder.
//! * *Warm*: the run was freed, but its pages are still resident. The run is in the cache ([`warm`]).
//! * *Leaving*: the run was taken out of the cache, and its memory is being returned to the system.
//!
//! A slot becomes cold only after its memory has gone. So no holder gets a slot whose memory is about to
//! go.
//!
//! [`isolate`] empties whole blocks.
//!
//! Lock: one mutex, a leaf, guards all state. It is held only briefly, and never during a system call
//! (`mapping.rs`). Invariant: `cached_pages` counts the resident pages of all warm and all leaving runs.

mod arena;
mod block;
mod blockset;
mod isolate;
mod options;
mod region;
#[cfg(all(test, not(loom), not(miri)))]
mod tests;
mod warm;

pub use options::MmapOptions;

use core::fmt;
use core::ops::{Deref, DerefMut, Range};

use crate::length::check_run_length;
use arena::{Arena, Tract};
use isolate::Isolated;
use region::Region;
use rustix::io::Errno;
use warm::{BATCH_RUNS, Batch, WarmCache};
use zpool_api::PageError;
use zpool_api::{PageBlock, PageProvider, PageRun};
use zpool_base::fork::Leaked;
use zpool_base::lockdep::{self, Rank, might_sleep};
use zpool_base::mapping;
use zpool_base::sync::atomic::{AtomicUsize, Ordering};
use zpool_base::sync::{Mutex, MutexGuard};

/// A [`PageProvider`] over anonymous mappings. Linux only; `Send` and `Sync`.
///
/// The provider reserves address space 64 MiB at a time and keeps it until it is dropped. The system backs
/// this space with memory page by page, when a page is first touched.
///
/// Freed runs stay *warm*: they keep their resident pages, up to a bound ([`MmapOptions::cache_pages`]).
/// When a freed run raises the number of warm pages above the bound, the oldest warm runs return to the
/// system, about 64 pages at a time. The call that frees the run makes these system calls.
///
/// If the process locks all its future memory (`mlockall(MCL_FUTURE)`), each page is locked when it is
/// first touched. From Linux 5.18 on, such pages can return to the system nevertheless. There are pages
/// that the system refuses to take, for instance pages that the process locked later. These pages stay warm
/// and counted, even above the bound. They are offered to the system again after every 64 further warm
/// pages.
///
/// A user that can move its data to other runs can empty a block of 2 MiB, so that the whole block returns
/// to the system ([`PageProvider::isolate_block`]).
///
/// Huge pages are off unless [`MmapOptions::huge_pages`] allows them.
///
/// After `fork`, in a child of the process that made the provider, every call fails with
/// [`PageError::Forked`] or does nothing. If the child drops the provider, the provider leaks: the drop
/// takes no lock and unmaps nothing.
///
/// ```
/// use zpool_api::PageProvider;
/// use zpool_pages::MmapPages;
///
/// # if cfg!(miri) { return Ok(()); }
/// let pages = MmapPages::new();
/// let mut run = pages.alloc_run(4)?;
/// run.mark_resident(0..1); // before the first touch
/// // SAFETY: the first page of a run that nobody else has.
/// unsafe { run.base().as_ptr().write_bytes(7, pages.page_size()) };
/// // SAFETY: from this provider, and its bytes are not used again.
/// unsafe { pages.free_run(run) };
/// assert_eq!(pages.cached_pages(), 1);
/// assert_eq!(pages.trim(), 1);
/// # Ok::<(), zpool_api::PageError>(())
/// ```
pub struct MmapPages {
    options: MmapOptions,
    page_size: usize,
    /// The greatest number of warm pages to keep. There may be more while the system refuses to take pages.
    warm_bound: usize,
    state: Leaked<Mutex<State>>,
    /// A copy of what `State::cached_pages` returns. It is written under the lock whenever that result
    /// changes.
    cached: AtomicUsize,
}

struct State {
    arena: Arena,
    warm: WarmCache,
    /// The number of resident pages of all leaving runs. These runs are in batches on their way to the
    /// system, or were gathered from an isolated block.
    leaving: usize,
    /// A batch leaves when there are more warm pages than this number. It equals the bound, or is greater
    /// after the system has refused pages.
    leave_above: usize,
    isolated: Option<Isolated>,
    /// How many blocks have been isolated so far. This is also the ticket of the last isolation.
    isolations: u64,
    /// Whether the system locked any region in memory when it was mapped.
    locked: bool,
}

impl State {
    fn take(&mut self, pages: usize) -> Option<PageRun> {
        self.warm.pop(pages).or_else(|| {
            let base = self.arena.take(pages)?;
            // SAFETY: `base` is a slot of that length in a mapping that lives as long as the provider. The
            // slot is readable, writable and initialised, with zeros or with its last holder's bytes. It is
            // aligned to the page size, because blocks are aligned and slots are whole pages. The arena
            // gives the slot to nobody else until it is put back.
            Some(unsafe { PageRun::new(base, pages, 0) })
        })
    }

    /// Takes the oldest warm runs out of the cache. Stops when at most `keep` pages are left, when the
    /// batch is full, or at runs that were freed at or after `time`. The runs count as leaving until
    /// `MmapPages::give_back` is called with the batch.
    fn leave(&mut self, keep: usize, time: u64) -> Batch {
        let batch = self.warm.take_oldest(keep, time);
        self.leaving += batch.pages();
        batch
    }

    /// Takes back a run that was leaving. Frees its slot if the run holds no memory. Otherwise makes it
    /// warm again.
    fn keep_or_put(&mut self, run: PageRun) {
        if run.resident() == 0 {
            self.arena.put(run.base(), run.pages());
        } else if let Err(run) = self.warm.push(run) {
            // The run still has memory, but there is no heap memory to record it in the cache. So it counts
            // as leaving for ever. The count stays correct, but the slot is lost.
            self.leaving += run.resident_pages();
        }
    }

    fn cached_pages(&self) -> usize {
        self.warm.pages() + self.leaving
    }
}

/// The state while it is locked, with the record of the lock's rank.
struct Locked<'a> {
    state: MutexGuard<'a, State>,
    _rank: lockdep::Held,
}

impl Deref for Locked<'_> {
    type Target = State;
    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl MmapPages {
    /// Makes a provider with the default options. Reserves nothing yet.
    pub fn new() -> Self {
        Self::unchecked(MmapOptions::new(), mapping::system_page_size())
    }

    /// Makes a provider with these options. Reserves nothing yet.
    ///
    /// # Errors
    /// [`PageError::PageSize`] if the page size is not a power of two from the system's page size to 65536.
    ///
    /// ```
    /// use zpool_api::PageError;
    /// use zpool_pages::{MmapOptions, MmapPages};
    ///
    /// # if cfg!(miri) { return Ok(()); }
    /// let private = MmapPages::with_options(MmapOptions::new().dont_dump(true).zero_on_free(true))?;
    /// let odd = MmapPages::with_options(MmapOptions::new().page_size(5000));
    /// assert!(matches!(odd, Err(PageError::PageSize { page_size: 5000, .. })));
    /// # drop(private);
    /// # Ok::<(), PageError>(())
    /// ```
    pub fn with_options(options: MmapOptions) -> Result<Self, PageError> {
        let page_size = options.checked_page_size()?;
        Ok(Self::unchecked(options, page_size))
    }

    fn unchecked(options: MmapOptions, page_size: usize) -> Self {
        let warm_bound = options.warm_bound(page_size);
        let state = State {
            arena: Arena::new(page_size),
            warm: WarmCache::default(),
            leaving: 0,
            leave_above: warm_bound,
            isolated: None,
            isolations: 0,
            locked: false,
        };
        MmapPages {
            options,
            page_size,
            warm_bound,
            state: Leaked::new(Mutex::new(state)),
            cached: AtomicUsize::new(0),
        }
    }

    /// Returns the start address and the length in bytes of each region, sorted by address. All runs lie in
    /// these regions. Meant for tools that compare the provider's counts with the system's. If there is no
    /// memory for the list, returns an empty one. Takes the lock.
    pub fn regions(&self) -> Vec<(usize, usize)> {
        if !self.state.is_here() {
            return Vec::new();
        }
        let state = self.lock();
        let mut regions = Vec::new();
        if regions.try_reserve_exact(state.arena.regions().count()).is_ok() {
            regions.extend(state.arena.regions());
        }
        regions
    }

    fn lock(&self) -> Locked<'_> {
        let rank = lockdep::acquire(Rank::Leaf);
        Locked { state: self.state.lock(), _rank: rank }
    }

    /// Stores the count of cached pages, for readers that do not take the lock. Call this before unlocking
    /// whenever the number of warm or leaving pages has changed.
    fn publish(&self, state: &State) {
        // Relaxed: the number publishes no other data, so the store pairs with no load. All stores are made
        // under the lock, so an older number never replaces a newer one.
        self.cached.store(state.cached_pages(), Ordering::Relaxed);
    }

    /// Returns the number of warm pages that stay when a batch leaves. This is the bound less 64 (one
    /// batch), or half of the bound if that is more.
    fn keep(&self) -> usize {
        self.warm_bound.saturating_sub(BATCH_RUNS).max(self.warm_bound / 2)
    }

    /// Returns the memory of a batch to the system. The runs of the batch must count as leaving. Returns
    /// the number of pages that the system took.
    fn give_back(&self, mut batch: Batch) -> usize {
        let leaving = batch.pages();
        let locked = self.lock().locked;
        // SAFETY: the batch's runs lie in regions of this provider, and these are mapped as long as the
        // provider lives.
        unsafe { batch.give_back(self.page_size, locked) };
        let refused = batch.pages();
        let mut state = self.lock();
        state.leaving -= leaving;
        for run in batch.into_runs() {
            state.keep_or_put(run);
        }
        // The system would probably refuse the same pages again. So they are offered again once per batch,
        // not at every free.
        state.leave_above =
            if refused == 0 { self.warm_bound } else { state.warm.pages() + BATCH_RUNS };
        self.publish(&state);
        leaving - refused
    }

    /// Returns warm runs to the system while there are more than `leave_above` warm pages.
    fn give_back_surplus(&self) {
        loop {
            let mut state = self.lock();
            if state.warm.pages() <= state.leave_above {
                return;
            }
            let batch = state.leave(self.keep(), u64::MAX);
            drop(state);
            self.give_back(batch);
        }
    }

    /// Overwrites the resident pages of a run with zeros. Only these may hold old bytes.
    fn zero(&self, run: &PageRun) {
        for page in (0..run.pages()).filter(|page| run.resident() >> page & 1 == 1) {
            // SAFETY: the page belongs to the run, so the address is inside it.
            let at = unsafe { run.base().add(page * self.page_size) };
            // SAFETY: the run's holder gave it up, so only this call uses it.
            unsafe { at.write_bytes(0, self.page_size) };
        }
    }

    fn refused(&self, pages: usize, errno: Errno) -> PageError {
        // This is not the system's text for the error, because making that text needs heap memory.
        let what = match errno {
            Errno::NOMEM => "no memory or address space for another region",
            Errno::AGAIN => "another region would exceed the limit of locked memory",
            _ => "cannot map another region",
        };
        let number = errno.raw_os_error();
        PageError::refused(pages, self.page_size, format_args!("{what} (os error {number})"))
    }

    fn refused_tables(&self, pages: usize) -> PageError {
        let reason = format_args!("no memory for the tables of another region");
        PageError::refused(pages, self.page_size, reason)
    }
}

impl Default for MmapPages {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MmapPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmapPages")
            .field("options", &self.options)
            .field("page_size", &self.page_size)
            .field("warm_bound", &self.warm_bound)
            .field("cached_pages", &self.cached_pages())
            .finish_non_exhaustive()
    }
}

// SAFETY: a run is a slot of its length in a mapping that lives as long as the provider. A slot has only
// one holder at a time: when it is allocated, it is removed from the bitmap or the cache under the lock,
// and only `free_run` puts it back.
unsafe impl PageProvider for MmapPages {
    fn page_size(&self) -> usize {
        self.page_size
    }

    fn alloc_run(&self, pages: usize) -> Result<PageRun, PageError> {
        might_sleep("MmapPages::alloc_run");
        if !self.state.is_here() {
            return Err(PageError::Forked);
        }
        check_run_length(pages)?;
        // Declared before the lock is taken, so that it is dropped after unlocking. If another thread has
        // made the region unnecessary, this drop unmaps it.
        let mut reserved: Option<Tract> = None;
        loop {
            let mut state = self.lock();
            if let Some(run) = state.take(pages) {
                self.publish(&state);
                return Ok(run);
            }
            if let Some(tract) = reserved.take() {
                state.locked |= tract.is_locked();
                let added = state.arena.add(tract);
                drop(state);
                added.map_err(|_tract| self.refused_tables(pages))?;
            } else {
                drop(state);
                let region =
                    Region::reserve(&self.options).map_err(|errno| self.refused(pages, errno))?;
                let tract = Tract::new(region).map_err(|_| self.refused_tables(pages))?;
                reserved = Some(tract);
            }
        }
    }

    unsafe fn free_run(&self, run: PageRun) {
        might_sleep("MmapPages::free_run");
        if !self.state.is_here() {
            return;
        }
        if self.options.zero_on_free {
            self.zero(&run);
        }
        let mut state = self.lock();
        if run.resident() == 0 {
            state.arena.put(run.base(), run.pages());
            return;
        }
        let Some(run) = state.gather(run) else {
            self.publish(&state);
            return;
        };
        let batch = match state.warm.push(run) {
            Ok(()) if state.warm.pages() <= state.leave_above => None,
            Ok(()) => Some(state.leave(self.keep(), u64::MAX)),
            Err(run) => {
                state.leaving += run.resident_pages();
                Some(Batch::of(run))
            }
        };
        self.publish(&state);
        drop(state);
        if let Some(batch) = batch {
            self.give_back(batch);
        }
    }

    unsafe fn discard(&self, run: &mut PageRun, pages: Range<usize>) {
        might_sleep("MmapPages::discard");
        if !self.state.is_here() {
            return;
        }
        let locked = self.lock().locked;
        let end = pages.end.min(run.pages());
        let is_resident = |run: &PageRun, page: usize| run.resident() >> page & 1 == 1;
        let mut page = pages.start;
        while page < end {
            let first = page;
            while page < end && is_resident(run, page) {
                page += 1;
            }
            if first == page {
                page += 1;
                continue;
            }
            // SAFETY: the page belongs to the run, so the address is inside it.
            let at = unsafe { run.base().add(first * self.page_size) };
            // SAFETY: the pages belong to a run of this provider, and its regions are mapped as long as it
            // lives. The caller promises that nobody uses their bytes.
            let gone = unsafe { mapping::give_back(at, (page - first) * self.page_size, locked) };
            // If the system refused the pages, they stay resident and marked.
            if gone.is_ok() {
                run.mark_released(first..page);
            }
        }
    }

    fn isolate_block(&self) -> Option<PageBlock> {
        if self.state.is_here() { self.isolate() } else { None }
    }

    fn putback_block(&self, block: PageBlock) -> bool {
        self.state.is_here() && self.putback(&block)
    }

    fn cached_pages(&self) -> usize {
        if !self.state.is_here() {
            return 0;
        }
        // Relaxed: see `publish`.
        self.cached.load(Ordering::Relaxed)
    }

    fn trim(&self) -> usize {
        might_sleep("MmapPages::trim");
        if !self.state.is_here() {
            return 0;
        }
        // The loop ends, because it takes no run that is freed after this moment. A run that the system
        // refuses becomes warm again with a later time, so it is not taken again either.
        let now = self.lock().warm.now();
        let mut given = 0;
        loop {
            // `publish` is not needed: the pages count as leaving instead of warm, and the sum stays the
            // same.
            let batch = self.lock().leave(0, now);
            if batch.is_empty() {
                return given;
            }
            given += self.give_back(batch);
        }
    }

    fn metadata_bytes(&self) -> usize {
        if !self.state.is_here() {
            return 0;
        }
        let state = self.lock();
        let isolated = state.isolated.as_ref().map_or(0, Isolated::heap_bytes);
        size_of::<Self>() + state.arena.heap_bytes() + state.warm.heap_bytes() + isolated
    }
}
