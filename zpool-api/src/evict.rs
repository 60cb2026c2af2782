//! The callback of [`crate::Zpool::reclaim`].

use crate::{Handle, ObjRead};

/// What an [`Evict`] callback decided about an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Evicted {
    /// The object can go. Reclaim frees it, unless the callback has done so already.
    Evicted,
    /// The object stays, and with it its page.
    Keep,
}

/// Decides which objects a backend may evict, oldest page first.
///
/// Called with no lock held: it may block, allocate, free anything (including `handle` itself and its
/// neighbours in the page), call `reclaim` again, or panic. The guard keeps the object's bytes in place
/// for the call. A panic propagates to the caller of `reclaim`; the object stays, and the pool remains
/// usable.
pub trait Evict {
    /// Decides about `object`, the bytes of `handle`.
    fn evict(&self, handle: Handle, object: ObjRead<'_>) -> Evicted;
}

impl<F: Fn(Handle, ObjRead<'_>) -> Evicted> Evict for F {
    fn evict(&self, handle: Handle, object: ObjRead<'_>) -> Evicted {
        self(handle, object)
    }
}
