//! Points at which a test stops one call and runs others: races made deterministic. Nothing in any
//! other build.

/// Where a test can step in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Point {
    /// A reader knows the slot's word.
    SlotLoaded,
    /// And the class of the zspage that it names.
    ClassLoaded,
    /// It is counted in the lane that both lead to.
    LaneLocked,
    /// It has compared the class, and not yet the slot.
    ClassCompared,
    /// A reader has taken itself off a parked object, whose place is this thread's to reclaim.
    LeftParked,
    /// A thread knows the class to reclaim a parked place in, and has not locked it.
    ReclaimClass,
    /// An allocation has a fresh run, and no lock.
    FreshRun,
    /// An object is about to be moved. Under the class lock.
    Relocation,
}

#[cfg(not(test))]
#[inline(always)]
pub(crate) fn at(_: Point) {}

/// A model has no hooks: it explores every order itself.
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

    /// Runs the thread's next hook, if it is for this point.
    pub(crate) fn at(point: Point) {
        if point == Point::Relocation {
            RELOCATIONS.set(RELOCATIONS.get() + 1);
            assert!(RELOCATIONS.get() <= LIMIT.get(), "compaction goes on and on");
        }
        let next = HOOKS.with_borrow_mut(|hooks| {
            let due = hooks.first().is_some_and(|(at, _)| *at == point);
            due.then(|| hooks.remove(0))
        });
        if let Some((_, run)) = next {
            run();
        }
    }

    /// Adds a hook of this thread; each runs once, in order.
    pub(crate) fn on(point: Point, run: impl FnOnce() + 'static) {
        HOOKS.with_borrow_mut(|hooks| hooks.push((point, Box::new(run))));
    }

    /// Moves that this thread has tried.
    pub(crate) fn relocations() -> usize {
        RELOCATIONS.get()
    }

    /// Fails the test at the move after `more` of them.
    pub(crate) fn limit_relocations(more: usize) {
        LIMIT.set(RELOCATIONS.get().saturating_add(more));
    }
}
