//! Reports a store's figures to the recorder of the `metrics` crate that the program has installed.
//!
//! The store must have been built with [`metrics`](crate::ZswapBuilder::metrics). [`Zswap::publish_metrics`]
//! then publishes the store's figures as gauges and counters. The time that a store or load takes is recorded
//! at the end of each call. All names begin with `zswap_`. All have the label `store`; its value is the name
//! that was given to `metrics`.
//!
//! | name | kind |
//! |---|---|
//! | `zswap_stored_pages` and every other size of [`ZswapStats`](crate::ZswapStats) | gauge |
//! | `zswap_written_back_pages` and every other count of events | counter |
//! | `zswap_pool_objects`, `zswap_pool_bytes`, `zswap_pool_compressed_bytes`, which also have the labels `zpool` and `compressor`, and `area` if the area has pools of its own | gauge |
//! | `zswap_store_seconds`: the time that a call of `store` or `try_replace` takes; `zswap_load_seconds`: the time that a call of `load` takes. Calls that fail are recorded, too. | histogram |

use metrics::{Label, counter, gauge};

use crate::Zswap;
use crate::metrics::{PublishedPool, StoreMetrics};

/// Returns the labels of a pool's gauges.
fn labels(store: &str, pool: PublishedPool) -> Vec<Label> {
    let PublishedPool { swap_type, zpool, compressor } = pool;
    let mut labels = vec![
        Label::new("store", store.to_owned()),
        Label::new("zpool", zpool),
        Label::new("compressor", compressor),
    ];
    labels.extend(swap_type.map(|own| Label::new("area", own.to_string())));
    labels
}

impl Zswap {
    /// Publishes the store's figures to the installed recorder. Call this periodically. It costs as much as
    /// [`Zswap::stats`] and allocates the labels. When a pool is gone, the next call sets its gauges to 0. A call
    /// does nothing if the store was built without [`metrics`](crate::ZswapBuilder::metrics).
    ///
    /// ```
    /// use zswap_core::Zswap;
    ///
    /// let store = Zswap::builder().metrics("sessions").build()?;
    /// // Every few seconds:
    /// store.publish_metrics();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn publish_metrics(&self) {
        let Some(StoreMetrics { name, published, .. }) = &*self.metrics else { return };
        let stats = self.stats();
        for (what, value) in stats.sizes() {
            gauge!(format!("zswap_{what}"), "store" => name.clone()).set(value as f64);
        }
        for (what, value) in stats.events() {
            counter!(format!("zswap_{what}"), "store" => name.clone()).absolute(value);
        }
        // A recorder keeps each gauge for ever. So when a pool is gone, set its gauges to 0, once.
        let mut published = published.lock();
        let now = stats.pools.iter().map(PublishedPool::of);
        let before = core::mem::replace(&mut *published, now.collect());
        for gone in before.into_iter().filter(|pool| !published.contains(pool)) {
            let labels = labels(name, gone);
            for gauge_of in
                ["zswap_pool_objects", "zswap_pool_bytes", "zswap_pool_compressed_bytes"]
            {
                gauge!(gauge_of, labels.clone()).set(0.0);
            }
        }
        for pool in stats.pools {
            let labels = labels(name, PublishedPool::of(&pool));
            gauge!("zswap_pool_objects", labels.clone()).set(pool.objects as f64);
            gauge!("zswap_pool_bytes", labels.clone()).set(pool.pool_bytes as f64);
            gauge!("zswap_pool_compressed_bytes", labels.clone()).set(pool.compressed_bytes as f64);
        }
    }
}
