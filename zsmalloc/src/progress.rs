//! The progress of compaction in parts: which class is next, and when a pass over all classes ends.
//!
//! Progress is measured in pages. A pass ends when a whole round over the classes has freed no page
//! on balance. Compaction goes on to the next class when there is nothing left to do in the present
//! one, or when it has visited more places than the class has and freed no page. Pages of zspages
//! that other threads emptied do not count as progress. If other threads keep making work, the pass
//! ends after a number of visits that is bounded by the pool's size at its start. A pass ends for
//! all threads that take part in it.

use zpool_api::Compaction;

/// The result of visiting a class.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Visit {
    /// Pages given back minus pages touched.
    pub(crate) balance: isize,
    /// How many of the pages given back are from zspages that other threads had emptied.
    pub(crate) emptied: usize,
    /// Taken places visited.
    pub(crate) visited: usize,
    /// Places that the class had at the start of the visit.
    pub(crate) places: usize,
    /// Whether there was nothing left to do.
    pub(crate) done: bool,
}

/// The progress of compaction in parts, shared by all threads.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The class to go on with.
    pub(crate) class: usize,
    /// Classes in a row that freed nothing.
    quiet: usize,
    /// Taken places visited in this class since a visit last freed a page.
    visited: usize,
    /// Pages that moves have touched, minus the freed pages that have made up for them.
    owed: usize,
    /// How many more visits of classes the pass may make; 0 between two passes.
    left: usize,
    /// Passes that have ended.
    pub(crate) passes: usize,
}

impl Progress {
    /// Joins the pass under way, or starts one that is limited to `visits()` visits. Returns the
    /// number of passes that have ended. When that number changes, this pass has ended, too.
    pub(crate) fn join(&mut self, visits: impl FnOnce() -> usize) -> usize {
        if self.left == 0 {
            self.left = visits();
        }
        self.passes
    }

    /// Records a visit of `class`, one of `classes`. Returns the pages freed on balance and whether
    /// the pass ends: because a whole round freed nothing, or because no visits are left.
    pub(crate) fn note(&mut self, class: usize, classes: usize, visit: Visit) -> Compaction {
        let won = visit.balance.max(0).unsigned_abs();
        let gain = won.saturating_sub(self.owed);
        self.owed = self.owed.saturating_sub(won) + visit.balance.min(0).unsigned_abs();
        let own = gain.saturating_sub(visit.emptied);
        if own > 0 {
            self.quiet = 0;
        }
        // If the classes differ, another thread has already moved on from `class`.
        if self.class == class {
            self.visited = if own > 0 { 0 } else { self.visited + visit.visited };
            if visit.done || self.visited > visit.places {
                self.class = (class + 1) % classes;
                self.visited = 0;
                self.quiet += usize::from(own == 0);
            }
        }
        self.left = self.left.saturating_sub(1);
        let complete = self.quiet >= classes || self.left == 0;
        if !complete {
            return Compaction::partial(gain);
        }
        (self.quiet, self.owed, self.left) = (0, 0, 0);
        self.passes = self.passes.wrapping_add(1);
        Compaction::complete(gain)
    }
}
