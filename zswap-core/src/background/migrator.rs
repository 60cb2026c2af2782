//! Migration of a store's pools on a thread of its own.

use core::time::Duration;
use std::sync::{Arc, Weak};

use crate::Zswap;
use crate::background::{Background, Next, Stop};
use crate::error::MigrateError;
use crate::moves::migrate::PoolMigration;
use zpool_base::contained::contain;

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
    pub last_error: Option<MigrateError>,
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
                    .unwrap_or(Err(MigrateError::Panicked))
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

impl Zswap {
    /// [`Zswap::migrate_pools`] on a thread of its own, `chunk` pages at a time with `pause` between,
    /// until all pages are in the current pool, the store is gone, or the result is dropped. The thread keeps
    /// the store only while it moves a chunk. A page that cannot be moved is passed by and tried again when its
    /// turn comes, with longer pauses, up to a second, while nothing else moves.
    ///
    /// # Errors
    /// The system gives no thread; [`MigrateError::Forked`] inside, in a child after `fork`.
    pub fn migrate_pools_in_background(
        self: &Arc<Self>,
        chunk: usize,
        pause: Duration,
    ) -> std::io::Result<BackgroundMigration> {
        if !self.is_here() {
            return Err(std::io::Error::other(MigrateError::Forked));
        }
        BackgroundMigration::migrating(Arc::downgrade(self), chunk, pause)
    }
}
