//! The threads on which all requests run, and how a caller hands a request to them and waits.
//!
//! A caller may be a thread of another tokio runtime, where this crate must not run an executor. So the caller only
//! sleeps until the answer is there, as it would in a read of a file.

use core::future::Future;
use core::time::Duration;
use std::io;
use std::sync::mpsc;
use std::time::Instant;

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

    /// Runs several requests there at the same time, and waits for all results, at most for `limit`. Returns them in
    /// the order of the requests.
    pub(crate) fn call_all<T: Send + 'static>(
        &self,
        limit: Duration,
        requests: Vec<impl Future<Output = T> + Send + 'static>,
    ) -> Vec<Result<T, Unanswered>> {
        let late = |count| (0..count).map(|_| Err(Unanswered::Late)).collect();
        let Some(runtime) = &self.0 else { return late(requests.len()) };
        let end = Instant::now() + limit;
        let count = requests.len();
        let (answer, answers) = mpsc::sync_channel(count.max(1));
        let tasks: Vec<_> = requests
            .into_iter()
            .enumerate()
            .map(|(n, request)| {
                let answer = answer.clone();
                runtime.spawn(async move {
                    // The caller may have stopped waiting.
                    let _ = answer.send((n, request.await));
                })
            })
            .collect();
        // The tasks have the other ends. Once all are gone, no further answer comes.
        drop(answer);
        let mut results: Vec<Result<T, Unanswered>> = late(count);
        for _ in 0..count {
            match answers.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok((n, result)) => results[n] = Ok(result),
                Err(mpsc::RecvTimeoutError::Timeout) => break,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    // Those without an answer panicked.
                    let silent = results.iter_mut().filter(|result| result.is_err());
                    silent.for_each(|result| *result = Err(Unanswered::Panicked));
                    break;
                }
            }
        }
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        results
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
    fn several_requests_run_at_the_same_time_and_each_has_its_own_result() {
        let threads = Threads::start(1).unwrap();
        let begun = Instant::now();
        let pause = Duration::from_millis(100);
        let requests = (0..50).map(|n| async move {
            tokio::time::sleep(pause).await;
            n
        });
        let answers = threads.call_all(LONG, requests.collect());
        assert_eq!(answers, (0..50).map(Ok).collect::<Vec<_>>());
        assert!(begun.elapsed() < 10 * pause, "one after another");
        let request = |n| async move {
            match n {
                0 => std::future::pending().await,
                1 => std::panic::resume_unwind(Box::new(())),
                n => n,
            }
        };
        let late = threads.call_all(pause, (0..4).map(request).collect());
        assert_eq!(late, [Err(Unanswered::Late), Err(Unanswered::Late), Ok(2), Ok(3)]);
        let panicked = threads.call_all(LONG, (1..3).map(request).collect());
        assert_eq!(panicked, [Err(Unanswered::Panicked), Ok(2)]);
        assert!(threads.call_all(LONG, Vec::<core::future::Ready<()>>::new()).is_empty());
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
