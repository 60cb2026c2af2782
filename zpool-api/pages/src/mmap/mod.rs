//! Pages directly from the system, by `mmap`: runs are cut from large regions, and reused while they are
//! warm.
//!
//! A run's slot is in one of four states. *Cold*: free and without memory, marked free in its block's bitmap
//! ([`block`], [`arena`]). *In use*: held by a caller. *Warm*: freed, with resident pages, in the cache
//! ([`warm`]). *Leaving*: out of the cache, while its memory is being returned to the system. A slot becomes
//! cold only after its memory has gone, so no caller gets a slot whose memory is about to go.
//!
//! [`isolate`] empties whole blocks.
//!
//! Lock: one mutex, a leaf, guards all state and is held only briefly. Every system call (`mapping.rs`) is
//! made without it. Invariant: `cached_pages` counts the resident pages of the warm and the leaving runs.

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
/// The provider reserves address space 64 MiB at a time and keeps it until it is dropped. Memory backs the
/// address space page by page on first touch. Freed runs stay warm, which means that they keep their resident
/// pages, up to a bound ([`MmapOptions::cache_pages`]). When a freed run exceeds the bound, the oldest warm
/// runs return to the system, about 64 pages at a time. The call that frees that run makes these system
/// calls.
///
/// If the process locks all its future memory (`mlockall(MCL_FUTURE)`), pages are locked one by one on first
/// touch. From Linux 5.18 on, they are unlocked when they return to the system. The system refuses to take
/// some pages, for instance those that the process locked later. Such pages stay warm and counted, even above
/// the bound. They are offered again after every 64 further warm pages.
///
/// A user that can move its data to other runs can empty a block of 2 MiB, so that the whole block returns to
/// the system ([`PageProvider::isolate_block`]).
///
/// Huge pages are off unless [`MmapOptions::huge_pages`] allows them.
///
/// After `fork`, in a child of the process that made it, every call fails with [`PageError::Forked`] or does
/// nothing. Dropping the provider there leaks: the drop takes no lock and unmaps nothing.
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
    /// The most warm pages to keep. There may be more while the system refuses to take them.
    warm_bound: usize,
    state: Leaked<Mutex<State>>,
    /// A copy of the result of `State::cached_pages`, written under the lock whenever that result changes.
    cached: AtomicUsize,
}

struct State {
    arena: Arena,
    warm: WarmCache,
    /// Resident pages of the leaving runs: in batches on their way to the system, and gathered by `isolate`.
    leaving: usize,
    /// A batch leaves when there are more warm pages than this. It is the bound, or more after the system
    /// refused pages.
    leave_above: usize,
    isolated: Option<Isolated>,
    /// How many blocks were isolated so far. Also the ticket of the last isolation.
    isolations: u64,
    /// Whether the system locked any region in memory when it was mapped.
    locked: bool,
}

impl State {
    fn take(&mut self, pages: usize) -> Option<PageRun> {
        self.warm.pop(pages).or_else(|| {
            let base = self.arena.take(pages)?;
            // SAFETY: `base` is a slot of that length in a mapping that lives as long as the provider. It is
            // readable, writable and initialised (with zeros or its last holder's bytes). It is aligned to
            // the page, because blocks are aligned and slots are whole pages. The arena gives it to nobody
            // else until it is put back.
            Some(unsafe { PageRun::new(base, pages, 0) })
        })
    }

    /// Takes the oldest warm runs out of the cache until at most `keep` pages are left or the batch is full.
    /// Takes no run that was freed at or after `time`. The runs count as leaving until
    /// `MmapPages::give_back`.
    fn leave(&mut self, keep: usize, time: u64) -> Batch {
        let batch = self.warm.take_oldest(keep, time);
        self.leaving += batch.pages();
        batch
    }

    /// Takes back a run that was leaving. If it holds no memory, frees its slot. Otherwise makes it warm
    /// again.
    fn keep_or_put(&mut self, run: PageRun) {
        if run.resident() == 0 {
            self.arena.put(run.base(), run.pages());
        } else if let Err(run) = self.warm.push(run) {
            // The run still has memory, but the cache has no memory to record it. So the run counts as
            // leaving for ever: the count stays correct, and the slot is lost.
            self.leaving += run.resident_pages();
        }
    }

    fn cached_pages(&self) -> usize {
        self.warm.pages() + self.leaving
    }
}

/// The locked state, and the record of its lock's rank.
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
    /// [`PageError::PageSize`] unless the page size is a power of two from the system's page size to 65536.
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

    /// Returns the start address and the length in bytes of each region that runs come from, sorted by
    /// address. For tools that compare the provider's counts with the system's. The list is empty if there is
    /// no memory for it. Takes the lock.
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

    /// Stores the count of cached pages for readers that do not take the lock. If the number of warm or
    /// leaving pages changed, call it before unlocking.
    fn publish(&self, state: &State) {
        // Relaxed: the number pairs with nothing and leads to no other data. All stores are made under the
        // lock, so no store overwrites a later one.
        self.cached.store(state.cached_pages(), Ordering::Relaxed);
    }

    /// Returns how many warm pages to keep when a batch leaves: 64 (one batch) less than the bound, or half
    /// of the bound if that is more.
    fn keep(&self) -> usize {
        self.warm_bound.saturating_sub(BATCH_RUNS).max(self.warm_bound / 2)
    }

    /// Gives the memory of a batch, whose runs count as leaving, back to the system. Returns the number of
    /// pages that the system took.
    fn give_back(&self, mut batch: Batch) -> usize {
        let leaving = batch.pages();
        let locked = self.lock().locked;
        // SAFETY: the batch's runs are in this provider's regions, which are mapped as long as the provider
        // lives.
        unsafe { batch.give_back(self.page_size, locked) };
        let refused = batch.pages();
        let mut state = self.lock();
        state.leaving -= leaving;
        for run in batch.into_runs() {
            state.keep_or_put(run);
        }
        // The system would probably refuse the same pages again. So they are offered once per batch, not at
        // every free.
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

    /// Overwrites those pages of a run that may hold old bytes, which are the resident ones.
    fn zero(&self, run: &PageRun) {
        for page in (0..run.pages()).filter(|page| run.resident() >> page & 1 == 1) {
            // SAFETY: a page of the run, so inside it.
            let at = unsafe { run.base().add(page * self.page_size) };
            // SAFETY: the run's holder gave it up, so only this call has it.
            unsafe { at.write_bytes(0, self.page_size) };
        }
    }

    fn refused(&self, pages: usize, errno: Errno) -> PageError {
        // Not the system's text for the error: that needs heap memory, which may be exhausted.
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

// SAFETY: a run is a slot of its length in a mapping that lives as long as the provider. A slot has one
// holder at a time: when it is handed out, it leaves the bitmap or the cache under the lock, and only
// `free_run` takes it back.
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
        // Declared before the lock is taken, so that it is dropped after unlocking: if another thread made
        // the region superfluous, the drop unmaps it.
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
            // SAFETY: a page of the run, so inside it.
            let at = unsafe { run.base().add(first * self.page_size) };
            // SAFETY: the pages are in a run of this provider, whose regions are mapped as long as it lives.
            // The caller promises that nobody uses their bytes.
            let gone = unsafe { mapping::give_back(at, (page - first) * self.page_size, locked) };
            // Refused pages stay resident and marked.
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
        // The loop ends, because it takes no run freed from now on. Runs that the system refuses become warm
        // again and have a later time, too.
        let now = self.lock().warm.now();
        let mut given = 0;
        loop {
            // `publish` is not needed: the pages count as leaving instead of warm, so the sum stays the same.
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
