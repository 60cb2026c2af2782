//! A fresh run and a descriptor, for an object that no zspage has room for. The run's pages are
//! charged to the budget.
//!
//! The least that any run costs is charged before a run is requested. So no run is requested if the
//! budget is at its limit. The provider may hand out resident pages that the object does not need.
//! If the budget has no room for them, they are returned to the system. Dropping a `Bare` or a
//! `Fresh` gives up everything that it holds. If the drop is part of a panic, a later call returns
//! the run.

use zpool_api::{PageError, ZpoolError};
use zpool_base::lockdep::might_sleep;

use crate::class::{ClassGuard, Detached, Place};
use crate::class_table::SizeClass;
use crate::shared::Core;
use crate::zspage::pages_of;

/// A run that belongs to no class yet, and a descriptor for it. Dropping it returns both.
pub(crate) struct Fresh<'a> {
    core: &'a Core,
    /// The vacant descriptor and its run; None once they are attached.
    detached: Option<Detached>,
    /// Pages charged: the run's resident pages, and those that the first object touches.
    charged: usize,
    /// The place of the first object.
    index: usize,
}

impl Fresh<'_> {
    /// Turns the run into a zspage of a class, and takes the first object's place for `bytes`, header
    /// included.
    ///
    /// # Safety
    /// `Core::fresh` requested the run for this class and this number of bytes.
    #[expect(clippy::expect_used, reason = "attached once: the value is used up")]
    pub(crate) unsafe fn attach(mut self, locked: &mut ClassGuard<'_>, bytes: usize) -> Place {
        let (zspage, run) = self.detached.take().expect("a run is attached once").into_parts();
        // SAFETY: descriptor and run were requested for this class, and this value owns them alone.
        unsafe { locked.attach(zspage, run, self.index, bytes) }
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        let Some(detached) = self.detached.take() else { return };
        self.core.accounts.uncharge(self.charged);
        if std::thread::panicking() {
            // The provider may be what panicked, so it is not called.
            self.core.leave(detached);
        } else {
            self.core.give_back(detached);
        }
    }
}

impl Core {
    /// Requests a run for a zspage of a class, and a descriptor for it. Charges the pages that an
    /// object of `bytes`, header included, needs. Fails if the budget refuses them, if the provider
    /// has no run, or if the table of descriptors cannot grow. The caller holds no lock.
    pub(crate) fn fresh(&self, size: &SizeClass, bytes: usize) -> Result<Fresh<'_>, ZpoolError> {
        might_sleep("zsmalloc: a page request");
        let zspage = self.zspages.take(usize::from(size.objects));
        let zspage = zspage.map_err(|error| self.refused(error))?;
        // If the provider fails or panics, dropping `bare` returns the descriptor and the charge.
        let mut bare = Bare { core: self, zspage: Some(zspage), charged: 0 };
        // Charge the least that any run costs, so that no run is requested at the limit.
        bare.charge(pages_of(self.page_size(), 0, bytes).count_ones() as usize)?;
        let mut run = self.provider.alloc_run(usize::from(size.pages))?;
        let (index, mut needed) = first_place(size, self.page_size(), bytes, run.resident());
        let warm = needed | run.resident();
        if bare.charge(warm.count_ones() as usize).is_err() {
            // Return the resident pages that the object does not need.
            for page in (0..run.pages()).filter(|page| (warm & !needed) >> page & 1 == 1) {
                // SAFETY: the run is from this provider and belongs to this call alone.
                unsafe { self.provider.discard(&mut run, page..page + 1) };
            }
            needed |= run.resident();
            if let Err(refused) = bare.charge(needed.count_ones() as usize) {
                // SAFETY: the run is from this provider and attached to nothing.
                unsafe { self.provider.free_run(run) };
                return Err(refused.into());
            }
        }
        let charged = bare.keep();
        // SAFETY: the descriptor is vacant, and `keep` left it to this call. The run is fresh from the
        // provider. So this call is the only owner of both.
        let detached = unsafe { Detached::new(zspage, run) };
        Ok(Fresh { core: self, detached: Some(detached), charged, index })
    }
}

/// Returns the place in a fresh run that touches the fewest new pages, and the pages that an object of
/// `bytes` occupies there.
#[expect(clippy::expect_used, reason = "a class has a place for one object at least")]
fn first_place(size: &SizeClass, page_size: usize, bytes: usize, resident: u16) -> (usize, u16) {
    let pages = |index: usize| {
        let start = size.start_of(index);
        pages_of(page_size, start, start + bytes)
    };
    let all = (0..usize::from(size.objects)).map(|index| (index, pages(index)));
    all.min_by_key(|(_, pages)| (pages & !resident).count_ones()).expect("a zspage has places")
}

/// A descriptor without a run, and pages charged for one. Dropping it returns both.
struct Bare<'a> {
    core: &'a Core,
    zspage: Option<u32>,
    charged: usize,
}

impl Bare<'_> {
    /// Adjusts the charge to exactly `pages` pages. If the budget refuses, changes nothing.
    fn charge(&mut self, pages: usize) -> Result<(), PageError> {
        if let Some(more) = pages.checked_sub(self.charged) {
            self.core.accounts.charge(more)?;
        } else {
            self.core.accounts.uncharge(self.charged - pages);
        }
        self.charged = pages;
        Ok(())
    }

    /// Hands the descriptor and the charge over to the caller. Returns the number of pages charged.
    fn keep(mut self) -> usize {
        self.zspage = None;
        core::mem::take(&mut self.charged)
    }
}

impl Drop for Bare<'_> {
    fn drop(&mut self) {
        self.core.accounts.uncharge(self.charged);
        if let Some(zspage) = self.zspage {
            // SAFETY: taken from the table and attached to nothing.
            unsafe { self.core.zspages.recycle(zspage) };
        }
    }
}
