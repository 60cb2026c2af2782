//! An area: the pages of one `swap_type`, with pools, limits, policy and figures of its own.
//!
//! The words of entries name a pool by its place among the pools of one area. So the area of an entry must never
//! change while the entry holds a page. [`table::Areas`] sees to that.

pub(crate) mod handle;
pub(crate) mod settings;
pub(crate) mod table;

use crate::counters::Counters;
use crate::device_health::DeviceHealth;
use crate::limits::Limits;
use crate::moves::cursors::Cursors;
use crate::moves::promotion::Promotion;
use crate::pool::pools::Pools;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What the store keeps for an area.
#[derive(Debug)]
pub(crate) struct Area {
    /// The `swap_type`; `None` for the area that all other types share.
    pub(crate) swap_type: Option<u8>,
    pub(crate) pools: Pools,
    /// The limit of the area alone. Its budget is a part of the store's.
    pub(crate) limits: Limits,
    /// While the pools hold at most this many bytes, other areas' pages go first.
    protected: AtomicUsize,
    pub(crate) writeback: Switch,
    pub(crate) promotion: Promotion,
    /// Fails when the filter calls no page of the area clean.
    pub(crate) clean_health: DeviceHealth,
    pub(crate) counters: Counters,
    /// The places in the index at which the next walks over the area start.
    pub(crate) cursors: Cursors,
}

impl Area {
    pub(crate) fn new(
        swap_type: Option<u8>,
        pools: Pools,
        limits: Limits,
        promotion: Promotion,
    ) -> Self {
        Area {
            swap_type,
            pools,
            limits,
            protected: AtomicUsize::new(0),
            writeback: Switch::new(true),
            promotion,
            clean_health: DeviceHealth::default(),
            counters: Counters::new(),
            cursors: Cursors::default(),
        }
    }

    /// Returns the bytes that the area takes beside its pools.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.counters.memory_bytes() + self.pools.memory_bytes()
    }

    pub(crate) fn set_protected(&self, bytes: usize) {
        // Relaxed: a setting, which publishes nothing.
        self.protected.store(bytes, Ordering::Relaxed);
    }

    /// Returns by how many bytes the pools exceed what is protected. Returns `None` if they do not, so that
    /// pages of other areas go first.
    pub(crate) fn excess(&self) -> Option<usize> {
        // Relaxed: as in `set_protected`.
        let protected = self.protected.load(Ordering::Relaxed);
        let used = self.limits.budget().used();
        (protected == 0 || used > protected).then(|| used.saturating_sub(protected))
    }
}

/// An on-off setting that may change at any time.
#[derive(Debug)]
pub(crate) struct Switch(AtomicBool);

impl Switch {
    pub(crate) fn new(on: bool) -> Self {
        Switch(AtomicBool::new(on))
    }

    pub(crate) fn get(&self) -> bool {
        // Relaxed: a setting, which publishes nothing.
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, on: bool) {
        // Relaxed: as in `get`.
        self.0.store(on, Ordering::Relaxed);
    }
}
