//! Acomp: compression by request. A request is submitted, its completion is told to a queue, and
//! whoever wants to waits for it there.
//!
//! A request *owns* its input, its output and the codec's context: they move in when it is submitted
//! and out on completion. So a request whose completions nobody waits for, or that is forgotten,
//! frees nothing under a worker's feet.
//!
//! [`Scomp`] completes each request in its caller. [`AcompEngine`] has worker threads. Whoever submits
//! never assumes which kind it got. Completions run no code of the user's.

mod completions;
mod engine;
mod request;
mod scomp;

pub use completions::{AcompCompletions, AcompTicket, CompletionsPool};
pub use engine::AcompEngine;
pub use request::{AcompDone, AcompOp, AcompRequest};
pub use scomp::Scomp;

use core::fmt;
use std::sync::Arc;

/// Takes requests and tells of their completion.
pub trait Acomp: Send + Sync + fmt::Debug {
    /// Hands a request over. It will complete, once, whatever becomes of the caller: with a result, or
    /// with the error that stopped it, a codec's panic among them. `tag` comes back with it, and so do the
    /// buffers.
    ///
    /// It is waited for from [`AcompCompletions::expect`] on, for as long as the ticket lives that this
    /// gives. An Acomp that drops the ticket with the request is not waited for; one that keeps both for
    /// ever is.
    ///
    /// May complete it before it returns, and blocks for as long as that takes at most.
    ///
    /// # Errors
    /// The request itself, if there is no memory to note its completion, or `done` is a parent
    /// process's: then nothing has happened.
    fn submit(
        &self,
        request: AcompRequest,
        tag: usize,
        done: &Arc<AcompCompletions>,
    ) -> Result<(), AcompRequest>;

    /// Requests that can be at work at once, the caller's own help included; 0 is taken for 1. More than
    /// a few times as many only wait.
    fn parallelism(&self) -> usize {
        1
    }

    /// Completes a request of anybody's that nobody is at yet, in the caller; false if there is none.
    /// For those who wait anyway.
    fn help(&self) -> bool {
        false
    }

    /// Waits for a completion of the requests submitted with `done`, helping meanwhile; none if all
    /// have completed and were taken.
    fn wait_any(&self, done: &AcompCompletions) -> Option<(usize, AcompDone)> {
        loop {
            let told = done.take();
            if told.is_some() || done.is_idle() {
                // One may have come between the two looks.
                return told.or_else(|| done.take());
            }
            if !self.help() {
                return done.wait_any();
            }
        }
    }

    /// Waits until all requests submitted with `done` have completed, helping meanwhile, and takes
    /// what there is.
    fn wait_all(&self, done: &AcompCompletions) -> Vec<(usize, AcompDone)> {
        while !done.is_idle() && self.help() {}
        done.wait_all()
    }
}
