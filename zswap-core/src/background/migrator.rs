//! Migrates a store's pools in the background.

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
    /// Pages moved into the current pool.
    pub moved: u64,
    /// Pages that were still in other pools after the last step, except those that [`Zswap::recompress`] has
    /// moved.
    pub left: usize,
    /// Steps that ended with an error, because a page could not be moved.
    pub failed: u64,
    /// The last error; `None` if there was none.
    pub last_error: Option<MigrateError>,
    /// Whether the thread has ended, because all pages are moved or the store is gone.
    pub ended: bool,
}

/// The pause doubles up to this while steps fail and move no page. A usual pause that is longer than this
/// does not grow.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Returns the pause after a step. If the step failed and moved nothing, this is twice the last pause, up to
/// the longest. Otherwise it is the usual pause.
fn next_pause(usual: Duration, last: Duration, moved: usize, failed: bool) -> Duration {
    if failed && moved == 0 {
        last.max(Duration::from_millis(1)).saturating_mul(2).min(LONGEST_PAUSE).max(usual)
    } else {
        usual
    }
}

/// A thread that migrates a store's pools. [`Zswap::migrate_pools_in_background`] starts one.
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
    /// thread ends when all pages are in the current pool, when the store is gone, or when the returned
    /// [`BackgroundMigration`] is dropped. The thread keeps the store alive only while it moves a chunk. A page
    /// that cannot be moved ends a chunk. The next chunk begins behind that page, and the thread tries the page
    /// again after all others. While no page can be moved, the pauses grow up to a second.
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
    /// Returns the system's error if the system cannot start a thread. In a child after `fork`, returns an
    /// error that holds [`MigrateError::Forked`].
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
