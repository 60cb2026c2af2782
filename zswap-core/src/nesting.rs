//! How deeply calls that make room are nested on a thread.
//!
//! A device may keep its pages in another store, which makes room in turn at its limit. A device that
//! stores into the very store that writes to it would do so without end. A store cannot distinguish the
//! two, so it limits the depth.

use std::cell::Cell;

use crate::sync::MODEL;

/// Stores, one below the other, that may make room at once.
const MOST: u8 = 4;

thread_local! {
    static DEPTH: Cell<u8> = const { Cell::new(0) };
}

/// One more level, until it is dropped.
#[derive(Debug)]
pub(crate) struct Nested(());

impl Nested {
    /// Goes one level deeper; `None` beyond the limit. Under the model checker all threads share the one
    /// thread-local, so nothing is counted.
    pub(crate) fn enter() -> Option<Nested> {
        let deeper = DEPTH.try_with(|depth| {
            let fits = MODEL || depth.get() < MOST;
            if fits && !MODEL {
                depth.set(depth.get() + 1);
            }
            fits
        });
        // A thread whose locals are gone is about to end, not deep in a nest.
        deeper.unwrap_or(true).then(|| Nested(()))
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        let _ = DEPTH.try_with(|depth| depth.set(depth.get().saturating_sub(1)));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_few_levels_and_no_more() {
        let mut levels = Vec::new();
        while let Some(level) = Nested::enter() {
            levels.push(level);
        }
        assert_eq!(levels.len(), usize::from(MOST));
        assert!(std::thread::spawn(|| Nested::enter().is_some()).join().unwrap());
        levels.pop();
        assert!(Nested::enter().is_some() && Nested::enter().is_some());
    }
}
