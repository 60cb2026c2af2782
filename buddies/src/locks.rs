//! The locks of a pool: the pool lock and a lock for each page, or only the pool lock.
//!
//! The *pool lock* guards the lists (`states.rs`). Which lock guards a page's objects and its reference count
//! (`page.rs`) depends on the policy:
//! * With [`PageLocks`], the page's own lock. The pool lock is the innermost lock: it is taken under a page
//!   lock or alone, and only for the lists. Threads that use different pages contend only for the lists, and
//!   only briefly.
//! * With [`OneLock`], the pool lock, too. An allocation takes one lock, and so does a free. With page locks
//!   an allocation takes three locks and a free two. Meant for layouts that change a page in a few dozen
//!   instructions.
//!
//! With both policies, no page provider call, no system call and no user code runs under a lock. At most one
//! object, smaller than a page, is moved under a lock. A thread locks only one page at a time.

use core::fmt;
use core::ops::{Deref, DerefMut};

use zpool_base::lockdep::{self, Rank};

use crate::states::Lists;
use crate::sync::{Mutex, MutexGuard};

/// A lock's guard, and the record that lockdep keeps of it.
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

/// The lists. They have, for each page of type `P`, the part that policy `K` keeps in its record.
pub(crate) type ListsOf<K, P> = Lists<<K as Locking>::InRecord<P>>;

/// The pool lock of policy `K`, over pages of type `P`.
#[derive(Debug)]
pub struct PoolLock<K: Locking, P: Send>(Mutex<Lists<K::InRecord<P>>>);

impl<K: Locking, P: Send> PoolLock<K, P> {
    /// Makes the lock, with the lists of a pool without pages.
    pub(crate) fn new() -> Self {
        PoolLock(Mutex::new(Lists::new()))
    }

    /// Takes the pool lock.
    pub(crate) fn lock(&self) -> Locked<'_, ListsOf<K, P>> {
        Locked::lock(&self.0, if K::ONE { Rank::Pool } else { Rank::Leaf })
    }
}

/// A policy: where a page is kept, and which lock guards it. Not meant to be implemented outside this crate.
pub trait Locking: Sized + 'static {
    /// Whether the pool lock guards the pages, too.
    const ONE: bool;

    /// The part of a page that is kept in its descriptor.
    type InDesc<P: Send>: Send + Sync;

    /// The part of a page that is kept in its record in the lists.
    type InRecord<P: Send>: Send;

    /// A locked page.
    type Held<'a, P: Send + 'a>: HeldPage<Self, P>;

    /// Makes a page's two parts: the one for its descriptor, and the one for its record.
    fn parts<P: Send>(page: fn() -> P) -> (Self::InDesc<P>, Self::InRecord<P>);

    /// Locks a page.
    fn lock<'a, P: Send>(
        pool: &'a PoolLock<Self, P>,
        page: u32,
        in_desc: &'a Self::InDesc<P>,
    ) -> Self::Held<'a, P>;

    /// Locks a page that was found in the lists, which are still locked. [`PageLocks`] unlocks the lists
    /// first.
    fn lock_found<'a, P: Send>(
        lists: Locked<'a, ListsOf<Self, P>>,
        pool: &'a PoolLock<Self, P>,
        page: u32,
        in_desc: &'a Self::InDesc<P>,
    ) -> Self::Held<'a, P>;
}

/// A locked page.
pub trait HeldPage<K: Locking, P: Send> {
    /// The page that the lock guards.
    fn page(&mut self) -> &mut P;

    /// Calls `change` with the lists, under the pool lock.
    fn lists<T>(&mut self, change: impl FnOnce(&mut ListsOf<K, P>) -> T) -> T;
}

/// The policy in which the pool lock guards both lists and pages.
#[derive(Debug)]
pub enum OneLock {}

/// The pool lock, held to use one page.
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

/// The policy in which each page has its own lock, and the pool lock guards only the lists.
#[derive(Debug)]
pub enum PageLocks {}

/// A page lock, held.
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
        // Unlocks the lists first: the lock order requires the page lock before the pool lock.
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
