//! Changing backend or compressor while the store is in use.
//!
//! The new pool is built with nothing locked, up to a first context, so that any failure comes before
//! anything has changed. Then it becomes current, unless another thread has switched meanwhile: its
//! other half may be another one now, so everything starts again.

use crate::Zswap;
use crate::entry::word::PoolId;
use crate::error::BuildError;
use crate::pool::pools::NotSwitched;

impl Zswap {
    /// Puts new pages into a pool of another backend, by name. Older pages stay in their pool and can be
    /// read; that pool is dropped with the last of them. If a pool of this backend and the compressor in
    /// use is still alive it becomes current again.
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
    /// Nothing has changed after an error.
    /// * [`BuildError::TooManyPools`] if 15 pools are alive already.
    /// * [`BuildError::Zpool`] if the name is unknown or the backend's constructor fails,
    ///   [`BuildError::ObjectsTooSmall`] if the backend cannot hold a whole page.
    /// * [`BuildError::Compressor`] or [`BuildError::Pages`] if the compressor, its first context or the
    ///   page provider cannot be built, [`BuildError::Panicked`] if building one panics.
    /// * [`BuildError::Reentrant`] if a codec calls this, [`BuildError::Forked`] in a child after `fork`.
    pub fn set_zpool(&self, name: &str) -> Result<(), BuildError> {
        self.switch(|_, compressor| (name.to_owned(), compressor))
    }

    /// Compresses new pages with another compressor, by spec, such as `zstd:level=6`. They go into a pool
    /// of their own, of the backend in use. Otherwise as [`Zswap::set_zpool`].
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
    /// [`BuildError::Compressor`] if the spec is malformed or its name unknown; otherwise as
    /// [`Zswap::set_zpool`].
    pub fn set_compressor(&self, spec: &str) -> Result<(), BuildError> {
        if !self.is_here() {
            return Err(BuildError::Forked);
        }
        // The compressor's canonical name: with or without its defaults spelt out it is the same pool.
        let spec = self.recipe.compressor_name(spec)?;
        self.switch(|zpool, _| (zpool, spec.clone()))
    }

    fn switch(&self, to: impl Fn(String, String) -> (String, String)) -> Result<(), BuildError> {
        if !self.is_here() {
            return Err(BuildError::Forked);
        }
        loop {
            let (old_zpool, old_compressor) = {
                let current = self.pools.current();
                (current.zpool_name.clone(), current.spec.clone())
            };
            let (zpool, compressor) = to(old_zpool.clone(), old_compressor.clone());
            if self.pools.switch_to_living(&zpool, &compressor) {
                return Ok(());
            }
            let fresh = self.recipe.pool(&zpool, &compressor)?;
            fresh.codec.prepare().map_err(BuildError::from)?;
            match self.pools.switch_to(fresh, |pool| pool.is_like(&old_zpool, &old_compressor)) {
                Ok(()) => return Ok(()),
                Err(NotSwitched::Full) => {
                    return Err(BuildError::TooManyPools { limit: PoolId::LIMIT });
                }
                Err(NotSwitched::Changed) => {}
            }
        }
    }
}
