//! Acomp: asynchronous compression. A caller submits a request. Its completion goes to a queue, where the
//! caller can wait for it.
//!
//! A request *owns* its input, its output and the codec's context, and its completion returns them. So a caller
//! that stops waiting, or drops its completions, frees nothing that a worker uses.
//!
//! [`Scomp`] completes each request in its caller. [`AcompEngine`] has worker threads. A submitter must
//! work with either. Completions run no user code.

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

/// Takes requests and reports their completions.
pub trait Acomp: Send + Sync + fmt::Debug {
    /// Submits a request. It completes exactly once, even if the caller stops waiting: with a result, or with an
    /// error such as a codec's panic. The completion returns `tag`, the buffers and, unless the codec panicked,
    /// the context.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use compressors::{
    ///     Acomp, AcompCompletions, AcompOp, AcompRequest, Compressor, CompressorError, Null, Scomp,
    /// };
    ///
    /// let done = Arc::new(AcompCompletions::new());
    /// let (input, output) = (b"page".to_vec(), vec![0; 4]);
    /// let request = AcompRequest { op: AcompOp::Compress, input, output, ctx: Null.new_ctx()? };
    /// Scomp.submit(request, 7, &done).expect("there is memory for a completion");
    /// let (tag, completed) = Scomp.wait_any(&done).expect("a request was submitted");
    /// assert_eq!((tag, completed.result, &completed.output[..]), (7, Ok(4), &b"page"[..]));
    /// # Ok::<(), CompressorError>(())
    /// ```
    ///
    /// Implementations call [`AcompCompletions::expect`]. From then on, waiters wait for the request until its
    /// ticket delivers the completion or is dropped. An implementation that drops a request must drop the
    /// ticket, too. If it keeps the ticket for ever, waiters wait for ever.
    ///
    /// # Errors
    /// Returns the request, and does nothing else, if there is no memory to record the completion or if `done`
    /// was made by a parent process.
    ///
    /// # Blocking
    /// May complete the request before it returns. Does not block otherwise.
    fn submit(
        &self,
        request: AcompRequest,
        tag: usize,
        done: &Arc<AcompCompletions>,
    ) -> Result<(), AcompRequest>;

    /// Returns how many requests can run at the same time, including one in the caller ([`help`](Self::help)).
    /// 0 counts as 1. Submitting more than a few times this number only lengthens the queue.
    fn parallelism(&self) -> usize {
        1
    }

    /// Completes one queued request in the caller, whoever submitted it. Returns false if none is queued. A
    /// thread can call this instead of waiting.
    fn help(&self) -> bool {
        false
    }

    /// Takes a completion of the requests submitted with `done`. If there is none yet, runs queued requests and
    /// waits. Returns `None` if all requests have completed and all completions were taken.
    ///
    /// # Blocking
    /// Runs queued requests of any submitter. If none is queued, sleeps until a request completes.
    fn wait_any(&self, done: &AcompCompletions) -> Option<(usize, AcompDone)> {
        loop {
            let told = done.take();
            if told.is_some() || done.is_idle() {
                // A request may have completed between `take` and `is_idle`.
                return told.or_else(|| done.take());
            }
            if !self.help() {
                return done.wait_any();
            }
        }
    }

    /// Waits until all requests submitted with `done` have completed, and takes all completions. Runs queued
    /// requests meanwhile.
    ///
    /// # Blocking
    /// Runs queued requests of any submitter. If none is queued, sleeps until all requests have completed.
    fn wait_all(&self, done: &AcompCompletions) -> Vec<(usize, AcompDone)> {
        while !done.is_idle() && self.help() {}
        done.wait_all()
    }
}
