//! Worker threads that complete requests, with a bounded queue.
//!
//! A submit completes its request in the caller when the queue is full, when the engine has no worker,
//! and when the caller is a worker itself, of whatever engine: so nothing waits for a place, and no
//! worker waits for another. Dropping the engine lets the workers finish what is queued and ends them.
//!
//! Lock: one mutex around the queue, held for a few steps; no codec runs under it.

use core::cell::Cell;
use core::fmt;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::{Acomp, AcompCompletions, AcompRequest, Scomp};

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

struct Job {
    request: AcompRequest,
    tag: usize,
    done: Arc<AcompCompletions>,
}

impl Job {
    fn run(self) {
        self.done.tell(self.tag, self.request.run());
    }
}

/// Looks at the queue before a worker sleeps, some twenty microseconds: requests come in batches, and
/// waking a thread takes as long as compressing a page.
const SPINS: u32 = 1000;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    stop: bool,
    /// Workers that have to be woken.
    asleep: usize,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    bound: usize,
    /// Requests in the queue, for a look without the lock.
    queued: AtomicUsize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, queue: &mut Queue) -> Option<Job> {
        let job = queue.jobs.pop_front();
        // Relaxed: a copy for looks, written under the lock.
        self.queued.store(queue.jobs.len(), Relaxed);
        job
    }
}

/// Worker threads and a bounded queue.
///
/// `Send` and `Sync`: share it by reference or `Arc`. See [`Acomp::submit`] for what is promised.
pub struct AcompEngine {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl AcompEngine {
    /// An engine of `workers` threads whose queue holds `bound` requests.
    ///
    /// Errors: those of starting a thread; the threads that were started have ended then.
    pub fn new(workers: usize, bound: usize) -> io::Result<Self> {
        let queue = Mutex::new(Queue::default());
        let shared =
            Arc::new(Shared { queue, work: Condvar::new(), bound, queued: AtomicUsize::new(0) });
        // Dropped on an error, which ends the threads there are.
        let mut engine = AcompEngine { shared, workers: Vec::new() };
        for number in 0..workers {
            let shared = engine.shared.clone();
            let builder = thread::Builder::new().name(format!("acomp-{number}"));
            engine.workers.push(builder.spawn(move || work(&shared))?);
        }
        Ok(engine)
    }

    /// Worker threads.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }
}

fn work(shared: &Shared) {
    IS_WORKER.set(true);
    let mut queue = shared.lock();
    loop {
        if let Some(job) = shared.next(&mut queue) {
            drop(queue);
            job.run();
            queue = shared.lock();
            continue;
        }
        if queue.stop {
            return;
        }
        drop(queue);
        // Relaxed: a look, after which the lock is taken whatever it saw.
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
    fn submit(&self, request: AcompRequest, tag: usize, done: &Arc<AcompCompletions>) {
        // A thread that is ending counts as one that must not wait.
        let inline = self.workers.is_empty() || IS_WORKER.try_with(Cell::get).unwrap_or(true);
        let mut queue = self.shared.lock();
        if inline || queue.jobs.len() >= self.shared.bound {
            drop(queue);
            return Scomp.submit(request, tag, done);
        }
        done.expect();
        queue.jobs.push_back(Job { request, tag, done: done.clone() });
        // Relaxed: a copy for looks, written under the lock.
        self.shared.queued.store(queue.jobs.len(), Relaxed);
        let asleep = queue.asleep > 0;
        drop(queue);
        if asleep {
            self.shared.work.notify_one();
        }
    }

    fn parallelism(&self) -> usize {
        self.workers.len() + 1
    }

    fn help(&self) -> bool {
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
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // A worker that drops the last share of its engine cannot wait for itself.
            if worker.thread().id() != thread::current().id() {
                let _ = worker.join();
            }
        }
    }
}

impl fmt::Debug for AcompEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcompEngine")
            .field("workers", &self.workers.len())
            .field("bound", &self.shared.bound)
            .field("queued", &self.shared.lock().jobs.len())
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

    /// Does what its input's first byte says: 0 copies, 1 fails, 2 panics, 3 waits to be let on.
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
                acomp.submit(rig.request((tag % 3) as u8), tag, &done);
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
        engine.submit(rig.request(3), 0, &done);
        // The worker is at the first one; two wait; the others complete here.
        while format!("{engine:?}").contains("queued: 1") {
            thread::yield_now();
        }
        for tag in 1..6 {
            engine.submit(rig.request(0), tag, &done);
        }
        let mut early: Vec<usize> = std::iter::from_fn(|| done.take()).map(|(t, _)| t).collect();
        early.sort_unstable();
        assert_eq!(early, [3, 4, 5]);
        assert!(engine.help() && engine.help() && !engine.help(), "the two that waited");
        open.send(()).unwrap();
        assert_eq!(engine.wait_all(&done).len(), 3);

        let nobody = AcompEngine::new(0, 9).unwrap();
        nobody.submit(rig.request(0), 7, &done);
        assert!(done.is_idle());
    }

    #[test]
    fn a_dropped_engine_and_dropped_completions_end_cleanly() {
        let (rig, open) = Rig::new();
        let engine = AcompEngine::new(2, 100).unwrap();
        let done = Arc::new(AcompCompletions::new());
        engine.submit(rig.request(3), 0, &done);
        for tag in 1..40 {
            engine.submit(rig.request(0), tag, &done);
        }
        // Nobody waits for these.
        let forgotten = Arc::new(AcompCompletions::new());
        for tag in 0..5 {
            engine.submit(rig.request(2), tag, &forgotten);
        }
        drop(forgotten);
        open.send(()).unwrap();
        drop(engine);
        assert!(done.is_idle(), "what was queued was completed");
        assert_eq!(done.wait_all().len(), 40);
        assert_eq!(rig.live.load(SeqCst), 0);
    }

    /// Submits to an engine, as a codec that calls back into a store would.
    #[derive(Debug)]
    struct Nested(Arc<AcompEngine>);

    impl CompressorCtx for Nested {
        fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
            let done = Arc::new(AcompCompletions::new());
            for tag in 0..10 {
                let ctx = Null.new_ctx()?;
                let (input, output) = (src.to_vec(), vec![0; 16]);
                let request = AcompRequest { op: AcompOp::Compress, input, output, ctx };
                self.0.submit(request, tag, &done);
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
        engine.submit(request, 0, &done);
        let all = done.wait_all();
        assert_eq!((all[0].1.result.clone(), all[0].1.output[0]), (Ok(1), 9));
    }
}
