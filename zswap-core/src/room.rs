//! Makes room for a page when the pools of its area or of the whole store are at their limit, or when the system
//! has no memory.
//!
//! If the area is at its own limit, only its own pages make room. If the store is, the pages of the area that
//! exceeds its protected bytes most go first (`moves/victims.rs`).
//!
//! The thread that stores the page makes the room, in rounds. In a round it writes full segments of pages back or
//! compacts; then it tries to store its page again. Writing a page back frees room inside the backend's
//! pages, and objects of the same size can use that room at once. In every other round, compaction turns such
//! room into whole free pages. The thread holds no lock and no context between these calls.
//!
//! # When it ends
//! * If a round frees nothing, the page is refused with the reason that the round returned ([`LimitReason`]).
//!   But if the page was to replace an older one, the store first drops the older page and tries again
//!   (`try_replace` does not).
//! * The device may accept writes although no page is left to write back. Then other threads hold the memory:
//!   in pages that are under no entry yet, and in objects that are being read. The thread waits for them
//!   ([`WAITS`], [`LONGEST_WAIT`]). After that its page may exceed the limit ([`OVERDRAFT_PAGES`]). If
//!   unreadable pages hold all of the memory, the page is refused.
//! * A device may store pages into the very store that writes to it. After a few levels of such nested calls,
//!   the store refuses the page (`nesting.rs`).
//! * If pages of the area that asks for room may not be written to the device, its page does not exceed the limit. It
//!   is refused when other areas can give no more room.
//! * After [`ROUNDS`] rounds the page may exceed the limit as well, if there is a device. In this case other
//!   threads have taken the memory that those rounds freed, or the rounds freed less than a lowered limit
//!   requires.
//!
//! So, at its limit, a store whose device accepts writes refuses a page only if unreadable pages hold all of
//! the memory, if calls are nested too deeply, or if other threads take the room again and again. Each thread
//! exceeds the limit by at most a run of pages. If the limit was lowered and more is already in use, each
//! thread adds at most a run of pages. Later stores free the excess.

use core::time::Duration;
use std::sync::Arc;

use zpool_api::{MAX_RUN_PAGES, PageBudget};
use zpool_base::patience::Patience;

use crate::area::Area;
use crate::compaction_bound::most_steps;
use crate::counters::Counter;
use crate::departure::Departure;
use crate::entry::word::Content;
use crate::error::WritebackError;
use crate::limits::Limits;
use crate::moves::victims::From;
use crate::moves::writeback::{Amount, Device, Unreadable};
use crate::pool::pools::PoolRef;
use crate::pool::{Encoded, Fault, Pool, Stored};
use crate::refusal::{LimitReason, Refusal};
use crate::{SwapEntry, Zswap};

/// The number of pages that compaction tries to free in a round.
const COMPACTED_PAGES: usize = 8;
/// The most rounds that one stored page takes.
const ROUNDS: usize = 64;
/// The most waits of one store for other threads that hold all of the memory. Fewer than [`ROUNDS`], so that a store
/// in which they were in vain ends with the reason.
const WAITS: usize = 48;
/// If a store has waited for this long in all, it does not wait again.
const LONGEST_WAIT: Duration = Duration::from_millis(1);
/// To store one page, the pools may exceed the limit by this many pages, the length of the longest run. If the
/// limit is exceeded already, `put_beyond_use` lets them grow by this many more.
const OVERDRAFT_PAGES: usize = MAX_RUN_PAGES;
/// The memory is summed up again each time a CPU has stored this many pages.
pub(crate) const LOOK_EVERY: u64 = 128;

/// The result of a round.
enum Round {
    Freed,
    /// Other threads hold all of the memory.
    InFlight,
    /// Nothing could be written back: this many pages are unreadable, and other threads may hold more memory.
    Unreadable(usize),
    Nothing(LimitReason),
    /// Calls that write pages back are nested too deeply on this thread.
    Reentrant,
}

/// What is at its limit.
#[derive(Clone, Copy, Debug)]
enum Full<'s> {
    /// This area.
    Area(&'s Area),
    /// The whole store, or the system. The area asks for room.
    Store(&'s Area),
}

impl Full<'_> {
    fn is_area(self) -> bool {
        matches!(self, Full::Area(_))
    }
}

impl Zswap {
    /// Makes room for a page, and puts it into `pool`, which had no room for it (`shortage`). Returns the
    /// refusal if that fails. If `keep_older`, does not drop the entry's older page to make room.
    #[cold]
    pub(crate) fn put_after_reclaim(
        &self,
        entry: SwapEntry,
        pool: &PoolRef<'_>,
        kept: &Encoded<'_>,
        shortage: Fault,
        keep_older: bool,
    ) -> Result<Stored, Refusal> {
        let area = self.areas.of(entry);
        if shortage.is_limit() {
            area.counters.add(Counter::PoolLimitHit, 1);
        }
        let mut shortage = shortage;
        let mut older_may_go = !keep_older;
        let mut protected_may_go = false;
        let mut patience = Patience::new(WAITS, LONGEST_WAIT);
        for round in 0..ROUNDS {
            let full = self.what_is_full(area, &shortage);
            match self.reclaim(full, round, protected_may_go) {
                Round::Freed => {}
                // Wait for the other threads. If no memory is in use, they have none to free, and waiting is
                // useless.
                Round::InFlight | Round::Unreadable(_)
                    if self.limits_of(full).budget().used() > 0 && patience.wait() => {}
                // Rather than let each area exceed the limit, write back protected pages from now on.
                Round::InFlight | Round::Unreadable(_) if !protected_may_go && !full.is_area() => {
                    protected_may_go = true;
                    continue;
                }
                Round::InFlight => break,
                // Other memory than these pages is in use, or was until now. So the page may exceed the
                // limit.
                Round::Unreadable(pages) if self.are_not_all(full, pages, pool) => break,
                Round::Unreadable(_) => {
                    return Err(self.no_room(full, shortage, LimitReason::Unreadable));
                }
                Round::Reentrant => return Err(Refusal::Fault(Fault::Reentrant)),
                Round::Nothing(reason) => {
                    // Another thread may have made room since.
                    if shortage.is_limit() {
                        match pool.put_again(kept) {
                            Err(fault) if fault.is_shortage() => shortage = fault,
                            put => return put.map_err(Refusal::Fault),
                        }
                    }
                    // The limit that refused it now may be another one.
                    if self.what_is_full(area, &shortage).is_area() != full.is_area() {
                        continue;
                    }
                    if !older_may_go || !self.give_up_older(entry) {
                        return Err(self.no_room(full, shortage, reason));
                    }
                    older_may_go = false;
                }
            }
            match pool.put_again(kept) {
                Err(fault) if fault.is_shortage() => shortage = fault,
                put => return put.map_err(Refusal::Fault),
            }
        }
        if self.device_of(area).is_none() {
            let full = self.what_is_full(area, &shortage);
            return Err(self.no_room(full, shortage, LimitReason::NoDevice));
        }
        let mut put = self.put_beyond_use(area, pool, kept);
        for _again in 1..ROUNDS {
            match put {
                // Other threads have taken more memory since the overdraft was computed.
                Err(fault) if fault.is_limit() => put = self.put_beyond_use(area, pool, kept),
                _ => break,
            }
        }
        put.map_err(Refusal::Fault)
    }

    /// Puts a page into a pool. The page may exceed the limit by a run of pages. If more than the limit is
    /// already in use, it may add a run of pages.
    fn put_beyond_use(
        &self,
        area: &Area,
        pool: &Pool,
        kept: &Encoded<'_>,
    ) -> Result<Stored, Fault> {
        let over = |limits: &Limits| {
            let budget = limits.budget();
            budget.used().saturating_sub(budget.limit())
        };
        let over = over(&self.limits).max(over(&area.limits));
        let run = OVERDRAFT_PAGES.saturating_mul(pool.page_size());
        PageBudget::with_allowance(over.saturating_add(run), || pool.put_again(kept))
    }

    /// Calls `put`, and allows it to exceed the limit by a run of pages.
    pub(crate) fn beyond_limits<T>(&self, pool: &Pool, put: impl FnOnce() -> T) -> T {
        PageBudget::with_allowance(OVERDRAFT_PAGES.saturating_mul(pool.page_size()), put)
    }

    /// Returns the refusal of a page after a round that freed nothing. If the limit refused the page, and there
    /// is no device or writeback is switched off, also closes what is full.
    fn no_room(&self, full: Full<'_>, shortage: Fault, reason: LimitReason) -> Refusal {
        if !shortage.is_limit() {
            return Refusal::Fault(shortage);
        }
        let limits = self.limits_of(full);
        if reason == LimitReason::NoDevice {
            limits.close();
        }
        Refusal::Limit { reason, limit: limits.pool_limit() }
    }

    /// Drops the older page of an entry, if that page takes pool memory or room on the device. Returns
    /// whether it dropped one.
    fn give_up_older(&self, entry: SwapEntry) -> bool {
        let older = self.index.peek(entry.key()).content();
        matches!(older, Content::Stored { .. } | Content::OnDevice(_))
            && self.drop_page(entry, Departure::Superseded)
    }

    /// Returns what is at its limit, after a pool of the area had no room. The error has the limit that refused.
    fn what_is_full<'s>(&self, area: &'s Area, shortage: &Fault) -> Full<'s> {
        match shortage.refused_limit() {
            // The store's limit changes as its tables grow, so it is compared only if both may be meant.
            Some(limit)
                if area.limits.is_limited()
                    && area.limits.may_be(limit)
                    && (limit != self.limits.budget().limit() || area.limits.refuse(1)) =>
            {
                Full::Area(area)
            }
            _ => Full::Store(area),
        }
    }

    /// Returns the limits of what is full.
    fn limits_of<'a>(&'a self, full: Full<'a>) -> &'a Limits {
        match full {
            Full::Area(area) => &area.limits,
            Full::Store(_) => &self.limits,
        }
    }

    /// Returns the pools of what is full.
    fn pools_of<'a>(&'a self, full: Full<'a>) -> impl Iterator<Item = Arc<Pool>> {
        let (one, all) = match full {
            Full::Area(area) => (Some(area.pools.all()), None),
            Full::Store(_) => (None, Some(self.all_pools())),
        };
        one.into_iter().flatten().chain(all.into_iter().flatten())
    }

    /// Does one round of making room. Returns `Freed` if it freed something, otherwise the reason why not.
    /// `protected_too`: also writes protected pages of other areas back.
    fn reclaim(&self, full: Full<'_>, round: usize, protected_too: bool) -> Round {
        if self.limits.max_all().is_some() {
            self.trim();
            self.refresh_limits();
        }
        let limits = self.limits_of(full);
        if limits.reopen_if_shrunk() {
            return Round::Freed;
        }
        let (written, why) = self.write_back_for_room(full, protected_too);
        if written > 0 {
            limits.reopen();
            if round % 2 == 0 {
                return Round::Freed;
            }
        }
        if self.compact_for_room(full, written > 0) || written > 0 {
            return Round::Freed;
        }
        why
    }

    /// Returns whether more memory is in use than `objects` objects take. Each object takes at most a page of the pool,
    /// or the pages of a unit.
    fn are_not_all(&self, full: Full<'_>, objects: usize, pool: &Pool) -> bool {
        let most = objects.saturating_mul(pool.most_of_object());
        most < self.limits_of(full).budget().limit() || objects < self.objects(full)
    }

    /// Counts the objects in the pools of what is full. Includes objects that were freed while they were being read, since
    /// they stay until the last reader ends.
    fn objects(&self, full: Full<'_>) -> usize {
        self.pools_of(full).map(|pool| pool.stats()).fold(0, |sum: usize, stats| {
            sum.saturating_add(stats.objects).saturating_add(stats.parked_objects)
        })
    }

    /// Writes some pages back. Returns their number, and the result that the round has if it frees nothing.
    fn write_back_for_room(&self, full: Full<'_>, protected_too: bool) -> (usize, Round) {
        let from = match full {
            Full::Area(area) => From::Area(area),
            Full::Store(_) if protected_too => From::All,
            Full::Store(area) => From::Excess { last: Some(area) },
        };
        let drop_clean = || {
            let unused = Device::Unused;
            self.write_back_some(from, unused, Amount::Room, Unreadable::PassedBy, &|| false).pages
        };
        while self.device_health.may_try() {
            let used = Device::Used;
            let done =
                self.write_back_some(from, used, Amount::Room, Unreadable::PassedBy, &|| false);
            let why = match done.error {
                // The write of another page may succeed. `may_try` decides whether to try one.
                Some(WritebackError::Device { .. }) if done.pages == 0 => continue,
                Some(WritebackError::Device { .. }) => Round::Nothing(LimitReason::DeviceFailed),
                Some(WritebackError::DeviceFull { .. }) if done.pages == 0 => {
                    // Clean pages need no device.
                    return (drop_clean(), Round::Nothing(LimitReason::DeviceFull));
                }
                Some(WritebackError::DeviceFull { .. }) => Round::Nothing(LimitReason::DeviceFull),
                Some(WritebackError::Reentrant) => Round::Reentrant,
                // No page may be written, and none is clean.
                Some(_) => Round::Nothing(LimitReason::NoDevice),
                None if done.unreadable > 0 => Round::Unreadable(done.unreadable),
                None if self.are_stuck(full) => Round::Nothing(LimitReason::NoDevice),
                None => Round::InFlight,
            };
            return (done.pages, why);
        }
        // Clean pages need no device.
        (drop_clean(), Round::Nothing(LimitReason::DeviceFailed))
    }

    /// Returns whether the pages that hold the memory cannot be written back: those of the area that asks for room
    /// may not be, and areas whose pages may be have none in their pools.
    fn are_stuck(&self, full: Full<'_>) -> bool {
        let (Full::Area(asks) | Full::Store(asks)) = full;
        let uses = |area: &Area| area.limits.budget().used() > 0;
        let may_go = |area: &Area| self.device_of(area).is_some();
        let others = || self.areas.all().any(|area| may_go(area) && uses(area));
        !may_go(asks) && (full.is_area() || !others())
    }

    /// Compacts one pool after another until one of them frees a page. Returns whether one did. If `briefly`,
    /// because other memory was freed, calls each pool once; otherwise until it reports that it is complete.
    fn compact_for_room(&self, full: Full<'_>, briefly: bool) -> bool {
        self.pools_of(full).filter(|pool| pool.can_compact()).any(|pool| {
            // Each call moves only some of the objects, and a faulty backend may never report that it is
            // complete. So the number of calls is limited.
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

    /// Called after each page is stored in an area, if the area or the store has a limit. After every
    /// [`LOOK_EVERY`] pages on a CPU, sums up the memory again. Then, if more than a limit is in use, does a round
    /// of making room.
    pub(crate) fn look_at_limits(&self, area: &Area) {
        let is_time = |area: &Area| area.counters.tick(Counter::Stores) % LOOK_EVERY == 0;
        if area.swap_type.is_some() && is_time(area) && area.limits.refuse(0) {
            self.reclaim(Full::Area(area), 1, false);
        }
        // Stores of all areas count: many areas with few stores each fill the store, too.
        if is_time(self.areas.shared()) {
            self.refresh_limits();
            if self.limits.refuse(0) {
                self.reclaim(Full::Store(area), 1, false);
            }
        }
    }
}
