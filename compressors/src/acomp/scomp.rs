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
        let Ok(ticket) = done.expect() else { return Err(request) };
        ticket.tell(tag, request.run());
        Ok(())
    }
}
