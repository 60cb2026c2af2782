//! A thread that works on a store, step by step. It ends when its work is done, when it is stopped, or when
//! the store is gone.
//!
//! The thread keeps the store alive only during a step. A step checks [`Stop`] between pages, or between two
//! calls of a backend's compaction. So dropping the [`Background`] waits for one page or call, not for a whole
//! step. If user code panics in a step, the thread goes on, and its report shows the panic. After `fork`, the
//! child does not have the thread, so dropping the [`Background`] does nothing there.

pub(crate) mod cleaner;
pub(crate) mod compactor;
pub(crate) mod migrator;
pub(crate) mod shrinker;
mod thread_time;

use core::fmt;
use core::time::Duration;
// Always std's, not loom's: no model covers these threads.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use zpool_base::fork::{Leaked, Maker};

use crate::Zswap;

/// What the thread does after a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// It pauses, then takes another step.
    After(Duration),
    End,
}

/// The data that a thread and its owner share. `S` is the type of the report.
#[derive(Debug, Default)]
struct Shared<S> {
    state: Mutex<State<S>>,
    woken: Condvar,
    /// A copy of `State::stop` that a step reads without taking the lock.
    stop: AtomicBool,
}

/// The owner's request to stop.
#[derive(Debug)]
pub(crate) struct Stop<'a>(&'a AtomicBool);

impl Stop<'_> {
    pub(crate) fn is_set(&self) -> bool {
        // Relaxed: a request, which publishes nothing.
        self.0.load(Ordering::Relaxed)
    }
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

/// A thread that shrinks, compacts or migrates a store, or cleans its device. `R` is the type of its report.
///
/// Dropping this stops the thread. The thread first finishes the page that it is moving, or the current call of a
/// backend's compaction, which moves at most 256 objects in `zsmalloc`. The drop waits for that. The thread does
/// not keep the store alive between its steps, and ends when the store is gone. `Send` and `Sync`.
///
/// ```
/// use std::sync::Arc;
/// use zswap_core::{CompactorPolicy, Zswap};
///
/// let store = Arc::new(Zswap::builder().zpool("zbud").compressor("null").build()?);
/// let compactor = store.compact_in_background(CompactorPolicy::default())?;
/// assert_eq!(compactor.report().failed, 0);
/// let last = compactor.stop();
/// assert_eq!(last.pages, 0, "zbud cannot be compacted");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the thread stops when this is dropped"]
pub struct Background<R>(Leaked<Owner<R>>);

#[derive(Debug)]
struct Owner<S> {
    shared: Arc<Shared<S>>,
    thread: Option<JoinHandle<()>>,
}

impl<S: Clone + Default + Send + 'static> Background<S> {
    /// Starts the thread, which calls `step` again and again. `step` is given the store, or `None` if the
    /// store is gone. It returns a function that updates the report, and what the thread does next. Returns
    /// the system's error if the system cannot start a thread.
    pub(crate) fn start<R: FnOnce(&mut S)>(
        name: &str,
        store: Weak<Zswap>,
        mut step: impl FnMut(Option<&Zswap>, &Stop<'_>) -> (R, Next) + Send + 'static,
    ) -> std::io::Result<Self> {
        let shared: Arc<Shared<S>> = Arc::default();
        let theirs = shared.clone();
        let maker = Maker::here();
        let run = move || {
            loop {
                let held = store.upgrade();
                let (report, next) = step(held.as_deref(), &Stop(&theirs.stop));
                if !maker.is_here() {
                    // User code has forked during the step, and this is the child. It must neither go on nor
                    // drop anything.
                    core::mem::forget((held, report));
                    return;
                }
                drop(held);
                let mut state = theirs.lock();
                report(&mut state.report);
                let Next::After(pause) = next else { return };
                if !state.stop {
                    let waited = theirs.woken.wait_timeout_while(state, pause, |state| !state.stop);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                if state.stop {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Background(Leaked::new(Owner { shared, thread: Some(thread) })))
    }

    /// Returns a report of what the thread has done so far. In a child after `fork` the report is empty.
    pub fn report(&self) -> S {
        if self.0.is_here() { self.0.shared.lock().report.clone() } else { S::default() }
    }

    /// Stops the thread as dropping this does, and returns the last report.
    pub fn stop(mut self) -> S {
        if self.0.is_here() {
            self.0.end();
        }
        self.report()
    }
}

impl<S: Clone + Default + Send + fmt::Debug + 'static> fmt::Debug for Background<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Background").field(&self.report()).finish()
    }
}

impl<S> Owner<S> {
    fn end(&mut self) {
        // Relaxed: as in `Stop`.
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.lock().stop = true;
        self.shared.woken.notify_all();
        if let Some(thread) = self.thread.take() {
            // This may run on the thread itself: if the store owns this, and the thread drops the last
            // reference to the store. A thread cannot join itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl<S> Drop for Owner<S> {
    fn drop(&mut self) {
        self.end();
    }
}
