//! How far compaction in parts has come: the class to go on with, and when a pass over all of them ends.
//!
//! What counts is pages: a round over all classes ends without one, unless pages are won on balance,
//! and a class in which as many places were visited as it has, without a page won, is left. Pages of
//! zspages that others have emptied do not count. A pass over the classes that others keep from its
//! end by making work ends after a number of visits that the pool's size at its begin bounds, and it
//! ends for all that take part in it.

use zpool_api::Compaction;

/// What a visit of a class did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Visit {
    /// Pages given back, less those touched.
    pub(crate) balance: isize,
    /// Those given back of zspages that others have emptied.
    pub(crate) emptied: usize,
    /// Places visited, and places that the class had.
    pub(crate) visited: usize,
    pub(crate) places: usize,
    /// Whether there was nothing left to do.
    pub(crate) done: bool,
}

/// How far compaction in parts has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The class to go on with.
    pub(crate) class: usize,
    /// Classes in a row that gave nothing.
    quiet: usize,
    /// Places visited in this class since it gave something.
    visited: usize,
    /// Pages touched and not won back yet.
    owed: usize,
    /// Visits of classes after which the pass ends in any case; 0 between two passes.
    left: usize,
    /// Passes that have ended.
    pub(crate) passes: usize,
}

impl Progress {
    /// Joins the pass under way, or begins one of so many visits; the passes that
    /// have ended.
    pub(crate) fn join(&mut self, visits: impl FnOnce() -> usize) -> usize {
        if self.left == 0 {
            self.left = visits();
        }
        self.passes
    }

    /// Notes a visit of a class out of `classes`: the pages won on balance, and whether the pass ends: a
    /// whole round has given nothing, or the visits are used up.
    pub(crate) fn note(&mut self, class: usize, classes: usize, visit: Visit) -> Compaction {
        let won = visit.balance.max(0).unsigned_abs();
        let gain = won.saturating_sub(self.owed);
        self.owed = self.owed.saturating_sub(won) + visit.balance.min(0).unsigned_abs();
        let own = gain.saturating_sub(visit.emptied);
        if own > 0 {
            self.quiet = 0;
        }
        // Otherwise another thread went on from here meanwhile.
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
