//! Work that readers leave to later calls: parked places to reclaim, and runs to return.
//! `reclaim.rs` says which calls leave it and which calls do it.
//!
//! # The queue
//! A stack of places that are {USED, PARKED, QUEUED}. The first eight bytes of each place are its
//! link to the next. Nobody else uses these bytes: the object is gone, and only one thread sets
//! QUEUED. Places are pushed by CAS, and the whole stack is taken by a swap. ABA is harmless: if
//! the head changes and changes back before a push, the link that was written still leads to the
//! head.
//!
//! # The list
//! Detached zspages, linked through their vacant descriptors (`next`). Each descriptor keeps its
//! run. The list's lock is a leaf.

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
    /// The list's head. Its lock is a leaf.
    list: Mutex<u32>,
    /// Resident pages of the runs on the list. Can be read without the lock, and is changed under it.
    pages: Counter,
    /// Zspages on the list. Can be read without the lock, and is changed under it.
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

    /// Returns the number of resident pages that wait to be returned.
    pub(crate) fn pages(&self) -> usize {
        self.pages.get() as usize
    }

    /// Returns whether the queue holds a place. The answer is a hint.
    #[inline]
    pub(crate) fn has_places(&self) -> bool {
        // Relaxed: a hint. The load sees places that this thread queued or knows to be queued.
        self.queue.load(Ordering::Relaxed) != END
    }

    /// Returns whether the list holds a zspage. The answer is a hint.
    #[inline]
    pub(crate) fn has_zspages(&self) -> bool {
        // A hint, as in `has_places`.
        self.zspages.get() != 0
    }

    /// Adds a place to the queue. `link` is the address of the place's link.
    ///
    /// # Safety
    /// The caller has set QUEUED in the place's lane (`Lane::enqueue`), and the link is the first eight
    /// bytes of the place.
    pub(crate) unsafe fn push(&self, place: LaneRef, link: NonNull<u64>) {
        // Relaxed: a first guess for the CAS.
        let mut head = self.queue.load(Ordering::Relaxed);
        loop {
            // SAFETY: until the place is pushed, its first bytes belong to the thread that set QUEUED.
            unsafe { link.write(head) };
            // Release pairs with the Acquire of `take_places`: the link is written before the push.
            let (release, guess) = (Ordering::Release, Ordering::Relaxed);
            let bits = place.to_bits();
            match self.queue.compare_exchange_weak(head, bits, release, guess) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes all places off the queue and returns the first, from which links lead to the others.
    /// Returns None if the queue is empty.
    pub(crate) fn take_places(&self) -> Option<LaneRef> {
        // Acquire pairs with the Release of `push`; later pushes are RMWs and continue its release sequence.
        linked(self.queue.swap(END, Ordering::Acquire))
    }

    /// Reads a place's link. Returns the place that was queued before this one, or None at the end.
    ///
    /// # Safety
    /// This thread took the place off the queue and has not cleared its lane yet. The link is the
    /// place's first eight bytes.
    pub(crate) unsafe fn next(link: NonNull<u64>) -> Option<LaneRef> {
        // SAFETY: the link was written, since the place was on the queue, and it belongs to the
        // thread that took the place off until it clears the lane.
        linked(unsafe { link.read() })
    }

    /// Puts a detached zspage and its run on the list.
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

    /// Takes one zspage off the list. Returns None if the list is empty.
    #[expect(clippy::expect_used, reason = "`leave` keeps the run before it links the zspage")]
    pub(crate) fn take(&self, zspages: &Zspages) -> Option<Detached> {
        let _held = lockdep::acquire(Rank::Leaf);
        let mut list = self.list.lock();
        let zspage = *list;
        let z = zspages.linked(zspage)?;
        *list = z.next.get();
        // SAFETY: the descriptor is vacant. It is off the list, so this thread alone owns it.
        let run = unsafe { z.take_run() }.expect("a zspage that was left keeps its run");
        self.pages.sub(run.resident_pages() as u64);
        self.zspages.sub(1);
        // SAFETY: as above; the run is the one that was kept with the descriptor.
        Some(unsafe { Detached::new(zspage, run) })
    }
}

fn linked(bits: u64) -> Option<LaneRef> {
    (bits != END).then(|| LaneRef::from_bits(bits))
}
