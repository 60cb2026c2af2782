//! The callback of [`crate::Zpool::reclaim`].

use crate::{Handle, ObjRead};

/// What an [`Evict`] callback decided about an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Evicted {
    /// The object is given up. Reclaim frees it, unless the callback has done so already.
    Evicted,
    /// The object stays, and with it its page.
    Keep,
}

/// Decides about objects that a backend would like to be rid of, oldest page first.
///
/// Called with no lock held and outside of any critical section: it may block, allocate, free
/// anything (also `handle` itself and its neighbours in the page), call `reclaim` again, or panic.
/// The guard keeps the object's bytes in place for the call. When it panics, the panic goes on to
/// reclaim's caller, the object stays, and the pool remains usable.
pub trait Evict {
    /// Looks at `object` (the bytes behind `handle`) and decides.
    fn evict(&self, handle: Handle, object: ObjRead<'_>) -> Evicted;
}

impl<F: Fn(Handle, ObjRead<'_>) -> Evicted> Evict for F {
    fn evict(&self, handle: Handle, object: ObjRead<'_>) -> Evicted {
        self(handle, object)
    }
}
