//! Calls the listener and the filter of the program.
//!
//! Both are called with no lock and no compression context held, so they may call the store. A panic ends there:
//! it is counted, and for the filter it counts as "not clean".

use zpool_base::contained::contain;

use crate::counters::Counter;
use crate::departure::Departure;
use crate::{SwapEntry, Zswap};

impl Zswap {
    /// Calls the listener, if there is one. The caller holds no lock.
    #[inline]
    pub(crate) fn notify(&self, entry: SwapEntry, departure: Departure) {
        if let Some(listener) = &*self.listener {
            if contain(|| listener(entry, departure)).is_err() {
                self.areas.of(entry).counters.add(Counter::ListenerPanics, 1);
            }
        }
    }

    /// Asks the filter whether the page of an entry is clean. The caller holds no lock.
    pub(crate) fn is_clean(&self, entry: SwapEntry) -> bool {
        let Some(filter) = &*self.clean_filter else { return false };
        contain(|| filter(entry)).unwrap_or_else(|_| {
            self.areas.of(entry).counters.add(Counter::ListenerPanics, 1);
            false
        })
    }
}
