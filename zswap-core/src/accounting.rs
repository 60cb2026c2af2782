//! Sums up the memory that a store takes, and sets the limits on it.

use crate::area::Area;
use crate::error::BuildError;
use crate::stats::{PoolStats, ZswapStats};
use crate::{Zswap, counters};
use zpage::segments::Segments;

impl Zswap {
    /// Changes the limit on the bytes of the pool pages that hold objects; `None` removes the limit. If more
    /// than a lowered limit is in use, later stores free the excess little by little. [`Zswap::shrink`] and
    /// [`Zswap::compact`] free memory at once.
    ///
    /// ```
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().build()?;
    /// let page = core::array::from_fn(|i| (i % 251) as u8);
    /// store.set_max_pool_bytes(Some(0))?;
    /// assert!(store.store(SwapEntry::new(0, 1)?, &page).is_err(), "there is no device");
    /// store.set_max_pool_bytes(None)?;
    /// store.store(SwapEntry::new(0, 1)?, &page)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`BuildError::Forked`] in a child after `fork`. After an error, nothing has changed.
    pub fn set_max_pool_bytes(&self, bytes: Option<usize>) -> Result<(), BuildError> {
        if !self.is_here() {
            return Err(BuildError::Forked);
        }
        self.limits.set_max_pool(bytes);
        Ok(())
    }

    /// Changes the limit on the bytes of everything that the store keeps in memory; `None` removes the limit.
    /// Memory above a lowered limit is freed as described at [`Zswap::set_max_pool_bytes`].
    ///
    /// # Errors
    /// [`BuildError::LimitTooSmall`] if the limit is less than the memory that cannot be written back plus a
    /// page; [`BuildError::Forked`] in a child after `fork`. After an error, nothing has changed.
    pub fn set_max_bytes(&self, bytes: Option<usize>) -> Result<(), BuildError> {
        if !self.is_here() {
            return Err(BuildError::Forked);
        }
        self.check_max_bytes(bytes, 0)?;
        self.limits.set_max_all(bytes);
        self.refresh_limits();
        Ok(())
    }

    /// Returns the limit on the bytes of everything; `None` if there is none.
    ///
    /// ```
    /// let store = zswap_core::Zswap::builder().max_bytes(1 << 30).build()?;
    /// assert_eq!(store.max_bytes(), Some(1 << 30));
    /// # Ok::<(), zswap_core::BuildError>(())
    /// ```
    pub fn max_bytes(&self) -> Option<usize> {
        if self.is_here() { self.limits.max_all() } else { None }
    }

    /// Checks a limit on everything. `more` bytes are about to be added to what the store keeps.
    pub(crate) fn check_max_bytes(
        &self,
        bytes: Option<usize>,
        more: usize,
    ) -> Result<(), BuildError> {
        let Some(bytes) = bytes else { return Ok(()) };
        let needed = self
            .memory_beside_pools()
            .saturating_add(more)
            .saturating_add(self.areas.shared().pools.current().most_of_object());
        if bytes < needed {
            return Err(BuildError::LimitTooSmall { limit: "max_bytes", bytes, needed });
        }
        Ok(())
    }

    /// Returns the bytes of the store's tables: index, patterns, device segments, notes of recompression, counters.
    fn table_bytes(&self) -> usize {
        let device = self.backing.as_ref().map_or(0, Segments::memory_bytes);
        let own = self.index.memory_bytes()
            + self.patterns.memory_bytes()
            + self.tried.memory_bytes()
            + self.areas.memory_bytes()
            + size_of::<Self>();
        #[cfg(feature = "zstd")]
        let own = own + self.training.memory_bytes();
        // A user's device may report any number, so the sum must not overflow.
        own.saturating_add(device)
    }

    /// Returns the bytes of everything that the store keeps, except the pools' pages with objects.
    pub(crate) fn memory_beside_pools(&self) -> usize {
        let pools = self.all_pools().map(|pool| {
            let figures = pool.stats();
            let cached = figures.cached_pages.saturating_mul(figures.page_size);
            [figures.metadata_bytes, cached, pool.spare_bytes()]
        });
        // A user's backend or codec may report any number, so the sums must not overflow, here and below.
        let own = self.table_bytes().saturating_add(self.recipe.codec_bytes());
        pools.flatten().fold(own, usize::saturating_add)
    }

    /// Returns the bytes of everything that the store keeps in memory, as
    /// [`ZswapStats::memory_bytes`](crate::ZswapStats::memory_bytes) counts them: pools with their warm pages, index,
    /// patterns, contexts and device tables. This is the sum that `max_bytes` limits. Allocates nothing, and is
    /// cheap enough to be called after every few pages. Returns 0 in a child after `fork`.
    ///
    /// ```
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().build()?;
    /// let before = store.memory_bytes();
    /// store.store(SwapEntry::new(0, 7)?, &core::array::from_fn(|i| (i % 251) as u8))?;
    /// assert!(store.memory_bytes() > before);
    /// assert_eq!(store.memory_bytes(), store.stats().memory_bytes());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Blocking
    /// Takes the short locks of the tables and the backends.
    pub fn memory_bytes(&self) -> usize {
        if !self.is_here() {
            return 0;
        }
        let pools = self.all_pools().map(|pool| {
            let figures = pool.stats();
            [figures.pool_bytes(), figures.metadata_bytes, pool.spare_bytes()]
        });
        let own = self.table_bytes().saturating_add(self.recipe.codec_bytes());
        pools.flatten().fold(own, usize::saturating_add)
    }

    /// Returns a snapshot of the counters and of the memory in use. In a child after `fork`, all figures are
    /// zero.
    pub fn stats(&self) -> ZswapStats {
        if !self.is_here() {
            return ZswapStats::default();
        }
        let device = self.backing.as_ref().map(Segments::figures).unwrap_or_default();
        let mut stats = ZswapStats {
            metadata_bytes: self.table_bytes(),
            context_bytes: self.recipe.codec_bytes(),
            device_pages: device.objects as usize,
            device_segments: device.segments as usize,
            device_live_bytes: device.live_bytes,
            device_bytes_written: device.written_bytes,
            device_new_bytes: device.new_bytes,
            device_bytes_read: device.read_bytes,
            device_cleaned_segments: device.cleaned_segments,
            device_moved_pages: device.moved_objects,
            ..counters::stats(|counter| self.areas.count(counter))
        };
        self.areas.all().for_each(|area| add_pools(area, &mut stats));
        stats
    }

    /// Returns the figures of one area: its counters, and the memory of its pools. Figures of what areas share are
    /// 0.
    pub(crate) fn stats_of(area: &Area) -> ZswapStats {
        let mut stats = counters::stats(|counter| area.counters.get(counter));
        add_pools(area, &mut stats);
        stats
    }
}

/// Adds the figures of an area's pools.
fn add_pools(area: &Area, stats: &mut ZswapStats) {
    for pool in area.pools.all() {
        let figures = pool.stats();
        for (sum, of_pool) in [
            (&mut stats.pool_total_size, figures.pool_bytes()),
            (&mut stats.compressed_bytes, figures.object_bytes),
            (&mut stats.metadata_bytes, figures.metadata_bytes),
            (&mut stats.context_bytes, pool.spare_bytes()),
        ] {
            *sum = sum.saturating_add(of_pool);
        }
        // If there is no memory for the list of pools, only the list is incomplete; the sums are right.
        if stats.pools.try_reserve(1).is_ok() {
            stats.pools.push(PoolStats {
                swap_type: area.swap_type,
                zpool: owned(pool.backend_name()),
                compressor: owned(&pool.spec),
                objects: figures.objects,
                pool_bytes: figures.pool_bytes(),
                compressed_bytes: figures.object_bytes,
            });
        }
    }
}

/// Copies a name. Returns an empty name if there is no memory for the copy.
fn owned(name: &str) -> String {
    let mut copy = String::new();
    if copy.try_reserve_exact(name.len()).is_ok() {
        copy.push_str(name);
    }
    copy
}
