//! An [`Acomp`] without threads.

use std::sync::Arc;

use super::{Acomp, AcompCompletions, AcompRequest};

/// Completes each request in the caller, before `submit` returns.
///
/// `Send` and `Sync`; stateless.
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
