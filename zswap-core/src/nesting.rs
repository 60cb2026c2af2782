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
    /// The addresses of the stores of these levels, the outermost first.
    static STORES: Cell<[usize; MOST as usize]> = const { Cell::new([0; MOST as usize]) };
}

/// One level of nesting. The level ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Nested(());

impl Nested {
    /// Goes one level deeper. Returns `None` if the limit is reached. Under the model checker all threads
    /// share one thread-local, so there is no limit.
    pub(crate) fn enter(store: usize) -> Option<Nested> {
        let deeper = DEPTH.try_with(|depth| {
            let fits = MODEL || depth.get() < MOST;
            if fits && !MODEL {
                let _ = STORES.try_with(|stores| {
                    let mut all = stores.get();
                    all[usize::from(depth.get())] = store;
                    stores.set(all);
                });
                depth.set(depth.get() + 1);
            }
            fits
        });
        // If the thread's locals are already destroyed, the thread is about to end, and its calls are hardly
        // nested. So no level is refused then.
        deeper.unwrap_or(true).then(|| Nested(()))
    }

    /// Returns whether more than one level of this thread is of the store at this address: the outer one may have
    /// a segment that it fills, and does not go on before the inner one ends.
    pub(crate) fn is_inner(store: usize) -> bool {
        let depth = DEPTH.try_with(Cell::get).unwrap_or(0);
        let stores = STORES.try_with(Cell::get).unwrap_or_default();
        !MODEL && stores[..usize::from(depth)].iter().filter(|of| **of == store).count() > 1
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
        while let Some(level) = Nested::enter(1) {
            levels.push(level);
        }
        assert_eq!(levels.len(), usize::from(MOST));
        assert!(std::thread::spawn(|| Nested::enter(1).is_some()).join().unwrap());
        levels.pop();
        assert!(Nested::enter(1).is_some() && Nested::enter(1).is_some());
    }
}
