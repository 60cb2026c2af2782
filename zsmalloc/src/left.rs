//! What readers leave behind: parked places to reclaim, and runs to give back.
//!
//! A reader must not do all that a free does. A *passing* reader runs inside `obj_read_begin`, which
//! takes no lock; one that drops its guard may do so under a lock of its caller's, and must not call
//! the provider. So the one queues the place, and the other, having reclaimed it, leaves a zspage that
//! it emptied on a list. The next call that may goes on from there: places are taken off the queue by
//! whatever reports or changes counts, runs are given back by `malloc`, `free`, `compact`, `migrate`
//! and `trim`. A panicking provider's caller leaves runs here, too.
//!
//! # The queue
//! A stack of places that are {USED, PARKED, QUEUED}, linked through their own first eight bytes,
//! which nobody else uses: the object is gone, and QUEUED is set by one thread only. Pushed by CAS,
//! taken whole by a swap. The head may change and come back before a push: it is then the head all
//! the same, and the link that was written is right.
//!
//! # The list
//! Detached zspages, linked like vacant ones, with their run still in the descriptor: base, touched
//! pages, and in `used` the run's length. Its lock is a leaf.

use core::ptr::NonNull;

use zpool_api::PageRun;
use zpool_base::lockdep::{self, Rank};

use crate::class::{Detached, Place};
use crate::hooks::{self, Point};
use crate::pool::Core;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::counters::AtomicUsize;
use crate::zspage::{NIL, Zspage};

/// No place.
const END: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Left {
    /// The queue's head: zspage and lane, as in a guard's token.
    queue: AtomicU64,
    /// The list's head. A leaf lock.
    list: Mutex<u32>,
    /// Resident pages of the runs on the list; and the zspages, for a look without the lock.
    pages: AtomicUsize,
    zspages: AtomicUsize,
}

impl Left {
    pub(crate) fn new() -> Self {
        Left {
            queue: AtomicU64::new(END),
            list: Mutex::new(NIL),
            pages: AtomicUsize::new(0),
            zspages: AtomicUsize::new(0),
        }
    }

    /// Resident pages that wait to be given back.
    pub(crate) fn pages(&self) -> usize {
        // Relaxed: a counter.
        self.pages.load(Ordering::Relaxed)
    }
}

impl Core {
    /// Queues a parked place that its last reader, a passing one, has left. Takes no lock.
    #[cold]
    pub(crate) fn queue_parked(&self, zspage: u32, lane_number: u32) {
        let lane = self.lane_at(lane_number);
        if !lane.enqueue() {
            return;
        }
        lane.bytes.write();
        let token = u64::from(zspage) << 32 | u64::from(lane_number);
        let Some(link) = self.link_of(token) else { return };
        // Relaxed: a first guess for the CAS.
        let mut head = self.left.queue.load(Ordering::Relaxed);
        loop {
            // SAFETY: the place's first bytes, which are the queue's (`enqueue`).
            unsafe { link.write(head) };
            // Release pairs with the Acquire of `reclaim_queued`: the link is written before.
            let (release, guess) = (Ordering::Release, Ordering::Relaxed);
            match self.left.queue.compare_exchange_weak(head, token, release, guess) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Where a queued place has its link.
    fn link_of(&self, token: u64) -> Option<NonNull<u64>> {
        let z = self.zspages.get((token >> 32) as u32)?;
        // Exact, as the base is: the place is USED and unlocked, and stays so.
        let size = &self.classes.get(usize::from(z.class()?))?.size;
        let index = (token as u32 - z.first_lane) as usize;
        // SAFETY: the place begins in the zspage's run. It has at least 32 bytes, at a multiple of 8.
        NonNull::new(unsafe { z.base().add(size.start_of(index)) }.cast())
    }

    /// Reclaims the places on the queue. Takes class locks; never calls the provider.
    pub(crate) fn reclaim_queued(&self) {
        // Relaxed: a hint. What this thread, or one that it has heard of since, has queued is seen.
        if self.left.queue.load(Ordering::Relaxed) != END {
            self.reclaim_all_queued();
        }
    }

    #[cold]
    fn reclaim_all_queued(&self) {
        // Acquire pairs with the Release of `queue_parked`; all that were pushed are RMWs after it.
        let mut token = self.left.queue.swap(END, Ordering::Acquire);
        while token != END {
            let Some(link) = self.link_of(token) else { return };
            // SAFETY: the place was on the queue, so the link was written, and it is this thread's
            // to read until `dequeue`.
            let next = unsafe { link.read() };
            let (zspage, lane) = ((token >> 32) as u32, token as u32);
            self.reclaim(zspage, lane, crate::lane::Lane::dequeue);
            token = next;
        }
    }

    /// A parked object was left to this thread. Takes the class lock; see `lane.rs`. Nothing in a
    /// child of the pool's process.
    #[cold]
    pub(crate) fn reclaim_parked(&self, zspage: u32, lane: u32) {
        if !self.maker.is_here() {
            return;
        }
        self.reclaim(zspage, lane, crate::lane::Lane::reclaim);
    }

    fn reclaim(&self, zspage: u32, lane: u32, clear: impl Fn(&crate::lane::Lane) -> bool) {
        let Some(z) = self.zspages.get(zspage) else { return };
        let place = Place { zspage, index: (lane - z.first_lane) as usize };
        let class = z.class();
        hooks::at(Point::ReclaimClass);
        // While the place is parked its zspage stays what it is. If it is something else under the
        // lock, somebody else has reclaimed the place.
        let Some(mut locked) = class.and_then(|class| self.lock(class)) else { return };
        if z.class() != class {
            return;
        }
        let lane = self.lane_at(lane);
        if place.index < usize::from(locked.size.objects) && clear(lane) {
            lane.bytes.write();
            self.uncount_parked();
            let detached = locked.vacate(place.zspage, z, place.index);
            drop(locked);
            if let Some(detached) = detached {
                self.leave(detached);
            }
        }
    }

    /// Leaves a detached zspage, run and all, to whoever may call the provider.
    pub(crate) fn leave(&self, detached: Detached) {
        let Detached { zspage, base, pages, touched } = detached;
        let Some(z) = self.zspages.get(zspage) else { return };
        z.set_base(base);
        z.touched.set(touched);
        // A run has at most 16 pages.
        z.used.set(pages as u16);
        let _held = lockdep::acquire(Rank::Leaf);
        let mut list = self.left.list.lock();
        z.next.set(*list);
        *list = zspage;
        // Relaxed, both: counters, changed under the lock.
        self.left.pages.fetch_add(touched.count_ones() as usize, Ordering::Relaxed);
        // Relaxed: as above.
        self.left.zspages.fetch_add(1, Ordering::Relaxed);
    }

    /// Does what readers left undone. May call the provider; no lock is held.
    #[inline]
    pub(crate) fn tidy_up(&self) {
        self.reclaim_queued();
        // Relaxed: a hint, as in `reclaim_queued`.
        if self.left.zspages.load(Ordering::Relaxed) != 0 {
            self.give_back_left();
        }
    }

    #[cold]
    fn give_back_left(&self) {
        while let Some(detached) = self.take_left() {
            self.give_back(detached);
        }
    }

    fn take_left(&self) -> Option<Detached> {
        let _held = lockdep::acquire(Rank::Leaf);
        let mut list = self.left.list.lock();
        let zspage = *list;
        let z = self.zspages.get(zspage)?;
        *list = z.next.get();
        let (base, touched, pages) = (z.base(), z.touched.get(), usize::from(z.used.get()));
        z.set_base(core::ptr::null_mut());
        z.touched.set(0);
        z.used.set(0);
        // Relaxed, both: as in `leave`.
        self.left.pages.fetch_sub(touched.count_ones() as usize, Ordering::Relaxed);
        // Relaxed: as above.
        self.left.zspages.fetch_sub(1, Ordering::Relaxed);
        Some(Detached { zspage, base, pages, touched })
    }

    /// Gives a detached zspage's run back. No lock is held. A provider that panics has the run; the
    /// descriptor serves again before.
    pub(crate) fn give_back(&self, detached: Detached) {
        let Detached { zspage, base, pages, touched } = detached;
        self.recycle(zspage);
        if let Some(base) = NonNull::new(base) {
            // SAFETY: the run that `attach` was given, from this provider; the zspage has left its
            // class without a USED lane, so nobody touches the run (the pool's invariant 2).
            let run = unsafe { PageRun::new(base, pages, touched) };
            // SAFETY: as above.
            unsafe { self.provider.free_run(run) };
        }
    }

    /// Lets a vacant descriptor serve again.
    pub(crate) fn recycle(&self, zspage: u32) {
        let Some(z) = self.zspages.get(zspage) else { return };
        let tier = Zspage::tier(z.lanes());
        let _held = lockdep::acquire(Rank::Leaf);
        let mut vacant = self.vacant.lock();
        z.next.set(vacant[tier]);
        vacant[tier] = zspage;
    }
}
