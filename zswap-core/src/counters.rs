//! An area's counters. Each CPU has its own shard, so CPUs do not contend when they count.
//!
//! Only the sum of a counter over all shards is meaningful. A single shard falls below zero if, for instance,
//! pages are stored on another CPU and taken on this one. (`Stores` is the exception: each CPU uses its own
//! shard, to count up to its next check of the limits.) The sums serve statistics and `Zswap::len`, and the
//! background shrinker chooses its effort by them. Writeback bounds itself by the number of pages in the pools. Nothing else depends on them.

// Always std's, not loom's: no model covers the counters.
use std::sync::atomic::{AtomicI64, Ordering};

use crossbeam_utils::CachePadded;

use crate::refusal::LimitReason;
use crate::stats::ZswapStats;
use zpage::cpu;

/// The counters. Where the kernel has the same counter, the name is the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Counter {
    StoredPages,
    SameFilledPages,
    IncompressiblePages,
    RejectCompressPoor,
    RejectCompressFail,
    RejectAllocFail,
    DecompressFail,
    CorruptPages,
    PoolLimitHit,
    RejectReclaimFail,
    RejectNoDevice,
    RejectDeviceFull,
    RejectDeviceFail,
    RejectUnreadable,
    RejectMemoryLimit,
    WrittenBackPages,
    /// Clean pages that were dropped instead of being written back.
    DroppedCleanPages,
    /// Pages that are on the device now.
    DevicePages,
    DeviceLoads,
    PromotedPages,
    /// Entries that the clock of writeback has visited.
    ClockEntries,
    /// Leaves of the index that the clock of writeback has visited.
    ClockLeaves,
    /// Calls of the listener or the filter that panicked.
    ListenerPanics,
    /// Pages stored while the store has a limit. Decides when the store sums up its memory again.
    Stores,
}

const COUNTERS: usize = Counter::Stores as usize + 1;

impl Counter {
    /// Returns the counter for refusals with this reason.
    pub(crate) fn of_limit(reason: LimitReason) -> Self {
        match reason {
            LimitReason::NoDevice => Counter::RejectNoDevice,
            LimitReason::DeviceFull => Counter::RejectDeviceFull,
            LimitReason::DeviceFailed => Counter::RejectDeviceFail,
            LimitReason::Unreadable => Counter::RejectUnreadable,
        }
    }
}

/// All counters of an area.
#[derive(Debug)]
pub(crate) struct Counters {
    shards: Box<[CachePadded<[AtomicI64; COUNTERS]>]>,
}

impl Counters {
    pub(crate) fn new() -> Self {
        let shard = |_| CachePadded::new(core::array::from_fn(|_| AtomicI64::new(0)));
        Counters { shards: (0..cpu::places()).map(shard).collect() }
    }

    /// Adds `n` to a counter. Wait-free.
    #[inline]
    pub(crate) fn add(&self, counter: Counter, n: i64) {
        self.add_on(cpu::current(), counter, n);
    }

    /// Adds one to a counter. Returns what this CPU's shard counted before that.
    #[inline]
    pub(crate) fn tick(&self, counter: Counter) -> u64 {
        self.add_on(cpu::current(), counter, 1) as u64
    }

    /// Adds `n` to the shard of a CPU, and returns the shard's value before that. A CPU that was added after
    /// the store was made shares another CPU's shard.
    #[inline]
    fn add_on(&self, cpu: usize, counter: Counter, n: i64) -> i64 {
        // The number of shards is a power of two.
        let shard = &self.shards[cpu & (self.shards.len() - 1)];
        // Relaxed: a statistic, which publishes nothing.
        shard[counter as usize].fetch_add(n, Ordering::Relaxed)
    }

    /// Returns the bytes of the shards.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.shards)
    }

    /// Returns the sum of a counter, or 0 if the sum is below zero.
    pub(crate) fn get(&self, counter: Counter) -> u64 {
        sum(core::iter::once(self), counter)
    }
}

/// Returns the sum of a counter over several sets of counters, or 0 if the sum is below zero.
pub(crate) fn sum<'a>(counters: impl Iterator<Item = &'a Counters>, counter: Counter) -> u64 {
    let shards = counters.flat_map(|counters| counters.shards.iter());
    // Relaxed: as in `add_on`.
    let sum: i64 = shards.map(|shard| shard[counter as usize].load(Ordering::Relaxed)).sum();
    sum.max(0) as u64
}

/// Returns about how many pages are in pools, from the counters that `get` returns.
pub(crate) fn pooled_pages(get: impl Fn(Counter) -> u64) -> u64 {
    let elsewhere = get(Counter::SameFilledPages) + get(Counter::DevicePages);
    get(Counter::StoredPages).saturating_sub(elsewhere)
}

/// Returns statistics that have only the counters' figures, which `get` returns. All other figures are 0.
pub(crate) fn stats(get: impl Fn(Counter) -> u64) -> ZswapStats {
    ZswapStats {
        stored_pages: get(Counter::StoredPages) as usize,
        same_filled_pages: get(Counter::SameFilledPages) as usize,
        stored_incompressible_pages: get(Counter::IncompressiblePages) as usize,
        device_pages: get(Counter::DevicePages) as usize,
        reject_compress_poor: get(Counter::RejectCompressPoor),
        reject_compress_fail: get(Counter::RejectCompressFail),
        reject_alloc_fail: get(Counter::RejectAllocFail),
        decompress_fail: get(Counter::DecompressFail),
        corrupt_pages: get(Counter::CorruptPages),
        pool_limit_hit: get(Counter::PoolLimitHit),
        reject_reclaim_fail: get(Counter::RejectReclaimFail),
        reject_no_device: get(Counter::RejectNoDevice),
        reject_device_full: get(Counter::RejectDeviceFull),
        reject_device_fail: get(Counter::RejectDeviceFail),
        reject_unreadable: get(Counter::RejectUnreadable),
        reject_memory_limit: get(Counter::RejectMemoryLimit),
        written_back_pages: get(Counter::WrittenBackPages),
        dropped_clean_pages: get(Counter::DroppedCleanPages),
        device_loads: get(Counter::DeviceLoads),
        promoted_pages: get(Counter::PromotedPages),
        listener_panics: get(Counter::ListenerPanics),
        clock_entries: get(Counter::ClockEntries),
        clock_leaves: get(Counter::ClockLeaves),
        ..ZswapStats::default()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn sums_over_all_threads() {
        let counters = Counters::new();
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..100 {
                        counters.add(Counter::StoredPages, 2);
                        counters.add(Counter::StoredPages, -1);
                        counters.add(Counter::DecompressFail, 1);
                    }
                });
            }
        });
        assert_eq!(counters.get(Counter::StoredPages), 400);
        assert_eq!(counters.get(Counter::DecompressFail), 400);
        assert_eq!(counters.get(Counter::SameFilledPages), 0);
        let cpus = 0..2 * cpu::places();
        cpus.clone().for_each(|cpu| {
            counters.add_on(cpu, Counter::DeviceLoads, 1);
        });
        assert_eq!(counters.get(Counter::DeviceLoads), cpus.len() as u64);
        counters.add(Counter::SameFilledPages, -3);
        assert_eq!(counters.get(Counter::SameFilledPages), 0);
    }
}
