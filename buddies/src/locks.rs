//! The locks of a pool. There is the pool lock and a lock for each page, or only the pool lock.
//!
//! The *pool lock* guards the lists (`states.rs`). The policy decides which lock guards a page's objects
//! and its reference count (`page.rs`):
//! * With [`PageLocks`], it is the page's own lock. The pool lock is the innermost lock. It is taken under
//!   a page lock or alone, and only to use the lists. Threads that use different pages contend only for the
//!   lists, and only for a short time.
//! * With [`OneLock`], it is the pool lock. An allocation takes one lock, and so does a free. With page
//!   locks, an allocation takes three locks, and a free takes two. [`OneLock`] is meant for layouts that
//!   change a page in a few dozen instructions.
//!
//! With both policies, no page provider call, no system call and no user code runs under a lock. While a
//! lock is held, at most one object is moved, and it is smaller than a page. A thread locks only one page
//! at a time.

use core::fmt;
use core::ops::{Deref, DerefMut};

use zpool_base::lockdep::{self, Rank};

use crate::states::Lists;
use crate::sync::{Mutex, MutexGuard};

/// The guard of a lock, with lockdep's record of the lock.
pub struct Locked<'a, T> {
    guarded: MutexGuard<'a, T>,
    _held: lockdep::Held,
}

impl<'a, T> Locked<'a, T> {
    fn lock(mutex: &'a Mutex<T>, rank: Rank) -> Self {
        let held = lockdep::acquire(rank);
        Locked { guarded: mutex.lock(), _held: held }
    }
}

impl<T> Deref for Locked<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guarded
    }
}

impl<T> DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guarded
    }
}

impl<T> fmt::Debug for Locked<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locked").finish_non_exhaustive()
    }
}

/// The lists of a pool. For each page of type `P`, they hold the part that policy `K` keeps in the page's
/// record.
pub(crate) type ListsOf<K, P> = Lists<<K as Locking>::InRecord<P>>;

/// The pool lock under policy `K`, for pages of type `P`.
#[derive(Debug)]
pub struct PoolLock<K: Locking, P: Send>(Mutex<Lists<K::InRecord<P>>>);

impl<K: Locking, P: Send> PoolLock<K, P> {
    /// Makes the lock, with the lists of a pool that has no pages.
    pub(crate) fn new() -> Self {
        PoolLock(Mutex::new(Lists::new()))
    }

    /// Takes the pool lock and returns the locked lists.
    pub(crate) fn lock(&self) -> Locked<'_, ListsOf<K, P>> {
        Locked::lock(&self.0, if K::ONE { Rank::Pool } else { Rank::Leaf })
    }
}

/// A policy: it decides where a page's state is kept, and which lock guards it. Not meant to be implemented
/// outside this crate.
pub trait Locking: Sized + 'static {
    /// Whether the pool lock guards the pages, too.
    const ONE: bool;

    /// The part of a page's state that is kept in its descriptor.
    type InDesc<P: Send>: Send + Sync;

    /// The part of a page's state that is kept in its record in the lists.
    type InRecord<P: Send>: Send;

    /// A page while it is locked.
    type Held<'a, P: Send + 'a>: HeldPage<Self, P>;

    /// Makes the two parts of a page's state: first the part for its descriptor, then the part for its
    /// record.
    fn parts<P: Send>(page: fn() -> P) -> (Self::InDesc<P>, Self::InRecord<P>);

    /// Locks a page.
    fn lock<'a, P: Send>(
        pool: &'a PoolLock<Self, P>,
        page: u32,
        in_desc: &'a Self::InDesc<P>,
    ) -> Self::Held<'a, P>;

    /// Locks a page that was found in the lists. `lists` is the guard of these lists. [`PageLocks`] unlocks
    /// the lists first.
    fn lock_found<'a, P: Send>(
        lists: Locked<'a, ListsOf<Self, P>>,
        pool: &'a PoolLock<Self, P>,
        page: u32,
        in_desc: &'a Self::InDesc<P>,
    ) -> Self::Held<'a, P>;
}

/// A page while it is locked.
pub trait HeldPage<K: Locking, P: Send> {
    /// Returns the page that the lock guards.
    fn page(&mut self) -> &mut P;

    /// Calls `change` with the lists, under the pool lock. Returns its result.
    fn lists<T>(&mut self, change: impl FnOnce(&mut ListsOf<K, P>) -> T) -> T;
}

/// The policy under which the pool lock guards both the lists and the pages.
#[derive(Debug)]
pub enum OneLock {}

/// A page that is locked by the pool lock.
#[derive(Debug)]
pub struct HeldByPool<'a, P> {
    lists: Locked<'a, Lists<P>>,
    page: u32,
}

impl Locking for OneLock {
    const ONE: bool = true;
    type InDesc<P: Send> = ();
    type InRecord<P: Send> = P;
    type Held<'a, P: Send + 'a> = HeldByPool<'a, P>;

    fn parts<P: Send>(page: fn() -> P) -> ((), P) {
        ((), page())
    }

    #[inline]
    fn lock<'a, P: Send>(pool: &'a PoolLock<Self, P>, page: u32, _: &()) -> HeldByPool<'a, P> {
        HeldByPool { lists: pool.lock(), page }
    }

    #[inline]
    fn lock_found<'a, P: Send>(
        lists: Locked<'a, Lists<P>>,
        _pool: &PoolLock<Self, P>,
        page: u32,
        _: &(),
    ) -> HeldByPool<'a, P> {
        HeldByPool { lists, page }
    }
}

impl<P: Send> HeldPage<OneLock, P> for HeldByPool<'_, P> {
    #[inline]
    fn page(&mut self) -> &mut P {
        self.lists.page(self.page)
    }

    #[inline]
    fn lists<T>(&mut self, change: impl FnOnce(&mut Lists<P>) -> T) -> T {
        change(&mut self.lists)
    }
}

/// The policy under which each page has a lock of its own, and the pool lock guards only the lists.
#[derive(Debug)]
pub enum PageLocks {}

/// A page that is locked by its own lock.
#[derive(Debug)]
pub struct HeldByPage<'a, P: Send> {
    page: Locked<'a, P>,
    pool: &'a PoolLock<PageLocks, P>,
}

impl Locking for PageLocks {
    const ONE: bool = false;
    type InDesc<P: Send> = Mutex<P>;
    type InRecord<P: Send> = ();
    type Held<'a, P: Send + 'a> = HeldByPage<'a, P>;

    fn parts<P: Send>(page: fn() -> P) -> (Mutex<P>, ()) {
        (Mutex::new(page()), ())
    }

    #[inline]
    fn lock<'a, P: Send>(
        pool: &'a PoolLock<Self, P>,
        _page: u32,
        in_desc: &'a Mutex<P>,
    ) -> HeldByPage<'a, P> {
        HeldByPage { page: Locked::lock(in_desc, Rank::Zspage), pool }
    }

    #[inline]
    fn lock_found<'a, P: Send>(
        lists: Locked<'a, Lists<()>>,
        pool: &'a PoolLock<Self, P>,
        page: u32,
        in_desc: &'a Mutex<P>,
    ) -> HeldByPage<'a, P> {
        // The lists are unlocked first, because the lock order requires the page lock before the pool lock.
        drop(lists);
        Self::lock(pool, page, in_desc)
    }
}

impl<P: Send> HeldPage<PageLocks, P> for HeldByPage<'_, P> {
    #[inline]
    fn page(&mut self) -> &mut P {
        &mut self.page
    }

    #[inline]
    fn lists<T>(&mut self, change: impl FnOnce(&mut Lists<()>) -> T) -> T {
        change(&mut self.pool.lock())
    }
}
