//! How pages leave the pools or the store without being overwritten, and the functions of the program that are called
//! about it.

use std::sync::Arc;

use crate::entry::SwapEntry;

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
    /// The program dropped it: by [`Zswap::invalidate`](crate::Zswap::invalidate) or
    /// [`Zswap::invalidate_area`](crate::Zswap::invalidate_area).
    Invalidated,
    /// The program took it: by [`Zswap::take`](crate::Zswap::take).
    Taken,
}

pub(crate) type Listener = Arc<dyn Fn(SwapEntry, Departure) + Send + Sync>;
pub(crate) type CleanFilter = Arc<dyn Fn(SwapEntry) -> bool + Send + Sync>;
