//! Recompression: pages move into a pool with a denser compressor, if they take less memory there.
//!
//! A page moves as in migration ([`crate::moves::migrate`]). A compressor that was tried on a page in vain
//! is noted ([`crate::moves::tried`]) and not tried on it again.

use crate::entry::word::PoolId;
use crate::error::{BuildError, MigrateError};
use crate::moves::relocate::{NewCopy, Relocated, Wanted};
use crate::moves::walk::{Step, Visited};
use crate::pool::Fault;
use crate::pool::pools::PoolRef;
use crate::refusal::Refusal;
use crate::sync::atomic::Ordering;
use crate::{PAGE_SIZE, Page, SwapEntry, Zswap};

/// Which pages [`Zswap::recompress`] compresses anew, how many of them, and with what.
///
/// ```
/// use zswap_core::Recompress;
/// // Up to a thousand pages that nobody has loaded for a while.
/// let what = Recompress::new("zstd:level=9").max_pages(1000).idle();
/// # let _ = what;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recompress<'a> {
    spec: &'a str,
    max_pages: usize,
    idle: bool,
}

impl<'a> Recompress<'a> {
    /// All pages, with the compressor of this spec.
    pub fn new(spec: &'a str) -> Self {
        Recompress { spec, max_pages: usize::MAX, idle: false }
    }

    /// Ends after this many pages were compressed. Default: when each page had its turn.
    #[must_use]
    pub fn max_pages(mut self, pages: usize) -> Self {
        self.max_pages = pages;
        self
    }

    /// Only idle pages: those that nobody loaded since the walk last passed them.
    #[must_use]
    pub fn idle(mut self) -> Self {
        self.idle = true;
        self
    }
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
    /// Compresses pages anew with another, denser compressor into a pool of the current backend.
    ///
    /// A page moves only if its object then takes less memory, as the backends round it
    /// ([`zpool_api::Zpool::footprint`]). A page on which this compressor was tried in vain is marked, and
    /// skipped until it is overwritten. A call continues where the last one ended, and goes around once at most.
    ///
    /// # Errors
    /// As [`Zswap::set_compressor`], and as a store; the page that it was about stays where it was.
    ///
    /// # Blocking
    /// As a store does.
    pub fn recompress(&self, what: &Recompress<'_>) -> Result<Recompressed, MigrateError> {
        if !self.is_here() {
            return Err(MigrateError::Forked);
        }
        let target = self.pool_for(what.spec)?;
        let codec = self.tried.codec(&target.spec);
        let mut done = Recompressed::default();
        let mut page = [0; PAGE_SIZE];
        self.walk(&self.cursors.recompress, &mut Visited::default(), |entry| {
            if done.moved + done.not_smaller == what.max_pages {
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
                    _ if what.idle && word.is_referenced() => Wanted::SecondChance,
                    _ => Wanted::Yes,
                },
                |page, footprint| {
                    let copy = self.recompressed(entry, page, footprint, &target, &mut saved)?;
                    Ok::<_, MigrateError>(copy.unwrap_or(NewCopy::NoneBetter(codec)))
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
            Ok::<Step, MigrateError>(Step::On)
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
        target: &PoolRef<'_>,
        saved: &mut usize,
    ) -> Result<Option<NewCopy>, MigrateError> {
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
            Err(refusal) => Err(MigrateError::Store(self.count_refusal(entry, refusal))),
        }
    }

    /// The pool of the current backend and a compressor, which need not be current.
    fn pool_for(&self, text: &str) -> Result<PoolRef<'_>, BuildError> {
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
