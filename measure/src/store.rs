//! A store of `zswap-core` as a contestant.

use zpool_api::ZpoolError;
use zswap_core::{EntryError, LoadError, PAGE_SIZE, StoreError, SwapEntry, Zswap};

use crate::aligned::Page;
use crate::contestant::{Contestant, Memory, PoolUse, Worker};

/// Why a store could not do what its turn asked for. The caller's error is made from it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreFault {
    /// The page's number is too large for an entry.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The store refused a page.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store did not return a page.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The store could not be compacted.
    #[error(transparent)]
    Compact(#[from] ZpoolError),
}

/// A store as a contestant: the unit that begins with page `n` is kept under the entry with offset `n`. The unit of its
/// turn ([`Plan::unit`](crate::Plan::unit)) is as many pages as the store's unit has.
/// `E` is the caller's error.
///
/// ```
/// use measure::store::{Store, StoreFault};
/// use measure::{Lanes, PageSet, Plan, turn};
/// use zswap_core::Zswap;
///
/// #[derive(Debug, thiserror::Error)]
/// enum Error {
///     #[error(transparent)]
///     Measure(#[from] measure::Error),
///     #[error(transparent)]
///     Build(#[from] zswap_core::BuildError),
///     #[error(transparent)]
///     Store(#[from] StoreFault),
/// }
///
/// let set = PageSet::new((0..40).map(|n| [n; 4096]).collect(), "a test".into());
/// let mut lanes = Lanes::new(1, set.pages().len())?;
/// let plan = Plan { set: &set, unit: 1, round: 0, frees: true };
/// let turn = turn(plan, None, None, &mut lanes, || {
///     let store = Zswap::builder().zpool("zbud").compressor("null").build()?;
///     // A store that refuses a page, or loses one, ends the turn.
///     Ok(Box::new(Store::new(store, |_: &Error| false)))
/// })?;
/// assert_eq!((turn.fault, turn.refused), (None, vec![]));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct Store<E> {
    store: Zswap,
    goes_on_after: fn(&E) -> bool,
}

impl<E> Store<E> {
    /// Makes a contestant of a store, which should be empty. `goes_on_after` is
    /// [`Contestant::goes_on_after`].
    pub fn new(store: Zswap, goes_on_after: fn(&E) -> bool) -> Self {
        Store { store, goes_on_after }
    }
}

fn entry(page: usize) -> Result<SwapEntry, StoreFault> {
    Ok(SwapEntry::new(0, page as u64)?)
}

impl<E: From<StoreFault>> Contestant<E> for Store<E> {
    fn worker(&self) -> Result<Box<dyn Worker<E> + '_>, E> {
        Ok(Box::new(Hand(&self.store)))
    }

    fn free(&self, page: usize) -> Result<(), E> {
        self.store.invalidate(entry(page)?);
        Ok(())
    }

    fn tidy(&self) -> Result<(), E> {
        self.store.compact().map_err(StoreFault::from)?;
        self.store.trim();
        Ok(())
    }

    fn memory(&self) -> Result<Memory, E> {
        let stats = self.store.stats();
        let per_unit = self.store.unit() / PAGE_SIZE;
        let pool = PoolUse {
            pages: stats.stored_pages * per_unit,
            same_filled: stats.same_filled_pages * per_unit,
            incompressible: stats.stored_incompressible_pages * per_unit,
            pool_bytes: stats.pool_total_size,
            context_bytes: stats.context_bytes,
        };
        Ok(Memory {
            compressed_bytes: Some(stats.compressed_bytes),
            resident_bytes: None,
            metadata_bytes: Some(stats.metadata_bytes),
            pool: Some(pool),
        })
    }

    fn goes_on_after(&self, error: &E) -> bool {
        (self.goes_on_after)(error)
    }
}

struct Hand<'a>(&'a Zswap);

impl<E: From<StoreFault>> Worker<E> for Hand<'_> {
    /// Stores a page and removes it, so that the store has a context on this processor, and its
    /// first pool page.
    fn warm(&mut self, first: usize, pages: &[Page]) -> Result<(), E> {
        // A store that refuses this page will refuse it again when it is measured.
        if self.0.store_unit(entry(first)?, pages.as_flattened()).is_ok() {
            self.0.invalidate(entry(first)?);
        }
        Ok(())
    }

    fn store(&mut self, first: usize, pages: &[Page]) -> Result<(), E> {
        Ok(self.0.store_unit(entry(first)?, pages.as_flattened()).map_err(StoreFault::from)?)
    }

    fn load(&mut self, first: usize, into: &mut [Page]) -> Result<bool, E> {
        match self.0.load_unit(entry(first)?, into.as_flattened_mut()) {
            Ok(()) => Ok(true),
            Err(LoadError::NotFound { .. }) => Ok(false),
            Err(error) => Err(StoreFault::from(error).into()),
        }
    }
}
