//! Limits the memory that a store takes.
//!
//! There are two limits: `max_pool_bytes` bounds the pages with objects, and `max_bytes` bounds everything
//! that the store keeps. Each may be set or not, and changed at any time. Together they give one number: the
//! limit of the [`PageBudget`] that all pools of the store share. A backend charges the budget when a page
//! becomes resident. So an object that fits into existing room is not charged, and the store need not read
//! its pools' figures before it stores a page.
//!
//! Everything else that the store keeps (index, patterns, contexts, device tables, pages kept warm) counts
//! towards `max_bytes`, too. As that grows, less is left for the pools. [`Limits::refresh`] is given the new
//! sum periodically, and whenever the budget refuses a page.
//!
//! `accept_threshold_percent`, a share of the limit, matters for a store without a device, or with writeback
//! switched off. When such a store has refused a page, it is closed until its pools have shrunk to that share.
//! While it is closed, the budget's limit is that share, and new objects can use only the free room inside the
//! pools.

use std::sync::Arc;

use zpool_api::PageBudget;

use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The limits of a store, and the budget of its pools.
#[derive(Debug)]
pub(crate) struct Limits {
    budget: Arc<PageBudget>,
    /// The limit on the bytes of pages with objects; `usize::MAX` for no limit.
    max_pool: AtomicUsize,
    /// The limit on the bytes of everything; `usize::MAX` for no limit.
    max_all: AtomicUsize,
    /// The bytes of everything except the pools' pages with objects, as of the last refresh.
    rest: AtomicUsize,
    accept_percent: u8,
    /// Set when a full store has refused a page. The pools may then not grow until they hold at most
    /// `accept_percent` of the limit.
    closed: AtomicBool,
}

impl Limits {
    pub(crate) fn new(max_pool: Option<usize>, max_all: Option<usize>, accept_percent: u8) -> Self {
        Self::over(PageBudget::new(usize::MAX), max_pool, max_all, accept_percent)
    }

    /// Makes the limits of a part of the store, with a limit `max_pool` of its own. What the part uses counts in
    /// the store's budget, too.
    pub(crate) fn part(&self, max_pool: Option<usize>) -> Self {
        Self::over(PageBudget::part_of(self.budget.clone()), max_pool, None, self.accept_percent)
    }

    fn over(
        budget: PageBudget,
        max_pool: Option<usize>,
        max_all: Option<usize>,
        accept_percent: u8,
    ) -> Self {
        let limits = Limits {
            budget: Arc::new(budget),
            max_pool: AtomicUsize::new(max_pool.unwrap_or(usize::MAX)),
            max_all: AtomicUsize::new(max_all.unwrap_or(usize::MAX)),
            rest: AtomicUsize::new(0),
            accept_percent,
            closed: AtomicBool::new(false),
        };
        limits.apply();
        limits
    }

    /// Returns whether a refusal with this limit may be that of these limits, open or closed.
    pub(crate) fn may_be(&self, limit: usize) -> bool {
        let whole = self.pool_limit();
        limit == whole || limit == percent_of(whole, self.accept_percent)
    }

    /// Returns whether `bytes` more bytes would exceed the limit of the pools.
    pub(crate) fn refuse(&self, bytes: usize) -> bool {
        self.budget.used().saturating_add(bytes) > self.in_force()
    }

    /// Returns the budget to which the pools charge their pages.
    pub(crate) fn budget(&self) -> &Arc<PageBudget> {
        &self.budget
    }

    /// Returns the bytes that the pages with objects may take now: `max_pool`, or what everything else leaves
    /// of `max_all` if that is less; `usize::MAX` if there is no limit.
    pub(crate) fn pool_limit(&self) -> usize {
        // Relaxed, throughout this file: these settings and sums publish nothing. With a stale value, the
        // pools may for a moment hold more or less than they should.
        let (max_pool, max_all) =
            (self.max_pool.load(Ordering::Relaxed), self.max_all.load(Ordering::Relaxed));
        // Relaxed: as in `pool_limit`.
        let rest = if max_all == usize::MAX { 0 } else { self.rest.load(Ordering::Relaxed) };
        max_pool.min(max_all.saturating_sub(rest))
    }

    /// Returns the percentage of the limit at which a closed store opens again.
    pub(crate) fn accept_percent(&self) -> u8 {
        self.accept_percent
    }

    /// Returns whether there is a limit on the pools.
    pub(crate) fn is_limited(&self) -> bool {
        self.pool_limit() != usize::MAX
    }

    /// Returns the limit on everything; `None` if there is no such limit.
    pub(crate) fn max_all(&self) -> Option<usize> {
        // Relaxed: as in `pool_limit`.
        Some(self.max_all.load(Ordering::Relaxed)).filter(|max| *max != usize::MAX)
    }

    pub(crate) fn set_max_pool(&self, max: Option<usize>) {
        // Relaxed: as in `pool_limit`.
        self.max_pool.store(max.unwrap_or(usize::MAX), Ordering::Relaxed);
        self.reopen();
    }

    pub(crate) fn set_max_all(&self, max: Option<usize>) {
        // Relaxed: as in `pool_limit`.
        self.max_all.store(max.unwrap_or(usize::MAX), Ordering::Relaxed);
        self.reopen();
    }

    /// Notes that everything except the pools' pages with objects takes `rest` bytes, and applies the limits.
    pub(crate) fn refresh(&self, rest: usize) {
        // Relaxed: as in `pool_limit`.
        self.rest.store(rest, Ordering::Relaxed);
        self.apply();
    }

    /// Returns the bytes of everything except the pools' pages with objects, as of the last refresh.
    pub(crate) fn rest(&self) -> usize {
        // Relaxed: as in `pool_limit`.
        self.rest.load(Ordering::Relaxed)
    }

    /// Returns the limit of the pools, or the share of it that a closed store has.
    fn in_force(&self) -> usize {
        let limit = self.pool_limit();
        // Relaxed: as in `pool_limit`.
        let closed = self.closed.load(Ordering::Relaxed);
        let percent = if closed { self.accept_percent } else { 100 };
        if limit == usize::MAX { limit } else { percent_of(limit, percent) }
    }

    fn apply(&self) {
        self.budget.set_limit(self.in_force());
    }

    /// Closes the store if its accept threshold is below 100 percent. Called when a full store has no device, or
    /// writeback is switched off.
    pub(crate) fn close(&self) {
        if self.accept_percent < 100 {
            // Relaxed: as in `pool_limit`.
            self.closed.store(true, Ordering::Relaxed);
            self.apply();
        }
    }

    /// Opens a closed store if its pools have shrunk enough. Returns whether it opened one.
    pub(crate) fn reopen_if_shrunk(&self) -> bool {
        // Relaxed: as in `pool_limit`.
        let shrunk = self.closed.load(Ordering::Relaxed)
            && self.budget.used() <= percent_of(self.pool_limit(), self.accept_percent);
        if shrunk {
            self.reopen();
        }
        shrunk
    }

    /// Opens the store if it is closed, and applies the limits.
    pub(crate) fn reopen(&self) {
        // Relaxed: as in `pool_limit`.
        self.closed.store(false, Ordering::Relaxed);
        self.apply();
    }
}

/// Returns `percent` percent of `bytes`, rounded down, without overflow. More than 100 counts as 100.
pub(crate) fn percent_of(bytes: usize, percent: u8) -> usize {
    let percent = usize::from(percent.min(100));
    bytes / 100 * percent + bytes % 100 * percent / 100
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_lesser_limit_counts_and_both_may_change() {
        let limits = Limits::new(Some(1000), None, 100);
        assert_eq!((limits.budget().limit(), limits.is_limited()), (1000, true));
        limits.set_max_all(Some(1500));
        limits.refresh(600);
        assert_eq!(limits.budget().limit(), 900);
        limits.refresh(2000);
        assert_eq!((limits.budget().limit(), limits.rest()), (0, 2000));
        limits.set_max_all(None);
        limits.set_max_pool(Some(7));
        assert_eq!(limits.budget().limit(), 7);
        limits.set_max_pool(None);
        assert_eq!((limits.budget().limit(), limits.is_limited()), (usize::MAX, false));
    }

    #[test]
    fn a_closed_store_takes_pages_again_at_the_threshold_and_not_before() {
        let limits = Limits::new(Some(1000), None, 80);
        limits.budget().charge(1000).unwrap();
        limits.close();
        limits.budget().uncharge(199);
        assert!(!limits.reopen_if_shrunk() && limits.budget().charge(1).is_err());
        limits.budget().uncharge(1);
        assert!(limits.reopen_if_shrunk() && !limits.reopen_if_shrunk());
        limits.budget().charge(200).unwrap();
        assert!(limits.budget().charge(1).is_err());
    }

    #[test]
    fn without_a_threshold_nothing_is_ever_closed() {
        let limits = Limits::new(Some(1000), None, 100);
        limits.budget().charge(999).unwrap();
        limits.close();
        limits.budget().charge(1).unwrap();
        assert!(!limits.reopen_if_shrunk());
    }

    #[test]
    fn percent_are_rounded_down_and_never_overflow() {
        use super::percent_of as percent;
        assert_eq!([0, 1, 99, 100, 255].map(|p| percent(250, p)), [0, 2, 247, 250, 250]);
        assert_eq!([0, 1, 99, 100, 199].map(|bytes| percent(bytes, 50)), [0, 0, 49, 50, 99]);
        assert_eq!(percent(usize::MAX, 100), usize::MAX);
    }
}
