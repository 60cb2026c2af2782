//! The pool that holds the values' bytes, and putting bytes there although the budget is used up.

use std::sync::Arc;

use zpage::{BuiltZpool, Recipe, RecipeError};
use zpool_api::{Handle, ObjRead, PageBudget, PageError, PoolTag, ZpoolError};

use crate::error::CacheError;
use crate::invariant::broken;
use crate::ledger::Ledger;

/// The size in bytes of the largest object.
pub(crate) const MOST_OBJECT: usize = 64 << 10;

/// A backend, and what counts its memory.
#[derive(Debug)]
pub(crate) struct Pool {
    zpool: BuiltZpool,
    tag: PoolTag,
    page_size: usize,
    pub(crate) ledger: Ledger,
}

/// Makes room in the pool by evicting.
pub(crate) trait Room {
    /// Makes room for `bytes` more. `attempt` says how often that has been too little for the same object.
    ///
    /// # Errors
    /// [`CacheError::NoRoom`] if there is nothing left to evict.
    fn make(&self, bytes: usize, attempt: u32) -> Result<(), CacheError>;
}

impl Pool {
    /// Builds the backend.
    ///
    /// # Errors
    /// Those of [`Recipe::zpool`].
    pub(crate) fn new(recipe: &Recipe, name: &str, max_bytes: usize) -> Result<Self, RecipeError> {
        let pages = Arc::new(PageBudget::new(0));
        let zpool = recipe.zpool(name, Some(pages.clone()))?;
        let (tag, page_size) = (zpool.tag(), zpool.stats().page_size.max(1));
        Ok(Pool { zpool, tag, page_size, ledger: Ledger::new(max_bytes, pages) })
    }

    pub(crate) fn zpool(&self) -> &dyn zpool_api::Zpool {
        &*self.zpool
    }

    pub(crate) fn tag(&self) -> PoolTag {
        self.tag
    }

    /// Returns the bytes of a page.
    pub(crate) fn page_size(&self) -> usize {
        self.page_size
    }

    /// Stores `parts`, one after the other, as one object. Returns `None` if the budget has no page for it.
    ///
    /// # Errors
    /// [`CacheError::Pool`] if the backend fails for another reason.
    pub(crate) fn try_put(&self, parts: &[&[u8]]) -> Result<Option<Handle>, CacheError> {
        let put = || {
            let mut object = self.zpool.malloc(parts.iter().map(|part| part.len()).sum())?;
            parts.iter().try_for_each(|part| object.write(part))?;
            object.commit()
        };
        match put() {
            Ok(handle) => Ok(Some(handle)),
            Err(ZpoolError::OutOfMemory { source: PageError::Limit { .. } }) => Ok(None),
            Err(error) => Err(CacheError::Pool(error)),
        }
    }

    /// Stores `parts` as one object, and evicts for it if the budget has no page.
    ///
    /// # Errors
    /// Those of [`Pool::try_put`] and of [`Room::make`].
    pub(crate) fn put(&self, parts: &[&[u8]], room: &dyn Room) -> Result<Handle, CacheError> {
        let bytes = parts.iter().map(|part| part.len()).sum();
        let mut attempt = 0;
        loop {
            if let Some(handle) = self.try_put(parts)? {
                return Ok(handle);
            }
            room.make(bytes, attempt)?;
            attempt = attempt.saturating_add(1);
        }
    }

    pub(crate) fn read(&self, handle: Handle) -> Result<ObjRead<'_>, CacheError> {
        Ok(self.zpool.obj_read_begin(handle)?)
    }

    /// Frees an object of this cache. In a child after `fork` this does nothing.
    pub(crate) fn free(&self, handle: Handle) {
        match self.zpool.free(handle) {
            Ok(()) | Err(ZpoolError::Forked { .. }) => (),
            Err(error) => broken(format_args!(
                "the cache owns an object that its pool does not have: {error}"
            )),
        }
    }
}
