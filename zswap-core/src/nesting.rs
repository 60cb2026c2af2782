//! Limits how deeply calls that make room are nested on a thread.
//!
//! A device may keep its pages in another store. At its limit, that store makes room in turn. But a device that
//! stores into the very store that writes to it would nest calls without end. A store cannot distinguish the
//! two, so it limits the depth.

use std::cell::Cell;

use crate::sync::MODEL;

/// The most stores on a thread that make room at the same time, each called by the device of the one before.
const MOST: u8 = 4;

thread_local! {
    static DEPTH: Cell<u8> = const { Cell::new(0) };
}

/// One level of nesting. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Nested(());

impl Nested {
    /// Goes one level deeper; `None` if the limit is reached. Does not count under the model checker, where all
    /// threads share one thread-local.
    pub(crate) fn enter() -> Option<Nested> {
        let deeper = DEPTH.try_with(|depth| {
            let fits = MODEL || depth.get() < MOST;
            if fits && !MODEL {
                depth.set(depth.get() + 1);
            }
            fits
        });
        // A thread whose locals are gone is about to end, so it is not deep in a nest.
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
