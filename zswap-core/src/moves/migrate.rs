//! Migration moves pages from pools that were current before into the current pool.
//!
//! Migration reads a page as a load does, compresses it again, and puts it into the current pool. It holds no
//! lock meanwhile. Then [`crate::moves::relocate`] replaces the old copy by the new one. So the entry stays
//! readable throughout, and a failure leaves the page in place. If the entry is overwritten during the move,
//! the new page stays.
//!
//! Pages that recompression has moved stay in their pool. But once that pool has been the current one, its
//! pages are migrated like others.

use crate::area::Area;
use crate::error::MigrateError;
use crate::moves::relocate::{NewCopy, Relocated, Wanted};
use crate::moves::walk::{Step, Visited};
use crate::page_buffer::PageBuffer;
use crate::pool::pools::PoolRef;
use crate::refusal::Refusal;
use crate::sync::atomic::Ordering;
use crate::{SwapEntry, Zswap};

/// What [`Zswap::migrate_pools`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct PoolMigration {
    /// Pages that this call moved into the current pool.
    pub moved: usize,
    /// Pages that are still in other pools. Pages in pools that [`Zswap::recompress`] made do not count.
    pub left: usize,
}

impl Zswap {
    /// Moves up to `budget` pages from older pools into the current pool of their area. A pool is dropped when its last
    /// page leaves it. A call continues where the last one ended, and visits each entry at most once. Pages
    /// that [`Zswap::recompress`] has moved stay where they are.
    ///
    /// ```
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().build()?;
    /// let page = core::array::from_fn(|i| (i % 251) as u8);
    /// store.store(SwapEntry::new(0, 1)?, &page)?;
    /// store.set_compressor("null")?;
    /// let migration = store.migrate_pools(1000)?;
    /// assert_eq!(migration.left, 0);
    /// assert_eq!(store.stats().pools.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`MigrateError::Load`] if a page cannot be read, [`MigrateError::Store`] if the current pool refuses
    /// it. The page that could not be moved stays in place, and pages that were moved before it stay moved.
    /// [`MigrateError::Forked`] in a child after `fork`.
    ///
    /// # Blocking
    /// Waits as [`Zswap::store`] does. Locks only the entry of the page that is being moved, and only for a
    /// moment.
    pub fn migrate_pools(&self, budget: usize) -> Result<PoolMigration, MigrateError> {
        let mut done = PoolMigration::default();
        self.migrate_some(budget, &mut done, &|| false)?;
        Ok(done)
    }

    /// Does what [`Zswap::migrate_pools`] does, but checks `stop` before each page, and ends if it returns
    /// true. Counts the moved pages in `done`, even if it then returns an error.
    pub(crate) fn migrate_some(
        &self,
        budget: usize,
        done: &mut PoolMigration,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), MigrateError> {
        if !self.is_here() {
            return Err(MigrateError::Forked);
        }
        let mut moved = Ok(());
        let mut buffer = PageBuffer::new(self.unit).map_err(MigrateError::Buffer)?;
        let page = buffer.bytes();
        // A page that cannot be moved holds up its own area only.
        for area in self.areas.all().filter(|area| pages_elsewhere(area) > 0) {
            let target = area.pools.current();
            let hand = &area.cursors.migrate;
            let walked = self.walk(area, hand, &mut Visited::default(), |entry| {
                if done.moved == budget || stop() {
                    return Ok(Step::StopBefore);
                }
                done.moved += usize::from(self.migrate(entry, page, area, &target)?);
                Ok::<Step, MigrateError>(Step::On)
            });
            moved = moved.and(walked);
        }
        done.left = self.areas.all().map(pages_elsewhere).fold(0, usize::saturating_add);
        moved
    }

    /// Moves the page of one entry into the pool `target`, using `page` as a buffer. Returns whether the page
    /// moved. Not inlined, because both this function and its caller keep whole pages on the stack.
    #[inline(never)]
    fn migrate(
        &self,
        entry: SwapEntry,
        page: &mut [u8],
        area: &Area,
        target: &PoolRef<'_>,
    ) -> Result<bool, MigrateError> {
        let relocated = self.relocate(
            entry,
            page,
            |_word, pool| {
                // Relaxed: a flag that only decides which pages are migrated.
                let stays = pool.id() == target.id() || pool.recompressed.load(Ordering::Relaxed);
                if stays { Wanted::No } else { Wanted::Yes }
            },
            |page, _footprint| {
                let mut kept = None;
                let put = match (target.put(page, true, &mut kept), &kept) {
                    (Err(fault), Some(kept)) if fault.is_shortage() => {
                        self.put_after_reclaim(entry, target, kept, fault, true)
                    }
                    (put, _) => put.map_err(Refusal::Fault),
                };
                put.map(|stored| NewCopy::of(area, target, stored))
                    .map_err(|refusal| MigrateError::Store(self.count_refusal(entry, refusal)))
            },
        )?;
        Ok(relocated == Relocated::Moved)
    }
}

/// Returns the number of an area's pages that are to be migrated.
fn pages_elsewhere(area: &Area) -> usize {
    let others = area.pools.all().skip(1);
    // Relaxed: as in `migrate`.
    let others = others.filter(|pool| !pool.recompressed.load(Ordering::Relaxed));
    others.fold(0, |sum: usize, pool| sum.saturating_add(pool.stats().objects))
}
