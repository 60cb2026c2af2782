//! The callback of [`crate::Zpool::reclaim`].

use crate::{Handle, ObjRead};

/// What an [`Evict`] callback decides about an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Evicted {
    /// The object can go. Reclaim frees it, unless the callback has already freed it.
    Evicted,
    /// The object stays, and so does its page.
    Keep,
}

/// A callback that decides which objects a backend may evict. Reclaim asks it about the objects of the
/// oldest page first.
///
/// `evict` is called with no lock held. It may block, allocate, call `reclaim` again, or panic. It may also
/// free any object, including the object of `handle` and others in the same page. The guard `object` keeps
/// the bytes in place meanwhile. A panic propagates to the caller of `reclaim`. Then the object stays, and
/// the pool remains usable.
pub trait Evict {
    /// Decides whether the object that `handle` names can go. `object` gives access to its bytes.
    fn evict(&self, handle: Handle, object: ObjRead<'_>) -> Evicted;
}

impl<F: Fn(Handle, ObjRead<'_>) -> Evicted> Evict for F {
    fn evict(&self, handle: Handle, object: ObjRead<'_>) -> Evicted {
        self(handle, object)
    }
}
