//! Limits how deeply calls that write pages back are nested on a thread.
//!
//! A device may keep its pages in another store. If that store is at its limit, it writes pages to its own
//! device. That is fine. But a device may also store pages into the very store that writes to it, and then
//! the calls would nest without end. A store cannot distinguish the two cases, so it limits the depth.

use std::cell::Cell;

use crate::sync::MODEL;

/// The most calls that write pages back that may be nested on one thread. Each is made by the device of the call
/// before.
const MOST: u8 = 4;

thread_local! {
    static DEPTH: Cell<u8> = const { Cell::new(0) };
}

/// One level of nesting. The level ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Nested(());

impl Nested {
    /// Goes one level deeper. Returns `None` if the limit is reached. Under the model checker all threads
    /// share one thread-local, so there is no limit.
    pub(crate) fn enter() -> Option<Nested> {
        let deeper = DEPTH.try_with(|depth| {
            let fits = MODEL || depth.get() < MOST;
            if fits && !MODEL {
                depth.set(depth.get() + 1);
            }
            fits
        });
        // If the thread's locals are already destroyed, the thread is about to end, and its calls are hardly
        // nested. So no level is refused then.
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
