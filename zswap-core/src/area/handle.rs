//! What a program sees of an area that has pools of its own.

use core::fmt;

use crate::area::Area;
use crate::area::settings::AreaSettings;
use crate::area::table::Taken;
use crate::counters::Counter;
use crate::error::{BuildError, WritebackError};
use crate::iter::Entries;
use crate::moves::victims::From;
use crate::moves::writeback::Amount;
use crate::pool::pools::Pools;
use crate::stats::ZswapStats;
use crate::{SwapEntry, Zswap};

/// An area of a store that has pools of its own ([`Zswap::add_area`]). [`Zswap::area`] returns it.
///
/// In a child after `fork`, its functions return [`BuildError::Forked`] or [`WritebackError::Forked`], or report
/// an empty area. `Copy`, `Send` and `Sync`.
#[derive(Clone, Copy)]
pub struct AreaRef<'s> {
    store: &'s Zswap,
    area: &'s Area,
    swap_type: u8,
}

impl Zswap {
    /// Gives the area `swap_type` pools, limits, a writeback policy and figures of its own. Must come before the
    /// first page of the area is offered to the store, even if the page is refused. The area stays for as long as the store; its settings can be changed
    /// ([`AreaRef`]), and it can be emptied ([`Zswap::invalidate_area`]) and used again. The pages of all other
    /// areas share the pools that the store's builder describes.
    ///
    /// Pools of their own cost what an empty pool costs, and its pages are shared with no other area: up to one
    /// partly filled page for each size class.
    ///
    /// ```
    /// use zswap_core::{AreaSettings, StoreError, SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().build()?;
    /// store.add_area(1, AreaSettings::default().max_pool_bytes(64 << 10))?;
    /// // Pages that do not get smaller.
    /// let page = |n: u64| core::array::from_fn(|i| ((i as u64 + n).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u8);
    /// let refused = (0..100).find_map(|n| store.store(SwapEntry::new(1, n).unwrap(), &page(n)).err());
    /// assert!(matches!(refused, Some(StoreError::PoolLimit { limit: 65536, .. })));
    /// store.store(SwapEntry::new(2, 0)?, &page(0))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// * [`BuildError::AreaTaken`] if the area has pools of its own already, or another thread is adding it, or a page
    ///   was offered for it.
    /// * Those of [`Zswap::set_zpool`] and [`Zswap::set_compressor`], if the pool cannot be built.
    /// * [`BuildError::LimitTooSmall`] if the store's `max_bytes` leaves no room for the area's tables and a page.
    ///
    /// # Blocking
    /// Builds a pool, which allocates. Waits for no other thread but those that switch pools.
    pub fn add_area(&self, swap_type: u8, settings: AreaSettings) -> Result<(), BuildError> {
        if !self.is_here() {
            return Err(BuildError::Forked);
        }
        let taken = BuildError::AreaTaken { swap_type };
        if !self.areas.is_free(swap_type) {
            return Err(taken);
        }
        let AreaSettings { zpool, compressor, max_pool_bytes, protected_pool_bytes, .. } = settings;
        let (shared_zpool, shared_spec) = {
            let current = self.areas.shared().pools.current();
            (current.zpool_name.clone(), current.spec.clone())
        };
        let limits = self.limits.part(max_pool_bytes);
        let zpool = zpool.unwrap_or(shared_zpool);
        let compressor = compressor.unwrap_or_else(|| self.recipe.without_dictionary(shared_spec));
        let pool = self.recipe.pool(&zpool, &compressor, &limits)?;
        pool.codec.prepare().map_err(BuildError::of_context)?;
        let (figures, one) = (pool.stats(), pool.most_of_object());
        let promotion = settings.promotion.unwrap_or(self.areas.shared().promotion);
        let area = Area::new(Some(swap_type), Pools::new(pool), limits, promotion);
        area.set_protected(protected_pool_bytes);
        area.writeback.set(settings.writeback_enabled);
        // What an empty pool keeps, the area itself, and a page.
        let more = figures.metadata_bytes.saturating_add(one);
        self.check_max_bytes(self.limits.max_all(), more.saturating_add(area.memory_bytes()))?;
        self.areas.add(swap_type, area).map_err(|Taken| taken)?;
        self.refresh_limits();
        Ok(())
    }

    /// Returns the area `swap_type`, if it has pools of its own; otherwise, and in a child after `fork`, `None`.
    ///
    /// ```
    /// use zswap_core::{AreaSettings, Zswap};
    ///
    /// let store = Zswap::builder().build()?;
    /// store.add_area(3, AreaSettings::default())?;
    /// assert!(store.area(3).is_some() && store.area(4).is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn area(&self, swap_type: u8) -> Option<AreaRef<'_>> {
        if !self.is_here() {
            return None;
        }
        let area = self.areas.own(swap_type)?;
        Some(AreaRef { store: self, area, swap_type })
    }
}

impl<'s> AreaRef<'s> {
    /// Returns the number of the area.
    pub fn swap_type(&self) -> u8 {
        self.swap_type
    }

    /// Does what [`Zswap::set_zpool`] does, for the pages of this area.
    ///
    /// # Errors
    /// Those of [`Zswap::set_zpool`].
    pub fn set_zpool(&self, name: &str) -> Result<(), BuildError> {
        self.store.switch(self.area, |_, compressor| (name.to_owned(), compressor))
    }

    /// Does what [`Zswap::set_compressor`] does, for the pages of this area.
    ///
    /// ```
    /// use zswap_core::{AreaSettings, Zswap};
    ///
    /// let store = Zswap::builder().build()?;
    /// store.add_area(3, AreaSettings::default())?;
    /// let area = store.area(3).expect("added");
    /// area.set_compressor("null")?;
    /// assert_eq!(area.stats().pools[0].compressor, "null");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Zswap::set_compressor`].
    pub fn set_compressor(&self, spec: &str) -> Result<(), BuildError> {
        self.store.set_compressor_of(self.area, spec)
    }

    /// Changes the limit on the bytes of the area's pool pages that hold objects; `None` removes it. If more than
    /// a lowered limit is in use, later stores of the area free the excess little by little.
    ///
    /// # Errors
    /// [`BuildError::Forked`] in a child after `fork`. After an error, nothing has changed.
    pub fn set_max_pool_bytes(&self, bytes: Option<usize>) -> Result<(), BuildError> {
        self.here()?;
        self.area.limits.set_max_pool(bytes);
        Ok(())
    }

    /// Changes [`AreaSettings::protected_pool_bytes`].
    ///
    /// # Errors
    /// [`BuildError::Forked`] in a child after `fork`. After an error, nothing has changed.
    pub fn set_protected_pool_bytes(&self, bytes: usize) -> Result<(), BuildError> {
        self.here()?;
        self.area.set_protected(bytes);
        Ok(())
    }

    /// Sets whether pages of the area may be written to the device. Pages that are there can still be loaded.
    /// [`Zswap::set_writeback_enabled`] holds as well.
    pub fn set_writeback_enabled(&self, enabled: bool) {
        if self.store.is_here() {
            self.area.writeback.set(enabled);
        }
    }

    fn here(&self) -> Result<(), BuildError> {
        if self.store.is_here() { Ok(()) } else { Err(BuildError::Forked) }
    }

    /// Does what [`Zswap::shrink`] does, for the pages of this area, also those that are protected.
    ///
    /// # Errors
    /// Those of [`Zswap::shrink`].
    ///
    /// # Blocking
    /// Blocks as [`Zswap::shrink`] does.
    pub fn shrink(&self, pages: usize) -> Result<usize, WritebackError> {
        if !self.store.is_here() {
            return Err(WritebackError::Forked);
        }
        self.store.write_back(From::Area(self.area), Amount::Pages(pages))
    }

    /// Returns the number of pages held in the area; 0 in a child after `fork`.
    pub fn len(&self) -> usize {
        if self.store.is_here() { self.area.counters.get(Counter::StoredPages) as usize } else { 0 }
    }

    /// Returns whether the area holds no page; true in a child after `fork`.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns an iterator over the entries of the area that hold a page, in order of offset.
    pub fn entries(&self) -> impl Iterator<Item = SwapEntry> + use<'s> {
        let entries: Entries<'s> = self.store.entries_of(self.swap_type);
        entries
    }

    /// Returns the figures of this area: its counts, and the memory of its pools. `metadata_bytes` and
    /// `context_bytes` have only what belongs to the area's pools. Figures of the device are 0, but
    /// `device_pages` counts the area's pages there. In a child after `fork`, all figures are zero.
    ///
    /// ```
    /// use zswap_core::{AreaSettings, SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().build()?;
    /// store.add_area(3, AreaSettings::default())?;
    /// store.store(SwapEntry::new(3, 0)?, &[1; zswap_core::PAGE_SIZE])?;
    /// store.store(SwapEntry::new(4, 0)?, &[1; zswap_core::PAGE_SIZE])?;
    /// assert_eq!(store.area(3).map(|area| area.stats().same_filled_pages), Some(1));
    /// assert_eq!(store.stats().same_filled_pages, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> ZswapStats {
        if self.store.is_here() { Zswap::stats_of(self.area) } else { ZswapStats::default() }
    }
}

impl fmt::Debug for AreaRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AreaRef")
            .field("swap_type", &self.swap_type)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
