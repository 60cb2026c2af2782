//! Runs the whole conformance suite on z3fold.

use std::sync::Arc;
use z3fold::Z3fold;
use zpool_api::{PageProvider, Zpool, ZpoolError};
use zpool_conformance::Subject;

struct Z3foldSubject;

impl Subject for Z3foldSubject {
    fn name(&self) -> &str {
        "z3fold"
    }

    fn build(&self, pages: Arc<dyn PageProvider>) -> Result<Arc<dyn Zpool>, ZpoolError> {
        Ok(Arc::new(Z3fold::new(pages)?))
    }
}

zpool_conformance::conformance_tests!(Z3foldSubject);
