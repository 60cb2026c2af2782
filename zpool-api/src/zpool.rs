//! The backend trait and what every backend promises.

use core::fmt;

use crate::{Evict, Handle, ObjRead, ObjWrite, PoolTag, ZpoolError, ZpoolStats};

/// What a backend can do. A pool's answer never changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ZpoolCaps {
    /// The size of the largest object, in bytes.
    pub max_object_size: usize,
    /// Whether [`Zpool::reclaim`] works.
    pub reclaim: bool,
    /// Whether [`Zpool::compact`] works.
    pub compaction: bool,
    /// Whether [`Zpool::migrate`] works.
    pub migration: bool,
    /// Every object starts at a multiple of this many bytes; a power of two.
    pub alignment: usize,
}

impl ZpoolCaps {
    /// Describes a backend without reclaim, compaction and migration, whose objects may start at any byte.
    /// `max_object_size` is in bytes.
    ///
    /// ```
    /// use zpool_api::ZpoolCaps;
    ///
    /// let caps = ZpoolCaps::new(4096).with_reclaim().with_alignment(64);
    /// assert_eq!((caps.max_object_size, caps.alignment), (4096, 64));
    /// assert!(caps.reclaim && !caps.compaction);
    /// ```
    pub const fn new(max_object_size: usize) -> Self {
        ZpoolCaps {
            max_object_size,
            reclaim: false,
            compaction: false,
            migration: false,
            alignment: 1,
        }
    }

    /// Declares that [`Zpool::reclaim`] works.
    pub const fn with_reclaim(mut self) -> Self {
        self.reclaim = true;
        self
    }

    /// Declares that [`Zpool::compact`] works.
    pub const fn with_compaction(mut self) -> Self {
        self.compaction = true;
        self
    }

    /// Declares that [`Zpool::migrate`] works.
    pub const fn with_migration(mut self) -> Self {
        self.migration = true;
        self
    }

    /// Declares that every object starts at a multiple of `bytes`, a power of two. If `bytes` is not a
    /// power of two, declares an alignment of 1.
    pub const fn with_alignment(mut self, bytes: usize) -> Self {
        self.alignment = if bytes.is_power_of_two() { bytes } else { 1 };
        self
    }
}

/// The result of [`Zpool::migrate`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Migration {
    /// Number of zspages that moved to other pages.
    pub zspages: usize,
    /// Number of zspages that stayed, because a guard or a writer uses them or another thread works on
    /// them.
    pub left: usize,
    /// Bytes of address space that returned to the system. Only whole blocks return, once they are empty.
    pub block_bytes: usize,
}

/// The result of [`Zpool::compact_some`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Compaction {
    /// Number of pages freed.
    pub pages: usize,
    /// Whether the pass reached the end of the pool. If so, another call would free little or nothing at
    /// the moment.
    pub complete: bool,
}

impl Compaction {
    /// Makes the result of a pass that reached the end of the pool and freed `pages` pages.
    pub const fn complete(pages: usize) -> Self {
        Compaction { pages, complete: true }
    }

    /// Makes the result of a pass that freed `pages` pages and stopped before the end of the pool.
    pub const fn partial(pages: usize) -> Self {
        Compaction { pages, complete: false }
    }
}

/// A backend: packs objects of 1 to [`ZpoolCaps::max_object_size`] bytes into pages.
///
/// Consumers share it as `Arc<dyn Zpool>`. Any number of threads may call it at the same time. A backend
/// can be written without `unsafe`: see [`ObjRead::from_owner`] and [`ObjWrite::buffered`].
///
/// # What every implementation promises
/// The test suite in the crate `zpool-conformance` checks these promises.
/// * Any [`Handle`] is safe to pass, even a made-up or stale one. If the handle names no live object, the
///   call fails with [`ZpoolError::InvalidHandle`]. Once an object is freed, its handle never names an
///   object again.
/// * An object is written once, before its handle exists, and never changes afterwards.
/// * While a guard lives, its bytes neither move nor change, whatever else is called. No call waits for a
///   guard to be dropped.
/// * `free` succeeds at once, even if the object has readers. The object's space is reused only after the
///   readers have ended.
/// * A call that fails changes nothing.
/// * No lock is held while an [`Evict`] callback runs.
///
/// # Blocking
/// `malloc`, `free`, `compact`, `migrate`, `reclaim` and `trim` may block, so do not call them under a
/// lock. They take the backend's short locks, and they make system calls through the page provider while
/// they hold none of these locks.
///
/// `obj_read_begin` and the drop of an [`ObjRead`] may be called under the consumer's own short locks. They
/// call neither the page provider nor user code, and in most cases they take no lock. There are two
/// exceptions. If another thread is moving the object, `obj_read_begin` waits for the end of the move,
/// which takes as long as copying at most 64 KiB. And if the object was freed, the drop of its last guard
/// may take one of the backend's short locks.
///
/// For this reason, readers return no page. If an object is freed while it is being read, its last reader
/// leaves the object, or the page that it emptied, to the pool. A call of `obj_read_begin` with a stale
/// handle may count as a reader for a moment, so it may be this last reader. The next call that may block,
/// or the drop of the pool, frees what was left. For each object this costs about as much as a `free`.
/// Until then the pages count in `total_pages`.
///
/// `total_pages` takes no lock.
///
/// # After `fork`
/// In a child of the process that made the pool, every call fails with [`ZpoolError::Forked`] or answers as
/// an empty pool would. In the child, dropping the pool or a guard frees nothing.
pub trait Zpool: Send + Sync + fmt::Debug {
    /// Returns the backend's name: "zbud", "zsmalloc", ...
    fn name(&self) -> &'static str;

    /// Returns the tag in this pool's handles.
    fn tag(&self) -> PoolTag;

    /// Returns what this backend can do.
    fn caps(&self) -> ZpoolCaps;

    /// Allocates space for an object of `size` bytes. The caller then writes the object and commits it. If
    /// the guard is dropped before the commit, the space is free again.
    ///
    /// # Errors
    /// * [`ZpoolError::EmptyObject`] if `size` is 0.
    /// * [`ZpoolError::ObjectTooLarge`] if `size` exceeds [`ZpoolCaps::max_object_size`].
    /// * [`ZpoolError::OutOfMemory`] if the page provider refuses a page or the budget is exhausted.
    /// * [`ZpoolError::OutOfMetadata`] if there is no memory for a descriptor.
    /// * [`ZpoolError::TooManyObjects`] if all handles are used up.
    ///
    /// ```
    /// use zpool_api::{Handle, Zpool, ZpoolError};
    ///
    /// /// A header and a body as one object, without joining them first.
    /// fn keep(pool: &dyn Zpool, header: [u8; 4], body: &[u8]) -> Result<Handle, ZpoolError> {
    ///     let mut object = pool.malloc(header.len() + body.len())?;
    ///     object.write(&header)?;
    ///     object.write(body)?;
    ///     object.commit() // dropped uncommitted, it would free the space
    /// }
    /// ```
    fn malloc(&self, size: usize) -> Result<ObjWrite<'_>, ZpoolError>;

    /// Stores a copy of `bytes` as an object and returns its handle.
    ///
    /// # Errors
    /// Those of [`Zpool::malloc`].
    fn malloc_from(&self, bytes: &[u8]) -> Result<Handle, ZpoolError> {
        let mut object = self.malloc(bytes.len())?;
        object.write(bytes)?;
        object.commit()
    }

    /// Frees an object.
    ///
    /// # Errors
    /// [`ZpoolError::InvalidHandle`] if `handle` names no live object of this pool.
    ///
    /// # Panics
    /// Panics if the page provider panics. The object is freed nevertheless.
    fn free(&self, handle: Handle) -> Result<(), ZpoolError>;

    /// Announces that the object will soon be freed. The backend may then load the memory that `free` reads
    /// first into the cache. This pays off if the caller does a microsecond or more of other work before it
    /// calls `free`. Accepts any handle. Takes no lock and never blocks. The default does nothing.
    fn prefetch(&self, handle: Handle) {
        let _ = handle;
    }

    /// Pins an object and returns a guard through which it is read. The read ends when the guard is
    /// dropped.
    ///
    /// The guard borrows the pool. [`obj_read_owned`](crate::obj_read_owned) makes a guard that keeps the
    /// pool alive instead.
    ///
    /// # Errors
    /// [`ZpoolError::InvalidHandle`] if `handle` names no live object of this pool,
    /// [`ZpoolError::TooManyReaders`] if the object already has the greatest number of guards that its
    /// counter can hold.
    ///
    /// ```
    /// use zpool_api::{Handle, Zpool, ZpoolError};
    ///
    /// fn first_byte(pool: &dyn Zpool, handle: Handle) -> Result<u8, ZpoolError> {
    ///     let object = pool.obj_read_begin(handle)?;
    ///     Ok(object[0]) // an object has at least one byte; the read ends here
    /// }
    /// ```
    fn obj_read_begin(&self, handle: Handle) -> Result<ObjRead<'_>, ZpoolError>;

    /// Returns the number of resident pages in use. These are pages with live objects, pages with free
    /// space between objects, and pages that readers left to the pool. Takes no lock.
    fn total_pages(&self) -> usize;

    /// Returns the bytes of memory that an object of `len` bytes occupies after the backend has rounded its
    /// length up, for instance to a size class or to a share of a page. A caller can compare the results
    /// for two lengths to see whether the shorter object would save memory. Takes no lock. The default
    /// returns `len`.
    fn footprint(&self, len: usize) -> usize {
        len
    }

    /// Moves objects together. Gives the emptied pages back to the provider and returns their number.
    /// Handles stay valid. Works in short steps, and other calls can proceed between two steps.
    ///
    /// # Errors
    /// [`ZpoolError::Unsupported`] if [`ZpoolCaps::compaction`] is false.
    fn compact(&self) -> Result<usize, ZpoolError> {
        Err(ZpoolError::Unsupported { backend: self.name(), operation: "compact" })
    }

    /// Compacts like [`Zpool::compact`], but stops once it has freed `pages` pages or moved a limited
    /// number of objects. The next call continues where this one stopped. Meant for a caller that needs
    /// room at once. The default runs a whole [`Zpool::compact`].
    ///
    /// # Errors
    /// [`ZpoolError::Unsupported`] if [`ZpoolCaps::compaction`] is false.
    fn compact_some(&self, pages: usize) -> Result<Compaction, ZpoolError> {
        let _ = pages;
        self.compact().map(Compaction::complete)
    }

    /// Empties a sparsely used block of the provider's address space, so that the whole block can return to
    /// the system. To do so, moves the block's zspages to other blocks.
    /// [`PageProvider::isolate_block`](crate::PageProvider::isolate_block) chooses the block. If it finds
    /// no block worth emptying, all figures of the result are 0. Handles stay valid, and objects that are
    /// being read do not move. Works in short steps, and other calls can proceed between two steps.
    ///
    /// # Errors
    /// [`ZpoolError::Unsupported`] if [`ZpoolCaps::migration`] is false, [`ZpoolError::OutOfMemory`] if the
    /// provider has no page to move to. In both cases every object remains readable.
    fn migrate(&self) -> Result<Migration, ZpoolError> {
        Err(ZpoolError::Unsupported { backend: self.name(), operation: "migrate" })
    }

    /// Offers objects to `evict`, beginning with the oldest page. Stops once it has freed `target_pages`
    /// pages or has visited every page once. Returns the number of pages freed.
    ///
    /// Meant for programs that use a backend without a store. The number of callbacks never exceeds the
    /// number of objects that the pool held at the start, even if the callbacks store objects. So the call
    /// always ends. If the callback refuses objects, or if readers keep pages, the call just frees fewer
    /// pages. If an object is evicted while it is being read, it is freed, but its page stays until the
    /// read ends and does not count as freed.
    ///
    /// # Blocking
    /// Blocks as long as the callbacks do.
    ///
    /// # Errors
    /// [`ZpoolError::Unsupported`] if [`ZpoolCaps::reclaim`] is false.
    ///
    /// # Panics
    /// Panics if the callback panics. The pool remains usable.
    ///
    /// ```
    /// use zpool_api::{Evicted, Handle, ObjRead, Zpool, ZpoolError};
    ///
    /// /// Frees pages, oldest first, but keeps objects that begin with a 1.
    /// fn shrink(pool: &dyn Zpool, pages: usize) -> Result<usize, ZpoolError> {
    ///     pool.reclaim(pages, &|_: Handle, object: ObjRead<'_>| match object[0] {
    ///         1 => Evicted::Keep,
    ///         _ => Evicted::Evicted,
    ///     })
    /// }
    /// ```
    fn reclaim(&self, target_pages: usize, evict: &dyn Evict) -> Result<usize, ZpoolError> {
        let _ = (target_pages, evict);
        Err(ZpoolError::Unsupported { backend: self.name(), operation: "reclaim" })
    }

    /// Gives the pages that the provider keeps warm back to the system, and returns their number. First
    /// frees the objects that were freed under a reader; pages that go back by that are not counted. The
    /// default does nothing and returns 0.
    fn trim(&self) -> usize {
        0
    }

    /// Returns a snapshot of the pool's figures. Takes the backend's short locks.
    fn stats(&self) -> ZpoolStats;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const _: fn() = || {
        fn both<T: Send + Sync + ?Sized>() {}
        both::<dyn Zpool>();
        both::<Arc<dyn Zpool>>();
        both::<ZpoolCaps>();
        both::<ZpoolError>();
        both::<ZpoolStats>();
    };

    #[test]
    fn alignment_is_a_power_of_two_or_one() {
        assert_eq!(ZpoolCaps::new(9).with_alignment(64).alignment, 64);
        assert_eq!(ZpoolCaps::new(9).with_alignment(48).alignment, 1);
        assert_eq!(ZpoolCaps::new(9).with_alignment(0).alignment, 1);
    }
}
