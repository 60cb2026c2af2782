//! What a pool has: its pages, the budget that they are charged to, and the objects that its figures
//! leave out.
//!
//! Pages are charged before they are touched and uncharged when they cease to be resident. Each
//! number is right by itself; no protocol hangs on one.

use std::sync::Arc;

use zpool_api::{PageBudget, PageError};
use zpool_base::counter::Counter;

/// Pages without an object that may wait in zspages before some are given back: this many, or one
/// 64th of the pool if that is more.
const HOLES: usize = 16;

#[derive(Debug)]
pub(crate) struct Accounts {
    pub(crate) page_size: usize,
    budget: Option<Arc<PageBudget>>,
    resident: Counter,
    holes: Counter,
    /// Objects whose writer has not committed yet, and their bytes.
    uncommitted: Counter,
    uncommitted_bytes: Counter,
    parked: Counter,
}

impl Accounts {
    pub(crate) fn new(page_size: usize, budget: Option<Arc<PageBudget>>) -> Self {
        Accounts {
            page_size,
            budget,
            resident: Counter::default(),
            holes: Counter::default(),
            uncommitted: Counter::default(),
            uncommitted_bytes: Counter::default(),
            parked: Counter::default(),
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
        self.resident.add(i64::from(change) as u64);
        if change < 0 {
            self.uncharge(change.unsigned_abs() as usize);
        }
    }

    pub(crate) fn resident(&self) -> usize {
        self.resident.get() as usize
    }

    pub(crate) fn count_holes(&self, change: i32) {
        self.holes.add(i64::from(change) as u64);
    }

    /// Whether more pages without an object wait than should.
    pub(crate) fn too_many_holes(&self) -> bool {
        let holes = self.holes.get() as usize;
        holes > HOLES && holes > self.resident() / 64
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn holes(&self) -> usize {
        self.holes.get() as usize
    }

    /// A place was left to its last reader. Under the class lock, as it is taken off.
    pub(crate) fn count_parked(&self) {
        self.parked.add(1);
    }

    /// A parked place was cleared.
    pub(crate) fn uncount_parked(&self) {
        self.parked.sub(1);
    }

    pub(crate) fn parked(&self) -> usize {
        self.parked.get() as usize
    }

    /// An object of `len` bytes has a writer that commits or aborts it.
    pub(crate) fn count_uncommitted(&self, len: usize) {
        self.uncommitted.add(1);
        self.uncommitted_bytes.add(len as u64);
    }

    /// The writer is done, either way.
    pub(crate) fn uncount_uncommitted(&self, len: usize) {
        self.uncommitted.sub(1);
        self.uncommitted_bytes.sub(len as u64);
    }

    /// Objects that are being written, and their bytes.
    pub(crate) fn uncommitted(&self) -> (usize, usize) {
        (self.uncommitted.get() as usize, self.uncommitted_bytes.get() as usize)
    }
}
