//! The threads on which all requests run, and how a caller hands a request to them and waits.
//!
//! A caller may be a thread of another tokio runtime, where this crate must not run an executor. So the caller only
//! sleeps until the answer is there, as it would in a read of a file.

use core::future::Future;
use core::time::Duration;
use std::io;
use std::sync::mpsc;

use tokio::runtime::{Builder, Runtime};

/// Why a request has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unanswered {
    /// It took longer than the caller waits.
    Late,
    /// It panicked.
    Panicked,
}

/// A runtime. Dropping it does not wait for what still runs there, so it may be dropped anywhere.
#[derive(Debug)]
pub(crate) struct Threads(Option<Runtime>);

impl Threads {
    pub(crate) fn start(threads: usize) -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(threads).thread_name("zswap-remote").enable_io().enable_time();
        builder.build().map(|runtime| Threads(Some(runtime)))
    }

    /// Runs a task there.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.0 {
            drop(runtime.spawn(task));
        }
    }

    /// Runs a request there and waits for the result, at most for `limit`. A request that is late is cancelled; what
    /// it has sent may still take effect.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        request: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Unanswered> {
        let Some(runtime) = &self.0 else { return Err(Unanswered::Late) };
        let (answer, wait) = mpsc::sync_channel(1);
        let task = runtime.spawn(async move {
            // The caller may have stopped waiting.
            let _ = answer.send(request.await);
        });
        wait.recv_timeout(limit).map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => {
                task.abort();
                Unanswered::Late
            }
            // The task was dropped without an answer.
            mpsc::RecvTimeoutError::Disconnected => Unanswered::Panicked,
        })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn an_answer_comes_back_and_a_late_or_panicking_request_is_an_error() {
        let threads = Threads::start(1).unwrap();
        assert_eq!(threads.call(LONG, async { 7 }), Ok(7));
        let begun = Instant::now();
        let late = threads.call(Duration::from_millis(20), std::future::pending::<()>());
        assert_eq!(late, Err(Unanswered::Late));
        assert!(begun.elapsed() < LONG / 2);
        let panicked = threads.call(LONG, async { std::panic::resume_unwind(Box::new(())) });
        assert_eq!(panicked, Err::<(), _>(Unanswered::Panicked));
        assert_eq!(threads.call(LONG, async { 8 }), Ok(8));
    }

    #[test]
    fn a_thread_of_another_runtime_may_call_and_drop() {
        let other = Builder::new_current_thread().build().unwrap();
        other.block_on(async {
            let threads = Threads::start(1).unwrap();
            assert_eq!(threads.call(LONG, async { 7 }), Ok(7));
        });
    }
}
