//! The pools of a store: the current one, which takes new pages, and others that still hold pages.
//!
//! Each pool has one of 15 places, and stays there while it has references ([`crate::pool::percpu_ref`]). The
//! thread that drops the last reference removes the pool from its place and drops it, with its contexts and
//! its backend.
//!
//! # Locks
//! *Pools lock*: held for a few dozen instructions, to fill or empty a place, to change the current pool, or
//! to list the living pools. Under it nothing is built or dropped, and no backend or codec is called. A
//! thread that takes it holds no ranked lock, and neither does a thread that drops a last reference.
//!
//! # Invariant of the pointers
//! `Place::pool` is null, or points to the pool that the table's `Arc` for the same place owns. The pointer
//! is stored before the place's count is made alive, and cleared after the count was found dead, both under
//! the pools lock. So each holder of a reference may use the pointer.

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
use zpool_api::{BackendBits, ObjRead, ZpoolError};
use zpool_base::contained::Contained;

#[derive(Debug)]
struct Place {
    pool: AtomicPtr<Pool>,
    refs: PercpuRef,
}

/// The pools of all places. Guarded by the pools lock.
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

/// Why another pool was not made current.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotSwitched {
    /// All places are taken by pools that are alive.
    Full,
    /// Another thread has made another pool current meanwhile.
    Changed,
}

impl Pools {
    /// Makes the pools of a new store. `first` is the only pool, and it is current.
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

    /// Returns the heap bytes of the places.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.places.iter().map(|place| place.refs.memory_bytes()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        might_sleep("the pools lock");
        self.table.lock()
    }

    /// Puts a pool into the free place `at`, and makes its count alive, with the reference for being current.
    fn settle(&self, table: &mut Table, at: usize, pool: Arc<Pool>) {
        let place = &self.places[at];
        // Relaxed: `reinit` publishes the pointer.
        place.pool.store(Arc::as_ptr(&pool).cast_mut(), Ordering::Relaxed);
        table.pools[at] = Some(pool);
        let reinited = place.refs.reinit();
        assert!(reinited, "a free place has a living count");
    }

    /// Returns a new reference to the current pool.
    #[inline]
    pub(crate) fn current(&self) -> PoolRef<'_> {
        loop {
            // Relaxed: the number may be stale. If its pool is gone, `try_get` fails, and the loop reads the
            // number again.
            let at = self.current.load(Ordering::Relaxed);
            if let Some(hold) = self.hold(at) {
                return hold;
            }
        }
    }

    /// Returns a new reference to the pool of a page. The page must exist: the caller holds the lock of the
    /// page's entry, or has taken the page out of the entry.
    #[inline]
    #[expect(clippy::expect_used, reason = "each page in an entry keeps a reference of its pool")]
    pub(crate) fn of_page(&self, id: PoolId) -> PoolRef<'_> {
        self.hold(id.index()).expect("a page in an entry without a reference of its pool")
    }

    /// Takes over the reference that a page has to its pool, after the page was taken out of its entry.
    ///
    /// # Safety
    /// The page is in no entry, and this is the only call for its reference, which [`PoolRef::into_page`]
    /// passed to the page. A second call would drop a reference that another holder relies on.
    #[inline]
    pub(crate) unsafe fn page_reference(&self, id: PoolId) -> PoolRef<'_> {
        PoolRef { pools: self, at: id.index() }
    }

    fn hold(&self, at: usize) -> Option<PoolRef<'_>> {
        // Make a `PoolRef` only after taking a reference, since its drop puts one.
        if !self.places[at].refs.try_get(cpu::current()) {
            return None;
        }
        Some(PoolRef { pools: self, at })
    }

    /// Returns all pools that are alive, the current one first. Allocates nothing.
    pub(crate) fn all(&self) -> impl Iterator<Item = Arc<Pool>> + use<> {
        let mut pools = [const { None }; PoolId::LIMIT];
        let table = self.lock();
        // Relaxed: the number changes only under the lock.
        let current = self.current.load(Ordering::Relaxed);
        let first = core::iter::once(current);
        let others = (0..PoolId::LIMIT).filter(|at| *at != current);
        for (pool, at) in pools.iter_mut().zip(first.chain(others)) {
            pool.clone_from(&table.pools[at]);
        }
        drop(table);
        pools.into_iter().flatten()
    }

    /// Makes the pool with this backend and this compressor current, if such a pool is alive. Returns false
    /// if there is none.
    pub(crate) fn switch_to_living(&self, zpool: &str, compressor: &str) -> bool {
        let old;
        {
            let mut table = self.lock();
            // Relaxed, here and below: the number changes only under the lock.
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
                // Relaxed: a flag that only decides which pages are migrated later.
                pool.recompressed.store(false, Ordering::Relaxed);
            }
            old = self.leave_current(&mut table, living);
        }
        drop(old);
        true
    }

    /// Makes `fresh` current. Fails if all places are taken, or if `still` returns false for the current
    /// pool, because it is not the pool that `fresh` was built to replace.
    pub(crate) fn switch_to(
        &self,
        fresh: Pool,
        still: impl Fn(&Pool) -> bool,
    ) -> Result<(), NotSwitched> {
        let fresh = Arc::new(fresh);
        let old;
        {
            let mut table = self.lock();
            // Relaxed: the number changes only under the lock.
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

    /// Returns the first living pool that `kind` accepts, or `None`. Allocates nothing.
    pub(crate) fn living(&self, kind: impl Fn(&Pool) -> bool) -> Option<PoolRef<'_>> {
        let table = self.lock();
        let of_kind = |at: &usize| table.pools[*at].as_deref().is_some_and(&kind);
        (0..PoolId::LIMIT).filter(of_kind).find_map(|at| self.hold(at))
    }

    /// Gives a place to a pool, but does not make it current. Returns `None` if all places are taken.
    pub(crate) fn add(&self, fresh: Pool) -> Option<PoolRef<'_>> {
        let fresh = Arc::new(fresh);
        let mut table = self.lock();
        let at = table.pools.iter().position(Option::is_none)?;
        self.settle(&mut table, at, fresh);
        // The result takes over the reference for being current.
        self.places[at].refs.kill();
        Some(PoolRef { pools: self, at })
    }

    /// Makes the living pool at `to` current. Returns the reference that the old pool had for being current.
    /// The caller must drop that reference after it has unlocked the table.
    fn leave_current(&self, _table: &mut Table, to: usize) -> PoolRef<'_> {
        // Relaxed: `Pools::current` checks the number by taking a reference.
        let current = self.current.swap(to, Ordering::Relaxed);
        self.places[current].refs.kill();
        PoolRef { pools: self, at: current }
    }

    /// Removes a dead pool from its place.
    #[cold]
    fn take_down(&self, at: usize) {
        let pool = {
            let mut table = self.lock();
            // Relaxed: no thread has a reference, and the pools lock orders this before the place's next
            // pool.
            self.places[at].pool.store(null_mut(), Ordering::Relaxed);
            table.pools[at].take()
        };
        drop(pool);
    }
}

/// A reference to a pool. Dropping the last one takes the pool down. That may block, and runs the drop code
/// of the codec and the backend. So drop a reference under a lock only if another one is known to exist.
#[derive(Debug)]
#[must_use = "the pool is there while this lives"]
pub(crate) struct PoolRef<'a> {
    pools: &'a Pools,
    at: usize,
}

impl<'a> PoolRef<'a> {
    /// Returns the pool's number in entry words.
    pub(crate) fn id(&self) -> PoolId {
        PoolId::from_index(self.at)
    }

    /// Takes another reference to the same pool.
    pub(crate) fn again(&self) -> Self {
        let taken = self.pools.places[self.at].refs.try_get(cpu::current());
        assert!(taken, "a pool's count is dead while the pool is held");
        PoolRef { pools: self.pools, at: self.at }
    }

    /// Pins an object of the pool. The result keeps the reference to the pool.
    pub(crate) fn hold(self, bits: BackendBits) -> Result<HeldObject<'a>, ZpoolError> {
        let object = self.pin(bits)?;
        // SAFETY: the guard borrows from the pool. A pool that is referenced is neither moved nor dropped (the
        // module's invariant). The guard goes into a struct together with a reference, which is dropped after it.
        let object = unsafe {
            core::mem::transmute::<Contained<ObjRead<'_>>, Contained<ObjRead<'a>>>(object)
        };
        Ok(HeldObject { object, pool: self })
    }

    /// Passes the reference on to a page that was stored in the pool: it is not dropped here, but by
    /// [`Pools::page_reference`]. Returns the pool's number.
    pub(crate) fn into_page(self) -> PoolId {
        let id = self.id();
        core::mem::forget(self);
        id
    }
}

/// A pinned object with a reference to its pool.
#[derive(Debug)]
pub(crate) struct HeldObject<'a> {
    // Declared first, so dropped first: its pin ends while the pool is there.
    object: Contained<ObjRead<'a>>,
    pool: PoolRef<'a>,
}

impl<'a> HeldObject<'a> {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.object
    }

    pub(crate) fn pool(&self) -> &PoolRef<'a> {
        &self.pool
    }
}

impl Deref for PoolRef<'_> {
    type Target = Pool;
    #[inline]
    fn deref(&self) -> &Pool {
        // Relaxed: the pointer was stored before the count was made alive, and taking the reference acquired
        // that.
        let pool = self.pools.places[self.at].pool.load(Ordering::Relaxed);
        // SAFETY: a `PoolRef` is a counted reference. While a reference is counted, the table keeps the `Arc`
        // that the pointer comes from (the module's invariant).
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
