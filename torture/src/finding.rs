//! Findings: the first fault of a run, and panics that nobody ordered.

use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A fault, described in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The rule that was broken, in a few words.
    pub rule: String,
    /// What was seen.
    pub what: String,
}

/// The first finding of a run. Once there is one, threads stop. `Send` and `Sync`.
#[derive(Debug, Default)]
pub struct Findings {
    first: Mutex<Option<Finding>>,
    found: AtomicBool,
}

impl Findings {
    /// Reports a finding; only the first is kept.
    pub fn report(&self, rule: &str, what: String) {
        let finding = Finding { rule: rule.to_owned(), what };
        lock(&self.first).get_or_insert(finding);
        self.found.store(true, Ordering::SeqCst);
    }

    /// Returns whether anything was found.
    pub fn any(&self) -> bool {
        self.found.load(Ordering::SeqCst)
    }

    /// Returns the first finding, if there is one.
    pub fn first(&self) -> Option<Finding> {
        lock(&self.first).clone()
    }
}

/// Locks a mutex of this program. No panic leaves its data half changed, so poisoning is ignored.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Records the messages of panics instead of printing them. Ordered panics bypass this hook.
pub fn watch_panics() {
    panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
        let place = info.location().map_or_else(String::new, ToString::to_string);
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        lock(&PANICS).push(format!("thread {thread} panicked at {place}: {text}"));
    }));
}

/// Returns the first panic since the last call, if there was one. Forgets the others.
pub fn take_panic() -> Option<String> {
    let mut panics = lock(&PANICS);
    let first = (!panics.is_empty()).then(|| panics.swap_remove(0));
    panics.clear();
    first
}
