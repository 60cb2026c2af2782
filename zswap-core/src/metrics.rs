//! The data that a store keeps to report to the recorder of the `metrics` crate.
//!
//! `publish.rs` lists the names of all that is recorded.

use std::time::Instant;

use metrics::{Histogram, histogram};

use crate::stats::PoolStats;
use crate::sync::Mutex;

/// A store's name, its histograms, and the pools whose gauges are published.
#[derive(Debug)]
pub(crate) struct StoreMetrics {
    pub(crate) name: String,
    /// The pools that were alive at the last `publish_metrics`. The mutex is held while gauges are set.
    pub(crate) published: Mutex<Vec<PublishedPool>>,
    pub(crate) store: Histogram,
    pub(crate) load: Histogram,
}

/// What the labels of a pool's gauges say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublishedPool {
    pub(crate) swap_type: Option<u8>,
    pub(crate) zpool: String,
    pub(crate) compressor: String,
}

impl PublishedPool {
    pub(crate) fn of(pool: &PoolStats) -> Self {
        let PoolStats { swap_type, zpool, compressor, .. } = pool.clone();
        PublishedPool { swap_type, zpool, compressor }
    }
}

impl StoreMetrics {
    /// Registers the histograms with the recorder that is installed now.
    pub(crate) fn new(name: String) -> Self {
        StoreMetrics {
            store: histogram!("zswap_store_seconds", "store" => name.clone()),
            load: histogram!("zswap_load_seconds", "store" => name.clone()),
            published: Mutex::default(),
            name,
        }
    }
}

/// Measures the time of a call: when dropped, records the time since `start`. Records nothing in a store
/// without metrics.
#[derive(Debug)]
pub(crate) struct Timed<'a>(Option<(&'a Histogram, Instant)>);

impl<'a> Timed<'a> {
    #[inline]
    pub(crate) fn start(
        metrics: Option<&'a StoreMetrics>,
        which: impl FnOnce(&'a StoreMetrics) -> &'a Histogram,
    ) -> Self {
        Timed(metrics.map(|metrics| (which(metrics), Instant::now())))
    }
}

impl Drop for Timed<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some((histogram, started)) = self.0 {
            histogram.record(started.elapsed());
        }
    }
}
