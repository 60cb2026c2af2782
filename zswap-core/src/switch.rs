//! Changing backend or compressor while the store is in use.
//!
//! The new pair is put together with nothing locked, down to a first context, so that whatever fails
//! fails before anything has changed. Then it becomes the current pool, if nobody has switched
//! meanwhile; else all is begun anew, since its other half may be another one now.

use core::fmt;
use std::sync::Arc;

use compressors::{Built, Registry as CompressorRegistry};
use zpool_api::{PageBudget, PageError, PageProvider, Registry as ZpoolRegistry, ZpoolConfig};

use crate::error::BuildError;
use crate::pool::{Fault, Ingredients, Pool};
use crate::pools::NotSwitched;
use crate::word::PoolId;
use crate::{PAGE_SIZE, Zswap};
use zpool_base::contained::{Contained, contain};

pub(crate) type MakePages = Arc<dyn Fn() -> Result<Arc<dyn PageProvider>, PageError> + Send + Sync>;

/// Where backends, compressors and pages come from, and what the pages are charged to.
pub(crate) struct Recipe {
    pub(crate) zpools: ZpoolRegistry,
    pub(crate) compressors: CompressorRegistry,
    pub(crate) pages: Contained<MakePages>,
    pub(crate) budget: Arc<PageBudget>,
}

impl Recipe {
    /// The text under which a compressor is known, defaults spelt out or not; `text` may be any that
    /// means the same.
    pub(crate) fn compressor_name(&self, text: &str) -> Result<String, BuildError> {
        contain(|| Ok(self.compressors.resolve(text)?.key))
            .unwrap_or(Err(BuildError::Panicked { what: "the compressor" }))
    }

    /// A new pool.
    pub(crate) fn pool(&self, zpool_name: &str, compressor: &str) -> Result<Pool, BuildError> {
        contain(|| self.put_together(zpool_name, compressor))
            .unwrap_or(Err(BuildError::Panicked { what: "the backend or the compressor" }))
    }

    fn put_together(&self, zpool_name: &str, compressor: &str) -> Result<Pool, BuildError> {
        let asked = compressor.to_owned();
        let Built { compressor, key: spec } = self.compressors.resolve(compressor)?;
        let charged = Arc::new(PageBudget::part_of(self.budget.clone()));
        // Whatever panics from here on, the destructors do so apart.
        let compressor = Contained::new(compressor);
        let pages = Contained::new((self.pages)()?);
        let config = ZpoolConfig::new(Arc::clone(&pages)).with_budget(charged.clone());
        let zpool = Contained::new(self.zpools.build(zpool_name, &config)?);
        let max = zpool.caps().max_object_size;
        if max < PAGE_SIZE {
            let zpool = zpool_name.to_owned();
            return Err(BuildError::ObjectsTooSmall { zpool, max, needed: PAGE_SIZE });
        }
        let zpool_name = zpool_name.to_owned();
        Ok(Pool::new(Ingredients { zpool_name, zpool, pages, spec, asked, compressor, charged }))
    }
}

impl From<Fault> for BuildError {
    /// Of setting a context up.
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Codec(error) => error.into(),
            Fault::Pool(error) => error.into(),
            Fault::Reentrant | Fault::Incompressible => BuildError::Reentrant,
        }
    }
}

impl fmt::Debug for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recipe")
            .field("zpools", &self.zpools)
            .field("compressors", &self.compressors)
            .finish_non_exhaustive()
    }
}

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
            fresh.prepare().map_err(BuildError::from)?;
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
