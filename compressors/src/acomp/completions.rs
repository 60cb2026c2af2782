//! Where completions are told.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::AcompDone;

#[derive(Debug, Default)]
struct State {
    /// Submitted and not completed.
    outstanding: usize,
    done: VecDeque<(usize, AcompDone)>,
    /// Threads that have to be woken.
    waiting: usize,
}

/// The completions of some requests, with their tags, in the order in which they completed.
///
/// `Send` and `Sync`. Dropping it while requests are outstanding is fine: they complete, and what they
/// own is dropped with the last share of it.
#[derive(Debug, Default)]
pub struct AcompCompletions {
    state: Mutex<State>,
    told: Condvar,
}

impl AcompCompletions {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
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

    /// A request was submitted that will be told of here. For those who implement
    /// [`Acomp`](super::Acomp).
    pub fn expect(&self) {
        self.lock().outstanding += 1;
    }

    /// A request that was expected has completed. For those who implement [`Acomp`](super::Acomp).
    pub fn tell(&self, tag: usize, done: AcompDone) {
        let mut state = self.lock();
        state.outstanding = state.outstanding.saturating_sub(1);
        state.done.push_back((tag, done));
        let waiting = state.waiting > 0;
        drop(state);
        if waiting {
            self.told.notify_all();
        }
    }

    /// Whether every request has completed.
    pub fn is_idle(&self) -> bool {
        self.lock().outstanding == 0
    }

    /// A completion that nobody has taken, if there is one. Does not block.
    pub fn take(&self) -> Option<(usize, AcompDone)> {
        self.lock().done.pop_front()
    }

    /// Waits for a completion and takes it; none if all have completed and were taken.
    pub fn wait_any(&self) -> Option<(usize, AcompDone)> {
        self.wait_while(|state| state.done.is_empty() && state.outstanding > 0).done.pop_front()
    }

    /// Waits until every request has completed, and takes all completions.
    pub fn wait_all(&self) -> Vec<(usize, AcompDone)> {
        core::mem::take(&mut self.wait_while(|state| state.outstanding > 0).done).into()
    }
}
