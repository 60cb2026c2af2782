//! What readers leave behind, kept until a call may do more: parked places to reclaim, and runs to
//! give back. `reclaim.rs` says who leaves and who takes.
//!
//! # The queue
//! A stack of places that are {USED, PARKED, QUEUED}, linked through their own first eight bytes,
//! which nobody else uses: the object is gone, and QUEUED is set by one thread only. Pushed by CAS,
//! taken whole by a swap. The head may change and come back before a push: it is then the head all
//! the same, and the link that was written is right.
//!
//! # The list
//! Detached zspages, linked like vacant ones, whose descriptors keep their runs. Its lock is a leaf.

use core::ptr::NonNull;

use zpool_base::counter::Counter;
use zpool_base::lockdep::{self, Rank};

use crate::class::Detached;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::zspage::NIL;
use crate::zspages::{LaneRef, Zspages};

/// The end of the queue.
const END: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Left {
    /// The queue's head: a lane, or END.
    queue: AtomicU64,
    /// The list's head. A leaf lock.
    list: Mutex<u32>,
    /// Resident pages of the runs on the list; and the zspages, for a look without the lock. Changed
    /// under it.
    pages: Counter,
    zspages: Counter,
}

impl Left {
    pub(crate) fn new() -> Self {
        Left {
            queue: AtomicU64::new(END),
            list: Mutex::new(NIL),
            pages: Counter::default(),
            zspages: Counter::default(),
        }
    }

    /// Resident pages that wait to be given back.
    pub(crate) fn pages(&self) -> usize {
        self.pages.get() as usize
    }

    /// Whether the queue has a place.
    #[inline]
    pub(crate) fn has_places(&self) -> bool {
        // Relaxed: a hint. What this thread, or one that it has heard of since, has queued is seen.
        self.queue.load(Ordering::Relaxed) != END
    }

    /// Whether the list has a zspage.
    #[inline]
    pub(crate) fn has_zspages(&self) -> bool {
        // A hint, as in `has_places`.
        self.zspages.get() != 0
    }

    /// Queues a place, whose link is at `link`.
    ///
    /// # Safety
    /// The caller has set QUEUED in the place's lane (`Lane::enqueue`), and the link is the first eight
    /// bytes of the place.
    pub(crate) unsafe fn push(&self, place: LaneRef, link: NonNull<u64>) {
        // Relaxed: a first guess for the CAS.
        let mut head = self.queue.load(Ordering::Relaxed);
        loop {
            // SAFETY: the bytes of a place that is QUEUED are its enqueuer's until it is pushed.
            unsafe { link.write(head) };
            // Release pairs with the Acquire of `take_places`: the link is written before.
            let (release, guess) = (Ordering::Release, Ordering::Relaxed);
            let bits = place.to_bits();
            match self.queue.compare_exchange_weak(head, bits, release, guess) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes all places off the queue: the first one. The others are linked to it.
    pub(crate) fn take_places(&self) -> Option<LaneRef> {
        // Acquire pairs with the Release of `push`; all that were pushed are RMWs after it.
        linked(self.queue.swap(END, Ordering::Acquire))
    }

    /// The place that was queued before the one whose link this is.
    ///
    /// # Safety
    /// The place was taken off the queue by this thread, which has not cleared its lane yet, and the link
    /// is the first eight bytes of it.
    pub(crate) unsafe fn next(link: NonNull<u64>) -> Option<LaneRef> {
        // SAFETY: the place was on the queue, so the link was written, and until its lane is cleared it
        // is the reader's of this.
        linked(unsafe { link.read() })
    }

    /// Leaves a detached zspage, run and all.
    pub(crate) fn leave(&self, zspages: &Zspages, detached: Detached) {
        let (zspage, run) = detached.into_parts();
        let z = zspages.at(zspage);
        let pages = run.resident_pages();
        z.keep_run(run);
        let _held = lockdep::acquire(Rank::Leaf);
        let mut list = self.list.lock();
        z.next.set(core::mem::replace(&mut list, zspage));
        self.pages.add(pages as u64);
        self.zspages.add(1);
    }

    /// Takes one zspage that was left.
    #[expect(clippy::expect_used, reason = "`leave` keeps the run before it links the zspage")]
    pub(crate) fn take(&self, zspages: &Zspages) -> Option<Detached> {
        let _held = lockdep::acquire(Rank::Leaf);
        let mut list = self.list.lock();
        let zspage = *list;
        let z = zspages.linked(zspage)?;
        *list = z.next.get();
        // SAFETY: a vacant descriptor, and off the list it is this thread's alone.
        let run = unsafe { z.take_run() }.expect("a zspage that was left keeps its run");
        self.pages.sub(run.resident_pages() as u64);
        self.zspages.sub(1);
        // SAFETY: as above; the run is the one that was left.
        Some(unsafe { Detached::new(zspage, run) })
    }
}

fn linked(bits: u64) -> Option<LaneRef> {
    (bits != END).then(|| LaneRef::from_bits(bits))
}
