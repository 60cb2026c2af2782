//! Runs the whole conformance suite on zbud.

use std::sync::Arc;
use zbud::Zbud;
use zpool_api::{PageProvider, Zpool, ZpoolError};
use zpool_conformance::Subject;

struct ZbudSubject;

impl Subject for ZbudSubject {
    fn name(&self) -> &str {
        "zbud"
    }

    fn build(&self, pages: Arc<dyn PageProvider>) -> Result<Arc<dyn Zpool>, ZpoolError> {
        Ok(Arc::new(Zbud::new(pages)?))
    }
}

zpool_conformance::conformance_tests!(ZbudSubject);
