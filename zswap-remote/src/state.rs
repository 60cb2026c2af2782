//! What the callers' threads and the deleter share.
//!
//! One mutex guards all of it. It is held for a few lines of code, and no request is made under it.

use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::health::Health;
use crate::name::{Object, StoreName};
use crate::queue::{Doomed, Queue};
use crate::stats::RemoteStats;
use crate::table::Table;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) table: Table,
    pub(crate) queue: Queue,
    pub(crate) health: Health,
    /// The counts, without the figures of table and queue.
    pub(crate) counts: RemoteStats,
    /// Set when the device is dropped: all objects of the store.
    pub(crate) closing: Option<Vec<Object>>,
}

impl State {
    /// Takes up to `most` objects to delete now.
    pub(crate) fn take_doomed(&mut self, now: Instant, most: usize) -> Vec<Doomed> {
        let due = self.queue.take(now, most);
        let (true, Some(rest)) = (due.is_empty(), &mut self.closing) else { return due };
        let from = rest.len().saturating_sub(most);
        rest.drain(from..).map(|object| Doomed { object, again: false }).collect()
    }

    /// Notes a failure for `RemoteStats::last_error`.
    pub(crate) fn failed(&mut self, operation: &str, said: &str) {
        self.counts.last_error = Some(format!("{operation}: {said}"));
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Wakes the deleter.
    wake: Notify,
    pub(crate) name: StoreName,
    /// What no message may contain.
    pub(crate) secrets: Arc<[String]>,
}

impl Shared {
    pub(crate) fn new(
        name: StoreName,
        secrets: Arc<[String]>,
        most_deletes: usize,
        late_writes: Duration,
    ) -> Self {
        let state = State {
            table: Table::default(),
            queue: Queue::new(most_deletes, late_writes),
            health: Health::default(),
            counts: RemoteStats::default(),
            closing: None,
        };
        Shared { state: Mutex::new(state), wake: Notify::new(), name, secrets }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has an object deleted. `in_doubt`: a write of it may yet arrive.
    pub(crate) fn doom(&self, object: Object, in_doubt: bool) {
        self.state().queue.push(Doomed { object, again: in_doubt });
        self.wake.notify_one();
    }

    /// Has all objects deleted, soon and once.
    pub(crate) fn close(&self) {
        {
            let mut state = self.state();
            let all = state.table.take_all();
            state.queue.hurry();
            state.closing = Some(all);
        }
        self.wake.notify_one();
    }

    /// Waits until [`doom`](Self::doom) or [`close`](Self::close) is called, or was called since the last wait.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(crate) fn stats(&self) -> RemoteStats {
        let state = self.state();
        RemoteStats {
            objects: state.table.len(),
            bytes: state.table.bytes(),
            waiting_deletes: state.queue.len(),
            forgotten_deletes: state.queue.forgotten(),
            ..state.counts.clone()
        }
    }
}
