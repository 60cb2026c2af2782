//! Migration of a store's pools in the background.

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
    /// Pages left in other pools at the last count.
    pub left: usize,
    /// Failed attempts to move a page.
    pub failed: u64,
    /// The last error.
    pub last_error: Option<MigrateError>,
    /// Whether the thread has ended, because all pages are moved or the store is gone.
    pub ended: bool,
}

/// The longest pause. Pauses double up to this while nothing can be moved.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Returns the pause after a step: twice the last pause if the step failed and moved nothing, else the usual one.
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
    /// Runs [`Zswap::migrate_pools`] on a thread: `chunk` pages at a time, with a `pause` between chunks. The
    /// thread ends when all pages are in the current pool, when the store is gone, or when the result is
    /// dropped. It keeps the store alive only while it moves a chunk. It skips a page that cannot be moved, and
    /// tries the page again when its turn comes. While no page can be moved, its pauses grow, up to a second.
    ///
    /// ```
    /// use core::time::Duration;
    /// use std::sync::Arc;
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Arc::new(Zswap::builder().build()?);
    /// store.store(SwapEntry::new(0, 1)?, &core::array::from_fn(|i| (i % 251) as u8))?;
    /// store.set_compressor("null")?;
    /// let migration = store.migrate_pools_in_background(64, Duration::from_millis(1))?;
    /// while !migration.report().ended {
    ///     std::thread::sleep(Duration::from_millis(1));
    /// }
    /// assert_eq!(store.stats().pools.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Returns the system's error if it cannot start a thread; in a child after `fork`, an error that holds
    /// [`MigrateError::Forked`].
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
