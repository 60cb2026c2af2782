//! What counts against the budget.
//!
//! The pool's pages are charged to a [`PageBudget`] as they come, so they never exceed its limit. Everything else is
//! summed here, and the limit of the pages is what the budget leaves beside it. Two threads may change the sum at the
//! same time; each sets the limit until it fits the sum that it reads afterwards, so the last one sets it right.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use zpool_api::PageBudget;

/// The least budget in bytes: 4 MiB. A context for each range of lengths may take half of it.
pub const LEAST_BYTES: usize = 4 << 20;

/// What is always taken: the cache itself, its background thread's stack, code that is loaded when it is first used,
/// and blocks that the system allocator keeps.
const FIXED: usize = 640 << 10;

/// The memory of a cache.
#[derive(Debug)]
pub(crate) struct Ledger {
    pages: Arc<PageBudget>,
    /// `max_bytes`.
    most: AtomicUsize,
    /// The bytes of the shards' indexes.
    index: AtomicUsize,
    /// The bytes of the lists of long values.
    long: AtomicUsize,
    /// The bytes of contexts and dictionaries.
    codecs: AtomicUsize,
    /// The bytes of the pool's descriptors, and of pages that its provider keeps warm.
    pool: AtomicUsize,
    /// The bytes of samples and of a training.
    training: AtomicUsize,
}

/// A part of what is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    Index,
    Long,
    Codecs,
    Pool,
    Training,
}

impl Ledger {
    pub(crate) fn new(most: usize, pages: Arc<PageBudget>) -> Self {
        let zero = || AtomicUsize::new(0);
        let ledger = Ledger {
            pages,
            most: AtomicUsize::new(most),
            index: zero(),
            long: zero(),
            codecs: zero(),
            pool: zero(),
            training: zero(),
        };
        ledger.settle();
        ledger
    }

    fn part(&self, part: Part) -> &AtomicUsize {
        match part {
            Part::Index => &self.index,
            Part::Long => &self.long,
            Part::Codecs => &self.codecs,
            Part::Pool => &self.pool,
            Part::Training => &self.training,
        }
    }

    /// Counts bytes that are there now.
    pub(crate) fn add(&self, part: Part, bytes: usize) {
        self.part(part).fetch_add(bytes, SeqCst);
        self.settle();
    }

    /// Counts bytes that are gone.
    pub(crate) fn sub(&self, part: Part, bytes: usize) {
        let before = self.part(part).fetch_sub(bytes, SeqCst);
        assert!(before >= bytes, "{part:?} has {before} bytes, and {bytes} of them are gone");
        self.settle();
    }

    /// Replaces the sum of a part.
    pub(crate) fn set(&self, part: Part, bytes: usize) {
        if self.part(part).swap(bytes, SeqCst) != bytes {
            self.settle();
        }
    }

    /// Returns the bytes of the shards' tables.
    pub(crate) fn index_bytes(&self) -> usize {
        self.index.load(SeqCst)
    }

    /// Returns the bytes of everything but the pool's pages.
    fn beside(&self) -> usize {
        let parts = [&self.index, &self.long, &self.codecs, &self.pool, &self.training];
        parts.iter().fold(FIXED, |sum, part| sum.saturating_add(part.load(SeqCst)))
    }

    /// Gives the pages what the rest leaves.
    fn settle(&self) {
        loop {
            let rest = self.most.load(SeqCst).saturating_sub(self.beside());
            self.pages.set_limit(rest);
            if rest == self.most.load(SeqCst).saturating_sub(self.beside()) {
                return;
            }
        }
    }

    pub(crate) fn max_bytes(&self) -> usize {
        self.most.load(SeqCst)
    }

    pub(crate) fn set_max_bytes(&self, bytes: usize) {
        self.most.store(bytes, SeqCst);
        self.settle();
    }

    /// Returns the bytes of everything.
    pub(crate) fn used(&self) -> usize {
        self.pages.used().saturating_add(self.beside())
    }

    /// Returns by how many bytes the memory would exceed the budget if `more` came.
    pub(crate) fn excess(&self, more: usize) -> usize {
        self.used().saturating_add(more).saturating_sub(self.max_bytes())
    }
}

/// Bytes of a part that count while this lives.
#[derive(Debug)]
pub(crate) struct Counted<'a> {
    ledger: &'a Ledger,
    part: Part,
    bytes: usize,
}

impl<'a> Counted<'a> {
    pub(crate) fn new(ledger: &'a Ledger, part: Part, bytes: usize) -> Self {
        ledger.add(part, bytes);
        Counted { ledger, part, bytes }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.ledger.sub(self.part, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::{Counted, FIXED, Ledger, Part};
    use std::sync::Arc;
    use zpool_api::PageBudget;

    #[test]
    fn the_pages_have_what_the_rest_leaves() {
        let pages = Arc::new(PageBudget::new(0));
        let ledger = Ledger::new(FIXED + 10_000, pages.clone());
        assert_eq!(pages.limit(), 10_000);
        ledger.add(Part::Index, 3000);
        ledger.set(Part::Codecs, 1000);
        assert_eq!((pages.limit(), ledger.used()), (6000, FIXED + 4000));
        pages.charge(6000).unwrap();
        assert_eq!((ledger.excess(0), ledger.excess(50)), (0, 50));
        {
            let _counted = Counted::new(&ledger, Part::Long, 700);
            assert_eq!((pages.limit(), ledger.excess(0)), (5300, 700));
        }
        ledger.sub(Part::Index, 3000);
        ledger.set_max_bytes(FIXED);
        assert_eq!((pages.limit(), ledger.excess(0)), (0, 7000));
    }

    #[test]
    fn threads_that_count_at_the_same_time_leave_the_right_limit() {
        let pages = Arc::new(PageBudget::new(0));
        let ledger = Ledger::new(FIXED + (1 << 20), pages.clone());
        std::thread::scope(|scope| {
            for part in [Part::Index, Part::Long, Part::Pool] {
                let ledger = &ledger;
                scope.spawn(move || {
                    for n in 0..if cfg!(miri) { 20 } else { 2000 } {
                        ledger.add(part, n);
                        ledger.sub(part, n);
                    }
                    ledger.add(part, 1000);
                });
            }
        });
        assert_eq!(pages.limit(), (1 << 20) - 3000);
    }
}
