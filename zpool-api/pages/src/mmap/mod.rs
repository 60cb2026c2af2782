//! Pages directly from the system, by `mmap`: runs from large regions, reused while warm.
//!
//! A run's slot is in one of four states. *Cold*: free and without memory, in its block's bitmap
//! ([`block`], [`arena`]). *In use*: held by a caller. *Warm*: freed, with resident pages, in the
//! cache ([`warm`]). *Leaving*: taken out of the cache in a batch that is being returned to the system.
//! Only afterwards it becomes cold, so no caller gets a slot whose memory is about to go.
//!
//! Lock: one mutex, a leaf, guards all state and is held for a few instructions. Every system call
//! (`mapping.rs`) is made without it. [`isolate`] empties whole blocks.
//! Invariant: `cached_pages` counts the resident pages of the warm and the leaving runs.

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
/// The provider reserves address space 64 MiB at a time and keeps it until it is dropped; memory backs it
/// page by page on first touch. Freed runs keep their resident pages up to a bound
/// ([`MmapOptions::cache_pages`]); beyond it the oldest return to the system, about 64 pages at a time. The
/// call that frees the run that exceeds the bound makes those system calls.
///
/// If the process locks all its future memory (`mlockall(MCL_FUTURE)`), pages are locked one by one on first
/// touch, and unlocked when they return to the system (Linux 5.18). Pages that the system refuses to take
/// (the process locked its memory later) stay warm and counted, even above the bound, and are offered again
/// after each further 64.
///
/// A user that can move runs can empty a block of 2 MiB and return it whole
/// ([`PageProvider::isolate_block`]).
///
/// Huge pages are off unless [`MmapOptions::huge_pages`] allows them.
///
/// After `fork`, in a child of the process that made it, every call fails with [`PageError::Forked`] or does
/// nothing, and dropping the provider leaks: it takes no lock and unmaps nothing.
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
    /// Most warm pages to keep, unless the system refuses to take them.
    warm_bound: usize,
    state: Leaked<Mutex<State>>,
    /// A copy of `State::cached_pages`, written under the lock whenever that changes.
    cached: AtomicUsize,
}

struct State {
    arena: Arena,
    warm: WarmCache,
    /// Resident pages in batches on their way to the system.
    leaving: usize,
    /// A batch leaves when the warm pages exceed this: the bound, or more after the system refused some.
    leave_above: usize,
    isolated: Option<Isolated>,
    /// Isolations so far; the last one's ticket.
    isolations: u64,
    /// Whether any region was locked in memory when it was mapped.
    locked: bool,
}

impl State {
    fn take(&mut self, pages: usize) -> Option<PageRun> {
        self.warm.pop(pages).or_else(|| {
            let base = self.arena.take(pages)?;
            // SAFETY: a slot of that length in a mapping that lives as long as the provider: readable,
            // writable, initialised (zero or its last holder's bytes), and aligned to the page, as blocks are
            // and runs are whole pages. The arena gives it to nobody else until it is put back.
            Some(unsafe { PageRun::new(base, pages, 0) })
        })
    }

    /// Takes the oldest warm runs freed before `time` out of the cache, one batch at most, until `keep` pages
    /// are left. They count as leaving until `MmapPages::give_back`.
    fn leave(&mut self, keep: usize, time: u64) -> Batch {
        let batch = self.warm.take_oldest(keep, time);
        self.leaving += batch.pages();
        batch
    }

    /// Takes back a run that was leaving: frees its slot if it holds no memory, else makes it warm again.
    fn keep_or_put(&mut self, run: PageRun) {
        if run.resident() == 0 {
            self.arena.put(run.base(), run.pages());
        } else if let Err(run) = self.warm.push(run) {
            // The system refused it, and the cache has no memory to record it: the run stays leaving for
            // good, which keeps the count correct and costs its slot.
            self.leaving += run.resident_pages();
        }
    }

    fn cached_pages(&self) -> usize {
        self.warm.pages() + self.leaving
    }
}

/// The locked state and its lock rank.
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
    /// A provider with the default options. Reserves nothing yet.
    pub fn new() -> Self {
        Self::unchecked(MmapOptions::new(), mapping::system_page_size())
    }

    /// A provider with these options. Reserves nothing yet.
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

    /// Start address and length in bytes of each region that runs come from, sorted by address. For tools
    /// that compare the counts with the system's. Empty if there is no memory for the list. Takes the lock.
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

    /// Copies the count of cached pages for readers without the lock. Call it before unlocking whenever the
    /// number of warm or leaving pages changed.
    fn publish(&self, state: &State) {
        // Relaxed: a single number that pairs with nothing and leads to no other data. All stores are made
        // under the lock, so none overwrites a later one.
        self.cached.store(state.cached_pages(), Ordering::Relaxed);
    }

    /// Pages to keep when a batch leaves: one batch below the bound, or half the bound if that is more.
    fn keep(&self) -> usize {
        self.warm_bound.saturating_sub(BATCH_RUNS).max(self.warm_bound / 2)
    }

    /// Gives the memory of a batch, which counts as leaving, back to the system. The result is the number of
    /// pages that went.
    fn give_back(&self, mut batch: Batch) -> usize {
        let leaving = batch.pages();
        let locked = self.lock().locked;
        // SAFETY: its runs are in this provider's regions, which are mapped as long as it lives.
        unsafe { batch.give_back(self.page_size, locked) };
        let refused = batch.pages();
        let mut state = self.lock();
        state.leaving -= leaving;
        for run in batch.into_runs() {
            state.keep_or_put(run);
        }
        // The system would refuse the same pages again: retry once per batch, not at every free.
        state.leave_above =
            if refused == 0 { self.warm_bound } else { state.warm.pages() + BATCH_RUNS };
        self.publish(&state);
        leaving - refused
    }

    /// Returns warm runs above the bound to the system.
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

    /// Overwrites the pages of a run that may hold old bytes.
    fn zero(&self, run: &PageRun) {
        for page in (0..run.pages()).filter(|page| run.resident() >> page & 1 == 1) {
            // SAFETY: a page of the run, so inside it.
            let at = unsafe { run.base().add(page * self.page_size) };
            // SAFETY: the run's holder gave it up, so it is this call's alone.
            unsafe { at.write_bytes(0, self.page_size) };
        }
    }

    fn refused(&self, pages: usize, errno: Errno) -> PageError {
        // Not the system's text for it, which would need heap memory that may be exhausted.
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
// holder at a time: it leaves the bitmap or the cache under the lock when it is handed out, and returns to
// them only in `free_run`.
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
        // Declared before the lock is taken: a region that another thread made superfluous is unmapped after
        // unlocking.
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
            // SAFETY: pages of a run of this provider, whose regions are mapped as long as it lives; the
            // caller promises that nobody uses their bytes.
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
        // Runs freed from now on stay, and so do those that the system refuses: the loop ends.
        let now = self.lock().warm.now();
        let mut given = 0;
        loop {
            // The count does not change: warm pages become leaving ones.
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
