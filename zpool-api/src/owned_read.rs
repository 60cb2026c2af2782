//! A read guard that keeps its pool alive.

use core::fmt;
use core::ops::Deref;
use std::sync::Arc;

use crate::{Handle, ObjRead, Zpool, ZpoolError};

/// An [`ObjRead`] that keeps its pool alive: for completions that arrive elsewhere, later.
///
/// `Send`, `Sync`, `'static`. A pool whose last `Arc` is dropped meanwhile goes with the last of
/// these guards.
#[must_use = "the object is pinned only while the guard lives"]
pub struct ObjReadOwned {
    // Declared first, so dropped first: the pin ends while the pool is still there.
    object: ObjRead<'static>,
    pool: Arc<dyn Zpool>,
}

impl ObjReadOwned {
    /// The pool that the object is in.
    pub fn pool(&self) -> &Arc<dyn Zpool> {
        &self.pool
    }
}

impl Deref for ObjReadOwned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.object
    }
}

impl fmt::Debug for ObjReadOwned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjReadOwned").field("len", &self.object.len()).finish_non_exhaustive()
    }
}

/// [`Zpool::obj_read_begin`] with a guard that owns a share of the pool. Errors as there.
pub fn obj_read_owned(pool: Arc<dyn Zpool>, handle: Handle) -> Result<ObjReadOwned, ZpoolError> {
    let object = pool.obj_read_begin(handle)?;
    // SAFETY: the guard moves into a struct beside the `Arc` of its pool and is dropped before it.
    // What the guard borrows lives in the pool, which an `Arc` never moves and, being shared with
    // this struct, gives nobody `&mut` to.
    let object = unsafe { object.unbound() };
    Ok(ObjReadOwned { object, pool })
}

const _: fn() = || {
    fn both<T: Send + Sync>() {}
    both::<ObjReadOwned>();
};
