//! A limit on the bytes of pages that several pools hold together.

use core::cell::Cell;
use std::sync::Arc;
// Always std's, not loom's: these numbers order nothing.
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::PageError;

/// A limit on the resident pages of all pools that share it.
///
/// A backend with a budget ([`ZpoolConfig::budget`](crate::ZpoolConfig)) charges it before a page becomes
/// resident. It uncharges it after the page has left the pool's `total_pages`. So an object that fits into a
/// resident page charges nothing. A pool stops growing exactly at the limit: then an allocation fails with
/// [`PageError::Limit`] and changes nothing.
///
/// `Send` and `Sync`. Never blocks. It is written when pages come and go, not for each object.
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
    /// Bytes charged, as [`settled`] reads them.
    used: AtomicUsize,
    /// Every charge of this budget is also made to the parent, and only the parent's limit counts.
    parent: Option<Arc<PageBudget>>,
}

thread_local! {
    /// Bytes by which this thread's charges may exceed a limit.
    static ALLOWANCE: Cell<usize> = const { Cell::new(0) };
}

/// Holds the previous allowance and restores it on drop, even if the work panics.
struct Restore(usize);

impl Drop for Restore {
    fn drop(&mut self) {
        let _ = ALLOWANCE.try_with(|allowance| allowance.set(self.0));
    }
}

impl PageBudget {
    /// Makes a budget of `limit` bytes. `usize::MAX` means no limit.
    pub const fn new(limit: usize) -> Self {
        PageBudget { limit: AtomicUsize::new(limit), used: AtomicUsize::new(0), parent: None }
    }

    /// Makes a part of `parent`. It counts what one of several pools uses. The parent's limit applies to all
    /// its parts together.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zpool_api::PageBudget;
    ///
    /// let whole = Arc::new(PageBudget::new(8192));
    /// let (one, two) = (PageBudget::part_of(whole.clone()), PageBudget::part_of(whole.clone()));
    /// one.charge(8192).unwrap();
    /// assert!(two.charge(4096).is_err());
    /// assert_eq!((one.used(), two.used(), whole.used()), (8192, 0, 8192));
    /// ```
    pub const fn part_of(parent: Arc<PageBudget>) -> Self {
        let (limit, used) = (AtomicUsize::new(usize::MAX), AtomicUsize::new(0));
        PageBudget { limit, used, parent: Some(parent) }
    }

    /// Takes `bytes` from the budget. Takes nothing if they do not fit.
    ///
    /// # Errors
    /// [`PageError::Limit`] if they would exceed the limit plus this thread's allowance
    /// ([`PageBudget::with_allowance`]), or `isize::MAX` bytes, more than any address space holds.
    pub fn charge(&self, bytes: usize) -> Result<(), PageError> {
        if let Some(parent) = &self.parent {
            parent.charge(bytes)?;
            // Relaxed: as below.
            self.used.fetch_add(bytes, Ordering::Relaxed);
            return Ok(());
        }
        let limit = self.limit();
        // Relaxed, here and below: the sum publishes nothing; an RMW reads its latest value.
        let relaxed = Ordering::Relaxed;
        let charged = self.used.fetch_update(relaxed, relaxed, |used| within(used, bytes, limit));
        let Err(used) = charged else { return Ok(()) };
        let most = with_allowed(limit);
        let charged = self.used.fetch_update(relaxed, relaxed, |used| within(used, bytes, most));
        charged.map(drop).map_err(|_| PageError::Limit { bytes, used: settled(used), limit })
    }

    /// Checks whether [`PageBudget::charge`] would succeed now. Takes nothing.
    ///
    /// # Errors
    /// Those of [`PageBudget::charge`].
    pub fn check(&self, bytes: usize) -> Result<(), PageError> {
        if let Some(parent) = &self.parent {
            return parent.check(bytes);
        }
        let (used, limit) = (self.used(), self.limit());
        let fits = within(used, bytes, with_allowed(limit));
        fits.map(drop).ok_or(PageError::Limit { bytes, used, limit })
    }

    /// Takes `bytes` regardless of the limit. For pages that are needed to free others, as in compaction.
    pub fn charge_beyond(&self, bytes: usize) {
        self.shift(bytes);
    }

    /// Adds `by`, a wrapped number if it is negative, to this sum and to those of all parents. Returns what
    /// was charged here before.
    fn shift(&self, by: usize) -> usize {
        if let Some(parent) = &self.parent {
            parent.shift(by);
        }
        // Relaxed: as in `charge`.
        self.used.fetch_add(by, Ordering::Relaxed)
    }

    /// Returns `bytes`, charged earlier, to the budget.
    ///
    /// # Panics
    /// In debug builds, if fewer were charged.
    pub fn uncharge(&self, bytes: usize) {
        // Not compared with the parent's sum: the `set_used` of another part may be half done there.
        let used = self.shift(bytes.wrapping_neg());
        debug_assert!(
            used >= bytes,
            "{bytes} bytes returned to a budget of which only {used} are in use"
        );
    }

    /// Bytes charged now.
    pub fn used(&self) -> usize {
        // Relaxed: as in `charge`.
        settled(self.used.load(Ordering::Relaxed))
    }

    /// Sets the charge to `bytes`, regardless of the limit. For a pool that charges nothing itself: a caller
    /// that knows its size sets it here.
    pub fn set_used(&self, bytes: usize) {
        // Relaxed: as in `charge`. Each of two concurrent callers changes the parent by its own difference.
        let before = self.used.swap(bytes, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            // A negative difference may arrive before the positive one that it follows: `settled` reads the
            // sum meanwhile.
            parent.shift(bytes.wrapping_sub(before));
        }
    }

    /// Returns the limit in bytes; for a part, its parent's limit.
    pub fn limit(&self) -> usize {
        if let Some(parent) = &self.parent {
            return parent.limit();
        }
        // Relaxed: as in `charge`.
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes the limit. Has no effect on a part. If more than the new limit is charged already, those
    /// charges stay.
    pub fn set_limit(&self, limit: usize) {
        // Relaxed: as in `charge`.
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Runs `work` and returns its result. Meanwhile this thread's charges may exceed the limit of any budget
    /// by `bytes`. Replaces an outer allowance until `work` ends.
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

/// Returns `used + bytes`, or `None` if that exceeds `most` or what any address space holds.
fn within(used: usize, bytes: usize, most: usize) -> Option<usize> {
    let together = settled(used).checked_add(bytes)?;
    (together <= most.min(LARGEST)).then(|| used.wrapping_add(bytes))
}

/// No budget has more bytes charged.
const LARGEST: usize = isize::MAX as usize;

/// Returns the bytes that a sum stands for. While two threads call [`PageBudget::set_used`] of a part, the
/// parent's sum may be negative for a moment, that is, wrapped: it stands for 0.
fn settled(used: usize) -> usize {
    if used > LARGEST { 0 } else { used }
}

/// `limit` plus this thread's allowance.
fn with_allowed(limit: usize) -> usize {
    limit.saturating_add(ALLOWANCE.try_with(Cell::get).unwrap_or(0))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// What the parent's sum is when one of two `set_used` of a part has arrived before the other.
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
