//! Changes the backend or the compressor while the store is in use.
//!
//! A switch first builds the new pool, with its first context, while it holds no lock. So it can fail only
//! before anything has changed. Then the new pool becomes current. A switch to another backend keeps the
//! compressor, and a switch to another compressor keeps the backend. If another thread has changed the
//! current pool since the switch began, the kept part may be out of date, so the switch starts again.

use crate::Zswap;
use crate::area::Area;
use crate::entry::word::PoolId;
use crate::error::BuildError;
use crate::pool::pools::NotSwitched;

impl Zswap {
    /// Puts new pages into a pool of another backend, given by name. The compressor stays the same. Older
    /// pages stay readable in their pool, which is dropped when its last page leaves it. If a pool with that
    /// backend and the current compressor is still alive, it becomes current again.
    ///
    /// ```
    /// # if cfg!(not(feature = "zbud")) { return Ok(()); }
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().build()?;
    /// let (entry, mut page) = (SwapEntry::new(0, 7)?, [1; zswap_core::PAGE_SIZE]);
    /// store.store(entry, &page)?;
    /// store.set_zpool("zbud")?;
    /// assert_eq!(store.stats().pools[0].zpool, "zbud");
    /// store.load(entry, &mut page)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// After an error, nothing has changed.
    /// * [`BuildError::TooManyPools`] if 15 pools are alive already.
    /// * [`BuildError::Zpool`] if the name is unknown or the backend's constructor fails,
    ///   [`BuildError::ObjectsTooSmall`] if the backend cannot hold a whole page.
    /// * [`BuildError::Compressor`] if the compressor or its first context cannot be built,
    ///   [`BuildError::Pages`] if the page provider cannot be built, [`BuildError::Panicked`] if the backend, the
    ///   compressor or the page provider panics while it is built.
    /// * [`BuildError::Reentrant`] if a new pool is needed and this thread is ending or holds a compression
    ///   context. A thread holds one while a store calls a codec, and during some of a store's calls to a backend.
    /// * [`BuildError::Forked`] in a child after `fork`.
    pub fn set_zpool(&self, name: &str) -> Result<(), BuildError> {
        self.switch(self.areas.shared(), |_, compressor| (name.to_owned(), compressor))
    }

    /// Compresses new pages with another compressor, given as a spec such as `zstd:level=6`. The backend
    /// stays the same. Older pages and pools are treated as by [`Zswap::set_zpool`].
    ///
    /// ```
    /// # if cfg!(not(feature = "zstd")) { return Ok(()); }
    /// use zswap_core::Zswap;
    ///
    /// let store = Zswap::builder().build()?;
    /// store.set_compressor("zstd:level=6")?;
    /// assert_eq!(store.stats().pools[0].compressor, "zstd:level=6");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Zswap::set_zpool`]. [`BuildError::Compressor`] also if the spec is malformed or names an
    /// unknown compressor.
    pub fn set_compressor(&self, spec: &str) -> Result<(), BuildError> {
        self.set_compressor_of(self.areas.shared(), spec)
    }

    pub(crate) fn set_compressor_of(&self, area: &Area, spec: &str) -> Result<(), BuildError> {
        if !self.is_here() {
            return Err(BuildError::Forked);
        }
        // Two specs for the same compressor, with and without defaults spelled out, have the same canonical
        // name. So they lead to the same pool.
        let spec = self.recipe.compressor_name(spec)?;
        self.switch(area, |zpool, _| (zpool, spec.clone()))
    }

    pub(crate) fn switch(
        &self,
        area: &Area,
        to: impl Fn(String, String) -> (String, String),
    ) -> Result<(), BuildError> {
        if !self.is_here() {
            return Err(BuildError::Forked);
        }
        loop {
            // Held until the new pool is built: a trained dictionary is known by its name while its pool is there.
            let current = area.pools.current();
            let (old_zpool, old_compressor) = (current.zpool_name.clone(), current.spec.clone());
            let (zpool, compressor) = to(old_zpool.clone(), old_compressor.clone());
            if area.pools.switch_to_living(&zpool, &compressor) {
                return Ok(());
            }
            let fresh = self.recipe.pool(&zpool, &compressor, &area.limits)?;
            fresh.codec.prepare().map_err(BuildError::of_context)?;
            match area.pools.switch_to(fresh, |pool| pool.is_like(&old_zpool, &old_compressor)) {
                Ok(()) => return Ok(()),
                Err(NotSwitched::Full) => {
                    return Err(BuildError::TooManyPools { limit: PoolId::LIMIT });
                }
                Err(NotSwitched::Changed) => {}
            }
        }
    }
}
