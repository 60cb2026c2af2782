//! A registry of backends: a program chooses a backend by name at run time, and third parties can add their
//! own.

use core::fmt;
use std::collections::BTreeMap;
use std::sync::Arc;

use zpool_base::unwind::dropped;

use crate::{PAGE_SIZE, PageBudget, PageProvider, Zpool, ZpoolError};

/// What a backend's constructor needs to build a pool.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ZpoolConfig {
    /// The provider of the pool's pages. Pools that share a provider also share its count of cached pages.
    pub pages: Arc<dyn PageProvider>,
    /// The budget to which the pool charges its resident pages. `None` means no limit. Pools may share a
    /// budget.
    pub budget: Option<Arc<PageBudget>>,
    /// The size in bytes of the largest object that the pool's user will store, 4096 to [`MOST_OBJECT`]. A
    /// backend whose objects may be larger than its pages admits objects of this size. The objects of other
    /// backends are as large as their pages at most: check [`ZpoolCaps::max_object_size`](crate::ZpoolCaps).
    pub max_object_size: usize,
}

/// The size in bytes of the largest object that a backend can be asked to admit: 64 KiB.
pub const MOST_OBJECT: usize = 1 << 16;

impl ZpoolConfig {
    /// Makes a configuration with the page provider `pages`, no budget, and objects of at most a page.
    pub fn new(pages: Arc<dyn PageProvider>) -> Self {
        ZpoolConfig { pages, budget: None, max_object_size: PAGE_SIZE }
    }

    /// Sets the size in bytes of the largest object. Below 4096 it counts as 4096, above [`MOST_OBJECT`] as
    /// [`MOST_OBJECT`].
    #[must_use]
    pub fn with_max_object_size(mut self, bytes: usize) -> Self {
        self.max_object_size = bytes.clamp(PAGE_SIZE, MOST_OBJECT);
        self
    }

    /// Sets a budget for the pool's resident pages.
    #[must_use]
    pub fn with_budget(mut self, budget: Arc<PageBudget>) -> Self {
        self.budget = Some(budget);
        self
    }
}

type Constructor = Arc<dyn Fn(&ZpoolConfig) -> Result<Arc<dyn Zpool>, ZpoolError> + Send + Sync>;

/// A map from names to the constructors of backends. `Send`, `Sync`, cheap to clone.
///
/// ```
/// use std::sync::Arc;
/// use zpool_api::{PageProvider, Registry, ZpoolConfig, ZpoolError};
///
/// let mut registry = Registry::new();
/// // A real constructor returns `Ok(Arc::new(pool))`.
/// registry.register("mine", |_config| Err(ZpoolError::EmptyObject))?;
/// assert_eq!(registry.names().collect::<Vec<_>>(), ["mine"]);
///
/// fn misspelt(registry: &Registry, pages: Arc<dyn PageProvider>) {
///     let error = registry.build("mien", &ZpoolConfig::new(pages)).unwrap_err();
///     assert!(matches!(error, ZpoolError::UnknownBackend { .. }));
/// }
/// # Ok::<(), ZpoolError>(())
/// ```
#[derive(Clone, Default)]
pub struct Registry {
    constructors: BTreeMap<String, Constructor>,
}

impl Registry {
    /// Makes an empty registry.
    pub fn new() -> Self {
        Registry::default()
    }

    /// Adds a backend under `name`. [`build`](Self::build) with this name calls `constructor`.
    ///
    /// # Errors
    /// [`ZpoolError::AlreadyRegistered`] if the name is taken.
    pub fn register<F>(&mut self, name: &str, constructor: F) -> Result<(), ZpoolError>
    where
        F: Fn(&ZpoolConfig) -> Result<Arc<dyn Zpool>, ZpoolError> + Send + Sync + 'static,
    {
        if self.constructors.contains_key(name) {
            return Err(ZpoolError::AlreadyRegistered { name: name.to_owned() });
        }
        self.constructors.insert(name.to_owned(), Arc::new(constructor));
        Ok(())
    }

    /// Returns the registered names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.constructors.keys().map(String::as_str)
    }

    /// Builds a pool by calling the constructor that is registered under `name`.
    ///
    /// # Errors
    /// [`ZpoolError::UnknownBackend`] if no backend has this name. This error lists the known names.
    /// Otherwise any error of the constructor.
    pub fn build(&self, name: &str, config: &ZpoolConfig) -> Result<Arc<dyn Zpool>, ZpoolError> {
        match self.constructors.get(name) {
            Some(constructor) => constructor(config),
            None => Err(ZpoolError::UnknownBackend {
                name: name.to_owned(),
                known: self.names().collect::<Vec<_>>().join(", "),
            }),
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // A constructor may own values of the user, and their destructors may panic. If two of them
        // panicked, the second panic would abort the process. So `dropped` catches each panic.
        for (_, constructor) in core::mem::take(&mut self.constructors) {
            dropped(constructor);
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const _: fn() = || {
        fn both<T: Send + Sync>() {}
        both::<Registry>();
        both::<ZpoolConfig>();
    };
}
