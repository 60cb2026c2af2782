//! Migration: pages of pools that are not current any more move into the current one.
//!
//! A page is read as a load reads it, compressed anew and put into the other pool with nothing locked;
//! then [`crate::moves::relocate`] puts the new copy in place of the old one. So the entry can be read
//! throughout, an overwrite meanwhile is kept, and a failure leaves the page where it was.
//!
//! Pages that were recompressed stay where they are until their pool has been the current one.

use crate::error::MigrateError;
use crate::moves::relocate::{Relocated, Wanted};
use crate::moves::walk::{Step, Visited};
use crate::pool::pools::PoolRef;
use crate::refusal::Refusal;
use crate::sync::atomic::Ordering;
use crate::{PAGE_SIZE, Page, SwapEntry, Zswap};

/// What [`Zswap::migrate_pools`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct PoolMigration {
    /// Pages that are in the current pool now.
    pub moved: usize,
    /// Pages that are in other pools, recompressed ones not counted.
    pub left: usize,
}

impl Zswap {
    /// Moves up to `budget` pages out of pools that are not current any more into the current one,
    /// which lets the old pools go. Goes on where the last call ended, and goes around once at most.
    /// Pages that [`Zswap::recompress`] has moved stay where they are.
    ///
    /// # Errors
    /// [`MigrateError`]; the page that it was about stays where it was.
    ///
    /// # Blocking
    /// As a store does; nothing is locked but the entry at hand, for a moment.
    pub fn migrate_pools(&self, budget: usize) -> Result<PoolMigration, MigrateError> {
        let mut done = PoolMigration::default();
        self.migrate_some(budget, &mut done, &|| false)?;
        Ok(done)
    }

    /// As [`Zswap::migrate_pools`]; stops after the page at hand when `stop` says so. What was done counts,
    /// also before an error.
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
        if self.pages_elsewhere() > 0 {
            let target = self.pools.current();
            let mut page = [0; PAGE_SIZE];
            moved = self.walk(&self.cursors.migrate, &mut Visited::default(), |entry| {
                if done.moved == budget || stop() {
                    return Ok(Step::StopBefore);
                }
                done.moved += usize::from(self.migrate(entry, &mut page, &target)?);
                Ok::<Step, MigrateError>(Step::On)
            });
        }
        done.left = self.pages_elsewhere();
        moved
    }

    /// Moves one page into the current pool; whether it was moved. Not inlined: its buffers are pages, and
    /// the caller's frame has some of its own.
    #[inline(never)]
    fn migrate(
        &self,
        entry: SwapEntry,
        page: &mut Page,
        target: &PoolRef<'_>,
    ) -> Result<bool, MigrateError> {
        let relocated = self.relocate(
            entry,
            page,
            |_word, pool| {
                // Relaxed: a note that decides which pages are migrated.
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
                put.map(|stored| self.copy_in(target, stored))
                    .map_err(|refusal| MigrateError::Store(self.count_refusal(entry, refusal)))
            },
        )?;
        Ok(relocated == Relocated::Moved)
    }

    fn pages_elsewhere(&self) -> usize {
        let others = self.pools.all().skip(1);
        // Relaxed: as in `migrate`.
        let others = others.filter(|pool| !pool.recompressed.load(Ordering::Relaxed));
        others.fold(0, |sum, pool| sum.saturating_add(pool.stats().objects))
    }
}
