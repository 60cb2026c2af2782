//! Where backends, compressors and pages come from: names and registries become what a pool is made of.
//!
//! Constructors are the user's code. One that panics is [`RecipeError::Panicked`], and so are the
//! destructors of what it had made by then.

use core::fmt;
use core::ops::Deref;
use std::sync::Arc;

use compressors::{Built, Compressor, CompressorError, Registry as CompressorRegistry};
use zpool_api::{
    PageBudget, PageError, PageProvider, Registry as ZpoolRegistry, Zpool, ZpoolConfig, ZpoolError,
};
use zpool_base::contained::{Contained, contain};

use crate::{PAGE_SIZE, builtin};

type MakePages = Arc<dyn Fn() -> Result<Arc<dyn PageProvider>, PageError> + Send + Sync>;

/// Registries of backends and compressors, and what makes the page provider of each pool. `Send`,
/// `Sync`, cheap to clone.
///
/// ```
/// use zpage::Recipe;
///
/// let recipe = Recipe::builtin();
/// let zpool = recipe.zpool("zbud", None)?;
/// assert_eq!(zpool.name(), "zbud");
/// assert!(recipe.zpool("zlab", None).unwrap_err().to_string().contains("zbud"));
/// # Ok::<(), zpage::RecipeError>(())
/// ```
#[derive(Clone)]
pub struct Recipe {
    /// Where backends are looked up by name.
    pub zpools: ZpoolRegistry,
    /// Where compressors are looked up by name.
    pub compressors: CompressorRegistry,
    pages: Contained<MakePages>,
}

/// A backend that was built, with a share of its provider. Derefs to the backend, whose largest object is a
/// page or more.
#[derive(Debug)]
pub struct BuiltZpool {
    zpool: Contained<Arc<dyn Zpool>>,
    /// Declared after the backend, and so dropped after it: a backend that unwinds because its provider
    /// panicked must not be the one to run the provider's destructor, which may panic, too.
    _pages: Contained<Arc<dyn PageProvider>>,
}

impl Deref for BuiltZpool {
    type Target = dyn Zpool;
    #[inline]
    fn deref(&self) -> &(dyn Zpool + 'static) {
        &**self.zpool
    }
}

/// A compressor that was built.
#[derive(Debug)]
pub struct BuiltCompressor {
    /// The compressor.
    pub compressor: Contained<Arc<dyn Compressor>>,
    /// The text it is known by: the same for all specs that mean the same.
    pub key: String,
}

/// Why a recipe built nothing. Exhaustive: whoever builds with a recipe gives each an error of its own.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RecipeError {
    /// The backend could not be built, or its name is not known.
    #[error(transparent)]
    Zpool(#[from] ZpoolError),
    /// The compressor could not be built, or its name is not known.
    #[error(transparent)]
    Compressor(#[from] CompressorError),
    /// No page provider.
    #[error(transparent)]
    Pages(#[from] PageError),
    /// The backend's largest object is smaller than a page, so an incompressible one would not fit.
    #[error("zpool {zpool} holds objects of {max} bytes at most; {needed} are needed")]
    ObjectsTooSmall {
        /// The backend's name.
        zpool: String,
        /// Its largest object, bytes.
        max: usize,
        /// What is needed, bytes.
        needed: usize,
    },
    /// Code of a backend, a compressor or a page provider panicked.
    #[error("{what} panicked while it was built")]
    Panicked {
        /// What was being built.
        what: &'static str,
    },
}

impl Recipe {
    /// The built-in backends and compressors, over this system's pages ([`builtin`]).
    pub fn builtin() -> Self {
        Recipe {
            zpools: builtin::zpools(),
            compressors: builtin::compressors(),
            pages: Contained::new(Arc::new(builtin::default_pages)),
        }
    }

    /// Makes the page providers from now on.
    pub fn set_pages<F>(&mut self, make: F)
    where
        F: Fn() -> Result<Arc<dyn PageProvider>, PageError> + Send + Sync + 'static,
    {
        self.pages = Contained::new(Arc::new(make));
    }

    /// The compressor of a spec.
    ///
    /// # Errors
    /// [`RecipeError::Compressor`], [`RecipeError::Panicked`].
    pub fn compressor(&self, spec: &str) -> Result<BuiltCompressor, RecipeError> {
        contain(|| {
            let Built { compressor, key } = self.compressors.resolve(spec)?;
            Ok(BuiltCompressor { compressor: Contained::new(compressor), key })
        })
        .unwrap_or(Err(RecipeError::Panicked { what: "the compressor" }))
    }

    /// A backend of this name with a page provider of its own, whose pages are charged to `budget`.
    ///
    /// # Errors
    /// Every [`RecipeError`] but [`RecipeError::Compressor`].
    pub fn zpool(
        &self,
        name: &str,
        budget: Option<Arc<PageBudget>>,
    ) -> Result<BuiltZpool, RecipeError> {
        contain(|| self.build_zpool(name, budget))
            .unwrap_or(Err(RecipeError::Panicked { what: "the backend" }))
    }

    fn build_zpool(
        &self,
        name: &str,
        budget: Option<Arc<PageBudget>>,
    ) -> Result<BuiltZpool, RecipeError> {
        // Whatever panics from here on, the destructors do so apart.
        let pages = Contained::new((self.pages)()?);
        let mut config = ZpoolConfig::new(Arc::clone(&pages));
        config.budget = budget;
        let zpool = Contained::new(self.zpools.build(name, &config)?);
        let max = zpool.caps().max_object_size;
        if max < PAGE_SIZE {
            let zpool = name.to_owned();
            return Err(RecipeError::ObjectsTooSmall { zpool, max, needed: PAGE_SIZE });
        }
        Ok(BuiltZpool { zpool, _pages: pages })
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_panics_is_named_and_nothing_else_is_built() {
        let mut recipe = Recipe::builtin();
        recipe.set_pages(|| panic!("on purpose"));
        let panicked = recipe.zpool("zbud", None).unwrap_err();
        assert_eq!(panicked, RecipeError::Panicked { what: "the backend" });
        assert!(recipe.compressor("null").is_ok());
    }

    #[test]
    fn no_pages_and_unknown_names_are_errors_of_their_own() {
        let mut recipe = Recipe::builtin();
        assert!(matches!(recipe.zpool("zlab", None), Err(RecipeError::Zpool(_))));
        assert!(matches!(recipe.compressor("zlab"), Err(RecipeError::Compressor(_))));
        recipe.set_pages(|| Err(PageError::Forked));
        assert_eq!(recipe.zpool("zbud", None).unwrap_err(), PageError::Forked.into());
    }
}
