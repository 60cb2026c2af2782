//! zsmalloc through the whole conformance suite.

use std::sync::Arc;
use zpool_api::conformance::Subject;
use zpool_api::{PageProvider, Zpool, ZpoolError};
use zsmalloc::Zsmalloc;

struct ZsmallocSubject;

impl Subject for ZsmallocSubject {
    fn name(&self) -> &str {
        "zsmalloc"
    }

    fn build(&self, pages: Arc<dyn PageProvider>) -> Result<Arc<dyn Zpool>, ZpoolError> {
        Ok(Arc::new(Zsmalloc::new(pages)?))
    }
}

zpool_api::conformance_tests!(ZsmallocSubject);
