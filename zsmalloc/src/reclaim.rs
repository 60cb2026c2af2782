//! Reclaiming: parked places whose last reader has gone, and runs that go back to the provider.
//!
//! A reader must not do all that a free does. A *passing* reader runs inside `obj_read_begin`, which
//! takes no lock; one that drops its guard may do so under a lock of its caller's, and must not call
//! the provider. So the one queues the place, and the other, having reclaimed it, leaves a zspage that
//! it emptied on a list (`left.rs`). The next call that may goes on from there: places are taken off
//! the queue by whatever reports or changes counts, runs are given back by `malloc`, `free`,
//! `compact`, `migrate` and `trim`. A panicking provider's caller leaves runs here, too.

use core::ptr::NonNull;

use crate::class::Detached;
use crate::hooks::{self, Point};
use crate::lane::Lane;
use crate::left::Left;
use crate::shared::Core;
use crate::zspages::LaneRef;

impl Core {
    /// Queues a parked place that its last reader, a passing one, has left. Takes no lock.
    #[cold]
    pub(crate) fn queue_parked(&self, at: LaneRef) {
        let lane = self.zspages.lane_at(at.lane);
        if !lane.enqueue() {
            return;
        }
        lane.bytes.write();
        let link = self.link_of(at);
        // SAFETY: this thread has set QUEUED just now, and the place stays what it is until it is taken
        // off the queue, so the link is its own.
        unsafe { self.left.push(at, link) };
    }

    /// Where a queued place has its link. The place is QUEUED, so that its zspage keeps class and base.
    #[expect(clippy::expect_used, reason = "invariant 3 of the pool: the place's lane is USED")]
    fn link_of(&self, at: LaneRef) -> NonNull<u64> {
        let z = self.zspages.at(at.zspage);
        let class = z.class().expect("a zspage with a USED lane is in a class");
        let index = self.zspages.index_of(at);
        // SAFETY: the place begins in the zspage's run, whose class and base are exact: the lane is USED
        // and unlocked, and stays so. It has at least 32 bytes, at a multiple of 8.
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
            // SAFETY: this thread has taken the place off the queue, and clears its lane below.
            first = unsafe { Left::next(self.link_of(at)) };
            self.reclaim(at, Lane::dequeue);
        }
    }

    /// A parked object was left to this thread. Takes the class lock; see `lane.rs`. Nothing in a
    /// child of the pool's process.
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
        // While the place is parked its zspage stays what it is. If it is something else under the
        // lock, somebody else has reclaimed the place.
        let Some(mut locked) = class.map(|class| self.lock(class)) else { return };
        if z.class() != class || index >= usize::from(locked.size.objects) {
            return;
        }
        let lane = self.zspages.lane_at(at.lane);
        if clear(lane) {
            lane.bytes.write();
            self.accounts.uncount_parked();
            // SAFETY: the lane was cleared just now, of a zspage that is in the class locked.
            let detached = unsafe { locked.obj_free(at.zspage, z, index) };
            drop(locked);
            if let Some(detached) = detached {
                self.leave(detached);
            }
        }
    }

    /// Leaves a detached zspage, run and all, to whoever may call the provider.
    pub(crate) fn leave(&self, detached: Detached) {
        self.left.leave(&self.zspages, detached);
    }

    /// Does what readers left undone. May call the provider; no lock is held.
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

    /// Gives a detached zspage's run back. No lock is held. A provider that panics has the run; the
    /// descriptor serves again before.
    pub(crate) fn give_back(&self, detached: Detached) {
        let (zspage, run) = detached.into_parts();
        // SAFETY: `detached` had the descriptor alone.
        unsafe { self.zspages.recycle(zspage) };
        // SAFETY: the run is from this provider, and `detached` was the only one that had it: the zspage
        // has left its class without a USED lane (invariant 2 of the pool).
        unsafe { self.provider.free_run(run) };
    }
}
