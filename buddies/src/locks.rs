//! Which locks guard a pool: a page lock for each page beside the pool lock, or the pool lock alone.
//!
//! The *pool lock* guards the lists (`states.rs`). A page's objects and its reference count (`page.rs`) are
//! guarded by
//! * the page's own lock with [`PageLocks`]. It is taken first; the pool lock is the innermost, taken under
//!   it or alone, for the lists only. Threads that use different pages meet in the lists for a moment;
//! * the pool lock, too, with [`OneLock`]: one lock an allocation and one a free, where page locks take
//!   three and two. For layouts whose pages are changed in a few dozen instructions.
//!
//! Under either: no page provider call, no system call and no user code; at most one object, of less than
//! a page, is moved. A thread holds one page at a time.

use core::fmt;

use zpool_base::lockdep::{self, Rank};

use crate::states::{Lists, PageState, Who};
use crate::sync::{Mutex, MutexGuard};

/// A lock's guard together with its lockdep entry.
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

impl<T> core::ops::Deref for Locked<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guarded
    }
}

impl<T> core::ops::DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guarded
    }
}

impl<T> fmt::Debug for Locked<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locked").finish_non_exhaustive()
    }
}

/// The pool lock of a policy `K`, over pages of type `P`.
#[derive(Debug)]
pub struct PoolLock<K: Locking, P: Send>(Mutex<Lists<K::InRecord<P>>>);

impl<K: Locking, P: Send> PoolLock<K, P> {
    /// Around the lists of a pool without pages.
    pub(crate) fn new() -> Self {
        PoolLock(Mutex::new(Lists::new()))
    }

    /// Takes the pool lock, for the lists.
    pub(crate) fn lock(&self) -> Locked<'_, Lists<K::InRecord<P>>> {
        Locked::lock(&self.0, K::POOL_RANK)
    }
}

/// A policy: where a page is kept, and what guards it. Not to be implemented elsewhere.
pub trait Locking: Sized + 'static {
    /// The pool lock's rank.
    const POOL_RANK: Rank;

    /// What a page's descriptor has of the page.
    type InDesc<P: Send>: Send + Sync;

    /// What a page's record in the lists has of the page.
    type InRecord<P: Send>: Send;

    /// What is still locked once a page was found in the lists.
    type Found<'a, P: Send + 'a>;

    /// A locked page.
    type Held<'a, P: Send + 'a>: HeldPage<P>;

    /// The descriptor's part of a page.
    fn in_desc<P: Send>(page: P) -> Self::InDesc<P>;

    /// The record's part of a page.
    fn in_record<P: Send>(page: P) -> Self::InRecord<P>;

    /// Takes the page with the tightest room, for an allocation.
    fn take<P: Send>(pool: &PoolLock<Self, P>, chunks: usize) -> Option<(u32, Self::Found<'_, P>)>;

    /// Goes on with a page that was found in the lists.
    fn found<'a, P: Send>(
        pool: &'a PoolLock<Self, P>,
        lists: Locked<'a, Lists<Self::InRecord<P>>>,
    ) -> Self::Found<'a, P>;

    /// Locks a page that was found in the lists.
    fn lock_found<'a, P: Send>(
        found: Self::Found<'a, P>,
        page: u32,
        in_desc: &'a Self::InDesc<P>,
    ) -> Self::Held<'a, P>;

    /// Locks a page.
    fn lock<'a, P: Send>(
        pool: &'a PoolLock<Self, P>,
        page: u32,
        in_desc: &'a Self::InDesc<P>,
    ) -> Self::Held<'a, P>;
}

/// A page that is locked.
pub trait HeldPage<P> {
    /// What the lock guards.
    fn page(&mut self) -> &mut P;

    /// [`Lists::attach`] of this page.
    fn attach(&mut self, to: PageState);

    /// Puts a page that [`Locking::take`] took where it belongs.
    fn put_taken(&mut self, to: PageState);

    /// [`Lists::settle`] of this page.
    fn settle(&mut self, who: Who, to: PageState) -> bool;
}

/// The pool lock guards lists and pages.
#[derive(Debug)]
pub enum OneLock {}

/// The pool lock, held for one page.
#[derive(Debug)]
pub struct HeldByPool<'a, P> {
    lists: Locked<'a, Lists<P>>,
    page: u32,
}

impl Locking for OneLock {
    const POOL_RANK: Rank = Rank::Pool;
    type InDesc<P: Send> = ();
    type InRecord<P: Send> = P;
    type Found<'a, P: Send + 'a> = Locked<'a, Lists<P>>;
    type Held<'a, P: Send + 'a> = HeldByPool<'a, P>;

    fn in_desc<P: Send>(_page: P) {}

    fn in_record<P: Send>(page: P) -> P {
        page
    }

    /// The page stays where it is: the lock is held until it is put elsewhere.
    #[inline]
    fn take<P: Send>(pool: &PoolLock<Self, P>, chunks: usize) -> Option<(u32, Self::Found<'_, P>)> {
        let lists = pool.lock();
        Some((lists.tightest(chunks)?, lists))
    }

    #[inline]
    fn found<'a, P: Send>(
        _pool: &'a PoolLock<Self, P>,
        lists: Locked<'a, Lists<P>>,
    ) -> Self::Found<'a, P> {
        lists
    }

    #[inline]
    fn lock_found<'a, P: Send>(
        found: Self::Found<'a, P>,
        page: u32,
        _in_desc: &'a (),
    ) -> Self::Held<'a, P> {
        HeldByPool { lists: found, page }
    }

    #[inline]
    fn lock<'a, P: Send>(
        pool: &'a PoolLock<Self, P>,
        page: u32,
        _in_desc: &'a (),
    ) -> Self::Held<'a, P> {
        HeldByPool { lists: pool.lock(), page }
    }
}

impl<P> HeldPage<P> for HeldByPool<'_, P> {
    #[inline]
    fn page(&mut self) -> &mut P {
        self.lists.page(self.page)
    }

    fn attach(&mut self, to: PageState) {
        self.lists.attach(self.page, to);
    }

    #[inline]
    fn put_taken(&mut self, to: PageState) {
        self.lists.move_to_front(self.page, to);
    }

    #[inline]
    fn settle(&mut self, who: Who, to: PageState) -> bool {
        self.lists.settle(self.page, who, to)
    }
}

/// Each page has a lock; the pool lock guards the lists.
#[derive(Debug)]
pub enum PageLocks {}

/// A page lock.
#[derive(Debug)]
pub struct HeldByPage<'a, P: Send> {
    guarded: Locked<'a, P>,
    pool: &'a PoolLock<PageLocks, P>,
    page: u32,
}

impl Locking for PageLocks {
    const POOL_RANK: Rank = Rank::Leaf;
    type InDesc<P: Send> = Mutex<P>;
    type InRecord<P: Send> = ();
    type Found<'a, P: Send + 'a> = &'a PoolLock<Self, P>;
    type Held<'a, P: Send + 'a> = HeldByPage<'a, P>;

    fn in_desc<P: Send>(page: P) -> Mutex<P> {
        Mutex::new(page)
    }

    fn in_record<P: Send>(_page: P) {}

    /// The page is off the lists until it is put there again.
    #[inline]
    fn take<P: Send>(pool: &PoolLock<Self, P>, chunks: usize) -> Option<(u32, Self::Found<'_, P>)> {
        // The pool lock is let go at the end of the statement: a page lock comes before it.
        let page = pool.lock().take_for_alloc(chunks)?;
        Some((page, pool))
    }

    #[inline]
    fn found<'a, P: Send>(
        pool: &'a PoolLock<Self, P>,
        lists: Locked<'a, Lists<()>>,
    ) -> Self::Found<'a, P> {
        drop(lists);
        pool
    }

    #[inline]
    fn lock_found<'a, P: Send>(
        found: Self::Found<'a, P>,
        page: u32,
        in_desc: &'a Mutex<P>,
    ) -> Self::Held<'a, P> {
        Self::lock(found, page, in_desc)
    }

    #[inline]
    fn lock<'a, P: Send>(
        pool: &'a PoolLock<Self, P>,
        page: u32,
        in_desc: &'a Mutex<P>,
    ) -> Self::Held<'a, P> {
        HeldByPage { guarded: Locked::lock(in_desc, Rank::Zspage), pool, page }
    }
}

impl<P: Send> HeldPage<P> for HeldByPage<'_, P> {
    #[inline]
    fn page(&mut self) -> &mut P {
        &mut self.guarded
    }

    fn attach(&mut self, to: PageState) {
        self.pool.lock().attach(self.page, to);
    }

    #[inline]
    fn put_taken(&mut self, to: PageState) {
        self.pool.lock().settle(self.page, Who::Holder, to);
    }

    #[inline]
    fn settle(&mut self, who: Who, to: PageState) -> bool {
        self.pool.lock().settle(self.page, who, to)
    }
}
