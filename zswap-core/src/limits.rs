//! How much the pools may hold, and when they take pages again after they were full.

use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

/// Stores between looks at the pools that are not current.
const LOOK_EVERY: u32 = 64;

/// The limit of a store.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Bytes of pages with objects at which stores are refused.
    max: usize,
    /// Bytes below which they are accepted again.
    accept: usize,
    /// Refused, until there is less than `accept`.
    closed: AtomicBool,
    /// Bytes in pools that are not current, as they were a while ago.
    others: AtomicUsize,
    stores: AtomicU32,
}

/// Whether a store may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Open,
    /// At the limit: some pages have to go first.
    Full,
    /// Refused since the limit was reached, and still above what is accepted again.
    Closed,
}

impl Limits {
    pub(crate) fn new(max: usize, accept_percent: u8) -> Self {
        Limits {
            max,
            accept: percent_of(max, accept_percent),
            closed: AtomicBool::new(false),
            others: AtomicUsize::new(0),
            stores: AtomicU32::new(0),
        }
    }

    /// The limit in bytes.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Looks at the bytes of the current pool and, now and then, of the others.
    pub(crate) fn admit(&self, current: usize, others: impl FnOnce() -> usize) -> Admission {
        // Relaxed, all here: numbers that are a little old lead to a page more or less.
        if self.stores.fetch_add(1, Ordering::Relaxed) % LOOK_EVERY == 0 {
            // Relaxed: as above.
            self.others.store(others(), Ordering::Relaxed);
        }
        // Relaxed: as above.
        self.judge(current + self.others.load(Ordering::Relaxed))
    }

    /// What so many bytes mean.
    pub(crate) fn judge(&self, bytes: usize) -> Admission {
        // Relaxed: as above.
        if self.closed.load(Ordering::Relaxed) {
            if bytes > self.accept {
                return Admission::Closed;
            }
            // Relaxed: as above.
            self.closed.store(false, Ordering::Relaxed);
        }
        if bytes >= self.max { Admission::Full } else { Admission::Open }
    }

    /// Refuses stores until there is less than is accepted again.
    pub(crate) fn close(&self) {
        // Relaxed: as above.
        self.closed.store(true, Ordering::Relaxed);
    }
}

/// So many percent of a number of bytes, 100 at most, rounded down; no product overflows.
pub(crate) fn percent_of(bytes: usize, percent: u8) -> usize {
    let percent = usize::from(percent.min(100));
    bytes / 100 * percent + bytes % 100 * percent / 100
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_full_store_accepts_again_below_the_threshold_only() {
        let limits = Limits::new(1000, 80);
        assert_eq!(limits.judge(999), Admission::Open);
        assert_eq!(limits.judge(1000), Admission::Full);
        assert_eq!(limits.judge(999), Admission::Open, "not closed until somebody says so");
        limits.close();
        assert_eq!([999, 801].map(|bytes| limits.judge(bytes)), [Admission::Closed; 2]);
        assert_eq!(limits.judge(800), Admission::Open);
        assert_eq!(limits.judge(999), Admission::Open);
    }

    #[test]
    fn percent_are_rounded_down_and_never_overflow() {
        use super::percent_of as percent;
        assert_eq!([0, 1, 99, 100, 255].map(|p| percent(250, p)), [0, 2, 247, 250, 250]);
        assert_eq!([0, 1, 99, 100, 199].map(|bytes| percent(bytes, 50)), [0, 0, 49, 50, 99]);
        assert_eq!(percent(usize::MAX, 100), usize::MAX);
        assert_eq!(Limits::new(usize::MAX, 255).max(), usize::MAX);
    }

    #[test]
    fn other_pools_count_too() {
        let limits = Limits::new(1000, 100);
        assert_eq!(limits.admit(400, || 600), Admission::Full);
        assert_eq!(limits.admit(399, || panic!("not looked at each time")), Admission::Open);
        // They have grown, which is noticed in time.
        let noticed = |_: &u32| limits.admit(399, || 601) == Admission::Full;
        assert_eq!((2..).find(noticed), Some(LOOK_EVERY));
    }
}
