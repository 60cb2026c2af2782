//! The built-in backends and compressors. Outside tests and examples, no other module of this crate names a
//! backend. The compressors are listed in the crate `compressors`.
//!
//! Each one has a cargo feature of the same name, with two exceptions: `lz4hc` comes with the feature `lz4`, and
//! `null` is always compiled in.

use std::sync::Arc;

use compressors::Registry as CompressorRegistry;
pub use compressors::{DefaultCompressor, default_compressor};
use zpool_api::{PageError, PageProvider, Registry as ZpoolRegistry};

/// Returns a registry of the built-in backends that are compiled in.
///
/// ```
/// use zpage::builtin::{DEFAULT_ZPOOL, zpools};
/// assert!(zpools().names().any(|name| name == DEFAULT_ZPOOL));
/// ```
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

/// Returns a registry of the built-in compressors that are compiled in. `null` is always among them.
///
/// ```
/// assert!(zpage::builtin::compressors().names().contains(&"null"));
/// ```
pub fn compressors() -> CompressorRegistry {
    CompressorRegistry::builtin()
}

/// The name of the backend that is used if none is named.
pub const DEFAULT_ZPOOL: &str = if cfg!(feature = "zsmalloc") { "zsmalloc" } else { "zbud" };

/// Makes this system's default page provider: `MmapPages` on Linux, else `HeapPages`. Its pages have `page_size` bytes,
/// or as many as the system's pages if those are larger.
///
/// # Errors
/// Those of the provider's constructor, if `page_size` is no power of two or exceeds 64 KiB.
#[cfg(all(target_os = "linux", not(miri)))]
pub(crate) fn default_pages(page_size: usize) -> Result<Arc<dyn PageProvider>, PageError> {
    let page_size = page_size.max(zpool_pages::MmapPages::new().page_size());
    let options = zpool_pages::MmapOptions::new().page_size(page_size);
    Ok(Arc::new(zpool_pages::MmapPages::with_options(options)?))
}

/// Makes this system's default page provider: `MmapPages` on Linux, else `HeapPages`. Its pages have `page_size` bytes.
///
/// # Errors
/// Those of the provider's constructor, if it does not make pages of this size.
#[cfg(not(all(target_os = "linux", not(miri))))]
pub(crate) fn default_pages(page_size: usize) -> Result<Arc<dyn PageProvider>, PageError> {
    Ok(Arc::new(zpool_pages::HeapPages::with_page_size(page_size)?))
}
