//! When a page that is loaded from the device comes back into a pool: the policy, and how long a while is.
//!
//! By default a page is promoted by its second load within a while. The while is measured in pages: it ends when as
//! many pages as the pools hold have been written back. The second load counts in the while of the first and in the
//! next one. A page that is loaded twice so soon would have stayed in a pool that is a little larger. The word of an
//! entry has two bits for the number of the current while; after four of them the number recurs, and a page may be
//! promoted although its loads were further apart.

use crate::sync::atomic::{AtomicU64, Ordering};

/// Says when a page that is loaded from the device comes back into a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Promotion {
    /// Never: it stays on the device until it is replaced.
    Never,
    /// At its second load within a while: before the store has written back about as many pages as its pools
    /// hold. If the pages in use do not fit in the pools, and a background shrinker makes room for them, then pages
    /// come and go, and each that goes is written.
    #[default]
    SecondLoad,
    /// At each load.
    Always,
}

/// The number of the current while.
#[derive(Debug, Default)]
pub(crate) struct Turnover {
    /// Pages written back since the while began.
    written: AtomicU64,
    number: AtomicU64,
}

impl Turnover {
    /// Notes that pages were written back from pools that now hold `held` pages.
    pub(crate) fn note(&self, pages: usize, held: u64) {
        // Relaxed, here and below: a hint for promotion, which publishes nothing.
        let written = self.written.fetch_add(pages as u64, Ordering::Relaxed) + pages as u64;
        if written >= held.max(1) {
            // Relaxed: as above. If two threads come here, one while is short.
            self.written.store(0, Ordering::Relaxed);
            self.number.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of the current while, modulo 4.
    pub(crate) fn now(&self) -> u8 {
        // Relaxed: as in `note`.
        (self.number.load(Ordering::Relaxed) & 3) as u8
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_while_ends_when_the_pools_were_written_back_once() {
        let turnover = Turnover::default();
        turnover.note(40, 100);
        turnover.note(59, 100);
        assert_eq!(turnover.now(), 0);
        turnover.note(1, 100);
        assert_eq!(turnover.now(), 1);
        (0..3).for_each(|_| turnover.note(1, 0));
        assert_eq!(turnover.now(), 0, "it is counted modulo 4");
    }
}
