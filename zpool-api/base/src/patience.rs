//! Waiting for other threads that hold what this one needs, but not for ever.

use core::time::Duration;
use std::time::Instant;

use crate::sync::{MODEL, yield_now};

/// After this many waits, each further one sleeps.
const YIELDS: usize = 64;
/// How long a wait sleeps.
const NAP: Duration = Duration::from_micros(100);
/// The most waits under the model checker, where time does not pass.
const WAITS_IN_A_MODEL: usize = 64;

/// Yields to other threads, then sleeps. Ends after a number of waits, or after a time, since each may take long.
///
/// ```
/// use core::time::Duration;
/// use zpool_base::patience::Patience;
///
/// let mut patience = Patience::new(3, Duration::from_secs(1));
/// let waited = (0..).take_while(|_| patience.wait()).count();
/// assert_eq!(waited, 3);
/// ```
#[derive(Debug)]
pub struct Patience {
    most: usize,
    longest: Duration,
    waits: usize,
    since: Option<Instant>,
}

impl Patience {
    /// Makes one that waits at most `most` times, and begins no wait after `longest`.
    pub fn new(most: usize, longest: Duration) -> Self {
        let most = if MODEL { most.min(WAITS_IN_A_MODEL) } else { most };
        Patience { most, longest, waits: 0, since: None }
    }

    /// Waits a little. Returns false, at once, if it has waited enough. Under the model checker it waits at most 64
    /// times.
    ///
    /// # Blocking
    /// Sleeps, after the first 64 waits for 100 microseconds each.
    pub fn wait(&mut self) -> bool {
        let since = self.since.get_or_insert_with(Instant::now);
        if self.waits >= self.most || !MODEL && since.elapsed() > self.longest {
            return false;
        }
        self.waits += 1;
        if MODEL || self.waits <= YIELDS {
            yield_now();
        } else {
            std::thread::sleep(NAP);
        }
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn it_ends_after_a_number_of_waits_or_a_time() {
        let mut few = Patience::new(3, Duration::from_secs(3600));
        assert_eq!([(); 5].map(|()| few.wait()), [true, true, true, false, false]);
        let mut short = Patience::new(usize::MAX, Duration::from_millis(5));
        let waits = (0..).take_while(|_| short.wait()).count();
        assert!(waits > 0 && !short.wait());
    }
}
