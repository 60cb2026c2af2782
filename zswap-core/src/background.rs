//! A thread that works on a store, step by step, until it is done, told to stop, or the store is gone.
//!
//! It keeps the store only while a step runs. Dropping the [`Background`] stops it after the step that
//! runs and waits for it.

use core::time::Duration;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use crate::Zswap;

/// What comes after a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Another one, after a pause.
    After(Duration),
    End,
}

/// A step called code of the user's that panicked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Panicked;

/// Runs a part of a step that calls the user's codecs, backends or devices. The store outlives their
/// panics, so the thread does.
pub(crate) fn guarded<T>(part: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(part)).map_err(|_| Panicked)
}

/// What a thread and its owner share; `S` is what the owner may ask for.
#[derive(Debug, Default)]
struct Shared<S> {
    state: Mutex<State<S>>,
    told: Condvar,
}

#[derive(Debug, Default)]
struct State<S> {
    stop: bool,
    report: S,
}

impl<S> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's owner.
#[derive(Debug)]
pub(crate) struct Background<S> {
    shared: Arc<Shared<S>>,
    thread: Option<JoinHandle<()>>,
}

impl<S: Default + Send + 'static> Background<S> {
    /// Starts it. A step gets the store, none once that is gone, and says what is to be done to the
    /// report.
    pub(crate) fn start<R: FnOnce(&mut S)>(
        name: &str,
        store: Weak<Zswap>,
        mut step: impl FnMut(Option<&Zswap>) -> (R, Next) + Send + 'static,
    ) -> std::io::Result<Self> {
        let shared: Arc<Shared<S>> = Arc::default();
        let theirs = shared.clone();
        let run = move || {
            loop {
                let (report, next) = step(store.upgrade().as_deref());
                let mut state = theirs.lock();
                report(&mut state.report);
                let Next::After(pause) = next else { return };
                if !state.stop {
                    let waited = theirs.told.wait_timeout_while(state, pause, |state| !state.stop);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                if state.stop {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Background { shared, thread: Some(thread) })
    }

    /// Looks at the report.
    pub(crate) fn report<T>(&self, look: impl FnOnce(&S) -> T) -> T {
        look(&self.shared.lock().report)
    }
}

impl<S> Drop for Background<S> {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.told.notify_all();
        if let Some(thread) = self.thread.take() {
            // The last share of the store may be the thread's own, and this its drop.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}
