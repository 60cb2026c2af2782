//! Runs the whole conformance suite on zsmalloc.

use std::sync::Arc;
use zpool_api::{PageProvider, Zpool, ZpoolError};
use zpool_conformance::Subject;
use zsmalloc::{Config, Zsmalloc};

struct ZsmallocSubject;

impl Subject for ZsmallocSubject {
    fn name(&self) -> &str {
        "zsmalloc"
    }

    fn build(&self, pages: Arc<dyn PageProvider>) -> Result<Arc<dyn Zpool>, ZpoolError> {
        // The table is shorter under Miri, where every step is slow.
        let config = if cfg!(miri) { Config::new().chain(3) } else { Config::new() };
        Ok(Arc::new(Zsmalloc::with_config(pages, config)?))
    }
}

zpool_conformance::conformance_tests!(ZsmallocSubject);
