//! Deliberate panics in a round's codecs and backends.
//!
//! They bypass the panic hook, so the hook records only the panics that are not deliberate. The clock's stamp
//! at the last deliberate panic is kept, so that one can ask whether a panic has occurred since an
//! operation began.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use zpool_base::sync::test_rng::Rng;

use crate::clock::Clock;

/// Decides which calls panic, at random. `Send` and `Sync`.
#[derive(Debug)]
pub struct Panics {
    clock: Arc<Clock>,
    /// How many calls in 1000 panic.
    often: usize,
    off: AtomicBool,
    last: AtomicU64,
}

impl Panics {
    /// Makes a source of panics: of 1000 calls, `often` panic.
    pub fn new(often: usize, clock: Arc<Clock>) -> Self {
        Panics { clock, often, off: AtomicBool::new(false), last: AtomicU64::new(0) }
    }

    /// Stops panicking.
    pub fn end(&self) {
        self.off.store(true, Ordering::SeqCst);
    }

    /// Panics or returns, at random.
    pub fn maybe(&self) {
        if self.often == 0 || self.off.load(Ordering::SeqCst) {
            return;
        }
        // A new stamp for each call: otherwise all calls between two stamps would draw the same number.
        let stamp = self.clock.stamp();
        if Rng::new(stamp).below(1000) < self.often {
            self.last.fetch_max(stamp, Ordering::SeqCst);
            std::panic::resume_unwind(Box::new("torture ordered this panic"));
        }
    }

    /// Returns whether a panic occurred at or after a stamp.
    pub fn since(&self, stamp: u64) -> bool {
        self.last.load(Ordering::SeqCst) >= stamp
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn they_come_as_often_as_ordered_and_leave_their_stamp() {
        let clock = Arc::new(Clock::default());
        let count = |panics: &Panics| {
            (0..1000).filter(|_| catch_unwind(AssertUnwindSafe(|| panics.maybe())).is_err()).count()
        };
        let (none, some) = (Panics::new(0, clock.clone()), Panics::new(100, clock.clone()));
        assert_eq!((count(&none), none.since(1)), (0, false));
        assert!(!some.since(1));
        let before = clock.stamp();
        let n = count(&some);
        assert!((50..150).contains(&n), "{n}");
        assert!(some.since(before) && !some.since(clock.stamp()));
        some.end();
        assert_eq!(count(&some), 0);
    }
}
