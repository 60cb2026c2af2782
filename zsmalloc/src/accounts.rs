//! What a pool has: its pages, the budget that they are charged to, and the objects that its figures
//! leave out.
//!
//! Pages are charged before they are touched and uncharged when they cease to be resident. The
//! numbers are counters, each right by itself; no protocol hangs on one.

use std::sync::Arc;

use zpool_api::{PageBudget, PageError};

use crate::sync::atomic::Ordering;
use crate::sync::counters::AtomicUsize;

/// Pages without an object that may wait in zspages before some are given back: this many, or one
/// 64th of the pool if that is more.
const HOLES: usize = 16;

#[derive(Debug)]
pub(crate) struct Accounts {
    pub(crate) page_size: usize,
    budget: Option<Arc<PageBudget>>,
    resident: AtomicUsize,
    holes: AtomicUsize,
    /// Objects whose writer has not committed yet, and their bytes.
    uncommitted: AtomicUsize,
    uncommitted_bytes: AtomicUsize,
    parked: AtomicUsize,
}

impl Accounts {
    pub(crate) fn new(page_size: usize, budget: Option<Arc<PageBudget>>) -> Self {
        Accounts {
            page_size,
            budget,
            resident: AtomicUsize::new(0),
            holes: AtomicUsize::new(0),
            uncommitted: AtomicUsize::new(0),
            uncommitted_bytes: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
        }
    }

    /// Takes pages of the budget that will be touched next, or nothing.
    pub(crate) fn charge(&self, pages: usize) -> Result<(), PageError> {
        match &self.budget {
            Some(budget) if pages != 0 => budget.charge(pages * self.page_size),
            _ => Ok(()),
        }
    }

    /// Takes pages whatever the limit, to gain others.
    pub(crate) fn charge_beyond(&self, pages: usize) {
        if let Some(budget) = &self.budget {
            budget.charge_beyond(pages * self.page_size);
        }
    }

    /// Gives pages of the budget back.
    pub(crate) fn uncharge(&self, pages: usize) {
        if let Some(budget) = &self.budget {
            budget.uncharge(pages * self.page_size);
        }
    }

    /// Pages become resident, which were charged, or cease to be.
    pub(crate) fn count_resident(&self, change: i32) {
        // Relaxed, here and below: counters, each right by itself.
        self.resident.fetch_add(change as isize as usize, Ordering::Relaxed);
        if change < 0 {
            self.uncharge(change.unsigned_abs() as usize);
        }
    }

    pub(crate) fn resident(&self) -> usize {
        // Relaxed: as above.
        self.resident.load(Ordering::Relaxed)
    }

    pub(crate) fn count_holes(&self, change: i32) {
        // Relaxed: as above.
        self.holes.fetch_add(change as isize as usize, Ordering::Relaxed);
    }

    /// Whether more pages without an object wait than should.
    pub(crate) fn too_many_holes(&self) -> bool {
        // Relaxed: as above.
        let holes = self.holes.load(Ordering::Relaxed);
        holes > HOLES && holes > self.resident() / 64
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn holes(&self) -> usize {
        self.holes.load(Ordering::SeqCst)
    }

    /// A place was left to its last reader. Under the class lock, as it is taken off.
    pub(crate) fn count_parked(&self) {
        // Relaxed: as above.
        self.parked.fetch_add(1, Ordering::Relaxed);
    }

    /// A parked place was cleared.
    pub(crate) fn uncount_parked(&self) {
        // Relaxed: as above.
        self.parked.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn parked(&self) -> usize {
        // Relaxed: as above.
        self.parked.load(Ordering::Relaxed)
    }

    /// An object of `len` bytes has a writer that commits or aborts it.
    pub(crate) fn count_uncommitted(&self, len: usize) {
        // Relaxed: as above.
        self.uncommitted.fetch_add(1, Ordering::Relaxed);
        // Relaxed: as above.
        self.uncommitted_bytes.fetch_add(len, Ordering::Relaxed);
    }

    /// The writer is done, either way.
    pub(crate) fn uncount_uncommitted(&self, len: usize) {
        // Relaxed: as above.
        self.uncommitted.fetch_sub(1, Ordering::Relaxed);
        // Relaxed: as above.
        self.uncommitted_bytes.fetch_sub(len, Ordering::Relaxed);
    }

    /// Objects that are being written, and their bytes.
    pub(crate) fn uncommitted(&self) -> (usize, usize) {
        // Relaxed: as above.
        let objects = self.uncommitted.load(Ordering::Relaxed);
        // Relaxed: as above.
        (objects, self.uncommitted_bytes.load(Ordering::Relaxed))
    }
}
