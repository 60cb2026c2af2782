//! Builds backends and compressors from names, registries and a page provider.
//!
//! Constructors are user code. If one panics, the call fails with [`RecipeError::Panicked`]. What was built
//! before is dropped, and a panic in its destructor is caught ([`Contained`]).

use core::fmt;
use core::ops::Deref;
use std::sync::Arc;

use compressors::{Built, Compressor, CompressorError, Registry as CompressorRegistry};
use zpool_api::{
    PageBudget, PageError, PageProvider, Registry as ZpoolRegistry, Zpool, ZpoolConfig, ZpoolError,
};
use zpool_base::contained::{Contained, contain};

use crate::{PAGE_SIZE, UnitError, builtin, check_unit};

/// Makes a page provider. The argument is the wanted page size in bytes.
type MakePages = Arc<dyn Fn(usize) -> Result<Arc<dyn PageProvider>, PageError> + Send + Sync>;

/// Looks up backends and compressors by name in two registries, and builds them. Makes a page provider for each
/// backend. `Send`, `Sync`, cheap to clone.
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
    /// The size in bytes of the largest object that a backend must hold.
    unit: usize,
}

/// A backend and its page provider. Derefs to the backend, which can hold an object of a whole unit.
#[derive(Debug)]
pub struct BuiltZpool {
    zpool: Contained<Arc<dyn Zpool>>,
    /// Declared after the backend, so dropped after it. If the provider panics inside the backend, the
    /// unwinding backend must not run the provider's destructor, which may panic, too.
    _pages: Contained<Arc<dyn PageProvider>>,
}

impl Deref for BuiltZpool {
    type Target = dyn Zpool;
    #[inline]
    fn deref(&self) -> &(dyn Zpool + 'static) {
        &**self.zpool
    }
}

/// A compressor, and the key that identifies it.
#[derive(Debug)]
pub struct BuiltCompressor {
    /// The compressor.
    pub compressor: Contained<Arc<dyn Compressor>>,
    /// The canonical spec, equal for all specs that mean the same: [`Built::key`].
    pub key: String,
}

/// Why a recipe could not build something. The enum is exhaustive, so that callers map every variant to an error
/// of their own.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RecipeError {
    /// The backend could not be built, or its name is not known.
    #[error(transparent)]
    Zpool(#[from] ZpoolError),
    /// The compressor could not be built, or its name is not known.
    #[error(transparent)]
    Compressor(#[from] CompressorError),
    /// The page provider could not be made.
    #[error(transparent)]
    Pages(#[from] PageError),
    /// The backend's largest object is smaller than a unit, so an incompressible unit would not fit.
    #[error("zpool {zpool} holds objects of {max} bytes at most; use one that holds {needed}")]
    ObjectsTooSmall {
        /// The backend's name.
        zpool: String,
        /// The size of its largest object in bytes.
        max: usize,
        /// The size that it must be able to hold, in bytes.
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
    /// Makes a recipe of the built-in backends and compressors, with this system's default page provider
    /// ([`builtin`]).
    ///
    /// ```
    /// assert!(zpage::Recipe::builtin().compressor("null").is_ok());
    /// ```
    pub fn builtin() -> Self {
        Recipe {
            zpools: builtin::zpools(),
            compressors: builtin::compressors(),
            pages: Contained::new(Arc::new(builtin::default_pages)),
            unit: PAGE_SIZE,
        }
    }

    /// Sets the unit, the size in bytes of the largest object that backends built from now on must hold. Default:
    /// 4096.
    ///
    /// ```
    /// use zpage::Recipe;
    ///
    /// let mut recipe = Recipe::builtin();
    /// recipe.set_unit(32 << 10)?;
    /// assert!(recipe.zpool("zbud", None)?.caps().max_object_size >= 32 << 10);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`UnitError`] if `bytes` is no unit ([`check_unit`]). The unit stays as it was.
    pub fn set_unit(&mut self, bytes: usize) -> Result<(), UnitError> {
        self.unit = check_unit(bytes)?;
        Ok(())
    }

    /// Sets the constructor of page providers. Each pool built from now on gets a provider from it. For units above
    /// 4096 bytes, see [`Recipe::set_pages_of`].
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zpage::Recipe;
    /// use zpool_pages::HeapPages;
    ///
    /// let mut recipe = Recipe::builtin();
    /// recipe.set_pages(|| Ok(Arc::new(HeapPages::new())));
    /// assert_eq!(recipe.zpool("zbud", None)?.name(), "zbud");
    /// # Ok::<(), zpage::RecipeError>(())
    /// ```
    pub fn set_pages<F>(&mut self, make: F)
    where
        F: Fn() -> Result<Arc<dyn PageProvider>, PageError> + Send + Sync + 'static,
    {
        self.set_pages_of(move |_| make());
    }

    /// Sets the constructor of page providers, for any unit. The constructor is called with the wanted page size in
    /// bytes. It is asked for pages of 4096 bytes first. If the backend then holds smaller objects than a unit, the
    /// backend is built again, with a provider of pages that are as large as a unit.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zpage::Recipe;
    /// use zpool_pages::HeapPages;
    ///
    /// let mut recipe = Recipe::builtin();
    /// recipe.set_unit(16384)?;
    /// recipe.set_pages_of(|bytes| Ok(Arc::new(HeapPages::with_page_size(bytes)?)));
    /// assert_eq!(recipe.zpool("zbud", None)?.stats().page_size, 16384);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_pages_of<F>(&mut self, make: F)
    where
        F: Fn(usize) -> Result<Arc<dyn PageProvider>, PageError> + Send + Sync + 'static,
    {
        self.pages = Contained::new(Arc::new(make));
    }

    /// Returns the name of the compressor to use if none is named: [`builtin::default_compressor`], or `lz4` if the
    /// registry has `lz4` but not the default.
    ///
    /// ```
    /// use zpage::{Recipe, builtin};
    ///
    /// assert_eq!(Recipe::builtin().default_compressor(), builtin::default_compressor().name);
    /// ```
    pub fn default_compressor(&self) -> &'static str {
        const LZ4: &str = "lz4";
        let names = self.compressors.names();
        let default = builtin::default_compressor().name;
        if !names.contains(&default) && names.contains(&LZ4) { LZ4 } else { default }
    }

    /// Builds the compressor of a spec, e.g. `zstd:level=6`.
    ///
    /// ```
    /// use zpage::{Recipe, RecipeError};
    ///
    /// let recipe = Recipe::builtin();
    /// assert_eq!(recipe.compressor("null")?.key, "null");
    /// assert!(matches!(recipe.compressor("lz5"), Err(RecipeError::Compressor(_))));
    /// # Ok::<(), RecipeError>(())
    /// ```
    ///
    /// # Errors
    /// [`RecipeError::Compressor`] if the spec is malformed, its name is not known or its constructor
    /// fails; [`RecipeError::Panicked`] if the constructor panics.
    pub fn compressor(&self, spec: &str) -> Result<BuiltCompressor, RecipeError> {
        contain(|| {
            let Built { compressor, key } = self.compressors.resolve(spec)?;
            Ok(BuiltCompressor { compressor: Contained::new(compressor), key })
        })
        .unwrap_or(Err(RecipeError::Panicked { what: "the compressor" }))
    }

    /// Builds the backend of this name with a new page provider. If `budget` is given, the backend's pages count
    /// against it.
    ///
    /// ```
    /// use zpage::{Recipe, RecipeError};
    ///
    /// let recipe = Recipe::builtin();
    /// let pool = recipe.zpool("zbud", None)?;
    /// let object = pool.malloc_from(b"some bytes").expect("there is memory");
    /// assert_eq!(*pool.obj_read_begin(object).expect("not freed"), *b"some bytes");
    /// # Ok::<(), RecipeError>(())
    /// ```
    ///
    /// # Errors
    /// [`RecipeError::Zpool`] if the name is not known or the backend's constructor fails;
    /// [`RecipeError::Pages`] if the page provider could not be made; [`RecipeError::ObjectsTooSmall`] if
    /// the backend cannot hold a whole unit; [`RecipeError::Panicked`] if the backend or the page provider
    /// panics.
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
        let (mut built, mut max) = self.build_zpool_on(PAGE_SIZE, name, budget.clone())?;
        if max < self.unit {
            // Objects of this backend are as large as its pages at most.
            (built, max) = self.build_zpool_on(self.unit, name, budget)?;
        }
        if max < self.unit {
            let zpool = name.to_owned();
            return Err(RecipeError::ObjectsTooSmall { zpool, max, needed: self.unit });
        }
        Ok(built)
    }

    /// Builds the backend on pages of `page_size` bytes. Also returns the size of its largest object.
    fn build_zpool_on(
        &self,
        page_size: usize,
        name: &str,
        budget: Option<Arc<PageBudget>>,
    ) -> Result<(BuiltZpool, usize), RecipeError> {
        // `Contained`: if something panics from here on, each destructor runs separately.
        let pages = Contained::new((self.pages)(page_size)?);
        let mut config = ZpoolConfig::new(Arc::clone(&pages)).with_max_object_size(self.unit);
        config.budget = budget;
        let zpool = Contained::new(self.zpools.build(name, &config)?);
        let max = zpool.caps().max_object_size;
        Ok((BuiltZpool { zpool, _pages: pages }, max))
    }
}

impl fmt::Debug for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recipe")
            .field("zpools", &self.zpools)
            .field("compressors", &self.compressors)
            .field("unit", &self.unit)
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

    #[test]
    fn a_registry_without_the_default_compressor_gives_lz4() {
        let null = |_: &compressors::Spec| Ok(Arc::new(compressors::Null) as Arc<dyn Compressor>);
        let mut recipe = Recipe::builtin();
        recipe.compressors = CompressorRegistry::empty();
        let default = builtin::default_compressor().name;
        assert_eq!(recipe.default_compressor(), default);
        recipe.compressors.register("lz4", null).unwrap();
        assert_eq!(recipe.default_compressor(), "lz4");
        if default != "lz4" {
            recipe.compressors.register(default, null).unwrap();
            assert_eq!(recipe.default_compressor(), default);
        }
    }
}
