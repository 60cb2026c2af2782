//! The thread of a cache: it gives memory back and trains dictionaries.
//!
//! The thread keeps the engine alive only during a step, and ends when the cache is dropped. Pauses between steps
//! double while nothing happens in the cache. After `fork` the child does not have the thread.

#[cfg(feature = "zstd")]
mod dictionary;
mod heap;
mod housekeeping;
mod report;

use core::time::Duration;
// Always std's, not loom's: no model covers this thread.
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use zpool_base::contained::contain;
use zpool_base::fork::{Leaked, Maker};

use self::housekeeping::Housekeeping;
use self::report::Report;
use crate::engine::{Engine, Shared};
use crate::error::BuildError;
use crate::stats::CacheStats;

/// While nothing happens, pauses grow up to this many times the shortest.
const LONGEST: u32 = 32;

/// What the background is to do.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The shortest pause between two steps.
    pub(crate) pause: Duration,
    /// The spec of the compressor, if dictionaries are trained for it.
    pub(crate) dictionaries: Option<String>,
}

#[derive(Debug, Default)]
struct Mailbox {
    state: Mutex<State>,
    woken: Condvar,
    /// A copy of `State::stop` to read without the lock.
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    stop: bool,
    report: Report,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread. Dropping it stops the thread and waits for the end of a part of its step: at most a tenth of a second.
#[derive(Debug)]
pub(crate) struct Background(Leaked<Owner>);

#[derive(Debug)]
struct Owner {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`BuildError::Train`] if the training cannot be set up; [`BuildError::Thread`].
    pub(crate) fn start(engine: &Shared, plan: Plan) -> Result<Self, BuildError> {
        let mailbox: Arc<Mailbox> = Arc::default();
        let (theirs, weak, maker) = (mailbox.clone(), Arc::downgrade(engine), Maker::here());
        let mut work = Work::new(engine, &plan)?;
        let run = move || {
            let mut pause = plan.pause;
            loop {
                let Some(engine) = weak.upgrade() else { return };
                let mut report = Report::default();
                let stop = || theirs.stop.load(SeqCst);
                let busy =
                    contain(|| work.step(&engine, &mut report, &stop)).unwrap_or_else(|_| {
                        report.failed += 1;
                        false
                    });
                if !maker.is_here() {
                    // User code has forked during the step, and this is the child. It must neither go on nor drop
                    // anything.
                    core::mem::forget(engine);
                    return;
                }
                drop(engine);
                let longest = plan.pause.saturating_mul(LONGEST);
                pause = if busy { plan.pause } else { pause.saturating_mul(2).min(longest) };
                let mut state = theirs.lock();
                state.report.adopted += report.adopted;
                state.report.rejected += report.rejected;
                state.report.failed += report.failed;
                if !state.stop {
                    let waited = theirs.woken.wait_timeout_while(state, pause, |state| !state.stop);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                if state.stop {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("zswap-cache".to_owned())
            .spawn(run)
            .map_err(|error| BuildError::Thread { message: error.to_string() })?;
        Ok(Background(Leaked::new(Owner { mailbox, thread: Some(thread) })))
    }

    /// Adds what the thread has done to the figures.
    pub(crate) fn report(&self, stats: &mut CacheStats) {
        let report = self.0.mailbox.lock().report.clone();
        stats.adopted = report.adopted;
        stats.rejected = report.rejected;
        stats.failed = report.failed;
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.mailbox.stop.store(true, SeqCst);
        self.mailbox.lock().stop = true;
        self.mailbox.woken.notify_all();
        if let Some(thread) = self.thread.take() {
            // A listener may hold the cache and drop it last, on the thread itself, which cannot join itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// What the thread does in its steps.
struct Work {
    housekeeping: Housekeeping,
    #[cfg(feature = "zstd")]
    rounds: Option<dictionary::Rounds>,
}

impl Work {
    fn new(engine: &Engine, plan: &Plan) -> Result<Self, BuildError> {
        #[cfg(not(feature = "zstd"))]
        let _ = (engine, &plan.dictionaries);
        #[cfg(feature = "zstd")]
        let rounds = match &plan.dictionaries {
            Some(spec) => dictionary::Rounds::new(engine, spec, plan.pause)?,
            None => None,
        };
        Ok(Work {
            housekeeping: Housekeeping::default(),
            #[cfg(feature = "zstd")]
            rounds,
        })
    }

    /// Does a step. Returns whether there was something to do.
    fn step(&mut self, engine: &Engine, report: &mut Report, stop: &dyn Fn() -> bool) -> bool {
        #[cfg(not(feature = "zstd"))]
        let rounds = false;
        #[cfg(feature = "zstd")]
        let rounds = self.rounds.as_mut().is_some_and(|rounds| rounds.step(engine, report, stop));
        let kept = self.housekeeping.step(engine, report, stop);
        rounds || kept
    }
}
