//! Makes room for a page when the pools are at their limit, or the system has no memory.
//!
//! The thread that stores the page makes the room, in rounds. A round writes some pages back or compacts; then
//! the thread tries to store its page again. Writing a page back frees room inside the backend's pages, and
//! objects of the same size can use that room at once. In every other round, compaction turns such room into
//! whole free pages. The thread holds no lock and no context meanwhile.
//!
//! # When it ends
//! * If a round frees nothing, it returns the reason ([`LimitReason`]), with which the page is refused. But if
//!   the page was to replace an older one, the store drops the older page first and tries again.
//! * If the device accepts writes and yet no page is left to write back, other threads hold all of the memory:
//!   pages that are under no entry yet, and objects that are being read. The thread waits for the others
//!   ([`WAITS`], [`LONGEST_WAIT`]). After that its page may exceed the limit ([`OVERDRAFT_PAGES`]). Unreadable
//!   pages lead to a refusal only if they hold all of the memory.
//! * A device that stores into the store that writes to it is refused after a few levels (`nesting.rs`).
//! * After [`ROUNDS`] rounds the page may exceed the limit as well, if there is a device. Other threads have
//!   taken the memory that those rounds freed, or the rounds freed less than a lowered limit requires.
//!
//! So a store whose device accepts writes refuses no page. Each thread exceeds the limit by at most a run of
//! pages. If more than a lowered limit is in use already, the thread adds at most a run of pages to that. Later
//! stores free the excess.

use core::time::Duration;
use std::time::Instant;

use zpool_api::PageBudget;
use zpool_api::provider::MAX_RUN_PAGES;

use crate::compaction_bound::most_steps;
use crate::counters::Counter;
use crate::entry::word::Content;
use crate::error::WritebackError;
use crate::moves::writeback::Unreadable;
use crate::pool::pools::PoolRef;
use crate::pool::{Encoded, Fault, Pool, Stored};
use crate::refusal::{LimitReason, Refusal};
use crate::sync::{MODEL, yield_now};
use crate::{SwapEntry, Zswap};

/// The most pages written back in a round.
const PAGES: usize = 32;
/// The number of pages that compaction tries to free in a round.
const COMPACTED_PAGES: usize = 8;
/// The most rounds of one store.
const ROUNDS: usize = 64;
/// How often a store waits, at most, for other threads that hold all of the memory.
const WAITS: usize = 64;
/// The time after which a store does not wait for them again.
const LONGEST_WAIT: Duration = Duration::from_millis(1);
/// The most pages by which a store exceeds the limit in the end: a backend's longest run.
const OVERDRAFT_PAGES: usize = MAX_RUN_PAGES;
/// The number of pages stored on a CPU after which the memory is summed up again.
pub(crate) const LOOK_EVERY: u64 = 128;

/// The result of a round.
enum Round {
    Freed,
    /// Other threads hold all of the memory.
    InFlight,
    /// Nothing is left to write back except this many unreadable pages, and what other threads hold.
    Unreadable(usize),
    Nothing(LimitReason),
    /// Calls that write pages back are nested too deep on this thread.
    Reentrant,
}

/// Yields to other threads, but only [`WAITS`] times and for a short while, since their turns may be long.
#[derive(Default)]
struct Patience {
    waits: usize,
    since: Option<Instant>,
}

impl Patience {
    fn wait(&mut self) -> bool {
        let since = self.since.get_or_insert_with(Instant::now);
        if self.waits == WAITS || !MODEL && since.elapsed() > LONGEST_WAIT {
            return false;
        }
        self.waits += 1;
        yield_now();
        true
    }
}

impl Zswap {
    /// Makes room for a page, and puts it into a pool that had no room for it.
    #[cold]
    pub(crate) fn put_after_reclaim(
        &self,
        entry: SwapEntry,
        pool: &PoolRef<'_>,
        kept: &Encoded,
        shortage: Fault,
        keep_older: bool,
    ) -> Result<Stored, Refusal> {
        if shortage.is_limit() {
            self.counters.add(Counter::PoolLimitHit, 1);
        }
        let mut shortage = shortage;
        let mut older_may_go = !keep_older;
        let mut patience = Patience::default();
        for round in 0..ROUNDS {
            match self.reclaim(round) {
                Round::Freed => {}
                // Wait for the other threads, unless no memory is in use: then they have none to free.
                Round::InFlight | Round::Unreadable(_)
                    if self.limits.budget().used() > 0 && patience.wait() => {}
                Round::InFlight => break,
                // Memory besides these pages is in use, or was until now: the page may exceed the limit.
                Round::Unreadable(pages) if self.are_not_all(pages, pool) => break,
                Round::Unreadable(_) => {
                    return Err(self.no_room(shortage, LimitReason::Unreadable));
                }
                Round::Reentrant => return Err(Refusal::Fault(Fault::Reentrant)),
                Round::Nothing(_) if older_may_go && self.give_up_older(entry) => {
                    older_may_go = false;
                }
                Round::Nothing(reason) => return Err(self.no_room(shortage, reason)),
            }
            match pool.put_again(kept) {
                Err(fault) if fault.is_shortage() => shortage = fault,
                put => return put.map_err(Refusal::Fault),
            }
        }
        if self.slots().is_none() {
            return Err(self.no_room(shortage, LimitReason::NoDevice));
        }
        let mut put = self.put_beyond_use(pool, kept);
        for _again in 1..ROUNDS {
            match put {
                // Other threads have taken more meanwhile.
                Err(fault) if fault.is_limit() => put = self.put_beyond_use(pool, kept),
                _ => break,
            }
        }
        put.map_err(Refusal::Fault)
    }

    /// Puts a page into a pool. The page may exceed the limit by a run of pages, or, if more than the limit is
    /// in use, add a run of pages to that.
    fn put_beyond_use(&self, pool: &Pool, kept: &Encoded) -> Result<Stored, Fault> {
        let budget = self.limits.budget();
        let over = budget.used().saturating_sub(budget.limit());
        let run = OVERDRAFT_PAGES.saturating_mul(pool.page_size());
        PageBudget::with_allowance(over.saturating_add(run), || pool.put_again(kept))
    }

    /// Calls `put`, and allows it to exceed the limit by a run of pages.
    pub(crate) fn beyond_limits<T>(&self, pool: &Pool, put: impl FnOnce() -> T) -> T {
        PageBudget::with_allowance(OVERDRAFT_PAGES.saturating_mul(pool.page_size()), put)
    }

    /// Returns the refusal of a page for which a round found nothing to free. At the limit, closes a store
    /// without a device.
    fn no_room(&self, shortage: Fault, reason: LimitReason) -> Refusal {
        if !shortage.is_limit() {
            return Refusal::Fault(shortage);
        }
        if reason == LimitReason::NoDevice {
            self.limits.close();
        }
        Refusal::Limit(reason)
    }

    /// Drops the page of an entry that is about to be overwritten, if the page takes pool memory or a slot of
    /// the device; returns whether it dropped one.
    fn give_up_older(&self, entry: SwapEntry) -> bool {
        let older = self.index.peek(entry.key()).content();
        matches!(older, Content::Stored { .. } | Content::OnDevice(_)) && self.invalidate(entry)
    }

    /// Does one round of making room.
    fn reclaim(&self, round: usize) -> Round {
        if self.limits.max_all().is_some() {
            self.trim();
            self.refresh_limits();
        }
        if self.limits.reopen_if_shrunk() {
            return Round::Freed;
        }
        let (written, why) = self.write_back_for_room();
        if written > 0 {
            self.limits.reopen();
            if round % 2 == 0 {
                return Round::Freed;
            }
        }
        if self.compact_for_room(written > 0) || written > 0 {
            return Round::Freed;
        }
        why
    }

    /// Returns whether memory is in use besides these `objects` objects, each of at most a page.
    fn are_not_all(&self, objects: usize, pool: &Pool) -> bool {
        let most = objects.saturating_mul(pool.page_size());
        most < self.limits.budget().limit() || objects < self.objects()
    }

    /// Counts the objects in the pools, including freed ones that readers still keep.
    fn objects(&self) -> usize {
        self.pools.all().map(|pool| pool.stats()).fold(0, |sum: usize, stats| {
            sum.saturating_add(stats.objects).saturating_add(stats.parked_objects)
        })
    }

    /// Writes some pages back. Returns how many, and the result of the round in case no other memory is freed.
    fn write_back_for_room(&self) -> (usize, Round) {
        if self.slots().is_none() {
            return (0, Round::Nothing(LimitReason::NoDevice));
        }
        while self.device_health.may_try() {
            let done = self.write_back_some(PAGES, Unreadable::PassedBy, &|| false);
            let why = match done.error {
                // The next page may succeed; `may_try` decides whether to try it.
                Some(WritebackError::Device { .. }) if done.pages == 0 => continue,
                Some(WritebackError::Device { .. }) => Round::Nothing(LimitReason::DeviceFailed),
                Some(WritebackError::DeviceFull { .. }) => Round::Nothing(LimitReason::DeviceFull),
                Some(WritebackError::Reentrant) => Round::Reentrant,
                // Writeback was switched off meanwhile.
                Some(_) => Round::Nothing(LimitReason::NoDevice),
                None if done.unreadable > 0 => Round::Unreadable(done.unreadable),
                None => Round::InFlight,
            };
            return (done.pages, why);
        }
        (0, Round::Nothing(LimitReason::DeviceFailed))
    }

    /// Frees some pages by compaction, in the first pool where it can; returns whether it did. Calls each pool
    /// once if other memory was freed (`briefly`); otherwise, until the pool reports that it is complete.
    fn compact_for_room(&self, briefly: bool) -> bool {
        self.pools.all().filter(|pool| pool.can_compact()).any(|pool| {
            // Each call covers only some of the objects present at first, and a backend may never report that
            // it is complete.
            let calls = if briefly { 1 } else { most_steps(pool.stats().objects, 0) };
            for _ in 0..calls {
                match pool.compact_some(COMPACTED_PAGES) {
                    Ok(won) if won.pages > 0 => return true,
                    Ok(won) if won.complete => return false,
                    Ok(_) => {}
                    // The backend cannot compact.
                    Err(_) => return false,
                }
            }
            false
        })
    }

    /// Sums up all memory except the pools' pages, if `max_bytes` is set.
    pub(crate) fn refresh_limits(&self) {
        if self.limits.max_all().is_some() {
            self.limits.refresh(self.memory_beside_pools());
        }
    }

    /// Called after each page stored in a store with a limit. Every [`LOOK_EVERY`] pages on a CPU, sums up the
    /// memory again and, if more than the limit is in use, frees some.
    pub(crate) fn look_at_limits(&self) {
        if self.counters.tick(Counter::Stores) % LOOK_EVERY == 0 {
            self.refresh_limits();
            let budget = self.limits.budget();
            if budget.used() > budget.limit() {
                self.reclaim(1);
            }
        }
    }
}
