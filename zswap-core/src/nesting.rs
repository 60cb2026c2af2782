//! Limits how deeply calls that write pages back are nested on a thread.
//!
//! A device may keep its pages in another store. If that store is at its limit, it writes pages to its own
//! device. That is fine. But a device may also store pages into the very store that writes to it, and then
//! the calls would nest without end. A store cannot distinguish the two cases, so it limits the depth.
//!
//! A fault handler's store may be called in the middle of such calls. Its calls are counted by themselves.

use std::cell::Cell;

use crate::sync::MODEL;

/// The most calls that write pages back that may be nested on one thread. Each is made by the device of the call
/// before.
const MOST: u8 = 4;

/// The levels of a thread that are of one kind of store.
#[derive(Clone, Copy, Default)]
struct Levels {
    depth: u8,
    /// The addresses of the stores of these levels, the outermost first.
    stores: [usize; MOST as usize],
}

impl Levels {
    const NONE: Levels = Levels { depth: 0, stores: [0; MOST as usize] };

    /// Calls `look` with the thread's levels of this kind, or returns `None` if the thread's locals are destroyed.
    fn with<T>(in_fault_handler: bool, look: impl FnOnce(&Cell<Levels>) -> T) -> Option<T> {
        LEVELS.try_with(|levels| look(&levels[usize::from(in_fault_handler)])).ok()
    }
}

thread_local! {
    /// The levels of other stores, then those of fault handlers' stores.
    static LEVELS: [Cell<Levels>; 2] = const { [const { Cell::new(Levels::NONE) }; 2] };
}

/// One level of nesting. The level ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Nested {
    in_fault_handler: bool,
}

impl Nested {
    /// Goes one level deeper. Returns `None` if the limit is reached. Under the model checker all threads
    /// share one thread-local, so there is no limit.
    pub(crate) fn enter(store: usize, in_fault_handler: bool) -> Option<Nested> {
        let deeper = Levels::with(in_fault_handler, |levels| {
            let mut now = levels.get();
            let fits = MODEL || now.depth < MOST;
            if fits && !MODEL {
                now.stores[usize::from(now.depth)] = store;
                now.depth += 1;
                levels.set(now);
            }
            fits
        });
        // If the thread's locals are already destroyed, the thread is about to end, and its calls are hardly
        // nested. So no level is refused then.
        deeper.unwrap_or(true).then(|| Nested { in_fault_handler })
    }

    /// Returns whether more than one level of this thread is of the store at this address: the outer one may have
    /// a segment that it fills, and does not go on before the inner one ends.
    pub(crate) fn is_inner(store: usize, in_fault_handler: bool) -> bool {
        let Levels { depth, stores } =
            Levels::with(in_fault_handler, Cell::get).unwrap_or_default();
        !MODEL && stores[..usize::from(depth)].iter().filter(|of| **of == store).count() > 1
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        Levels::with(self.in_fault_handler, |levels| {
            let now = levels.get();
            levels.set(Levels { depth: now.depth.saturating_sub(1), ..now });
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_few_levels_and_no_more() {
        let mut levels = Vec::new();
        while let Some(level) = Nested::enter(1, false) {
            levels.push(level);
        }
        assert_eq!(levels.len(), usize::from(MOST));
        assert!(std::thread::spawn(|| Nested::enter(1, false).is_some()).join().unwrap());
        let mut handlers = Vec::new();
        while let Some(level) = Nested::enter(2, true) {
            handlers.push(level);
        }
        assert_eq!(handlers.len(), usize::from(MOST), "they are counted by themselves");
        assert!(
            Nested::is_inner(1, false) && Nested::is_inner(2, true) && !Nested::is_inner(1, true)
        );
        drop(handlers);
        assert!(Nested::enter(1, false).is_none());
        levels.pop();
        assert!(Nested::enter(1, false).is_some() && Nested::enter(1, false).is_some());
    }
}
