//! Runs the whole conformance suite on zsmalloc with objects of up to 8 to 64 KiB in pages of 4 KiB.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

use std::sync::Arc;
use zpool_api::{PageProvider, Zpool, ZpoolConfig, ZpoolError};
use zpool_conformance::Subject;
use zpool_pages::HeapPages;
use zsmalloc::{Config, Zsmalloc};

/// The size of the largest object in bytes.
struct ObjectsOf(usize);

impl Subject for ObjectsOf {
    fn name(&self) -> &str {
        "zsmalloc"
    }

    fn build(&self, pages: Arc<dyn PageProvider>) -> Result<Arc<dyn Zpool>, ZpoolError> {
        let pages = ZpoolConfig::new(pages).with_max_object_size(self.0);
        // The table is shorter under Miri, where every step is slow.
        let config = if cfg!(miri) { Config::new().chain(3) } else { Config::new() };
        let pool = Zsmalloc::from_config(&pages, config)?;
        assert_eq!(pool.caps().max_object_size, self.0);
        Ok(Arc::new(pool))
    }

    /// One provider for each size, so that the whole suite over all sizes takes little longer.
    fn providers(&self) -> Vec<(String, Arc<dyn PageProvider>)> {
        // `MmapPages` needs a form of mmap that Miri does not support.
        #[cfg(all(target_os = "linux", not(miri)))]
        if self.0 % (16 << 10) == 0 {
            let pages: Arc<dyn PageProvider> = Arc::new(zpool_pages::MmapPages::new());
            return vec![("MmapPages".to_owned(), pages)];
        }
        vec![("HeapPages".to_owned(), Arc::new(HeapPages::new()))]
    }
}

#[cfg(not(miri))]
mod objects_of_8_kib {
    zpool_conformance::conformance_tests!(super::ObjectsOf(8 << 10));
}

#[cfg(not(miri))]
mod objects_of_16_kib {
    zpool_conformance::conformance_tests!(super::ObjectsOf(16 << 10));
}

/// A size that is not a whole number of pages.
#[cfg(not(miri))]
mod objects_of_33333_bytes {
    zpool_conformance::conformance_tests!(super::ObjectsOf(33_333));
}

mod objects_of_64_kib {
    zpool_conformance::conformance_tests!(super::ObjectsOf(64 << 10));
}
