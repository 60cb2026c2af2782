//! Where completions are told, and a pool of such places for batches.
//!
//! Room for a completion is made when its request is expected, so telling it allocates nothing. A request
//! that is expected has a ticket, and is waited for as long as that lives.
//!
//! Locks: a mutex each, the pool's first, held for a few steps; nothing is dropped, allocated for or called
//! under either but for the room that [`AcompCompletions::expect`] makes.

use std::collections::VecDeque;
use std::mem::{forget, take};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use zpool_base::fork::Maker;
use zpool_base::unwind::dropped;

use super::AcompDone;
use crate::CompressorError;

#[derive(Debug, Default)]
struct State {
    /// Tickets that live.
    outstanding: usize,
    /// Has room for those that are outstanding, too.
    done: VecDeque<(usize, AcompDone)>,
    /// Threads that have to be woken.
    waiting: usize,
}

impl State {
    /// Room for what is outstanding and `requests` more.
    fn reserve(&mut self, requests: usize) -> Result<(), CompressorError> {
        let more = self.outstanding.saturating_add(requests);
        let refused = CompressorError::OutOfMemory { codec: "acomp", what: "a completion" };
        self.done.try_reserve(more).map_err(|_| refused)
    }
}

/// The completions of some requests, with their tags, in the order in which they completed.
///
/// `Send` and `Sync`. Dropping it while requests are outstanding is fine: they complete, and what they
/// own is dropped with the last share of it. Once all have completed and were taken it can be used
/// again. In a child after `fork` there are none, and nothing is waited for.
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
    /// None yet.
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

    /// Makes room for the completions of `requests` more, so that expecting them allocates nothing.
    ///
    /// # Errors
    /// [`CompressorError::OutOfMemory`], [`CompressorError::Forked`].
    pub fn reserve(&self, requests: usize) -> Result<(), CompressorError> {
        if !self.maker.is_here() {
            // Another thread of the parent's may hold the lock for ever.
            return Err(CompressorError::Forked);
        }
        self.lock().reserve(requests)
    }

    /// A request was submitted that will be told of here, once, with the ticket. For those who implement
    /// [`Acomp`](super::Acomp).
    ///
    /// # Errors
    /// [`CompressorError::OutOfMemory`], [`CompressorError::Forked`]: nothing is expected.
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

    /// A ticket is gone: with a completion, or with none if the request was dropped.
    fn settle(&self, done: Option<(usize, AcompDone)>) {
        if !self.maker.is_here() {
            return forget(done);
        }
        let mut state = self.lock();
        state.outstanding -= 1;
        // There is room since the ticket was made.
        state.done.extend(done);
        let waiting = state.waiting > 0;
        drop(state);
        if waiting {
            self.told.notify_all();
        }
    }

    /// Whether every request has completed, or was dropped by who had it.
    pub fn is_idle(&self) -> bool {
        !self.maker.is_here() || self.lock().outstanding == 0
    }

    /// A completion that nobody has taken, if there is one. Does not block.
    pub fn take(&self) -> Option<(usize, AcompDone)> {
        if self.maker.is_here() { self.lock().done.pop_front() } else { None }
    }

    /// Waits for a completion and takes it; none if all have completed and were taken.
    pub fn wait_any(&self) -> Option<(usize, AcompDone)> {
        if !self.maker.is_here() {
            return None;
        }
        self.wait_while(|state| state.done.is_empty() && state.outstanding > 0).done.pop_front()
    }

    /// Waits until every request has completed, and takes all completions.
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
        // A worker may be the one that drops this: a context whose destructor panics must not end it.
        for (_, done) in left {
            dropped(done);
        }
    }
}

/// Stands for a request whose completion is expected. Dropped without one, by a panic, say, the request counts
/// as gone, and nobody waits for it any more.
///
/// `Send` and `Sync`.
#[derive(Debug)]
#[must_use = "a request whose ticket is dropped has no completion"]
pub struct AcompTicket(Option<Arc<AcompCompletions>>);

impl AcompTicket {
    /// The request has completed.
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

/// Completions lent to batches, so that a batch makes none. `Send` and `Sync`.
#[derive(Debug)]
pub struct CompletionsPool {
    /// At most `count`, for which it has room.
    free: Mutex<Vec<Arc<AcompCompletions>>>,
    count: usize,
    maker: Maker,
}

impl CompletionsPool {
    /// A pool of `count`, each with room for `requests`. A constructor: it may abort for want of memory.
    ///
    /// # Errors
    /// [`CompressorError::OutOfMemory`].
    pub fn new(count: usize, requests: usize) -> Result<Self, CompressorError> {
        let mut free = Vec::with_capacity(count);
        for _ in 0..count {
            let done = AcompCompletions::new();
            done.reserve(requests)?;
            free.push(Arc::new(done));
        }
        Ok(CompletionsPool { free: Mutex::new(free), count, maker: Maker::here() })
    }

    /// One that nobody uses; `None` if all are lent or have requests out, or in a child after `fork`.
    /// Does not block.
    pub fn take(&self) -> Option<Arc<AcompCompletions>> {
        let mut free = self.maker.is_here().then(|| self.lock())?;
        let idle = free.iter().rposition(|done| done.is_idle())?;
        let done = free.swap_remove(idle);
        drop(free);
        clear(&done);
        Some(done)
    }

    /// Takes one back that [`take`](Self::take) gave, and drops what was not taken. Waits for nothing: one
    /// with requests out is not lent again before they have completed.
    pub fn give(&self, done: Arc<AcompCompletions>) {
        if !self.maker.is_here() {
            return forget(done);
        }
        clear(&done);
        let mut free = self.lock();
        // One that is not the pool's own finds no room, and is dropped without the lock.
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

/// Drops completions that nobody has taken.
fn clear(done: &AcompCompletions) {
    // Before the next is taken, so that nothing is dropped under the lock.
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
