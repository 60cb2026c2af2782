//! A read guard that keeps its pool alive.

use core::fmt;
use core::ops::Deref;
use std::sync::Arc;

use crate::{Handle, ObjRead, Zpool, ZpoolError};

/// An [`ObjRead`] that keeps its pool alive. Meant for reads that end later, on another thread.
///
/// `Send`, `Sync`, `'static`. If no other `Arc` of the pool exists, dropping the guard drops the pool.
#[must_use = "the object is pinned only while the guard lives"]
pub struct ObjReadOwned {
    // The object is declared first, so it is dropped first: its pin ends while the pool still exists.
    object: ObjRead<'static>,
    pool: Arc<dyn Zpool>,
}

impl ObjReadOwned {
    /// Returns the pool that holds the object.
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

/// Pins an object for reading, like [`Zpool::obj_read_begin`], but returns a guard that keeps the pool
/// alive.
///
/// # Errors
/// Those of [`Zpool::obj_read_begin`].
///
/// ```
/// use std::sync::Arc;
/// use std::thread::{JoinHandle, spawn};
/// use zpool_api::{Handle, Zpool, ZpoolError, obj_read_owned};
///
/// /// Sums an object's bytes on a thread that outlives the caller.
/// fn sum(pool: Arc<dyn Zpool>, handle: Handle) -> Result<JoinHandle<u64>, ZpoolError> {
///     let object = obj_read_owned(pool, handle)?;
///     Ok(spawn(move || object.iter().map(|byte| u64::from(*byte)).sum()))
/// }
/// ```
pub fn obj_read_owned(pool: Arc<dyn Zpool>, handle: Handle) -> Result<ObjReadOwned, ZpoolError> {
    let object = pool.obj_read_begin(handle)?;
    // SAFETY: the guard goes into a struct together with the `Arc` of its pool, and is dropped before that
    // `Arc`. The guard borrows from the pool. The pool does not move, because an `Arc` never moves its
    // value. And nobody can get a `&mut` to the pool, because this struct holds a share of it.
    let object = unsafe { object.unbound() };
    Ok(ObjReadOwned { object, pool })
}

const _: fn() = || {
    fn both<T: Send + Sync>() {}
    both::<ObjReadOwned>();
};
