//! What the program is asked and told about its pages: the listener and the filter.
//!
//! Both are called with no lock and no compression context held, so they may call the store. A panic ends there:
//! it is counted, and for the filter it counts as "not clean".

use std::sync::Arc;

use zpool_base::contained::contain;

use crate::counters::Counter;
use crate::{SwapEntry, Zswap};

/// How a page left the pools or the store. The listener
/// ([`ZswapBuilder::listener`](crate::ZswapBuilder::listener)) is called with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Departure {
    /// It was written back: it is on the device, and can be loaded from there.
    WrittenBack,
    /// It was dropped instead of being written back, since the filter said that it is clean. The store does not
    /// have it any more.
    DroppedClean,
    /// It was dropped because a newer page for its entry was refused, or to make room for that page. The call that
    /// stores the newer page returns an error, or the newer page is there when the call returns.
    Superseded,
    /// The program dropped it: by [`Zswap::invalidate`] or [`Zswap::invalidate_area`].
    Invalidated,
    /// The program took it: by [`Zswap::take`].
    Taken,
}

pub(crate) type Listener = Arc<dyn Fn(SwapEntry, Departure) + Send + Sync>;
pub(crate) type CleanFilter = Arc<dyn Fn(SwapEntry) -> bool + Send + Sync>;

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
