//! The warm cache, which holds freed runs that still have memory. A batch holds such runs while they are
//! returned to the system.
//!
//! A warm run is reused only for a run of the same length. Of these, the run that was freed last is reused
//! first, because its bytes are most likely still in a CPU cache. The oldest runs, of any length, leave
//! first.
//!
//! Lock: the provider's mutex guards the cache. A batch is accessed only by its holder. Invariants: `pages`
//! is the sum of the resident pages of all runs in the cache. Each of these runs has at least one resident
//! page. Each queue is in the order of `since`.

use core::ops::Range;
use std::collections::VecDeque;

use zpool_api::{MAX_RUN_PAGES, PageRun};
use zpool_base::mapping;

/// The greatest number of runs in a batch. About this number of pages leave at a time. It is large enough
/// for one system call to often cover several neighbours, and small enough for an array on the stack.
pub(super) const BATCH_RUNS: usize = 64;

struct WarmRun {
    run: PageRun,
    /// The time on the cache's clock when the run was freed.
    since: u64,
}

/// Freed runs with resident pages.
#[derive(Default)]
pub(super) struct WarmCache {
    /// One queue for each length. `queues[0]` has the runs of one page. The oldest run of a queue is at its
    /// front.
    queues: [VecDeque<WarmRun>; MAX_RUN_PAGES],
    pages: usize,
    /// The number of runs that were ever pushed. It serves as a clock.
    clock: u64,
}

impl WarmCache {
    /// Returns the number of resident pages of all runs in the cache.
    pub(super) fn pages(&self) -> usize {
        self.pages
    }

    /// Returns the time on the clock. Every run that is pushed from now on has this time or a later one.
    pub(super) fn now(&self) -> u64 {
        self.clock
    }

    /// Adds a run. If there is no memory to record it, the error contains the run.
    pub(super) fn push(&mut self, run: PageRun) -> Result<(), PageRun> {
        let queue = &mut self.queues[run.pages() - 1];
        if queue.try_reserve(1).is_err() {
            return Err(run);
        }
        self.pages += run.resident_pages();
        queue.push_back(WarmRun { run, since: self.clock });
        self.clock += 1;
        Ok(())
    }

    /// Removes the run of `pages` pages that was freed last, and returns it. Returns `None` if there is no
    /// run of this length.
    pub(super) fn pop(&mut self, pages: usize) -> Option<PageRun> {
        let run = self.queues[pages - 1].pop_back()?.run;
        self.pages -= run.resident_pages();
        Some(run)
    }

    /// Takes the oldest runs. Stops when at most `keep` pages are left, when the batch is full, or at runs
    /// that were freed at or after `time`.
    pub(super) fn take_oldest(&mut self, keep: usize, time: u64) -> Batch {
        let mut batch = Batch { runs: [const { None }; BATCH_RUNS], len: 0 };
        while self.pages > keep && batch.len < BATCH_RUNS {
            let oldest = self
                .queues
                .iter_mut()
                .filter(|queue| queue.front().is_some_and(|warm| warm.since < time))
                .min_by_key(|queue| queue.front().map(|warm| warm.since));
            let Some(warm) = oldest.and_then(VecDeque::pop_front) else { break };
            self.pages -= warm.run.resident_pages();
            batch.runs[batch.len] = Some(warm.run);
            batch.len += 1;
        }
        batch
    }

    /// Moves to `taken` the runs of `pages` pages that begin in `range`, until `taken` has reached its
    /// capacity. Returns the number of resident pages in the moved runs.
    pub(super) fn take_within(
        &mut self,
        pages: usize,
        range: &Range<usize>,
        taken: &mut Vec<PageRun>,
    ) -> usize {
        let queue = &mut self.queues[pages - 1];
        let mut resident = 0;
        for _ in 0..queue.len() {
            let Some(warm) = queue.pop_front() else { break };
            if range.contains(&warm.run.base().addr().get()) && taken.len() < taken.capacity() {
                resident += warm.run.resident_pages();
                taken.push(warm.run);
            } else {
                queue.push_back(warm);
            }
        }
        self.pages -= resident;
        resident
    }

    /// Returns the bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.queues.iter().map(|queue| queue.capacity() * size_of::<WarmRun>()).sum()
    }
}

/// Runs whose memory is being returned to the system. They are not in the cache. Their slots in the blocks
/// still count as taken (`block.rs`), so no new run gets these addresses.
pub(super) struct Batch {
    /// The first `len` elements are `Some`, the others `None`.
    runs: [Option<PageRun>; BATCH_RUNS],
    len: usize,
}

impl Batch {
    /// Makes a batch of one run.
    pub(super) fn of(run: PageRun) -> Batch {
        let mut runs = [const { None }; BATCH_RUNS];
        runs[0] = Some(run);
        Batch { runs, len: 1 }
    }

    /// Whether the batch has no runs.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of resident pages of all runs in the batch.
    pub(super) fn pages(&self) -> usize {
        self.runs[..self.len].iter().flatten().map(PageRun::resident_pages).sum()
    }

    /// Sorts the runs by address and returns them in groups. The runs of a group follow each other without
    /// a gap.
    fn groups(&mut self, page_size: usize) -> impl Iterator<Item = &mut [Option<PageRun>]> {
        let start = |run: &Option<PageRun>| run.as_ref().map_or(0, |run| run.base().addr().get());
        let len = move |run: &Option<PageRun>| run.as_ref().map_or(0, |r| r.pages() * page_size);
        let runs = &mut self.runs[..self.len];
        runs.sort_unstable_by_key(start);
        runs.chunk_by_mut(move |run, next| start(run) + len(run) == start(next))
    }

    /// Returns the memory of all runs to the system, with one call for each group of adjacent runs. Clears
    /// the resident marks of those runs that the system took. Blocks.
    ///
    /// # Safety
    /// The runs must lie in live regions, and `locked` must say whether the process locks their memory.
    pub(super) unsafe fn give_back(&mut self, page_size: usize, locked: bool) {
        let bytes = |run: &PageRun| run.pages() * page_size;
        for group in self.groups(page_size) {
            let Some(Some(first)) = group.first() else { continue };
            // The call covers whole runs, not only their resident pages, because untouched pages add no
            // cost.
            let len = group.iter().flatten().map(bytes).sum();
            // SAFETY: the group is `len` bytes of adjacent runs, which lie in live regions (the caller's
            // promise). The runs' holders gave them up, so only this batch uses them.
            let whole = unsafe { mapping::give_back(first.base(), len, locked) };
            for run in group.iter_mut().flatten() {
                // If one page is locked, the system refuses the whole range. Then this tries each run
                // separately. SAFETY: as above, for this run alone.
                let gone = whole.is_ok()
                    || unsafe { mapping::give_back(run.base(), bytes(run), locked) }.is_ok();
                if gone {
                    run.mark_released(0..run.pages());
                }
            }
        }
    }

    /// Returns all runs of the batch.
    pub(super) fn into_runs(self) -> impl Iterator<Item = PageRun> {
        self.runs.into_iter().flatten()
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]
mod tests {
    use super::*;
    use core::ptr::NonNull;

    /// Makes a run whose memory is never touched: the cache reads only the run's marks.
    fn run(id: usize, pages: usize, resident: u16) -> PageRun {
        let base = core::ptr::without_provenance_mut(id * 16 * 4096);
        // SAFETY: the pointer is never dereferenced, and the run is never given to a provider.
        unsafe { PageRun::new(NonNull::new(base).unwrap(), pages, resident) }
    }

    fn id(run: &PageRun) -> usize {
        run.base().addr().get() / (16 * 4096)
    }

    #[test]
    fn the_last_freed_of_a_length_comes_first_with_its_marks() {
        let mut cache = WarmCache::default();
        for (n, pages, resident) in [(1, 2, 0b11), (2, 2, 0b10), (3, 5, 0b1_0001), (4, 2, 0b01)] {
            assert!(cache.push(run(n, pages, resident)).is_ok());
        }
        assert_eq!(cache.pages(), 6);
        assert!(cache.pop(1).is_none());
        let last = cache.pop(2).unwrap();
        assert_eq!((id(&last), last.pages(), last.resident()), (4, 2, 0b01));
        assert_eq!(cache.pop(5).unwrap().resident(), 0b1_0001);
        assert_eq!(id(&cache.pop(2).unwrap()), 2);
        assert_eq!(id(&cache.pop(2).unwrap()), 1);
        assert_eq!(cache.pages(), 0);
    }

    #[test]
    fn the_oldest_of_any_length_go_first_and_only_as_many_as_needed() {
        let mut cache = WarmCache::default();
        for n in 1..=40 {
            assert!(cache.push(run(n, n % 3 + 2, 0b11)).is_ok());
        }
        let batch = cache.take_oldest(61, u64::MAX);
        assert_eq!((batch.pages(), cache.pages()), (20, 60));
        assert!(batch.into_runs().map(|run| id(&run)).eq(1..=10));
        // Runs that were freed at or after a given time stay.
        let time = cache.now();
        assert!(cache.push(run(41, 1, 1)).is_ok());
        let batch = cache.take_oldest(0, time);
        assert!(batch.into_runs().map(|run| id(&run)).eq(11..=40));
        assert_eq!(cache.pages(), 1);
        assert!(cache.take_oldest(0, time).is_empty());
    }

    #[test]
    fn neighbours_leave_together() {
        let mut cache = WarmCache::default();
        // A run of 16 pages ends where the next one begins. Run 9 is short, so there is a gap before run
        // 10.
        for (n, pages) in [(7, 16), (3, 16), (9, 2), (10, 16), (2, 16), (8, 16), (5, 16)] {
            assert!(cache.push(run(n, pages, 1)).is_ok());
        }
        let mut batch = cache.take_oldest(0, u64::MAX);
        let groups: Vec<Vec<usize>> =
            batch.groups(4096).map(|group| group.iter().flatten().map(id).collect()).collect();
        assert_eq!(groups, [vec![2, 3], vec![5], vec![7, 8, 9], vec![10]]);
    }

    #[test]
    fn a_batch_is_bounded() {
        let mut cache = WarmCache::default();
        for n in 1..=2 * BATCH_RUNS {
            assert!(cache.push(run(n, 1, 1)).is_ok());
        }
        assert_eq!(cache.take_oldest(0, u64::MAX).into_runs().count(), BATCH_RUNS);
        assert_eq!(cache.pages(), BATCH_RUNS);
    }
}
