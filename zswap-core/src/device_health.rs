//! Decides when to try a failed device again.
//!
//! A store at its limit writes pages to the device to make room. After each of the first two failures in a
//! row, it tries another page at once. After the third failure it makes no such writes for a millisecond, and
//! each further failure doubles this pause, up to 64 ms. So stores at the limit do not all wait for a device
//! that is gone. One successful write ends the pauses. Loads, and writes by [`shrink`](crate::Zswap::shrink)
//! and the background shrinker, do not wait for a pause to end.
//!
//! Each area uses the same for the program's filter: it fails when it calls no page of the area clean.

use core::time::Duration;
use std::time::Instant;

use crate::sync::Mutex;

/// After this many failures in a row, the first pause starts.
const PATIENCE: u32 = 3;
/// The length of the first pause. Each further pause is twice as long as the one before, up to
/// [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// The number of failures in a row, and the time at which the device may be tried again. The mutex is held
/// for one read or update, and no other lock is taken under it.
#[derive(Debug, Default)]
pub(crate) struct DeviceHealth(Mutex<Failures>);

#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    not_before: Option<Instant>,
}

impl DeviceHealth {
    /// Returns whether the device may be tried now.
    pub(crate) fn may_try(&self) -> bool {
        self.may_try_at(Instant::now)
    }

    fn may_try_at(&self, now: impl FnOnce() -> Instant) -> bool {
        let not_before = self.0.lock().not_before;
        not_before.is_none_or(|time| now() >= time)
    }

    /// Notes that a write succeeded. This ends the pauses.
    pub(crate) fn succeeded(&self) {
        *self.0.lock() = Failures::default();
    }

    /// Notes that a write failed. After several failures in a row, this starts a pause.
    pub(crate) fn failed(&self) {
        self.failed_at(Instant::now());
    }

    fn failed_at(&self, now: Instant) {
        let mut failures = self.0.lock();
        failures.in_a_row = failures.in_a_row.saturating_add(1);
        if let Some(pauses) = failures.in_a_row.checked_sub(PATIENCE) {
            let pause = FIRST_PAUSE.saturating_mul(1 << pauses.min(16)).min(LONGEST_PAUSE);
            failures.not_before = now.checked_add(pause);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_after_some_failures_and_end_with_a_success() {
        let (health, start) = (DeviceHealth::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        let may = |ms| health.may_try_at(|| after(ms));
        for _ in 1..PATIENCE {
            health.failed_at(start);
            assert!(may(0));
        }
        let pauses = [1, 2, 4, 8, 16, 32, 64, 64, 64].map(|pause| {
            health.failed_at(start);
            !may(pause - 1) && may(pause)
        });
        assert_eq!(pauses, [true; 9]);
        health.succeeded();
        assert!(may(0));
        health.failed_at(start);
        assert!(may(0), "a new row");
    }
}
