//! The source of a pool's pages: the provider, the budget to which pages are charged, and the number of
//! pages.
//!
//! A page is charged before it is requested. It counts from [`FreshPage::attach`] until it is given back,
//! and is uncharged after that. So the charge is never less than `total_pages * page_size`. The two are
//! equal while no page is being requested or given back and no [`FreshPage`] exists. The charge stays right
//! even if the provider panics. Then the page may be lost, but it neither counts nor is charged.
//!
//! Locks: none. [`PageSource::alloc`], [`PageSource::give_back`] and the drop of a [`FreshPage`] call the
//! provider, so the caller must hold no lock.

use std::ptr::NonNull;
use std::sync::Arc;

use zpool_api::{PageBudget, PageProvider, PageRun, ZpoolError};
use zpool_base::counter::Counter;
use zpool_base::fork::Maker;
use zpool_base::lockdep::might_sleep;
use zpool_base::unwind::in_destructor;

/// The provider and the budget of a pool, and the number of the pool's resident pages. `Send` and `Sync`.
#[derive(Debug)]
pub(crate) struct PageSource {
    provider: Arc<dyn PageProvider>,
    budget: Option<Arc<PageBudget>>,
    backend: &'static str,
    page_size: usize,
    total: Counter,
    maker: Maker,
}

impl PageSource {
    /// Makes a source of pages from `provider`. The pages are charged to `budget`, if there is one.
    ///
    /// # Errors
    /// [`ZpoolError::UnsupportedPageSize`] if the page size is not a power of two from 4096 to 65536.
    pub(crate) fn new(
        backend: &'static str,
        provider: Arc<dyn PageProvider>,
        budget: Option<Arc<PageBudget>>,
    ) -> Result<Self, ZpoolError> {
        let page_size = provider.page_size();
        if !page_size.is_power_of_two() || !(4096..=65536).contains(&page_size) {
            let allowed = "powers of two from 4096 to 65536";
            return Err(ZpoolError::UnsupportedPageSize { backend, page_size, allowed });
        }
        let (total, maker) = (Counter::default(), Maker::here());
        Ok(PageSource { provider, budget, backend, page_size, total, maker })
    }

    /// Returns the number of bytes per page.
    pub(crate) fn page_size(&self) -> usize {
        self.page_size
    }

    /// Returns the provider.
    pub(crate) fn provider(&self) -> &dyn PageProvider {
        &*self.provider
    }

    /// Whether this process made the pool. False in a child after `fork`.
    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        self.maker.is_here()
    }

    /// Checks that this process made the pool.
    ///
    /// # Errors
    /// [`ZpoolError::Forked`] in a child of the process that made the pool.
    #[inline]
    pub(crate) fn here(&self) -> Result<(), ZpoolError> {
        if self.is_here() { Ok(()) } else { Err(ZpoolError::Forked { backend: self.backend }) }
    }

    /// Returns the number of attached pages. Takes no lock.
    pub(crate) fn total_pages(&self) -> usize {
        self.total.get() as usize
    }

    /// Charges a page and requests it. Blocks in the provider.
    ///
    /// # Errors
    /// [`ZpoolError::OutOfMemory`] if the page would exceed the budget, or if the provider refuses it.
    ///
    /// # Panics
    /// Panics if the provider panics. Then nothing is charged.
    pub(crate) fn alloc(&self) -> Result<FreshPage<'_>, ZpoolError> {
        might_sleep("a page request");
        if let Some(budget) = &self.budget {
            budget.charge(self.page_size)?;
        }
        let charge = Charge(self);
        let mut run = self.provider.alloc_run(1)?;
        run.mark_resident(0..1);
        Ok(FreshPage { base: run.base(), charge })
    }

    /// Returns an attached page to the provider. Blocks in the provider.
    ///
    /// # Safety
    /// `base` must come from [`FreshPage::attach`] of this source and must not have been given back since.
    /// Nobody may touch the page from now on.
    ///
    /// # Panics
    /// Panics if the provider panics. Even then the page does not count and is not charged any more.
    pub(crate) unsafe fn give_back(&self, base: NonNull<u8>) {
        // The drop of this value uncharges the page, even after a panic.
        let charge = Charge(self);
        let before = self.total.sub(1);
        debug_assert!(before > 0, "a page was given back twice");
        // SAFETY: the page was attached, so it is a resident run of one page, and the caller gives it up.
        unsafe { charge.free(base) };
    }
}

/// The charge of one page. Dropping it uncharges the page.
#[derive(Debug)]
struct Charge<'a>(&'a PageSource);

impl Charge<'_> {
    /// # Safety
    /// `base` must be a page of this source. Nobody may touch the page from now on, and it must be given
    /// back only once.
    unsafe fn free(&self, base: NonNull<u8>) {
        // SAFETY: the run has one page, which `alloc` marked as resident. Only the caller uses it.
        let run = unsafe { PageRun::new(base, 1, 1) };
        // SAFETY: the run comes from this provider, and the caller gives it up.
        unsafe { self.0.provider.free_run(run) };
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        if let Some(budget) = &self.0.budget {
            budget.uncharge(self.0.page_size);
        }
    }
}

/// A page that is not attached yet. Dropping it returns the page to the provider.
#[derive(Debug)]
#[must_use = "the page returns to the provider unless it is attached"]
pub(crate) struct FreshPage<'a> {
    base: NonNull<u8>,
    charge: Charge<'a>,
}

impl FreshPage<'_> {
    /// Gives the page to the pool and returns its address. The page counts until [`PageSource::give_back`].
    pub(crate) fn attach(self) -> NonNull<u8> {
        self.charge.0.total.add(1);
        let base = self.base;
        // The page stays charged.
        std::mem::forget(self);
        base
    }
}

impl Drop for FreshPage<'_> {
    fn drop(&mut self) {
        // SAFETY: `alloc` requested the page, and it was never attached, so nothing else gives it back.
        in_destructor(|| unsafe { self.charge.free(self.base) });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use zpool_api::PageError;
    use zpool_pages::{FailingPages, HeapPages};

    fn with_budget(limit: usize) -> (Arc<FailingPages>, Arc<PageBudget>, PageSource) {
        let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
        let budget = Arc::new(PageBudget::new(limit));
        let source = PageSource::new("test", pages.clone(), Some(budget.clone())).unwrap();
        (pages, budget, source)
    }

    #[test]
    fn charges_are_those_of_attached_pages() {
        let (pages, budget, source) = with_budget(2 * 4096);
        let first = source.alloc().unwrap().attach();
        assert_eq!((budget.used(), source.total_pages(), pages.pages_out()), (4096, 1, 1));
        drop(source.alloc().unwrap());
        assert_eq!((budget.used(), source.total_pages(), pages.pages_out()), (4096, 1, 1));
        pages.fail_call(1);
        let refused = ZpoolError::OutOfMemory { source: PageError::Injected { call: 3 } };
        assert_eq!(source.alloc().unwrap_err(), refused);
        let second = source.alloc().unwrap().attach();
        let limit = PageError::Limit { bytes: 4096, used: 8192, limit: 8192 };
        assert_eq!(source.alloc().unwrap_err(), ZpoolError::OutOfMemory { source: limit });
        assert_eq!((budget.used(), source.total_pages(), pages.calls()), (8192, 2, 4));
        for base in [first, second] {
            // SAFETY: the page was attached above, and nobody touches it.
            unsafe { source.give_back(base) };
        }
        assert_eq!((budget.used(), source.total_pages(), pages.pages_out()), (0, 0, 0));
    }
}
