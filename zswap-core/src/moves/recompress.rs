//! Recompression moves pages into a pool with a denser compressor, if they take less memory there.
//!
//! A page moves as in migration ([`crate::moves::migrate`]). If a compressor does not make a page smaller,
//! this is noted ([`crate::moves::tried`]), and the compressor is not tried on that page again.

use crate::area::Area;
use crate::entry::word::PoolId;
use crate::error::{BuildError, MigrateError};
use crate::moves::relocate::{NewCopy, Relocated, Wanted};
use crate::moves::walk::{Step, Visited};
use crate::page_buffer::PageBuffer;
use crate::pool::Fault;
use crate::pool::pools::PoolRef;
use crate::refusal::Refusal;
use crate::sync::atomic::Ordering;
use crate::{SwapEntry, Zswap};

/// Tells [`Zswap::recompress`] which compressor to use, how many pages to compress again at most, and which
/// pages to skip.
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
    area: Option<u8>,
}

impl<'a> Recompress<'a> {
    /// Selects the compressor by its spec, such as `zstd:level=9`. Without further settings, all pages are
    /// compressed again.
    pub fn new(spec: &'a str) -> Self {
        Recompress { spec, max_pages: usize::MAX, idle: false, area: None }
    }

    /// Limits how many pages one call of [`Zswap::recompress`] compresses again. By default there is no limit:
    /// a call visits each page once.
    #[must_use]
    pub fn max_pages(mut self, pages: usize) -> Self {
        self.max_pages = pages;
        self
    }

    /// Skips pages in use: those that were loaded since writeback or an earlier call with `idle` last skipped
    /// them.
    #[must_use]
    pub fn idle(mut self) -> Self {
        self.idle = true;
        self
    }

    /// Compresses only pages of the area `swap_type`, which must have pools of its own
    /// ([`Zswap::add_area`]). If it has none, nothing is done. By default pages of all areas are compressed.
    #[must_use]
    pub fn area(mut self, swap_type: u8) -> Self {
        self.area = Some(swap_type);
        self
    }
}

/// The turns of all areas.
const TURNS: usize = 257;

/// What [`Zswap::recompress`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Recompressed {
    /// Pages that this call moved into the denser pool.
    pub moved: usize,
    /// Pages that stayed in place, because they would not take less memory. Later calls with this compressor
    /// skip such a page until it is overwritten or moved.
    pub not_smaller: usize,
    /// The bytes of memory saved: what the objects of the moved pages took before, minus what they take now.
    /// Each object counts with the size to which its backend rounds it.
    pub bytes_saved: usize,
}

impl Zswap {
    /// Compresses pages again with another, denser compressor. Their new pool has the current backend
    /// of their area.
    ///
    /// A page moves only if its object then takes less memory. Objects are compared by the sizes to which the
    /// backends round them ([`zpool_api::Zpool::footprint`]). A page that does not get smaller is marked;
    /// later calls with the same compressor skip it until the page is overwritten or moved. A call continues
    /// where the last one ended, and visits each entry at most once.
    ///
    /// ```
    /// # if cfg!(not(feature = "zstd")) { return Ok(()); }
    /// use zswap_core::{Recompress, SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().compressor("null").build()?;
    /// let page = core::array::from_fn(|i| (i % 251) as u8);
    /// store.store(SwapEntry::new(0, 1)?, &page)?;
    /// let done = store.recompress(&Recompress::new("zstd:level=9"))?;
    /// assert_eq!((done.moved, done.not_smaller), (1, 0));
    /// assert!(done.bytes_saved > 2000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// * [`MigrateError::Build`] if there is no pool for the compressor yet and none can be built, for the
    ///   reasons of [`Zswap::set_compressor`].
    /// * [`MigrateError::Load`] if a page cannot be read, [`MigrateError::Store`] if the denser pool refuses
    ///   it. The page that could not be moved stays in place, and pages that were moved before it stay moved.
    /// * [`MigrateError::Forked`] in a child after `fork`.
    ///
    /// # Blocking
    /// Waits as [`Zswap::store`] does.
    pub fn recompress(&self, what: &Recompress<'_>) -> Result<Recompressed, MigrateError> {
        if !self.is_here() {
            return Err(MigrateError::Forked);
        }
        let mut done = Recompressed::default();
        // A page or pool that fails holds up its own area only.
        let mut failed = Ok(());
        // The turn 0 is that of the shared area, and n that of the area n - 1. If the last call ended in an area since it
        // had done its pages, this one begins with the next area.
        // Relaxed, here and below: it does not matter where a call begins.
        let first = self.next_recompressed.load(Ordering::Relaxed) % TURNS;
        for turn in (first..TURNS).chain(0..first) {
            let own = turn.checked_sub(1).map(|own| self.areas.own(own as u8));
            let Some(area) = own.unwrap_or(Some(self.areas.shared())) else { continue };
            if what.area.is_some_and(|own| area.swap_type != Some(own)) {
                continue;
            }
            // No pool is built for an area without pages.
            if area.swap_type.is_some() && area.pools.all().all(|pool| pool.stats().objects == 0) {
                continue;
            }
            failed = failed.and(self.recompress_area(area, what, &mut done));
            if done.moved + done.not_smaller == what.max_pages {
                if what.area.is_none() {
                    // Relaxed: as above.
                    self.next_recompressed.store(turn + 1, Ordering::Relaxed);
                }
                break;
            }
        }
        failed.map(|()| done)
    }

    fn recompress_area(
        &self,
        area: &Area,
        what: &Recompress<'_>,
        done: &mut Recompressed,
    ) -> Result<(), MigrateError> {
        let target = self.pool_for(area, what.spec)?;
        let codec = self.tried.codec(&target.spec);
        let mut buffer = PageBuffer::new(self.unit).map_err(MigrateError::Buffer)?;
        let page = buffer.bytes();
        self.walk(area, &area.cursors.recompress, &mut Visited::default(), |entry| {
            if done.moved + done.not_smaller == what.max_pages {
                return Ok(Step::StopBefore);
            }
            let mut saved = 0;
            self.tried.reserve();
            let relocated = self.relocate(
                entry,
                page,
                |word, pool| match pool.id() == target.id() {
                    true => Wanted::No,
                    _ if word.is_tried() && self.tried.was(entry.key(), codec) => Wanted::No,
                    _ if what.idle && word.is_referenced() => Wanted::SecondChance,
                    _ => Wanted::Yes,
                },
                |page, footprint| {
                    let copy =
                        self.recompressed(entry, page, footprint, (area, &target), &mut saved)?;
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
        })
    }

    /// Makes a copy of a page in the denser pool, and sets `saved` to the bytes saved. Returns `None` if the
    /// copy would take `footprint` bytes of memory or more. The copy may exceed the limit by a run of pages,
    /// because the old copy, which takes more memory, is freed right afterwards. If more room is needed, makes
    /// room as a store does. Not inlined, for the reason given at `migrate`.
    #[inline(never)]
    fn recompressed(
        &self,
        entry: SwapEntry,
        page: &[u8],
        footprint: usize,
        (area, target): (&Area, &PoolRef<'_>),
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
                Ok(Some(NewCopy::of(area, target, stored)))
            }
            Ok(None) | Err(Refusal::Fault(Fault::Incompressible)) => Ok(None),
            Err(refusal) => Err(MigrateError::Store(self.count_refusal(entry, refusal))),
        }
    }

    /// Returns the pool that has the current backend and the compressor with spec `text`. Builds the pool if
    /// there is none.
    fn pool_for<'s>(&self, area: &'s Area, text: &str) -> Result<PoolRef<'s>, BuildError> {
        let current = area.pools.current();
        // Search by the given text first: that needs no allocation.
        let found = area.pools.living(|pool| pool.answers_to(&current.zpool_name, text));
        if let Some(hold) = found {
            return Ok(hold);
        }
        let spec = self.recipe.compressor_name(text)?;
        let found = area.pools.living(|pool| pool.is_like(&current.zpool_name, &spec));
        if let Some(hold) = found {
            return Ok(hold);
        }
        let fresh = self.recipe.pool(&current.zpool_name, text, &area.limits)?;
        // Relaxed: a flag that only decides which pages are migrated.
        fresh.recompressed.store(true, Ordering::Relaxed);
        area.pools.add(fresh).ok_or(BuildError::TooManyPools { limit: PoolId::LIMIT })
    }
}
