//! Runs the conformance suite on a third-party backend that uses only the public API. Also runs it on
//! versions of this backend that have one fault each: the suite must find every fault.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test; the lints exempt only functions marked as tests, not those they call"
)]

#[path = "third_party/broken.rs"]
mod broken;
#[path = "third_party/onepage.rs"]
mod onepage;

use std::sync::Arc;

use zpool_api::{PageProvider, Registry, Zpool, ZpoolConfig, ZpoolError, obj_read_owned};
use zpool_conformance::Subject;
use zpool_pages::HeapPages;

/// Returns a registry in which the backend is registered under its own name.
pub(crate) fn registry() -> Registry {
    let mut registry = Registry::new();
    registry
        .register("onepage", |config| Ok(Arc::new(onepage::OnePage::new(config.pages.clone()))))
        .unwrap();
    registry
}

/// The correct backend, built by its name.
struct ByName(Registry);

impl Subject for ByName {
    fn name(&self) -> &str {
        "onepage"
    }

    fn build(&self, pages: Arc<dyn PageProvider>) -> Result<Arc<dyn Zpool>, ZpoolError> {
        self.0.build("onepage", &ZpoolConfig::new(pages))
    }
}

mod onepage_conforms {
    zpool_conformance::conformance_tests!(super::ByName(super::registry()));
}

/// The same backend over large pages, which the default providers do not have.
struct LargePages;

impl Subject for LargePages {
    fn name(&self) -> &str {
        "onepage over 64 KiB pages"
    }

    fn build(&self, pages: Arc<dyn PageProvider>) -> Result<Arc<dyn Zpool>, ZpoolError> {
        Ok(Arc::new(onepage::OnePage::new(pages)))
    }

    fn providers(&self) -> Vec<(String, Arc<dyn PageProvider>)> {
        let pages = HeapPages::with_page_size(65536).unwrap();
        vec![("HeapPages".to_owned(), Arc::new(pages))]
    }
}

#[test]
#[cfg_attr(miri, ignore = "runs the whole suite again")]
fn onepage_conforms_over_large_pages() {
    zpool_conformance::all(&LargePages);
}

#[test]
fn a_third_partys_backend_is_known_by_name() {
    let config = ZpoolConfig::new(Arc::new(HeapPages::new()));
    assert_eq!(registry().build("onepage", &config).unwrap().name(), "onepage");
    let unknown = registry().build("twopage", &config).unwrap_err();
    assert_eq!(unknown.to_string(), "no backend named `twopage`; known: onepage");
}

#[test]
fn an_owned_guard_has_the_objects_bytes_and_tells_their_number_only() {
    let pool: Arc<dyn Zpool> = Arc::new(onepage::OnePage::new(Arc::new(HeapPages::new())));
    let handle = pool.malloc_from(b"secret").unwrap();
    let owned = obj_read_owned(pool.clone(), handle).unwrap();
    assert_eq!(&*owned, b"secret");
    assert_eq!(format!("{owned:?}"), "ObjReadOwned { len: 6, .. }");
    assert!(Arc::ptr_eq(owned.pool(), &pool));
}
