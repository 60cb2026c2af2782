//! Runs the whole conformance suite on zbud over pages of 8 to 64 KiB, which hold objects of that size.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

use std::sync::Arc;
use zbud::Zbud;
use zpool_api::{PageProvider, Zpool, ZpoolError};
use zpool_conformance::Subject;
use zpool_pages::HeapPages;

/// The size of a page in bytes.
struct PagesOf(usize);

impl Subject for PagesOf {
    fn name(&self) -> &str {
        "zbud"
    }

    fn build(&self, pages: Arc<dyn PageProvider>) -> Result<Arc<dyn Zpool>, ZpoolError> {
        let pool = Zbud::new(pages)?;
        assert_eq!(pool.caps().max_object_size, self.0);
        Ok(Arc::new(pool))
    }

    fn providers(&self) -> Vec<(String, Arc<dyn PageProvider>)> {
        let pages = HeapPages::with_page_size(self.0).expect("a page size that the pool supports");
        vec![(format!("HeapPages of {} bytes", self.0), Arc::new(pages))]
    }
}

#[cfg(not(miri))]
mod pages_of_8_kib {
    zpool_conformance::conformance_tests!(super::PagesOf(8 << 10));
}

#[cfg(not(miri))]
mod pages_of_16_kib {
    zpool_conformance::conformance_tests!(super::PagesOf(16 << 10));
}

#[cfg(not(miri))]
mod pages_of_32_kib {
    zpool_conformance::conformance_tests!(super::PagesOf(32 << 10));
}

mod pages_of_64_kib {
    zpool_conformance::conformance_tests!(super::PagesOf(64 << 10));
}
