//! How many pages may be resident: the two limits, and what is used of them.
//!
//! Resident are pages that are mapped, pages in the limbo, and copies on their way. A page is charged before it gets
//! memory, and uncharged after it has lost it. So the sum is never less than what is in memory.

use crate::limbo::BLOCK;
use crate::number::Number;
use crate::sync;
use crate::sync::atomic::{AtomicU32, Ordering};

/// The fewest resident pages that a region works with: 256 KiB of pages of 4096 bytes.
pub(crate) const LEAST: usize = if sync::MODEL { 1 } else { 64 };

/// Returns the bytes of a budget that resident pages leave free: two blocks of the limbo, and a small share.
pub(crate) fn reserve(budget: usize, unit: usize) -> usize {
    if sync::MODEL { 0 } else { 2 * BLOCK * unit + budget / 256 }
}

/// The limits in force, and the resident pages.
#[derive(Debug)]
pub(crate) struct Room {
    resident: Number,
    /// The most resident pages now: what both limits leave, at least [`LEAST`].
    limit: Number,
    /// The limit on resident, limbo and staging bytes; `usize::MAX` for none.
    max_resident: Number,
    /// The limit on everything; `usize::MAX` for none.
    budget: Number,
    /// Bytes of everything but resident pages, as of the last `refresh`.
    beside: Number,
    /// Whether the budget does not even leave [`LEAST`] pages.
    over_budget: Number,
    /// Bytes of a page.
    unit: usize,
    /// Changes when the background evictor has something to do; it sleeps on this.
    pub(crate) kick: KickWord,
    pub(crate) background: bool,
}

/// What the background evictor sleeps on. No model covers it.
#[derive(Debug, Default)]
pub(crate) struct KickWord(AtomicU32);

impl KickWord {
    /// Returns whether this call changed it from 0 to 1.
    fn set(&self) -> bool {
        // Relaxed: a look that spares the exchange in most calls.
        self.0.load(Ordering::Relaxed) == 0 && self.0.swap(1, Ordering::SeqCst) == 0
    }

    /// Called by the evictor before it looks whether there is something to do.
    pub(crate) fn clear(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    pub(crate) fn wake(&self) {
        self.0.store(1, Ordering::SeqCst);
        sync::wake(&self.0);
    }

    /// Sleeps until the next `set` or `wake` since `clear`.
    pub(crate) fn sleep(&self) {
        sync::wait(&self.0, 0);
    }
}

impl Room {
    pub(crate) fn new(
        max_resident: Option<usize>,
        budget: Option<usize>,
        background: bool,
        unit: usize,
    ) -> Room {
        let or_none = |limit: Option<usize>| Number::new(limit.unwrap_or(usize::MAX));
        Room {
            resident: Number::new(0),
            limit: Number::new(usize::MAX),
            max_resident: or_none(max_resident),
            budget: or_none(budget),
            beside: Number::new(0),
            over_budget: Number::new(0),
            unit,
            kick: KickWord::default(),
            background,
        }
    }

    pub(crate) fn resident(&self) -> usize {
        self.resident.get()
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit.get()
    }

    pub(crate) fn beside(&self) -> usize {
        self.beside.get()
    }

    pub(crate) fn budget(&self) -> Option<usize> {
        Some(self.budget.get()).filter(|max| *max != usize::MAX)
    }

    pub(crate) fn set_max_resident(&self, bytes: Option<usize>) {
        self.max_resident.set(bytes.unwrap_or(usize::MAX));
    }

    pub(crate) fn set_budget(&self, bytes: Option<usize>) {
        self.budget.set(bytes.unwrap_or(usize::MAX));
    }

    /// Adds pages. Returns whether they fit; they count in any case.
    pub(crate) fn charge(&self, pages: usize) -> bool {
        let now = self.resident.add(pages);
        let limit = self.limit();
        if self.background && now + limit / 64 > limit && self.kick.set() {
            self.kick.wake();
        }
        now <= limit
    }

    pub(crate) fn uncharge(&self, pages: usize) {
        let before = self.resident.sub(pages);
        assert!(before >= pages, "{pages} pages are uncharged, but only {before} are resident");
    }

    pub(crate) fn is_over(&self) -> bool {
        self.resident() > self.limit()
    }

    /// Returns whether almost as many pages are resident as may be, so that the background evictor goes on.
    pub(crate) fn is_near(&self) -> bool {
        let limit = self.limit();
        self.resident() + limit / 32 > limit
    }

    /// Returns whether the budget leaves fewer than [`LEAST`] pages.
    pub(crate) fn is_over_budget(&self) -> bool {
        self.over_budget.get() != 0
    }

    /// Computes the limit again. `staging` bytes are the region's buffers, `other` bytes its tables and its store.
    pub(crate) fn refresh(&self, staging: usize, other: usize) {
        let beside = staging.saturating_add(other);
        self.beside.set(beside);
        let budget = self.budget.get();
        let left = if budget == usize::MAX { budget } else { budget.saturating_sub(beside) };
        // While a block is drained, its pages count twice for a moment, and other threads drain others.
        let by_budget = if budget == usize::MAX {
            left
        } else {
            left.saturating_sub(reserve(budget, self.unit))
        };
        let max = self.max_resident.get();
        let by_max = if max == usize::MAX { max } else { max.saturating_sub(staging) };
        let pages = by_budget.min(by_max) / self.unit;
        self.over_budget.set(usize::from(left / self.unit < LEAST));
        self.limit.set(pages.max(LEAST));
    }
}

/// Returns the fewest resident pages with which a region works that has this number of pins: of all pages, three quarters
/// may be pinned.
pub(crate) fn room_for(pins: usize) -> usize {
    LEAST.max(pins.div_ceil(3) * 4)
}

/// Returns the least limit on resident bytes, with `staging` bytes of buffers and this number of pins.
pub(crate) fn least_resident(staging: usize, pins: usize, unit: usize) -> usize {
    staging + room_for(pins) * unit
}

/// Returns the limit of a store for which the program has set the limit `own`. Of a budget, it is half with a device: the
/// other pages are written there. Without a device, it is everything that the fewest resident pages leave.
pub(crate) fn store_limit(
    budget: Option<usize>,
    unit: usize,
    has_device: bool,
    own: Option<usize>,
) -> Option<usize> {
    let share = |budget: usize| {
        if has_device { budget / 2 } else { budget.saturating_sub(LEAST * unit) }
    };
    budget.map(share).into_iter().chain(own).min()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use zswap_core::PAGE_SIZE;

    #[test]
    fn the_lesser_limit_counts() {
        let pages = |n: usize| n * PAGE_SIZE;
        let room = Room::new(Some(pages(1000)), Some(pages(2000)), false, PAGE_SIZE);
        room.refresh(pages(10), pages(100));
        assert_eq!((room.limit(), room.is_over_budget()), (990, false));
        room.refresh(pages(10), pages(1500));
        // A reserve of 128 KiB and of a 256th of the budget is 39.8 pages.
        assert_eq!(room.limit(), 450);
        room.refresh(pages(10), pages(1930));
        assert_eq!((room.limit(), room.is_over_budget()), (LEAST, true));
        room.set_budget(None);
        room.set_max_resident(None);
        room.refresh(pages(10), pages(1930));
        assert_eq!((room.limit(), room.is_over_budget()), (usize::MAX / PAGE_SIZE, false));
    }

    #[test]
    fn pages_that_do_not_fit_count_nevertheless() {
        let room = Room::new(Some(100 * PAGE_SIZE), None, false, PAGE_SIZE);
        room.refresh(0, 0);
        assert!(room.charge(100) && !room.is_over() && room.is_near());
        assert!(!room.charge(1) && room.is_over());
        room.uncharge(5);
        assert_eq!((room.resident(), room.is_over(), room.is_near()), (96, false, false));
    }
}
