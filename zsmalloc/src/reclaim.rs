//! Reclaiming: freeing parked places whose last reader has left, and returning runs to the provider.
//!
//! A reader must not do everything that a free does. A *passing* reader runs inside
//! `obj_read_begin`, which takes no lock, so it queues the place. A reader that drops its guard may
//! do so under a lock of its caller and must not call the provider. So it reclaims the place, but if
//! the zspage is then empty, it puts the zspage on a list (`left.rs`). A later call does the rest:
//! `stats`, `total_pages` and `class_stats` reclaim the queued places. `malloc`, `free`, `compact`,
//! `migrate` and `trim` reclaim them and return the runs. A call whose provider panics leaves its
//! runs on the list, too.

use core::ptr::NonNull;

use crate::class::Detached;
use crate::hooks::{self, Point};
use crate::lane::Lane;
use crate::left::Left;
use crate::shared::Core;
use crate::zspages::LaneRef;

impl Core {
    /// Queues a parked place whose last reader was a passing one. Takes no lock.
    #[cold]
    pub(crate) fn queue_parked(&self, at: LaneRef) {
        let lane = self.zspages.lane_at(at.lane);
        if !lane.enqueue() {
            return;
        }
        lane.bytes.write();
        let link = self.link_of(at);
        // SAFETY: this thread has just set QUEUED, and the place does not change until it is taken
        // off the queue, so the link belongs to this thread.
        unsafe { self.left.push(at, link) };
    }

    /// Returns the address of a queued place's link. The zspage keeps its class and its base while
    /// the place is QUEUED.
    #[expect(clippy::expect_used, reason = "invariant 3 of the pool: the place's lane is USED")]
    fn link_of(&self, at: LaneRef) -> NonNull<u64> {
        let z = self.zspages.at(at.zspage);
        let class = z.class().expect("a zspage with a USED lane is in a class");
        let index = self.zspages.index_of(at);
        // SAFETY: the place begins in the zspage's run. Class and base are exact: the lane is USED
        // and not write-locked, and stays so. A place has at least 32 bytes and starts at a multiple of 8.
        unsafe { z.base().add(self.class(class).size.start_of(index)) }.cast()
    }

    /// Reclaims the places on the queue. Takes class locks; never calls the provider.
    pub(crate) fn reclaim_queued(&self) {
        if self.left.has_places() {
            self.reclaim_all_queued();
        }
    }

    #[cold]
    fn reclaim_all_queued(&self) {
        let mut first = self.left.take_places();
        while let Some(at) = first {
            // SAFETY: this thread took the place off the queue, and clears its lane only below.
            first = unsafe { Left::next(self.link_of(at)) };
            self.reclaim(at, Lane::dequeue);
        }
    }

    /// Frees the place of a parked object that was left to this thread. Takes the class lock (see
    /// `lane.rs`). Does nothing in a forked child.
    #[cold]
    pub(crate) fn reclaim_parked(&self, at: LaneRef) {
        if self.maker.is_here() {
            self.reclaim(at, Lane::reclaim);
        }
    }

    fn reclaim(&self, at: LaneRef, clear: impl Fn(&Lane) -> bool) {
        let z = self.zspages.at(at.zspage);
        let index = self.zspages.index_of(at);
        let class = z.class();
        hooks::at(Point::ReclaimClass);
        // A zspage stays in its class while a place of it is parked. If the class has changed,
        // somebody else has reclaimed the place.
        let Some(mut locked) = class.map(|class| self.lock(class)) else { return };
        if z.class() != class || index >= usize::from(locked.size.objects) {
            return;
        }
        let lane = self.zspages.lane_at(at.lane);
        if clear(lane) {
            lane.bytes.write();
            self.accounts.uncount_parked();
            // SAFETY: the lane was cleared just now, under the lock of the class that the zspage is in.
            let detached = unsafe { locked.obj_free(at.zspage, z, index) };
            drop(locked);
            if let Some(detached) = detached {
                self.leave(detached);
            }
        }
    }

    /// Leaves a detached zspage and its run to a call that may call the provider.
    pub(crate) fn leave(&self, detached: Detached) {
        self.left.leave(&self.zspages, detached);
    }

    /// Does the work that readers left behind. May call the provider; the caller holds no lock.
    #[inline]
    pub(crate) fn tidy_up(&self) {
        self.reclaim_queued();
        if self.left.has_zspages() {
            self.give_back_left();
        }
    }

    #[cold]
    fn give_back_left(&self) {
        while let Some(detached) = self.left.take(&self.zspages) {
            self.give_back(detached);
        }
    }

    /// Returns a detached zspage's run to the provider. The caller holds no lock. The descriptor is
    /// recycled first, so that it is reused even if the provider panics.
    pub(crate) fn give_back(&self, detached: Detached) {
        let (zspage, run) = detached.into_parts();
        // SAFETY: `detached` was the sole owner of the descriptor.
        unsafe { self.zspages.recycle(zspage) };
        // SAFETY: the run is from this provider, and `detached` was its sole owner: the zspage left
        // its class without a USED lane (invariant 2 of the pool).
        unsafe { self.provider.free_run(run) };
    }
}
