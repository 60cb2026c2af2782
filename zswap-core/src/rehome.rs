//! Pages moved from pool to pool: out of pools that are not current any more (`migrate_pools`), and
//! into a denser one (`recompress`).
//!
//! A page is read as a load reads it, compressed anew and put into the other pool with nothing locked;
//! then [`crate::relocate`] puts the new copy in place of the old one. So the entry can be read
//! throughout, an overwrite meanwhile is kept, and a failure leaves the page where it was.
//!
//! Pages that were recompressed stay where they are when pools are migrated, until their pool has been
//! the current one.

use core::time::Duration;
use std::sync::{Arc, Weak};

use crate::background::{Background, Next, Stop};
use crate::error::{BuildError, RehomeError};
use crate::pool::{Fault, Stored};
use crate::pools::Hold;
use crate::refusal::Refusal;
use crate::relocate::{NewCopy, Relocated, Wanted};
use crate::sync::atomic::Ordering;
use crate::walk::{Step, Visited};
use crate::word::PoolId;
use crate::{PAGE_SIZE, Page, SwapEntry, Zswap};
use zpool_base::contained::contain;

/// What [`Zswap::migrate_pools`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct PoolMigration {
    /// Pages that are in the current pool now.
    pub moved: usize,
    /// Pages that are in other pools, recompressed ones not counted.
    pub left: usize,
}

/// What [`Zswap::recompress`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Recompressed {
    /// Pages that are in the denser pool now.
    pub moved: usize,
    /// Pages that would not have taken less memory; this compressor is not tried on them again until they
    /// are overwritten.
    pub not_smaller: usize,
    /// Bytes of memory that the moved pages' objects take less, each rounded as its backend rounds it.
    pub bytes_saved: usize,
}

impl Zswap {
    /// Moves up to `budget` pages out of pools that are not current any more into the current one,
    /// which lets the old pools go. Goes on where the last call ended, and goes around once at most.
    /// Pages that [`Zswap::recompress`] has moved stay where they are.
    ///
    /// # Errors
    /// [`RehomeError`]; the page that it was about stays where it was.
    ///
    /// # Blocking
    /// As a store does; nothing is locked but the entry at hand, for a moment.
    pub fn migrate_pools(&self, budget: usize) -> Result<PoolMigration, RehomeError> {
        let mut done = PoolMigration::default();
        self.migrate_some(budget, &mut done, &|| false)?;
        Ok(done)
    }

    /// As [`Zswap::migrate_pools`]; stops after the page at hand when `stop` says so. What was done counts,
    /// also before an error.
    fn migrate_some(
        &self,
        budget: usize,
        done: &mut PoolMigration,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), RehomeError> {
        if !self.is_here() {
            return Err(RehomeError::Forked);
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
                Ok::<Step, RehomeError>(Step::On)
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
        target: &Hold<'_>,
    ) -> Result<bool, RehomeError> {
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
                    .map_err(|refusal| RehomeError::Store(self.count_refusal(entry, refusal)))
            },
        )?;
        Ok(relocated == Relocated::Moved)
    }

    fn copy_in(&self, target: &Hold<'_>, stored: Stored) -> NewCopy {
        NewCopy::Of(self.stored_in(target.again(), stored))
    }

    /// [`Zswap::migrate_pools`] on a thread of its own, `chunk` pages at a time with `pause` between,
    /// until all pages are in the current pool, the store is gone, or the result is dropped. The thread keeps
    /// the store only while it moves a chunk. A page that cannot be moved is passed by and tried again when its
    /// turn comes, with longer pauses, up to a second, while nothing else moves.
    ///
    /// # Errors
    /// The system gives no thread; [`RehomeError::Forked`] inside, in a child after `fork`.
    pub fn migrate_pools_in_background(
        self: &Arc<Self>,
        chunk: usize,
        pause: Duration,
    ) -> std::io::Result<BackgroundMigration> {
        if !self.is_here() {
            return Err(std::io::Error::other(RehomeError::Forked));
        }
        BackgroundMigration::migrating(Arc::downgrade(self), chunk, pause)
    }

    fn pages_elsewhere(&self) -> usize {
        let others = self.pools.all().skip(1);
        // Relaxed: as in `migrate`.
        let others = others.filter(|pool| !pool.recompressed.load(Ordering::Relaxed));
        others.fold(0, |sum, pool| sum.saturating_add(pool.stats().objects))
    }

    /// Compresses up to `budget` pages anew with another, denser compressor, by spec, into a pool of
    /// the current backend. A page is moved only if its object then takes less memory as the backends
    /// round it ([`zpool_api::Zpool::footprint`]). With `cold_only` pages that were loaded since the
    /// last walk came by are left for the next one. What this compressor was tried on in vain is marked,
    /// and not tried again with it. Goes on where the last call ended, and goes around once at most.
    ///
    /// # Errors
    /// As [`Zswap::set_compressor`], and as a store; an error leaves the page that it was about where it
    /// was.
    ///
    /// # Blocking
    /// As a store does.
    pub fn recompress(
        &self,
        spec: &str,
        budget: usize,
        cold_only: bool,
    ) -> Result<Recompressed, RehomeError> {
        if !self.is_here() {
            return Err(RehomeError::Forked);
        }
        let target = self.pool_for(spec)?;
        let codec = self.tried.codec(&target.spec);
        let mut done = Recompressed::default();
        let mut page = [0; PAGE_SIZE];
        self.walk(&self.cursors.recompress, &mut Visited::default(), |entry| {
            if done.moved + done.not_smaller == budget {
                return Ok(Step::StopBefore);
            }
            let mut saved = 0;
            self.tried.reserve();
            let relocated = self.relocate(
                entry,
                &mut page,
                |word, pool| match pool.id() == target.id() {
                    true => Wanted::No,
                    _ if word.is_tried() && self.tried.was(entry.key(), codec) => Wanted::No,
                    _ if cold_only && word.is_referenced() => Wanted::SecondChance,
                    _ => Wanted::Yes,
                },
                |page, footprint| {
                    let copy = self.recompressed(entry, page, footprint, &target, &mut saved)?;
                    Ok::<_, RehomeError>(copy.unwrap_or(NewCopy::NoneBetter(codec)))
                },
            )?;
            match relocated {
                Relocated::Moved => {
                    done.moved += 1;
                    done.bytes_saved += saved;
                }
                Relocated::NoneBetter => done.not_smaller += 1,
                Relocated::Spared | Relocated::PassedBy => {}
            }
            Ok::<Step, RehomeError>(Step::On)
        })?;
        Ok(done)
    }

    /// A copy of a page in the denser pool, if that takes less than `footprint` bytes of memory. The
    /// limit may be exceeded by a run of pages for it, since more is freed in turn; beyond that room is made
    /// as for a store. Not inlined, as `migrate`.
    #[inline(never)]
    fn recompressed(
        &self,
        entry: SwapEntry,
        page: &Page,
        footprint: usize,
        target: &Hold<'_>,
        saved: &mut usize,
    ) -> Result<Option<NewCopy>, RehomeError> {
        let mut kept = None;
        let put = self.beyond_limits(target, || target.put_if_below(page, footprint, &mut kept));
        let put = match (put, &kept) {
            (Err(fault), Some(kept)) if fault.is_shortage() => {
                self.put_after_reclaim(entry, target, kept, fault, true).map(Some)
            }
            (put, _) => put.map_err(Refusal::Fault),
        };
        match put {
            Ok(Some(stored)) => {
                *saved = footprint.saturating_sub(target.footprint(stored.len));
                Ok(Some(self.copy_in(target, stored)))
            }
            Ok(None) | Err(Refusal::Fault(Fault::Incompressible)) => Ok(None),
            Err(refusal) => Err(RehomeError::Store(self.count_refusal(entry, refusal))),
        }
    }

    /// The pool of the current backend and a compressor, which need not be current.
    fn pool_for(&self, text: &str) -> Result<Hold<'_>, BuildError> {
        let current = self.pools.current();
        // One that is there is found without an allocation.
        let found = self.pools.living(|pool| pool.answers_to(&current.zpool_name, text));
        if let Some(hold) = found {
            return Ok(hold);
        }
        let spec = self.recipe.compressor_name(text)?;
        let found = self.pools.living(|pool| pool.is_like(&current.zpool_name, &spec));
        if let Some(hold) = found {
            return Ok(hold);
        }
        let fresh = self.recipe.pool(&current.zpool_name, text)?;
        // Relaxed: a note that decides which pages are migrated.
        fresh.recompressed.store(true, Ordering::Relaxed);
        self.pools.add(fresh).ok_or(BuildError::TooManyPools { limit: PoolId::LIMIT })
    }
}

/// What a background migration has done so far.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct MigrationReport {
    /// Pages moved.
    pub moved: u64,
    /// Pages left in other pools when that was counted last.
    pub left: usize,
    /// Pages that could not be moved when it was their turn, each as often as that was so.
    pub failed: u64,
    /// The last error.
    pub last_error: Option<RehomeError>,
    /// All pages are moved, or the store is gone: the thread has ended.
    pub ended: bool,
}

/// Pauses after failures double up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The pause after a step: longer than the last one if it came to nothing but a failure.
fn next_pause(usual: Duration, last: Duration, moved: usize, failed: bool) -> Duration {
    if failed && moved == 0 {
        last.max(Duration::from_millis(1)).saturating_mul(2).min(LONGEST_PAUSE).max(usual)
    } else {
        usual
    }
}

/// A thread that migrates a store's pools: [`Zswap::migrate_pools_in_background`].
pub type BackgroundMigration = Background<MigrationReport>;

impl BackgroundMigration {
    fn migrating(store: Weak<Zswap>, chunk: usize, usual: Duration) -> std::io::Result<Self> {
        let chunk = chunk.max(1);
        let mut pause = usual;
        let step = move |store: Option<&Zswap>, stop: &Stop<'_>| {
            let mut done = PoolMigration::default();
            let result = store.map_or(Ok(()), |store| {
                contain(|| store.migrate_some(chunk, &mut done, &|| stop.is_set()))
                    .unwrap_or(Err(RehomeError::Panicked))
            });
            pause = next_pause(usual, pause, done.moved, result.is_err());
            let ended = result.is_ok() && done.left == 0;
            let report = move |report: &mut MigrationReport| {
                report.moved += done.moved as u64;
                report.left = done.left;
                report.ended = ended;
                if let Err(error) = result {
                    report.failed += 1;
                    report.last_error = Some(error);
                }
            };
            (report, if ended { Next::End } else { Next::After(pause) })
        };
        Background::start("zswap-migrate", store, step)
    }
}
