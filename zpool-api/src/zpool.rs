//! The backend trait and what every backend promises.

use core::fmt;

use crate::{Evict, Handle, ObjRead, ObjWrite, PoolTag, ZpoolError, ZpoolStats};

/// What a backend can do; constant for a pool's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ZpoolCaps {
    /// Largest object in bytes.
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
    /// A backend without reclaim, compaction or migration that promises no alignment.
    pub const fn new(max_object_size: usize) -> Self {
        ZpoolCaps {
            max_object_size,
            reclaim: false,
            compaction: false,
            migration: false,
            alignment: 1,
        }
    }

    /// With [`Zpool::reclaim`].
    pub const fn with_reclaim(mut self) -> Self {
        self.reclaim = true;
        self
    }

    /// With [`Zpool::compact`].
    pub const fn with_compaction(mut self) -> Self {
        self.compaction = true;
        self
    }

    /// With [`Zpool::migrate`].
    pub const fn with_migration(mut self) -> Self {
        self.migration = true;
        self
    }

    /// With objects aligned to `bytes`, a power of two (another number counts as 1).
    pub const fn with_alignment(mut self, bytes: usize) -> Self {
        self.alignment = if bytes.is_power_of_two() { bytes } else { 1 };
        self
    }
}

/// What a [`Zpool::migrate`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Migration {
    /// Zspages that are on other pages now.
    pub zspages: usize,
    /// Zspages that stayed: a guard or a writer uses them, or another thread is at work there.
    pub left: usize,
    /// Bytes of the blocks of address space that ran empty, whose memory went back whole.
    pub block_bytes: usize,
}

/// What a [`Zpool::compact_some`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Compaction {
    /// Pages won.
    pub pages: usize,
    /// Whether the pool was gone over to its end: there is nothing left to win at the moment.
    pub complete: bool,
}

impl Compaction {
    /// A run to the pool's end that won `pages`.
    pub const fn complete(pages: usize) -> Self {
        Compaction { pages, complete: true }
    }

    /// A run that won `pages` and stopped before the pool's end.
    pub const fn partial(pages: usize) -> Self {
        Compaction { pages, complete: false }
    }
}

/// A backend: packs objects of 1 to [`ZpoolCaps::max_object_size`] bytes into pages.
///
/// Used as `Arc<dyn Zpool>`, from any thread, by any number of threads at once. Implementing it
/// needs no `unsafe`: see [`ObjRead::from_owner`] and [`ObjWrite::buffered`].
///
/// # What every implementation promises
/// (the crate `zpool-conformance` checks it)
/// * Any [`Handle`], made up or stale, is safe to pass; one that names no live object gives
///   [`ZpoolError::InvalidHandle`]. A freed handle never names an object again.
/// * An object is written once, before its handle exists, and never changes afterwards.
/// * While a guard lives its bytes neither move nor change, whatever else is called. No call waits
///   for a guard to be dropped.
/// * `free` of an object with readers succeeds at once; its space is reused after the readers that
///   were there have gone.
/// * A call that fails changes nothing.
/// * No lock is held while an [`Evict`] callback runs.
///
/// # Blocking
/// `malloc`, `free`, `compact`, `migrate`, `reclaim` and `trim` may take the backend's short locks and
/// call the page provider (system calls), never under a lock: they are not to be called under one.
///
/// `obj_read_begin` and dropping an [`ObjRead`] may be called under short locks of the consumer's own.
/// They wait for nobody but a mover of the very object, for a few kilobytes; they take no lock that other
/// objects' users share, and call neither the page provider nor user code. So a reader that is the last
/// one of a freed object, also a passing one, which finds that its handle has become stale, only leaves
/// the object to the pool. The next `malloc`, `free`, `reclaim` or `trim`, or the drop of the pool, gives
/// back what readers left; until then its pages count in `total_pages`. That costs as much as a free for
/// each object that was left. `total_pages` takes no lock.
///
/// # After `fork`
/// In a child of the process that made the pool every call is [`ZpoolError::Forked`], or answers as an
/// empty pool would, and the pool and its guards leak when they are dropped.
pub trait Zpool: Send + Sync + fmt::Debug {
    /// The backend's name: "zbud", "zsmalloc", ...
    fn name(&self) -> &'static str;

    /// The tag in this pool's handles.
    fn tag(&self) -> PoolTag;

    /// What this backend can do.
    fn caps(&self) -> ZpoolCaps;

    /// Space for an object of `size` bytes, to be written and committed.
    ///
    /// Errors: [`ZpoolError::EmptyObject`], [`ZpoolError::ObjectTooLarge`],
    /// [`ZpoolError::OutOfMemory`], [`ZpoolError::OutOfMetadata`], [`ZpoolError::TooManyObjects`].
    fn malloc(&self, size: usize) -> Result<ObjWrite<'_>, ZpoolError>;

    /// Stores a copy of `bytes`. Errors as [`Zpool::malloc`].
    fn malloc_from(&self, bytes: &[u8]) -> Result<Handle, ZpoolError> {
        let mut object = self.malloc(bytes.len())?;
        object.write(bytes)?;
        object.commit()
    }

    /// Frees an object. [`ZpoolError::InvalidHandle`] if there is none (any more).
    ///
    /// # Panics
    /// With the page provider's panic; the object is freed all the same.
    fn free(&self, handle: Handle) -> Result<(), ZpoolError>;

    /// A hint that the object will be freed soon, after something that takes a microsecond or more:
    /// what a free looks at first may be fetched from memory meanwhile. Any handle will do. Takes no
    /// lock and never blocks. Default: nothing.
    fn prefetch(&self, handle: Handle) {
        let _ = handle;
    }

    /// Pins an object for reading; the read ends when the guard is dropped.
    ///
    /// Errors: [`ZpoolError::InvalidHandle`], [`ZpoolError::TooManyReaders`]. For a guard that owns
    /// a share of the pool: [`obj_read_owned`](crate::obj_read_owned).
    fn obj_read_begin(&self, handle: Handle) -> Result<ObjRead<'_>, ZpoolError>;

    /// Resident pages that hold objects, or room between them, or what readers left. Takes no lock.
    fn total_pages(&self) -> usize;

    /// Bytes of memory that an object of `len` bytes takes, rounded as this backend rounds it: its size
    /// class, or its share of a page. For a caller that asks whether a smaller object saves memory.
    /// Takes no lock. Default: `len`.
    fn footprint(&self, len: usize) -> usize {
        len
    }

    /// Moves objects together and gives back the pages won; returns how many. Handles stay valid.
    ///
    /// Works in bounded steps that let other calls in between. [`ZpoolError::Unsupported`] unless
    /// [`ZpoolCaps::compaction`].
    fn compact(&self) -> Result<usize, ZpoolError> {
        Err(ZpoolError::Unsupported { backend: self.name(), operation: "compact" })
    }

    /// As [`Zpool::compact`], but ends when `pages` pages were won or a bounded number of objects was
    /// moved, whichever comes first, and goes on there when called again. For a caller that needs room
    /// now. [`ZpoolError::Unsupported`] unless [`ZpoolCaps::compaction`].
    ///
    /// Default: all of [`Zpool::compact`].
    fn compact_some(&self, pages: usize) -> Result<Compaction, ZpoolError> {
        let _ = pages;
        self.compact().map(Compaction::complete)
    }

    /// Moves what a sparsely used block of the provider's address space holds to pages elsewhere, so
    /// that the system gets the block back whole. One block a call, chosen by
    /// [`PageProvider::isolate_block`](crate::PageProvider::isolate_block); all zero when none is
    /// worth it. Handles stay valid, and objects that are read stay where they are.
    ///
    /// Works in bounded steps that let other calls in between. [`ZpoolError::Unsupported`] unless
    /// [`ZpoolCaps::migration`]; errors of the provider, after which all objects are as they were.
    fn migrate(&self) -> Result<Migration, ZpoolError> {
        Err(ZpoolError::Unsupported { backend: self.name(), operation: "migrate" })
    }

    /// Offers the oldest objects to `evict` until `target_pages` pages were freed or every page
    /// was visited once; returns how many pages were freed.
    ///
    /// For users of a backend alone. Blocks as long as the callbacks do. Ends with a count when the
    /// pool is empty, when the callback refuses, and when readers keep pages: after as many callbacks as
    /// there were objects at its begin at most, whatever callbacks store and whatever is read. An object
    /// that is given up while it is read is freed, but keeps its page, which then does not count.
    /// [`ZpoolError::Unsupported`] unless [`ZpoolCaps::reclaim`].
    ///
    /// # Panics
    /// With the callback's panic, the pool left valid.
    fn reclaim(&self, target_pages: usize, evict: &dyn Evict) -> Result<usize, ZpoolError> {
        let _ = (target_pages, evict);
        Err(ZpoolError::Unsupported { backend: self.name(), operation: "reclaim" })
    }

    /// Gives the provider's warm pages back to the system; returns how many.
    fn trim(&self) -> usize {
        0
    }

    /// A snapshot of the pool's figures. Takes the list lock for a moment.
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
