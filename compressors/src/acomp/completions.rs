//! Completion queues, and a pool of them for batches.
//!
//! `expect` reserves room for a completion, so delivering the completion allocates nothing. Each expected
//! request has a ticket. Waiters wait for the request until the ticket delivers the completion or is dropped.
//!
//! Locks: a thread that holds the pool's mutex may lock the mutex of an [`AcompCompletions`], but not the other way
//! round. Both are held briefly. Under them, no user code runs and nothing is dropped. Only
//! [`AcompCompletions::expect`] and [`reserve`](AcompCompletions::reserve) allocate under a lock.

use std::collections::VecDeque;
use std::mem::{forget, take};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use zpool_base::fork::Maker;
use zpool_base::unwind::dropped;

use super::AcompDone;
use crate::CompressorError;

#[derive(Debug, Default)]
struct State {
    /// The number of live tickets.
    outstanding: usize,
    /// Completions that were not taken yet. The queue also has room for one completion of each live ticket.
    done: VecDeque<(usize, AcompDone)>,
    /// The number of threads that wait for a completion.
    waiting: usize,
}

impl State {
    /// Reserves room for the completions of all live tickets and of `requests` more requests.
    fn reserve(&mut self, requests: usize) -> Result<(), CompressorError> {
        let more = self.outstanding.saturating_add(requests);
        let refused = CompressorError::OutOfMemory { codec: "acomp", what: "a completion" };
        self.done.try_reserve(more).map_err(|_| refused)
    }
}

/// A queue of completions, in the order in which the requests complete. Each comes with the tag of its request.
///
/// `Send` and `Sync`. A caller may drop its `Arc` of the queue while requests are outstanding: the requests still
/// complete, and the last `Arc` drops their completions. The queue can be reused when all requests have completed
/// and all completions were taken. In a child after `fork`, the queue is empty and no call waits.
///
/// ```
/// use std::sync::Arc;
/// use compressors::{Acomp, AcompCompletions, AcompOp, AcompRequest, Compressor, Null, Scomp};
///
/// let done = Arc::new(AcompCompletions::new());
/// for tag in 0..3 {
///     let (input, output) = (vec![7; 4], vec![0; 4]);
///     let request = AcompRequest { op: AcompOp::Compress, input, output, ctx: Null.new_ctx()? };
///     Scomp.submit(request, tag, &done).expect("there is memory for a completion");
/// }
/// let tags: Vec<usize> = done.wait_all().into_iter().map(|(tag, _)| tag).collect();
/// assert_eq!(tags, [0, 1, 2]);
/// assert!(done.is_idle() && done.take().is_none());
/// # Ok::<(), compressors::CompressorError>(())
/// ```
#[derive(Debug)]
pub struct AcompCompletions {
    state: Mutex<State>,
    told: Condvar,
    maker: Maker,
}

impl Default for AcompCompletions {
    fn default() -> Self {
        Self::new()
    }
}

impl AcompCompletions {
    /// Makes an empty queue.
    pub fn new() -> Self {
        let maker = Maker::here();
        AcompCompletions { state: Mutex::default(), told: Condvar::new(), maker }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, more: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.waiting += 1;
        while more(&state) {
            state = self.told.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        state
    }

    /// Reserves room for the completions of `requests` more requests. Expecting these then allocates nothing, unless
    /// [`wait_all`](Self::wait_all) is called before: it returns the room together with the completions.
    ///
    /// # Errors
    /// [`CompressorError::OutOfMemory`] if there is no memory for them; [`CompressorError::Forked`] in a child
    /// after `fork`.
    pub fn reserve(&self, requests: usize) -> Result<(), CompressorError> {
        if !self.maker.is_here() {
            // A thread of the parent may have held the lock at the fork.
            return Err(CompressorError::Forked);
        }
        self.lock().reserve(requests)
    }

    /// Announces a request and returns its ticket, which delivers the completion. Implementations of
    /// [`Acomp`](super::Acomp) call this.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use compressors::{AcompCompletions, AcompDone, Compressor, Null};
    ///
    /// let done = Arc::new(AcompCompletions::new());
    /// let ticket = done.expect()?;
    /// assert!(!done.is_idle());
    /// let (input, output, ctx) = (vec![], vec![], Some(Null.new_ctx()?));
    /// ticket.tell(7, AcompDone { result: Ok(0), input, output, ctx });
    /// assert_eq!(done.take().map(|(tag, _)| tag), Some(7));
    /// # Ok::<(), compressors::CompressorError>(())
    /// ```
    ///
    /// # Errors
    /// [`CompressorError::OutOfMemory`] if there is no memory for a completion; [`CompressorError::Forked`]
    /// in a child after `fork`. After an error, nothing is announced.
    pub fn expect(self: &Arc<Self>) -> Result<AcompTicket, CompressorError> {
        if !self.maker.is_here() {
            return Err(CompressorError::Forked);
        }
        let mut state = self.lock();
        state.reserve(1)?;
        state.outstanding += 1;
        drop(state);
        Ok(AcompTicket(Some(self.clone())))
    }

    /// Ends a ticket: stores the completion, unless the request was dropped, and wakes the waiters.
    fn settle(&self, done: Option<(usize, AcompDone)>) {
        if !self.maker.is_here() {
            return forget(done);
        }
        let mut state = self.lock();
        state.outstanding -= 1;
        // `expect` reserved room for the completion.
        state.done.extend(done);
        let waiting = state.waiting > 0;
        drop(state);
        if waiting {
            self.told.notify_all();
        }
    }

    /// Returns whether every request has completed or was dropped; true in a child after `fork`.
    pub fn is_idle(&self) -> bool {
        !self.maker.is_here() || self.lock().outstanding == 0
    }

    /// Takes the oldest completion; `None` if there is none. Does not block.
    pub fn take(&self) -> Option<(usize, AcompDone)> {
        if self.maker.is_here() { self.lock().done.pop_front() } else { None }
    }

    /// Waits for a completion and takes it. Returns `None` if no request is outstanding and all completions
    /// were taken, and in a child after `fork`.
    ///
    /// # Blocking
    /// Sleeps until a request completes, or until the last outstanding request is dropped.
    pub fn wait_any(&self) -> Option<(usize, AcompDone)> {
        if !self.maker.is_here() {
            return None;
        }
        self.wait_while(|state| state.done.is_empty() && state.outstanding > 0).done.pop_front()
    }

    /// Waits until every request has completed or was dropped, and takes all completions.
    ///
    /// # Blocking
    /// Sleeps until the last outstanding request completes or is dropped.
    pub fn wait_all(&self) -> Vec<(usize, AcompDone)> {
        if !self.maker.is_here() {
            return Vec::new();
        }
        take(&mut self.wait_while(|state| state.outstanding > 0).done).into()
    }
}

impl Drop for AcompCompletions {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let left = take(&mut state.done);
        if !self.maker.is_here() {
            return forget(left);
        }
        // This may run on a worker. If a context's destructor panics, that must not end the worker.
        for (_, done) in left {
            dropped(done);
        }
    }
}

/// The right to deliver a request's completion. If a ticket is dropped before it delivers one, e.g. by a
/// panic, the request counts as dropped, and nobody waits for it any more.
///
/// `Send` and `Sync`.
#[derive(Debug)]
#[must_use = "a request whose ticket is dropped has no completion"]
pub struct AcompTicket(Option<Arc<AcompCompletions>>);

impl AcompTicket {
    /// Delivers the completion of the request.
    pub fn tell(mut self, tag: usize, done: AcompDone) {
        if let Some(completions) = self.0.take() {
            completions.settle(Some((tag, done)));
        }
    }
}

impl Drop for AcompTicket {
    fn drop(&mut self) {
        if let Some(completions) = self.0.take() {
            completions.settle(None);
        }
    }
}

/// A pool of completion queues for batches, so that a batch need not allocate one. `Send` and `Sync`.
///
/// ```
/// use compressors::CompletionsPool;
///
/// let pool = CompletionsPool::new(1, 32)?;
/// let done = pool.take().expect("one is free");
/// assert!(pool.take().is_none());
/// pool.give(done);
/// assert!(pool.take().is_some());
/// # Ok::<(), compressors::CompressorError>(())
/// ```
#[derive(Debug)]
pub struct CompletionsPool {
    /// The queues that are not lent. There are at most `count`, and the vector has room for them.
    free: Mutex<Vec<Arc<AcompCompletions>>>,
    count: usize,
    maker: Maker,
}

impl CompletionsPool {
    /// Makes a pool of `count` queues, each with room for `requests` completions. A queue loses this room if
    /// [`wait_all`](AcompCompletions::wait_all) is called. May abort if there is no memory for the queues themselves.
    ///
    /// # Errors
    /// [`CompressorError::OutOfMemory`] if there is no memory for the completions.
    pub fn new(count: usize, requests: usize) -> Result<Self, CompressorError> {
        let mut free = Vec::with_capacity(count);
        for _ in 0..count {
            let done = AcompCompletions::new();
            done.reserve(requests)?;
            free.push(Arc::new(done));
        }
        Ok(CompletionsPool { free: Mutex::new(free), count, maker: Maker::here() })
    }

    /// Lends a queue. Returns `None` if each queue is lent or has outstanding requests, and in a child after
    /// `fork`. Does not block.
    pub fn take(&self) -> Option<Arc<AcompCompletions>> {
        let mut free = self.maker.is_here().then(|| self.lock())?;
        let idle = free.iter().rposition(|done| done.is_idle())?;
        let done = free.swap_remove(idle);
        drop(free);
        clear(&done);
        Some(done)
    }

    /// Takes back a queue that [`take`](Self::take) lent, and drops the completions left in it. Does not wait
    /// for outstanding requests: the queue is lent again only after they have completed.
    pub fn give(&self, done: Arc<AcompCompletions>) {
        if !self.maker.is_here() {
            return forget(done);
        }
        clear(&done);
        let mut free = self.lock();
        // A queue that the pool did not lend is surplus. It is dropped without the lock.
        let surplus = if free.len() < self.count {
            free.push(done);
            None
        } else {
            Some(done)
        };
        drop(free);
        drop(surplus);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<AcompCompletions>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops the completions left in a queue.
fn clear(done: &AcompCompletions) {
    // One at a time, so that nothing is dropped under the lock.
    while let Some(left) = done.take() {
        dropped(left);
    }
}

impl Drop for CompletionsPool {
    fn drop(&mut self) {
        if !self.maker.is_here() {
            forget(take(self.free.get_mut().unwrap_or_else(PoisonError::into_inner)));
        }
    }
}
