//! The backends and compressors that come with this crate: the one place that names them.
//!
//! Each is behind a cargo feature of its own name.

use std::sync::Arc;

use compressors::Registry as CompressorRegistry;
use zpool_api::{PageError, PageProvider, Registry as ZpoolRegistry};

/// The built-in backends that are switched on.
pub fn zpools() -> ZpoolRegistry {
    #[allow(unused_mut, reason = "nothing is added when every backend is switched off")]
    let mut registry = ZpoolRegistry::new();
    // The registry is new, so no name is taken.
    #[cfg(feature = "zbud")]
    let _ = registry.register("zbud", |config| {
        Ok(Arc::new(zbud::Zbud::with_budget(config.pages.clone(), config.budget.clone())?))
    });
    #[cfg(feature = "z3fold")]
    let _ = registry.register("z3fold", |config| {
        Ok(Arc::new(z3fold::Z3fold::with_budget(config.pages.clone(), config.budget.clone())?))
    });
    #[cfg(feature = "zsmalloc")]
    let _ = registry.register("zsmalloc", |config| {
        Ok(Arc::new(zsmalloc::Zsmalloc::from_config(config, zsmalloc::Config::new())?))
    });
    registry
}

/// The built-in compressors that are switched on; `null` always is.
pub fn compressors() -> CompressorRegistry {
    CompressorRegistry::builtin()
}

/// The backend of a store that names none.
pub const DEFAULT_ZPOOL: &str = if cfg!(feature = "zsmalloc") { "zsmalloc" } else { "zbud" };

/// The compressor of a store that names none.
pub const DEFAULT_COMPRESSOR: &str = if cfg!(feature = "lz4") { "lz4" } else { "null" };

/// The page provider of this system: `MmapPages` on Linux, else `HeapPages`.
#[cfg(all(target_os = "linux", not(miri)))]
pub(crate) fn default_pages() -> Result<Arc<dyn PageProvider>, PageError> {
    Ok(Arc::new(zpool_pages::MmapPages::new()))
}

/// The page provider of this system: `MmapPages` on Linux, else `HeapPages`.
#[cfg(not(all(target_os = "linux", not(miri))))]
pub(crate) fn default_pages() -> Result<Arc<dyn PageProvider>, PageError> {
    Ok(Arc::new(zpool_pages::HeapPages::new()))
}
