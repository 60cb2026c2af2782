//! A limit on the bytes of pages that several pools hold together.

use core::cell::Cell;
use std::sync::Arc;
// Always the types of std, even under loom: no other memory access is ordered by these numbers.
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::PageError;

/// A limit on the resident pages of all pools that share it.
///
/// A backend that has a budget ([`ZpoolConfig::budget`](crate::ZpoolConfig)) charges each page to it before
/// the page becomes resident. The backend returns the bytes after the page has left the pool's
/// `total_pages`. So an object that fits into resident pages charges nothing. Pools stop growing exactly at
/// the limit: an allocation that would exceed the limit fails with [`PageError::Limit`] and changes
/// nothing. Compaction and migration may exceed the limit ([`PageBudget::charge_beyond`]).
///
/// `Send` and `Sync`. Never blocks. A budget is written to only when pages come and go, not for each
/// object.
///
/// ```
/// use zpool_api::{PageBudget, PageError};
/// let budget = PageBudget::new(8192);
/// budget.charge(8192)?;
/// assert!(matches!(budget.charge(4096), Err(PageError::Limit { .. })));
/// budget.uncharge(4096);
/// assert_eq!(budget.used(), 4096);
/// # Ok::<(), PageError>(())
/// ```
#[derive(Debug)]
pub struct PageBudget {
    limit: AtomicUsize,
    /// The sum of all charges, wrapped around if it is negative. [`settled`] turns it into a number of
    /// bytes.
    used: AtomicUsize,
    /// The budget that this one is part of. Every charge is also made to the parent, and both limits count.
    parent: Option<Arc<PageBudget>>,
}

thread_local! {
    /// Number of bytes by which this thread's charges may exceed a limit.
    static ALLOWANCE: Cell<usize> = const { Cell::new(0) };
}

/// Holds the previous allowance, and restores it on drop, even after a panic.
struct Restore(usize);

impl Drop for Restore {
    fn drop(&mut self) {
        let _ = ALLOWANCE.try_with(|allowance| allowance.set(self.0));
    }
}

impl PageBudget {
    /// Makes a budget with a limit of `limit` bytes. `usize::MAX` means no limit.
    pub const fn new(limit: usize) -> Self {
        PageBudget { limit: AtomicUsize::new(limit), used: AtomicUsize::new(0), parent: None }
    }

    /// Makes a budget that is a part of `parent`, for instance to count what one of several pools uses. The
    /// part's charges are made to the parent, too. The parent's limit applies to all its parts together. The
    /// part has no limit of its own until [`PageBudget::set_limit`] gives it one.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zpool_api::PageBudget;
    ///
    /// let whole = Arc::new(PageBudget::new(8192));
    /// let (one, two) = (PageBudget::part_of(whole.clone()), PageBudget::part_of(whole.clone()));
    /// one.set_limit(4096);
    /// one.charge(4096).unwrap();
    /// assert!(one.charge(1).is_err(), "the part is at its own limit");
    /// two.charge(4096).unwrap();
    /// assert!(two.charge(1).is_err(), "the whole is at its limit");
    /// assert_eq!((one.used(), two.used(), whole.used()), (4096, 4096, 8192));
    /// ```
    pub const fn part_of(parent: Arc<PageBudget>) -> Self {
        let (limit, used) = (AtomicUsize::new(usize::MAX), AtomicUsize::new(0));
        PageBudget { limit, used, parent: Some(parent) }
    }

    /// Charges `bytes` to the budget. Charges nothing if they do not fit.
    ///
    /// # Errors
    /// [`PageError::Limit`] if the sum of all charges would exceed the limit plus this thread's allowance
    /// ([`PageBudget::with_allowance`]), or `isize::MAX` bytes, which is more than any address space holds.
    /// The error has the figures of the budget that refused: of a part or of its parent.
    pub fn charge(&self, bytes: usize) -> Result<(), PageError> {
        self.charge_own(bytes)?;
        // The part first: until it is undone, a charge that the parent refuses is in the way of this part's
        // charges only.
        let Some(parent) = &self.parent else { return Ok(()) };
        let charged = parent.charge(bytes);
        if charged.is_err() {
            // Relaxed: as in `charge_own`.
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        charged
    }

    /// Charges `bytes` to this budget, and not to its parents.
    fn charge_own(&self, bytes: usize) -> Result<(), PageError> {
        let limit = self.own_limit();
        // Relaxed, here and below: the sum publishes nothing, and an atomic update always reads its latest
        // value.
        let relaxed = Ordering::Relaxed;
        let charged = self.used.fetch_update(relaxed, relaxed, |used| within(used, bytes, limit));
        let Err(used) = charged else { return Ok(()) };
        let most = with_allowed(limit);
        let charged = self.used.fetch_update(relaxed, relaxed, |used| within(used, bytes, most));
        charged.map(drop).map_err(|_| PageError::Limit { bytes, used: settled(used), limit })
    }

    /// Checks whether [`PageBudget::charge`] would succeed now. Charges nothing.
    ///
    /// # Errors
    /// Those of [`PageBudget::charge`].
    pub fn check(&self, bytes: usize) -> Result<(), PageError> {
        let (used, limit) = (self.used(), self.own_limit());
        let fits = within(used, bytes, with_allowed(limit));
        fits.map(drop).ok_or(PageError::Limit { bytes, used, limit })?;
        self.parent.as_ref().map_or(Ok(()), |parent| parent.check(bytes))
    }

    /// Charges `bytes`, whatever the limit. Meant for pages that are needed to free other pages, as in
    /// compaction.
    pub fn charge_beyond(&self, bytes: usize) {
        self.shift(bytes);
    }

    /// Adds `by` to this sum and to the sums of all parents. A negative `by` is passed as a wrapped number.
    /// Returns this sum as it was before.
    fn shift(&self, by: usize) -> usize {
        if let Some(parent) = &self.parent {
            parent.shift(by);
        }
        // Relaxed: as in `charge_own`.
        self.used.fetch_add(by, Ordering::Relaxed)
    }

    /// Returns `bytes` that were charged earlier to the budget.
    ///
    /// # Panics
    /// In debug builds, panics if fewer bytes are charged.
    pub fn uncharge(&self, bytes: usize) {
        // Only this sum is checked, not the parent's: while another part's `set_used` runs, the parent's
        // sum may be too low.
        let used = self.shift(bytes.wrapping_neg());
        debug_assert!(
            used >= bytes,
            "{bytes} bytes returned to a budget of which only {used} are in use"
        );
    }

    /// Returns the number of bytes charged now.
    pub fn used(&self) -> usize {
        // Relaxed: as in `charge_own`.
        settled(self.used.load(Ordering::Relaxed))
    }

    /// Sets the number of charged bytes to `bytes`, whatever the limit. Meant for a pool that charges
    /// nothing itself, if a caller knows the pool's size.
    pub fn set_used(&self, bytes: usize) {
        // Relaxed: as in `charge_own`. If two threads call this at once, each changes the parent by its own
        // difference.
        let before = self.used.swap(bytes, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            // One thread's negative difference may reach the parent before the other thread's earlier
            // positive one. Until both have arrived, `settled` handles the negative sum.
            parent.shift(bytes.wrapping_sub(before));
        }
    }

    /// Returns the limit in bytes: the least of this budget's own limit and those of its parents.
    pub fn limit(&self) -> usize {
        let own = self.own_limit();
        self.parent.as_ref().map_or(own, |parent| own.min(parent.limit()))
    }

    fn own_limit(&self) -> usize {
        // Relaxed: as in `charge_own`.
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes this budget's own limit. Bytes that are charged already stay charged, even if they exceed the
    /// new limit.
    pub fn set_limit(&self, limit: usize) {
        // Relaxed: as in `charge_own`.
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Runs `work` and returns its result. While `work` runs, this thread's charges may exceed the limit of
    /// any budget by `bytes`. In a nested call, only the inner allowance counts until the inner `work`
    /// ends.
    ///
    /// ```
    /// use zpool_api::PageBudget;
    ///
    /// let budget = PageBudget::new(0);
    /// assert!(budget.charge(4096).is_err());
    /// PageBudget::with_allowance(4096, || budget.charge(4096)).unwrap();
    /// ```
    pub fn with_allowance<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
        let before = ALLOWANCE.try_with(|allowance| allowance.replace(bytes)).unwrap_or(0);
        let _restore = Restore(before);
        work()
    }
}

/// Returns the wrapped sum `used + bytes`, or `None` if the bytes together exceed `most` or [`LARGEST`].
fn within(used: usize, bytes: usize, most: usize) -> Option<usize> {
    let together = settled(used).checked_add(bytes)?;
    (together <= most.min(LARGEST)).then(|| used.wrapping_add(bytes))
}

/// The most bytes that can be charged to a budget.
const LARGEST: usize = isize::MAX as usize;

/// Turns a sum into a number of bytes. While two threads call [`PageBudget::set_used`] on a part, the
/// parent's sum may be negative for a moment. A negative sum is stored wrapped, so it is above [`LARGEST`];
/// it counts as 0.
fn settled(used: usize) -> usize {
    if used > LARGEST { 0 } else { used }
}

/// Returns `limit` plus this thread's allowance.
fn with_allowed(limit: usize) -> usize {
    limit.saturating_add(ALLOWANCE.try_with(Cell::get).unwrap_or(0))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Makes the sum of the parent negative, as it can be for a moment while two threads call `set_used`:
    /// only the negative difference has reached the parent.
    #[test]
    fn a_sum_that_is_negative_for_a_moment_refuses_nothing() {
        let whole = Arc::new(PageBudget::new(8192));
        let part = PageBudget::part_of(whole.clone());
        part.charge(4096).unwrap();
        whole.used.fetch_sub(8192, Ordering::Relaxed);
        assert_eq!((whole.used(), part.used()), (0, 4096));
        part.check(8192).unwrap();
        part.charge(8192).unwrap();
        part.uncharge(8192);
        whole.used.fetch_add(8192, Ordering::Relaxed);
        assert_eq!((whole.used(), part.used()), (4096, 4096));
        assert!(part.check(8192).is_err());
        assert!(PageBudget::new(usize::MAX).charge(usize::MAX / 2 + 1).is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused_whole() {
        let budget = PageBudget::new(10);
        budget.charge(4).unwrap();
        assert_eq!(budget.charge(7), Err(PageError::Limit { bytes: 7, used: 4, limit: 10 }));
        budget.charge(6).unwrap();
        budget.charge_beyond(5);
        assert_eq!((budget.used(), budget.limit()), (15, 10));
        budget.uncharge(15);
        budget.set_limit(usize::MAX);
        budget.charge(LARGEST).unwrap();
        assert!(budget.charge(1).is_err());
    }

    #[test]
    fn a_part_of_a_part_counts_in_all_of_them() {
        let whole = Arc::new(PageBudget::new(10));
        let part = Arc::new(PageBudget::part_of(whole.clone()));
        let inner = PageBudget::part_of(part.clone());
        inner.set_used(6);
        assert_eq!((whole.used(), part.used(), inner.used()), (6, 6, 6));
        inner.set_used(2);
        inner.charge_beyond(1);
        inner.uncharge(3);
        assert_eq!((whole.used(), part.used(), inner.used()), (0, 0, 0));
    }

    #[test]
    fn a_check_says_what_a_charge_would_and_takes_nothing() {
        let whole = Arc::new(PageBudget::new(10));
        let part = PageBudget::part_of(whole.clone());
        whole.charge(4).unwrap();
        let refused = Err(PageError::Limit { bytes: 7, used: 4, limit: 10 });
        assert_eq!((part.check(7), whole.check(7)), (refused.clone(), refused));
        assert_eq!((part.check(6), part.check(usize::MAX).is_err()), (Ok(()), true));
        PageBudget::with_allowance(1, || part.check(7)).unwrap();
        assert_eq!((whole.used(), part.used()), (4, 0));
    }

    #[test]
    fn a_part_is_charged_with_its_whole() {
        let whole = Arc::new(PageBudget::new(10));
        let (one, two) = (PageBudget::part_of(whole.clone()), PageBudget::part_of(whole.clone()));
        one.charge(6).unwrap();
        assert!(two.charge(5).is_err());
        two.charge_beyond(5);
        assert_eq!((one.used(), two.used(), whole.used(), one.limit()), (6, 5, 11, 10));
        one.set_used(2);
        assert_eq!((one.used(), whole.used()), (2, 7));
        two.uncharge(5);
        one.set_used(0);
        assert_eq!((two.used(), whole.used()), (0, 0));
    }

    #[test]
    fn a_part_with_a_limit_refuses_before_its_parent_does() {
        let whole = Arc::new(PageBudget::new(10));
        let (one, two) = (PageBudget::part_of(whole.clone()), PageBudget::part_of(whole.clone()));
        one.set_limit(4);
        one.charge(3).unwrap();
        let own = Err(PageError::Limit { bytes: 2, used: 3, limit: 4 });
        assert_eq!((one.charge(2), one.check(2)), (own.clone(), own));
        two.charge(7).unwrap();
        // One more is within the part's limit, but not within the whole's. It leaves no trace.
        let whole_s = Err(PageError::Limit { bytes: 1, used: 10, limit: 10 });
        assert_eq!((one.charge(1), one.check(1)), (whole_s.clone(), whole_s));
        assert_eq!((one.used(), two.used(), whole.used()), (3, 7, 10));
        assert_eq!((one.limit(), two.limit()), (4, 10));
        PageBudget::with_allowance(1, || one.charge(2)).unwrap_err();
        PageBudget::with_allowance(2, || one.charge(2)).unwrap();
        assert_eq!((one.used(), whole.used()), (5, 12));
        one.set_limit(usize::MAX);
        two.uncharge(7);
        one.charge(5).unwrap();
        one.uncharge(10);
        assert_eq!((one.used(), whole.used()), (0, 0));
    }

    #[test]
    fn an_allowance_ends_with_its_work() {
        let budget = PageBudget::new(10);
        budget.charge(10).unwrap();
        PageBudget::with_allowance(3, || {
            assert!(budget.charge(4).is_err());
            budget.charge(3).unwrap();
            assert!(budget.charge(1).is_err());
        });
        let panicked = std::panic::catch_unwind(|| {
            PageBudget::with_allowance(9, || panic!("on purpose"));
        });
        assert!(panicked.is_err() && budget.charge(1).is_err());
    }
}
