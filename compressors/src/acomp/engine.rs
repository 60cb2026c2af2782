//! Worker threads that complete requests from a bounded queue.
//!
//! `submit` completes the request in the caller if the queue is full or cannot grow, if the engine has no worker, or
//! if the caller is a worker of any engine. So no submitter waits for room in a queue, and no worker waits for
//! another.
//! When the engine is dropped, the workers complete the queued requests and end.
//!
//! A child after `fork` has no workers. There, each request completes in its caller, and dropping the
//! engine does nothing. Requests that were queued at the fork complete in the parent.
//!
//! Lock: one mutex around the queue. It is held briefly, and no codec runs under it.

use core::cell::Cell;
use core::fmt;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::{Acomp, AcompCompletions, AcompRequest, AcompTicket, Scomp};
use zpool_base::fork::Maker;

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

struct Job {
    request: AcompRequest,
    tag: usize,
    ticket: AcompTicket,
}

impl Job {
    fn run(self) {
        self.ticket.tell(self.tag, self.request.run());
    }
}

/// How often an idle worker polls the queue before it sleeps. This takes about twenty microseconds. It pays, since
/// requests come in batches, and waking a thread takes as long as compressing a page.
const SPINS: u32 = 1000;

/// The number of requests for which a new queue has room, unless the queue's bound is lower.
const AT_FIRST: usize = 64;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    stop: bool,
    /// The number of sleeping workers.
    asleep: usize,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    bound: usize,
    /// A copy of the queue's length. It is polled without the lock.
    queued: AtomicUsize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, queue: &mut Queue) -> Option<Job> {
        let job = queue.jobs.pop_front();
        // Relaxed: a copy for polling, written under the lock.
        self.queued.store(queue.jobs.len(), Relaxed);
        job
    }
}

/// Worker threads and a bounded queue.
///
/// `Send` and `Sync`: share it by reference or `Arc`. [`Acomp::submit`] describes what an engine guarantees.
///
/// ```
/// use std::sync::Arc;
/// use compressors::{
///     Acomp, AcompCompletions, AcompEngine, AcompOp, AcompRequest, Compressor, Null,
/// };
///
/// let engine = AcompEngine::new(2, 64)?;
/// let done = Arc::new(AcompCompletions::new());
/// for tag in 0..8 {
///     let (input, output) = (vec![tag as u8; 4096], vec![0; 4096]);
///     let request = AcompRequest { op: AcompOp::Compress, input, output, ctx: Null.new_ctx()? };
///     engine.submit(request, tag, &done).expect("there is memory for a completion");
/// }
/// for (tag, completed) in engine.wait_all(&done) {
///     assert_eq!((completed.result, completed.output[0]), (Ok(4096), tag as u8));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct AcompEngine {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    maker: Maker,
}

impl AcompEngine {
    /// Starts an engine of `workers` threads. Its queue holds at most `bound` requests.
    ///
    /// # Errors
    /// The system's error if a thread cannot be started; the threads that did start are ended. `OutOfMemory` if
    /// there is no memory for the queue.
    pub fn new(workers: usize, bound: usize) -> io::Result<Self> {
        let maker = Maker::here();
        let mut jobs = VecDeque::new();
        // The queue grows if it needs more room. If there is no memory for that, requests complete in the caller.
        jobs.try_reserve(bound.min(AT_FIRST)).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let queue = Mutex::new(Queue { jobs, ..Queue::default() });
        let shared =
            Arc::new(Shared { queue, work: Condvar::new(), bound, queued: AtomicUsize::new(0) });
        // If a thread cannot be started, dropping the engine ends the threads that were started.
        let mut engine = AcompEngine { shared, workers: Vec::new(), maker };
        for number in 0..workers {
            let shared = engine.shared.clone();
            let builder = thread::Builder::new().name(format!("acomp-{number}"));
            engine.workers.push(builder.spawn(move || work(&shared, maker))?);
        }
        Ok(engine)
    }

    /// Returns the number of worker threads; 0 in a child after `fork`.
    pub fn workers(&self) -> usize {
        if self.maker.is_here() { self.workers.len() } else { 0 }
    }
}

fn work(shared: &Shared, maker: Maker) {
    IS_WORKER.set(true);
    let mut queue = shared.lock();
    loop {
        if let Some(job) = shared.next(&mut queue) {
            drop(queue);
            job.run();
            if !maker.is_here() {
                // The codec has forked, and this is the child. Nobody submits work here. If another thread held
                // the lock at the fork, that thread does not exist here, and the lock is never released.
                return;
            }
            queue = shared.lock();
            continue;
        }
        if queue.stop {
            return;
        }
        drop(queue);
        // Relaxed: this only polls. The lock is taken next, whatever value was read.
        (0..SPINS).take_while(|_| shared.queued.load(Relaxed) == 0).for_each(|_| spin_loop());
        queue = shared.lock();
        if queue.jobs.is_empty() && !queue.stop {
            queue.asleep += 1;
            queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.asleep -= 1;
        }
    }
}

impl Acomp for AcompEngine {
    fn submit(
        &self,
        request: AcompRequest,
        tag: usize,
        done: &Arc<AcompCompletions>,
    ) -> Result<(), AcompRequest> {
        // While a thread ends, its flag may be destroyed. Such a thread counts as a worker.
        if self.workers() == 0 || IS_WORKER.try_with(Cell::get).unwrap_or(true) {
            return Scomp.submit(request, tag, done);
        }
        let Ok(ticket) = done.expect() else { return Err(request) };
        let mut queue = self.shared.lock();
        if queue.jobs.len() >= self.shared.bound || queue.jobs.try_reserve(1).is_err() {
            drop(queue);
            ticket.tell(tag, request.run());
            return Ok(());
        }
        queue.jobs.push_back(Job { request, tag, ticket });
        // Relaxed: a copy for polling, written under the lock.
        self.shared.queued.store(queue.jobs.len(), Relaxed);
        let asleep = queue.asleep > 0;
        drop(queue);
        if asleep {
            self.shared.work.notify_one();
        }
        Ok(())
    }

    fn parallelism(&self) -> usize {
        self.workers() + 1
    }

    fn help(&self) -> bool {
        if !self.maker.is_here() {
            return false;
        }
        let job = self.shared.next(&mut self.shared.lock());
        let helped = job.is_some();
        if let Some(job) = job {
            job.run();
        }
        helped
    }
}

impl Drop for AcompEngine {
    fn drop(&mut self) {
        if !self.maker.is_here() {
            // The lock and the threads belong to the parent.
            return core::mem::forget(core::mem::take(&mut self.workers));
        }
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // A worker that drops the last `Arc` of its engine cannot join itself.
            if worker.thread().id() != thread::current().id() {
                let _ = worker.join();
            }
        }
    }
}

impl fmt::Debug for AcompEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcompEngine")
            .field("workers", &self.workers())
            .field("bound", &self.shared.bound)
            // Relaxed: the number is only displayed.
            .field("queued", &self.shared.queued.load(Relaxed))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AcompDone, AcompOp, Compressor, CompressorCtx, CompressorError, Null};
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc;

    const _: fn() = || {
        fn both<T: Send + Sync + ?Sized>() {}
        both::<AcompEngine>();
        both::<AcompCompletions>();
        both::<dyn Acomp>();
    };

    /// A codec that obeys the first byte of its input: 0 copies, 1 fails, 2 panics, 3 waits for the gate.
    #[derive(Debug)]
    struct Odd {
        live: Arc<AtomicUsize>,
        gate: Arc<Mutex<Option<mpsc::Receiver<()>>>>,
    }

    impl Drop for Odd {
        fn drop(&mut self) {
            self.live.fetch_sub(1, SeqCst);
        }
    }

    impl CompressorCtx for Odd {
        fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
            match src[0] {
                1 => return Err(CompressorError::OutOfMemory { codec: "odd", what: "a test" }),
                2 => std::panic::resume_unwind(Box::new("on purpose")),
                3 => {
                    let gate = self.gate.lock().unwrap().take();
                    gate.unwrap().recv().unwrap();
                }
                _ => {}
            }
            dst[..src.len()].copy_from_slice(src);
            Ok(src.len())
        }

        fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
            self.compress(src, dst).map(drop)
        }

        fn memory_bytes(&self) -> usize {
            0
        }
    }

    struct Rig {
        live: Arc<AtomicUsize>,
        gate: Arc<Mutex<Option<mpsc::Receiver<()>>>>,
    }

    impl Rig {
        fn new() -> (Rig, mpsc::Sender<()>) {
            let (open, gate) = mpsc::channel();
            (Rig { live: Arc::default(), gate: Arc::new(Mutex::new(Some(gate))) }, open)
        }

        fn request(&self, what: u8) -> AcompRequest {
            self.live.fetch_add(1, SeqCst);
            let ctx = Box::new(Odd { live: self.live.clone(), gate: self.gate.clone() });
            let input = vec![what; 10];
            AcompRequest { op: AcompOp::Compress, input, output: vec![0; 16], ctx }
        }
    }

    fn check(tag: usize, done: &AcompDone) {
        match tag % 3 {
            0 => assert_eq!((done.result.clone(), &done.output[..10]), (Ok(10), &[0; 10][..])),
            1 => assert!(matches!(done.result, Err(CompressorError::OutOfMemory { .. }))),
            _ => assert!(matches!(done.result, Err(CompressorError::Panicked { .. }))),
        }
        assert_eq!(done.ctx.is_some(), tag % 3 != 2);
        assert_eq!(done.input, [(tag % 3) as u8; 10]);
    }

    #[test]
    fn every_request_completes_once_with_what_it_owned() {
        let (rig, _open) = Rig::new();
        let engine = AcompEngine::new(3, 8).unwrap();
        let kinds: [&dyn Acomp; 2] = [&Scomp, &engine];
        for acomp in kinds {
            let done = Arc::new(AcompCompletions::new());
            for tag in 0..50 {
                acomp.submit(rig.request((tag % 3) as u8), tag, &done).unwrap();
            }
            let mut all: Vec<_> = (0..20).map(|_| acomp.wait_any(&done).unwrap()).collect();
            all.extend(acomp.wait_all(&done));
            assert!(done.is_idle() && done.take().is_none());
            assert!(acomp.wait_any(&done).is_none() && done.wait_any().is_none());
            all.sort_by_key(|(tag, _)| *tag);
            assert_eq!(all.len(), 50);
            for (n, (tag, done)) in all.iter().enumerate() {
                assert_eq!(n, *tag);
                check(*tag, done);
            }
            drop(all);
            assert_eq!(rig.live.load(SeqCst), 0);
        }
    }

    #[test]
    fn a_full_queue_and_no_workers_complete_in_the_caller() {
        let (rig, open) = Rig::new();
        let engine = AcompEngine::new(1, 2).unwrap();
        let done = Arc::new(AcompCompletions::new());
        engine.submit(rig.request(3), 0, &done).unwrap();
        // The worker runs the first request; two are queued; the others complete here.
        while format!("{engine:?}").contains("queued: 1") {
            thread::yield_now();
        }
        for tag in 1..6 {
            engine.submit(rig.request(0), tag, &done).unwrap();
        }
        let mut early: Vec<usize> = std::iter::from_fn(|| done.take()).map(|(t, _)| t).collect();
        early.sort_unstable();
        assert_eq!(early, [3, 4, 5]);
        assert!(engine.help() && engine.help() && !engine.help(), "the two that were queued");
        open.send(()).unwrap();
        assert_eq!(engine.wait_all(&done).len(), 3);

        let nobody = AcompEngine::new(0, 9).unwrap();
        nobody.submit(rig.request(0), 7, &done).unwrap();
        assert!(done.is_idle());
    }

    #[test]
    fn a_dropped_engine_and_dropped_completions_end_cleanly() {
        let (rig, open) = Rig::new();
        let engine = AcompEngine::new(2, 100).unwrap();
        let done = Arc::new(AcompCompletions::new());
        engine.submit(rig.request(3), 0, &done).unwrap();
        for tag in 1..40 {
            engine.submit(rig.request(0), tag, &done).unwrap();
        }
        // Nobody waits for these completions.
        let forgotten = Arc::new(AcompCompletions::new());
        for tag in 0..5 {
            engine.submit(rig.request(2), tag, &forgotten).unwrap();
        }
        drop(forgotten);
        open.send(()).unwrap();
        drop(engine);
        assert!(done.is_idle(), "queued requests completed");
        assert_eq!(done.wait_all().len(), 40);
        assert_eq!(rig.live.load(SeqCst), 0);
    }

    /// A codec that submits to an engine, as one that calls back into a store would.
    #[derive(Debug)]
    struct Nested(Arc<AcompEngine>);

    impl CompressorCtx for Nested {
        fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
            let done = Arc::new(AcompCompletions::new());
            for tag in 0..10 {
                let ctx = Null.new_ctx()?;
                let (input, output) = (src.to_vec(), vec![0; 16]);
                let request = AcompRequest { op: AcompOp::Compress, input, output, ctx };
                self.0.submit(request, tag, &done).unwrap();
            }
            assert_eq!(self.0.wait_all(&done).len(), 10);
            dst[0] = 9;
            Ok(1)
        }

        fn decompress(&mut self, _src: &[u8], _dst: &mut [u8]) -> Result<(), CompressorError> {
            Ok(())
        }

        fn memory_bytes(&self) -> usize {
            0
        }
    }

    #[test]
    fn a_submit_from_a_worker_runs_inline() {
        let engine = Arc::new(AcompEngine::new(1, 4).unwrap());
        let done = Arc::new(AcompCompletions::new());
        let ctx = Box::new(Nested(engine.clone()));
        let request =
            AcompRequest { op: AcompOp::Compress, input: vec![5; 8], output: vec![0; 8], ctx };
        engine.submit(request, 0, &done).unwrap();
        let all = done.wait_all();
        assert_eq!((all[0].1.result.clone(), all[0].1.output[0]), (Ok(1), 9));
    }

    /// A context whose destructor panics.
    #[derive(Debug)]
    struct Bomb;

    impl CompressorCtx for Bomb {
        fn compress(&mut self, src: &[u8], _: &mut [u8]) -> Result<usize, CompressorError> {
            if src[0] == 2 {
                std::panic::resume_unwind(Box::new("in the call"));
            }
            Ok(0)
        }
        fn decompress(&mut self, _: &[u8], _: &mut [u8]) -> Result<(), CompressorError> {
            std::panic::resume_unwind(Box::new("in the call"))
        }
        fn memory_bytes(&self) -> usize {
            0
        }
    }

    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("in the destructor"));
        }
    }

    #[test]
    fn a_worker_outlives_contexts_that_panic_in_calls_and_destructors() {
        let engine = AcompEngine::new(1, 100).unwrap();
        let bomb = |op, what| {
            let (input, output) = (vec![what; 4], vec![0; 4]);
            AcompRequest { op, input, output, ctx: Box::new(Bomb) }
        };
        for _ in 0..10 {
            let done = Arc::new(AcompCompletions::new());
            engine.submit(bomb(AcompOp::Compress, 2), 0, &done).unwrap();
            engine.submit(bomb(AcompOp::Decompress, 0), 1, &done).unwrap();
            // The worker drops a completion that nobody takes.
            engine.submit(bomb(AcompOp::Compress, 0), 2, &Arc::default()).unwrap();
            let mut all = done.wait_all();
            all.sort_by_key(|(tag, _)| *tag);
            for ((_, done), operation) in all.iter().zip(["compress", "decompress"]) {
                assert_eq!(done.result, Err(CompressorError::Panicked { operation }));
                assert!(done.ctx.is_none());
            }
            assert_eq!(all.len(), 2);
        }
        assert!(engine.workers.iter().all(|worker| !worker.is_finished()));
    }

    #[test]
    fn completions_of_a_pool_are_used_again_and_never_more_than_there_are() {
        let (rig, _open) = Rig::new();
        let engine = AcompEngine::new(2, 8).unwrap();
        let pool = crate::CompletionsPool::new(2, 4).unwrap();
        for _ in 0..3 {
            let (one, two) = (pool.take().unwrap(), pool.take().unwrap());
            assert!(pool.take().is_none());
            for tag in 0..9 {
                engine.submit(rig.request(0), tag, &one).unwrap();
            }
            // A queue that is given back with outstanding requests is lent again only after they have completed.
            pool.give(one.clone());
            while !one.is_idle() {
                thread::yield_now();
            }
            pool.give(two);
        }
        assert!(pool.take().zip(pool.take()).is_some());
        assert_eq!(rig.live.load(SeqCst), 0, "the next `take` drops late completions");
        let pool = crate::CompletionsPool::new(2, 4).unwrap();
        pool.give(Arc::default());
        let all: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(all.len(), 2, "a surplus queue is dropped");
        assert!(all.iter().all(|done| done.is_idle() && done.take().is_none()));
    }

    #[test]
    fn a_request_that_is_dropped_unanswered_is_not_waited_for() {
        let pool = crate::CompletionsPool::new(1, 1).unwrap();
        let done = pool.take().unwrap();
        let (ticket, other) = (done.expect().unwrap(), done.expect().unwrap());
        pool.give(done.clone());
        assert!(
            !done.is_idle() && pool.take().is_none(),
            "`give` does not wait, and it is not lent"
        );
        drop(other);
        let waits = thread::spawn(move || done.wait_any().is_none());
        drop(ticket);
        assert!(waits.join().unwrap() && pool.take().is_some());
    }

    /// Runs `inside` in a forked child, which then exits. Returns whether `inside` returned true.
    #[cfg(all(unix, not(miri)))]
    fn in_a_child(inside: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child runs only `inside`, and then ends. It does not return from here.
        match unsafe { libc::fork() } {
            0 => {
                let held = zpool_base::unwind::caught(inside);
                // SAFETY: ends the child at once, without running destructors of the parent's values.
                unsafe { libc::_exit(i32::from(held != Some(true))) }
            }
            child => {
                assert!(child > 0);
                let mut status = 0;
                // SAFETY: `child` is a child of this process, and `status` is a valid place for its status.
                assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
            }
        }
    }

    #[cfg(all(unix, not(miri)))]
    #[test]
    fn in_a_child_requests_complete_in_their_caller_and_nothing_is_waited_for() {
        let (rig, open) = Rig::new();
        let engine = AcompEngine::new(1, 100).unwrap();
        let done = Arc::new(AcompCompletions::new());
        let pool = crate::CompletionsPool::new(1, 1).unwrap();
        engine.submit(rig.request(3), 0, &done).unwrap();
        engine.submit(rig.request(0), 1, &done).unwrap();
        // This thread holds the queue's lock at the fork. In a real program it may be another thread, which the
        // child does not have.
        let locked = engine.shared.lock();
        let child = || {
            let nothing = done.is_idle()
                && done.take().is_none()
                && done.wait_any().is_none()
                && engine.wait_all(&done).is_empty()
                && !engine.help();
            let refused = engine.submit(rig.request(0), 9, &done).is_err();
            let own = Arc::new(AcompCompletions::new());
            let taken = engine.submit(rig.request(0), 7, &own).is_ok();
            let completed =
                own.wait_any().is_some_and(|(tag, done)| (tag, done.result) == (7, Ok(10)));
            let _ = format!("{engine:?}");
            let counts = (engine.workers(), engine.parallelism()) == (0, 1);
            nothing && refused && taken && completed && counts && pool.take().is_none()
        };
        assert!(in_a_child(child));
        drop(locked);
        let owned = std::cell::RefCell::new(Some((engine, done.clone(), pool)));
        assert!(in_a_child(|| {
            drop(owned.take());
            true
        }));
        // The parent is not affected.
        open.send(()).unwrap();
        let (engine, _, pool) = owned.take().unwrap();
        assert_eq!((engine.wait_all(&done).len(), pool.take().is_some()), (2, true));
    }
}
