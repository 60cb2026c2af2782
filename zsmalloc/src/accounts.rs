//! A pool's counts: its resident pages, which are charged to a budget; its holes; and the objects
//! that `stats` does not report as live, because they are being written or are parked.
//!
//! Pages are charged before they are touched and uncharged when they stop being resident. Each
//! counter is correct, but counters that are read one after the other may be of different moments. No
//! protocol depends on them.

use std::sync::Arc;

use zpool_api::{PageBudget, PageError};
use zpool_base::counter::Counter;

/// Freeing an object returns holes (pages without an object) to the system if the pool has more
/// than this number of holes and they are more than a 64th of its resident pages.
const HOLES: usize = 16;

#[derive(Debug)]
pub(crate) struct Accounts {
    pub(crate) page_size: usize,
    budget: Option<Arc<PageBudget>>,
    resident: Counter,
    holes: Counter,
    /// Objects that their writer has not committed yet.
    uncommitted: Counter,
    /// The bytes of those objects.
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

    /// Charges pages that are about to be touched. On refusal, charges nothing.
    pub(crate) fn charge(&self, pages: usize) -> Result<(), PageError> {
        match &self.budget {
            Some(budget) if pages != 0 => budget.charge(pages * self.page_size),
            _ => Ok(()),
        }
    }

    /// Charges pages even if that exceeds the budget's limit. Only moves call this: they free other pages.
    pub(crate) fn charge_beyond(&self, pages: usize) {
        if let Some(budget) = &self.budget {
            budget.charge_beyond(pages * self.page_size);
        }
    }

    /// Returns pages to the budget.
    pub(crate) fn uncharge(&self, pages: usize) {
        if let Some(budget) = &self.budget {
            budget.uncharge(pages * self.page_size);
        }
    }

    /// Adds `change` to the count of resident pages. Pages that became resident were charged before;
    /// pages that stopped being resident are uncharged here.
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

    /// Returns whether the pool has too many pages without an object.
    pub(crate) fn too_many_holes(&self) -> bool {
        let holes = self.holes.get() as usize;
        holes > HOLES && holes > self.resident() / 64
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn holes(&self) -> usize {
        self.holes.get() as usize
    }

    /// Counts a place as parked: its last reader will free it. The caller holds the class lock, as
    /// for `uncount_parked`.
    pub(crate) fn count_parked(&self) {
        self.parked.add(1);
    }

    /// Takes a parked place off the count after it was cleared.
    pub(crate) fn uncount_parked(&self) {
        self.parked.sub(1);
    }

    pub(crate) fn parked(&self) -> usize {
        self.parked.get() as usize
    }

    /// Counts an object of `len` bytes as being written, until its writer commits or aborts it.
    pub(crate) fn count_uncommitted(&self, len: usize) {
        self.uncommitted.add(1);
        self.uncommitted_bytes.add(len as u64);
    }

    /// Takes an object off the count after its writer has committed or aborted it.
    pub(crate) fn uncount_uncommitted(&self, len: usize) {
        self.uncommitted.sub(1);
        self.uncommitted_bytes.sub(len as u64);
    }

    /// Returns the number of objects that are being written, and their bytes.
    pub(crate) fn uncommitted(&self) -> (usize, usize) {
        (self.uncommitted.get() as usize, self.uncommitted_bytes.get() as usize)
    }
}
