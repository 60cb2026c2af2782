//! Changing backend or compressor while the store is in use.
//!
//! The new pair is put together with nothing locked, down to a first context, so that whatever fails
//! fails before anything has changed. Then it becomes the current pool, if nobody has switched
//! meanwhile; else all is begun anew, since its other half may be another one now.

use std::sync::Arc;

use zpage::{CodecFault, Recipe, RecipeError};
use zpool_api::PageBudget;
use zpool_base::contained::{Panicked, contain};

use crate::Zswap;
use crate::error::BuildError;
use crate::pool::{Ingredients, Pool};
use crate::pools::NotSwitched;
use crate::word::PoolId;

/// What pools are made from, and what their pages are charged to.
#[derive(Debug)]
pub(crate) struct PoolRecipe {
    pub(crate) recipe: Recipe,
    pub(crate) budget: Arc<PageBudget>,
}

impl PoolRecipe {
    /// The text under which a compressor is known, defaults spelt out or not; `text` may be any that
    /// means the same.
    pub(crate) fn compressor_name(&self, text: &str) -> Result<String, BuildError> {
        Ok(self.recipe.compressor(text)?.key)
    }

    /// A new pool.
    pub(crate) fn pool(&self, zpool_name: &str, compressor: &str) -> Result<Pool, BuildError> {
        let asked = compressor.to_owned();
        let compressor = self.recipe.compressor(compressor)?;
        let charged = Arc::new(PageBudget::part_of(self.budget.clone()));
        let zpool = self.recipe.zpool(zpool_name, Some(charged.clone()))?;
        let zpool_name = zpool_name.to_owned();
        let made =
            contain(|| Pool::new(Ingredients { zpool_name, zpool, compressor, asked, charged }));
        made.map_err(|Panicked| BuildError::Panicked { what: "the backend" })
    }
}

impl From<RecipeError> for BuildError {
    fn from(error: RecipeError) -> Self {
        match error {
            RecipeError::Zpool(error) => error.into(),
            RecipeError::Compressor(error) => error.into(),
            RecipeError::Pages(error) => error.into(),
            RecipeError::ObjectsTooSmall { zpool, max, needed } => {
                BuildError::ObjectsTooSmall { zpool, max, needed }
            }
            RecipeError::Panicked { what } => BuildError::Panicked { what },
        }
    }
}

impl From<CodecFault> for BuildError {
    /// Of setting a context up.
    fn from(fault: CodecFault) -> Self {
        match fault {
            CodecFault::Reentrant => BuildError::Reentrant,
            CodecFault::Failed(error) => error.into(),
        }
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
