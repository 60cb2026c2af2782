//! Changing backend or compressor while the store is in use.
//!
//! The new pair is put together with nothing locked, down to a first context, so that whatever fails
//! fails before anything has changed. Then it becomes the current pool, if nobody has switched
//! meanwhile; else all is begun anew, since its other half may be another one now.

use crate::Zswap;
use crate::entry::word::PoolId;
use crate::error::BuildError;
use crate::pool::pools::NotSwitched;

impl Zswap {
    /// Puts new pages into a pool of another backend, by name. Old pages stay where they are and can
    /// be read; their pool goes with the last of them. A pool of this backend and the compressor in
    /// use that is still alive is used again.
    ///
    /// # Errors
    /// Nothing has changed then. At most 15 pools live at once:
    /// [`BuildError::TooManyPools`]. Runs the backend's constructor and sets a codec context up; may
    /// be called from any thread at any time, though not from within a codec.
    pub fn set_zpool(&self, name: &str) -> Result<(), BuildError> {
        self.switch(|_, compressor| (name.to_owned(), compressor))
    }

    /// Compresses new pages by another compressor, by spec as `zstd:level=6`; into a pool of its own,
    /// of the backend in use. All else as [`Zswap::set_zpool`].
    pub fn set_compressor(&self, spec: &str) -> Result<(), BuildError> {
        if !self.is_here() {
            return Err(BuildError::Forked);
        }
        // As the compressor calls itself: defaults spelt out or not is the same pool.
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
