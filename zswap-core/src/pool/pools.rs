//! The pools of a store: the current one, which takes new pages, and those that still hold older ones.
//!
//! A pool has one of 15 places. It stays there while it has a reference ([`crate::pool::percpu_ref`]): of
//! being current, of each page in it, of each operation that uses it. Whoever puts the last one takes
//! it out and drops it, with its contexts and its backend.
//!
//! # Locks
//! *Pools lock*: places are filled and emptied, and the current one is changed, under it. Held for a
//! few dozen instructions; nothing is built, dropped or called under it, but for the list of living
//! pools. No ranked lock is held when it is taken, nor when a last reference is put.
//!
//! # Invariant of the pointers
//! `Place::pool` is the address of the `Arc` that the table has for the place, or null. It is stored
//! before the count is made alive and cleared after the count was found dead, both under the pools
//! lock. So whoever has a reference may use it.

use core::ops::Deref;
use core::ptr::null_mut;
use std::sync::Arc;

use zpool_base::lockdep::might_sleep;

use crate::entry::word::PoolId;
use crate::pool::Pool;
use crate::pool::percpu_ref::PercpuRef;
use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};
use zpage::cpu;

#[derive(Debug)]
struct Place {
    pool: AtomicPtr<Pool>,
    refs: PercpuRef,
}

/// What the pools lock guards.
#[derive(Debug)]
struct Table {
    pools: [Option<Arc<Pool>>; PoolId::LIMIT],
}

#[derive(Debug)]
pub(crate) struct Pools {
    places: [Place; PoolId::LIMIT],
    current: AtomicUsize,
    table: Mutex<Table>,
}

/// Why another pool did not become current.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotSwitched {
    /// All places are taken by pools that still hold pages.
    Full,
    /// Somebody else has switched meanwhile.
    Changed,
}

impl Pools {
    /// A first pool, which is current.
    pub(crate) fn new(first: Pool) -> Self {
        let place =
            |_| Place { pool: AtomicPtr::new(null_mut()), refs: PercpuRef::new(cpu::places()) };
        let pools = Pools {
            places: core::array::from_fn(place),
            current: AtomicUsize::new(0),
            table: Mutex::new(Table { pools: [const { None }; PoolId::LIMIT] }),
        };
        pools.settle(&mut pools.table.lock(), 0, Arc::new(first));
        pools
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        might_sleep("the pools lock");
        self.table.lock()
    }

    /// Puts a pool into a free place, alive, with the reference of being current.
    fn settle(&self, table: &mut Table, at: usize, pool: Arc<Pool>) {
        let place = &self.places[at];
        // Relaxed: `reinit` publishes it.
        place.pool.store(Arc::as_ptr(&pool).cast_mut(), Ordering::Relaxed);
        table.pools[at] = Some(pool);
        let reinited = place.refs.reinit();
        assert!(reinited, "a free place of a pool whose count is alive");
    }

    /// The current pool.
    #[inline]
    pub(crate) fn current(&self) -> PoolRef<'_> {
        loop {
            // Relaxed: `try_get` is what counts, and fails if the number is stale and the pool gone.
            let at = self.current.load(Ordering::Relaxed);
            if let Some(hold) = self.hold(at) {
                return hold;
            }
        }
    }

    /// The pool of a page. To be called while the page is there for certain: under its entry's lock,
    /// or by who took it out.
    #[inline]
    #[expect(clippy::expect_used, reason = "each page in an entry keeps a reference of its pool")]
    pub(crate) fn of_page(&self, id: PoolId) -> PoolRef<'_> {
        self.hold(id.index()).expect("a page in an entry without a reference of its pool")
    }

    /// The reference of a page that was taken out of its entry.
    ///
    /// # Safety
    /// The page is in no entry, its reference ([`PoolRef::into_page`]) was not taken back yet, and this is the
    /// only call for it: a second one would put a reference that somebody else relies on.
    #[inline]
    pub(crate) unsafe fn page_reference(&self, id: PoolId) -> PoolRef<'_> {
        PoolRef { pools: self, at: id.index() }
    }

    fn hold(&self, at: usize) -> Option<PoolRef<'_>> {
        // Made only if there is a reference: its drop puts one.
        if !self.places[at].refs.try_get(cpu::current()) {
            return None;
        }
        Some(PoolRef { pools: self, at })
    }

    /// All pools that are alive, the current one first. Allocates nothing.
    pub(crate) fn all(&self) -> impl Iterator<Item = Arc<Pool>> + use<> {
        let mut pools = [const { None }; PoolId::LIMIT];
        let table = self.lock();
        // Relaxed: changed under the lock only.
        let current = self.current.load(Ordering::Relaxed);
        let first = core::iter::once(current);
        let others = (0..PoolId::LIMIT).filter(|at| *at != current);
        for (pool, at) in pools.iter_mut().zip(first.chain(others)) {
            pool.clone_from(&table.pools[at]);
        }
        drop(table);
        pools.into_iter().flatten()
    }

    /// Makes the pool of a backend and a compressor current, if it is alive; whether it is.
    pub(crate) fn switch_to_living(&self, zpool: &str, compressor: &str) -> bool {
        let old;
        {
            let mut table = self.lock();
            // Relaxed, here and below: changed under the lock only.
            let current = self.current.load(Ordering::Relaxed);
            let like = |at: usize| {
                table.pools[at].as_ref().is_some_and(|pool| pool.is_like(zpool, compressor))
            };
            if like(current) {
                return true;
            }
            let living =
                (0..PoolId::LIMIT).find(|&at| like(at) && self.places[at].refs.resurrect());
            let Some(living) = living else { return false };
            if let Some(pool) = &table.pools[living] {
                // Relaxed: a note that decides which pages are migrated later.
                pool.recompressed.store(false, Ordering::Relaxed);
            }
            old = self.leave_current(&mut table, living);
        }
        drop(old);
        true
    }

    /// Makes `fresh` current, if the current pool is `still` what it was when `fresh` was put
    /// together.
    pub(crate) fn switch_to(
        &self,
        fresh: Pool,
        still: impl Fn(&Pool) -> bool,
    ) -> Result<(), NotSwitched> {
        let fresh = Arc::new(fresh);
        let old;
        {
            let mut table = self.lock();
            // Relaxed: changed under the lock only.
            let current = self.current.load(Ordering::Relaxed);
            if !table.pools[current].as_deref().is_some_and(still) {
                return Err(NotSwitched::Changed);
            }
            let free = table.pools.iter().position(Option::is_none).ok_or(NotSwitched::Full)?;
            self.settle(&mut table, free, fresh);
            old = self.leave_current(&mut table, free);
        }
        drop(old);
        Ok(())
    }

    /// The first pool of a kind that is alive. Allocates nothing.
    pub(crate) fn living(&self, kind: impl Fn(&Pool) -> bool) -> Option<PoolRef<'_>> {
        let table = self.lock();
        let of_kind = |at: &usize| table.pools[*at].as_deref().is_some_and(&kind);
        (0..PoolId::LIMIT).filter(of_kind).find_map(|at| self.hold(at))
    }

    /// Gives a pool that does not become current a place; `None` if all are taken.
    pub(crate) fn add(&self, fresh: Pool) -> Option<PoolRef<'_>> {
        let fresh = Arc::new(fresh);
        let mut table = self.lock();
        let at = table.pools.iter().position(Option::is_none)?;
        self.settle(&mut table, at, fresh);
        // The reference of being current is the caller's.
        self.places[at].refs.kill();
        Some(PoolRef { pools: self, at })
    }

    /// Another pool, alive, is current from here on. The old one's reference of being so is the
    /// caller's to drop, when nothing is locked.
    fn leave_current(&self, _table: &mut Table, to: usize) -> PoolRef<'_> {
        // Relaxed: `Pools::current` checks the number by taking a reference.
        let current = self.current.swap(to, Ordering::Relaxed);
        self.places[current].refs.kill();
        PoolRef { pools: self, at: current }
    }

    /// A dead pool leaves its place.
    #[cold]
    fn take_down(&self, at: usize) {
        let pool = {
            let mut table = self.lock();
            // Relaxed: nobody has a reference, and the lock orders this before the place's next pool.
            self.places[at].pool.store(null_mut(), Ordering::Relaxed);
            table.pools[at].take()
        };
        drop(pool);
    }
}

/// A reference to a pool. Dropping the last one of a pool takes it down, which may block and calls the
/// codec's and the backend's drop: never under a lock, where other references are known of.
#[derive(Debug)]
#[must_use = "the pool is there while this lives"]
pub(crate) struct PoolRef<'a> {
    pools: &'a Pools,
    at: usize,
}

impl PoolRef<'_> {
    /// The pool's number in entry words.
    pub(crate) fn id(&self) -> PoolId {
        PoolId::from_index(self.at)
    }

    /// Another reference to the same pool.
    pub(crate) fn again(&self) -> Self {
        let taken = self.pools.places[self.at].refs.try_get(cpu::current());
        assert!(taken, "a pool's count is dead while the pool is held");
        PoolRef { pools: self.pools, at: self.at }
    }

    /// Leaves the reference to a page that was stored in the pool; its id.
    pub(crate) fn into_page(self) -> PoolId {
        let id = self.id();
        core::mem::forget(self);
        id
    }
}

impl Deref for PoolRef<'_> {
    type Target = Pool;
    #[inline]
    fn deref(&self) -> &Pool {
        // Relaxed: stored before the count was made alive, which taking the reference acquired.
        let pool = self.pools.places[self.at].pool.load(Ordering::Relaxed);
        // SAFETY: while a reference is counted the table keeps the `Arc` that the pointer is of (the
        // module's invariant), and a hold is a counted reference.
        unsafe { &*pool }
    }
}

impl Drop for PoolRef<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.pools.places[self.at].refs.put(cpu::current()) {
            self.pools.take_down(self.at);
        }
    }
}
