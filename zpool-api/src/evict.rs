//! The callback of [`crate::Zpool::reclaim`].

use crate::{Handle, ObjRead};

/// What an [`Evict`] callback decided about an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Evicted {
    /// The object can go. Reclaim frees it, unless the callback has done so already.
    Evicted,
    /// The object stays, and so does its page.
    Keep,
}

/// Decides which objects a backend may evict. Reclaim asks about the objects of the oldest page first.
///
/// `evict` is called with no lock held. It may block, allocate, free anything (including `handle` itself and
/// its neighbours in the page), call `reclaim` again, or panic. The guard `object` keeps the bytes in place.
/// A panic propagates to the caller of `reclaim`; the object stays, and the pool remains usable.
pub trait Evict {
    /// Decides about the object that `handle` names. `object` is its bytes.
    fn evict(&self, handle: Handle, object: ObjRead<'_>) -> Evicted;
}

impl<F: Fn(Handle, ObjRead<'_>) -> Evicted> Evict for F {
    fn evict(&self, handle: Handle, object: ObjRead<'_>) -> Evicted {
        self(handle, object)
    }
}
