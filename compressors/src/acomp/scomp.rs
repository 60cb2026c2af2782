//! A synchronous codec as an Acomp: it completes in its caller.

use std::sync::Arc;

use super::{Acomp, AcompCompletions, AcompRequest};

/// Completes each request before `submit` returns.
///
/// `Send` and `Sync`; holds nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scomp;

impl Acomp for Scomp {
    fn submit(
        &self,
        request: AcompRequest,
        tag: usize,
        done: &Arc<AcompCompletions>,
    ) -> Result<(), AcompRequest> {
        if done.expect().is_err() {
            return Err(request);
        }
        done.tell(tag, request.run());
        Ok(())
    }
}
