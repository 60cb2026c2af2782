//! Points at which a test can interrupt a call and run other calls, which makes races deterministic.
//! Outside of tests they compile to nothing.

/// Where a test can step in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Point {
    /// A reader has loaded the slot's word.
    SlotLoaded,
    /// The reader has also loaded the class of the zspage that the word names.
    ClassLoaded,
    /// The reader is counted in a lane, the lock word of one object (`lane.rs`). It found this lane
    /// through the slot's word and the class.
    LaneLocked,
    /// The reader has compared the class, but not the slot yet.
    ClassCompared,
    /// A reader was the last to leave a parked object. The reader's thread must reclaim or queue
    /// the place.
    LeftParked,
    /// A thread knows the class in which to reclaim a parked place, but has not locked it yet.
    ReclaimClass,
    /// An allocation holds a fresh run and no lock.
    FreshRun,
    /// An object is about to be moved, under the class lock.
    Relocation,
}

#[cfg(not(test))]
#[inline(always)]
pub(crate) fn at(_: Point) {}

/// Does nothing: models need no hooks, because loom explores every order itself.
#[cfg(all(test, loom))]
pub(crate) fn at(_: Point) {}

#[cfg(all(test, not(loom)))]
pub(crate) use imp::{at, limit_relocations, on, relocations};

#[cfg(all(test, not(loom)))]
mod imp {
    use super::Point;
    use std::cell::{Cell, RefCell};

    type Hook = (Point, Box<dyn FnOnce()>);

    thread_local! {
        static HOOKS: RefCell<Vec<Hook>> = const { RefCell::new(Vec::new()) };
        static RELOCATIONS: Cell<usize> = const { Cell::new(0) };
        static LIMIT: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    /// Runs the thread's next hook if it is for this point.
    pub(crate) fn at(point: Point) {
        if point == Point::Relocation {
            RELOCATIONS.set(RELOCATIONS.get() + 1);
            assert!(
                RELOCATIONS.get() <= LIMIT.get(),
                "compaction does not end: it attempted more moves than the test allows"
            );
        }
        let next = HOOKS.with_borrow_mut(|hooks| {
            let due = hooks.first().is_some_and(|(at, _)| *at == point);
            due.then(|| hooks.remove(0))
        });
        if let Some((_, run)) = next {
            run();
        }
    }

    /// Adds a hook for this thread. Each hook runs once, in the order they were added.
    pub(crate) fn on(point: Point, run: impl FnOnce() + 'static) {
        HOOKS.with_borrow_mut(|hooks| hooks.push((point, Box::new(run))));
    }

    /// Returns the number of moves that this thread has attempted.
    pub(crate) fn relocations() -> usize {
        RELOCATIONS.get()
    }

    /// Makes this thread panic if it attempts more than `more` further moves.
    pub(crate) fn limit_relocations(more: usize) {
        LIMIT.set(RELOCATIONS.get().saturating_add(more));
    }
}
