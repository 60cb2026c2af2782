//! Moving pages from pool to pool: out of pools that are not current any more (`migrate_pools`), and
//! into a denser one (`recompress`).
//!
//! A page is read as a load reads it, compressed anew and put into the other pool with nothing locked.
//! Then its entry is locked, and the new copy takes the old one's place if the entry still holds the
//! very object that was read; else the copy is dropped. So the entry can be read throughout, an
//! overwrite meanwhile wins, and a failure leaves the page where it was.

use core::fmt;
use core::time::Duration;
use std::sync::{Arc, Weak};

use crate::background::{Background, Next, guarded};
use crate::error::{BuildError, LoadError, RehomeError};
use crate::pool::Fault;
use crate::pools::{Hold, NotSwitched};
use crate::store::Refusal;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::word::{Content, PoolId, Word};
use crate::{Entries, PAGE_SIZE, Page, SwapEntry, Zswap};

/// Entries at which the next walk goes on.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    migrate: AtomicU64,
    recompress: AtomicU64,
    pub(crate) shrink: AtomicU64,
}

/// What [`Zswap::migrate_pools`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct PoolMigration {
    /// Pages that are in the current pool now.
    pub moved: usize,
    /// Pages that are in other pools.
    pub left: usize,
}

/// What [`Zswap::recompress`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Recompressed {
    /// Pages that are in the denser pool now.
    pub moved: usize,
    /// Pages that did not get smaller; they are not tried again until they are overwritten.
    pub not_smaller: usize,
    /// Bytes that the moved pages' objects are smaller.
    pub bytes_saved: usize,
}

/// What became of one entry.
enum Outcome {
    Moved {
        saved: usize,
    },
    NotSmaller,
    /// Gone, overwritten meanwhile, or none that is to be moved.
    PassedBy,
}

/// Whether the page of an entry is to be moved.
pub(crate) enum Wanted {
    Yes,
    No,
    /// Not yet: it was loaded, and has a second chance.
    SecondChance,
}

/// Which pages are moved.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// All that are elsewhere.
    All,
    /// Those that are smaller afterwards, and, if so asked, were not loaded since the last walk.
    Smaller { cold_only: bool },
}

impl Zswap {
    /// Moves up to `budget` pages out of pools that are not current any more into the current one,
    /// which lets the old pools go. Goes on where the last call ended.
    ///
    /// Works with nothing locked but the entry at hand, for a moment; blocks as a store does. An error
    /// leaves the page that it was about where it was.
    pub fn migrate_pools(&self, budget: usize) -> Result<PoolMigration, RehomeError> {
        let mut done = PoolMigration::default();
        if self.pages_elsewhere() > 0 {
            let target = self.pools.current();
            self.walk(&self.cursors.migrate, |entry, page| {
                if done.moved == budget {
                    return Ok(false);
                }
                if let Outcome::Moved { .. } = self.rehome(entry, page, &target, Which::All)? {
                    done.moved += 1;
                }
                Ok::<bool, RehomeError>(true)
            })?;
        }
        done.left = self.pages_elsewhere();
        Ok(done)
    }

    /// [`Zswap::migrate_pools`] on a thread of its own, `chunk` pages at a time with `pause` between,
    /// until all pages are in the current pool, an error, or the drop of the result. The thread keeps
    /// the store only while it moves a chunk.
    pub fn migrate_pools_in_background(
        self: &Arc<Self>,
        chunk: usize,
        pause: Duration,
    ) -> std::io::Result<BackgroundMigration> {
        BackgroundMigration::start(Arc::downgrade(self), chunk, pause)
    }

    fn pages_elsewhere(&self) -> usize {
        let others = self.pools.all().into_iter().skip(1);
        others.map(|pool| pool.zpool.stats().objects).sum()
    }

    /// Compresses up to `budget` pages anew with another, denser compressor, by spec, into a pool of
    /// the current backend. With `cold_only` pages that were loaded since the last walk came by are
    /// left for the next one. One that does not get smaller stays, marked, and is not tried again.
    /// Goes on where the last call ended, and goes around once at most.
    ///
    /// Blocks as a store does. Errors as [`Zswap::set_compressor`], and as a store; an error leaves
    /// the page that it was about where it was.
    pub fn recompress(
        &self,
        spec: &str,
        budget: usize,
        cold_only: bool,
    ) -> Result<Recompressed, RehomeError> {
        let target = self.pool_for(spec)?;
        let mut done = Recompressed::default();
        let which = Which::Smaller { cold_only };
        self.walk(&self.cursors.recompress, |entry, page| {
            if done.moved + done.not_smaller == budget {
                return Ok(false);
            }
            match self.rehome(entry, page, &target, which)? {
                Outcome::Moved { saved } => {
                    done.moved += 1;
                    done.bytes_saved += saved;
                }
                Outcome::NotSmaller => done.not_smaller += 1,
                Outcome::PassedBy => {}
            }
            Ok::<bool, RehomeError>(true)
        })?;
        Ok(done)
    }

    /// The pool of the current backend and a compressor, which need not be current.
    fn pool_for(&self, spec: &str) -> Result<Hold<'_>, BuildError> {
        let spec = self.recipe.compressors.build(spec)?.spec();
        let zpool = self.pools.current().zpool_name.clone();
        if let Some(hold) = self.pools.living(&zpool, &spec) {
            return Ok(hold);
        }
        let fresh = self.recipe.pool(&zpool, &spec)?;
        self.pools.add(fresh).map_err(|full| {
            debug_assert_eq!(full, NotSwitched::Full);
            BuildError::TooManyPools { limit: PoolId::LIMIT }
        })
    }

    /// Visits every entry once, from where the cursor is, until told to stop; the cursor is then where
    /// the next walk goes on.
    pub(crate) fn walk<E>(
        &self,
        cursor: &AtomicU64,
        mut visit: impl FnMut(SwapEntry, &mut Page) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut page = Box::new([0; PAGE_SIZE]);
        // Relaxed, here and below: where a walk begins decides nothing.
        let start = cursor.load(Ordering::Relaxed);
        let around = Entries::new(&self.index, start, u64::MAX).chain(
            (start > 0).then(|| Entries::new(&self.index, 0, start - 1)).into_iter().flatten(),
        );
        for entry in around {
            // Relaxed: as above. An entry with an error is passed by the next time.
            cursor.store(entry.key(), Ordering::Relaxed);
            match visit(entry, &mut page) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => {
                    // Relaxed: as above.
                    cursor.store(entry.key().wrapping_add(1), Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn rehome(
        &self,
        entry: SwapEntry,
        page: &mut Page,
        target: &Hold<'_>,
        which: Which,
    ) -> Result<Outcome, RehomeError> {
        let wanted = |word: Word, pool: PoolId| match which {
            _ if pool == target.id() => Wanted::No,
            Which::All => Wanted::Yes,
            Which::Smaller { .. } if word.is_tried() => Wanted::No,
            Which::Smaller { cold_only: true } if word.is_referenced() => Wanted::SecondChance,
            Which::Smaller { .. } => Wanted::Yes,
        };
        let Some((old, len)) = self.read_to_move(entry, page, wanted)? else {
            return Ok(Outcome::PassedBy);
        };
        let stored = match target.put(page, which == Which::All) {
            Ok(stored) if which == Which::All || stored.len < len => stored,
            Ok(stored) => {
                let _ = target.zpool.free(stored.handle);
                return Ok(self.mark_tried(entry, old));
            }
            Err(Fault::Incompressible) => return Ok(self.mark_tried(entry, old)),
            Err(fault) => {
                let source = self.count_refusal(entry, Refusal::Fault(fault));
                return Err(RehomeError::Store(source));
            }
        };
        let new = self.stored_in(target.again(), stored);
        let replaced = self.replace_if_same(entry, old, |word| word.moved_to(new));
        self.discard(if replaced { old.content() } else { new });
        Ok(if replaced {
            Outcome::Moved { saved: len.saturating_sub(stored.len) }
        } else {
            Outcome::PassedBy
        })
    }

    /// The page of an entry that holds an object and is `wanted`, as a load reads it; its word, and its
    /// object's bytes.
    pub(crate) fn read_to_move(
        &self,
        entry: SwapEntry,
        page: &mut Page,
        wanted: impl FnOnce(Word, PoolId) -> Wanted,
    ) -> Result<Option<(Word, usize)>, LoadError> {
        let Some(mut locked) = self.index.lock(entry.key()) else { return Ok(None) };
        let word = locked.word();
        let Content::Stored { pool, bits, .. } = word.content() else { return Ok(None) };
        match wanted(word, pool) {
            Wanted::Yes => {}
            Wanted::No => return Ok(None),
            Wanted::SecondChance => {
                locked.replace(word.unreferenced());
                return Ok(None);
            }
        }
        let sum = locked.sum();
        let len = self.with_object(entry, locked, (pool, bits), |pool, object| {
            self.restore(entry, pool, &object, page, sum)?;
            Ok(object.len())
        })?;
        Ok(Some((word, len)))
    }

    fn mark_tried(&self, entry: SwapEntry, old: Word) -> Outcome {
        if self.replace_if_same(entry, old, Word::tried) {
            Outcome::NotSmaller
        } else {
            Outcome::PassedBy
        }
    }

    /// Replaces the word of an entry that still holds the object of `old`. A handle never names two
    /// objects, so an equal content is the object that was read.
    pub(crate) fn replace_if_same(
        &self,
        entry: SwapEntry,
        old: Word,
        new: impl Fn(Word) -> Word,
    ) -> bool {
        let Some(mut locked) = self.index.lock(entry.key()) else { return false };
        let now = locked.word();
        let same = now.content() == old.content();
        if same {
            locked.replace(new(now));
        }
        same
    }
}

/// What a background migration tells.
#[derive(Debug, Default)]
struct Report {
    progress: PoolMigration,
    ended: Option<Result<(), RehomeError>>,
}

/// A thread that migrates a store's pools. Dropping it stops the thread after the chunk that it is at
/// and waits for it.
///
/// `Send` and `Sync`.
pub struct BackgroundMigration(Background<Report>);

impl BackgroundMigration {
    fn start(store: Weak<Zswap>, chunk: usize, pause: Duration) -> std::io::Result<Self> {
        let chunk = chunk.max(1);
        let step = move |store: Option<&Zswap>| {
            let result = match store.map(|store| guarded(|| store.migrate_pools(chunk))) {
                Some(Ok(result)) => result,
                Some(Err(_panicked)) => Err(RehomeError::Panicked),
                None => Ok(PoolMigration::default()),
            };
            let goes_on = result.as_ref().is_ok_and(|done| done.left > 0);
            let next = if goes_on { Next::After(pause) } else { Next::End };
            let report = move |report: &mut Report| match result {
                Ok(done) => {
                    report.progress.moved += done.moved;
                    report.progress.left = done.left;
                    report.ended = (done.left == 0).then_some(Ok(()));
                }
                Err(error) => report.ended = Some(Err(error)),
            };
            (report, next)
        };
        Background::start("zswap-migrate", store, step).map(BackgroundMigration)
    }

    /// Pages moved so far, and pages left in other pools when that was counted last.
    pub fn progress(&self) -> PoolMigration {
        self.0.report(|report| report.progress)
    }

    /// How it ended, once it has: all pages moved or the store gone, or the error that ended it.
    pub fn ended(&self) -> Option<Result<(), RehomeError>> {
        self.0.report(|report| report.ended.clone())
    }
}

impl fmt::Debug for BackgroundMigration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackgroundMigration").field("progress", &self.progress()).finish()
    }
}
