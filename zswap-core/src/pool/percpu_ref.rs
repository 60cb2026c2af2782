//! A pool's reference count. It counts a reference for each page stored in the pool, one for each operation
//! that uses the pool, and one while the pool is the current one.
//!
//! While a pool is current, its count is *spread*: each CPU counts in its own shard, so CPUs do not contend.
//! The value of a single shard means nothing then. When the pool stops being current, its shards are
//! *closed*: their sum is added to one word, and counting goes on in that word. When the word is 0, the pool
//! is dead, and the thread that put the last reference takes it down. A pool whose word is not 0 can become
//! current again.
//!
//! # Why no reference is lost
//! A shard is closed by a swap. So each change of the shard either comes before the swap and is in the sum,
//! or comes after it and finds the shard closed. A thread that finds a shard closed changes the word instead;
//! the change that it made to the closed shard does not matter. [`SPREAD`] is added to the word while the
//! shards are open, being opened or being closed, so the word cannot be 0 then.
//!
//! Shards are opened and closed only under the pools lock.

use crossbeam_utils::CachePadded;

use crate::sync::atomic::{AtomicI64, Ordering};

/// Added to the word while the count is spread.
const SPREAD: i64 = 1 << 48;
/// The value of a closed shard. It is far below any value of an open shard, and stays so when later changes
/// add to it.
const CLOSED: i64 = i64::MIN / 2;

#[derive(Debug)]
pub(crate) struct PercpuRef {
    shards: Box<[CachePadded<AtomicI64>]>,
    word: AtomicI64,
}

impl PercpuRef {
    /// Makes a dead count. `shards` must be a power of two.
    pub(crate) fn new(shards: usize) -> Self {
        assert!(shards.is_power_of_two(), "{shards} shards are not a power of two");
        let shard = |_| CachePadded::new(AtomicI64::new(CLOSED));
        PercpuRef { shards: (0..shards).map(shard).collect(), word: AtomicI64::new(0) }
    }

    fn shard(&self, cpu: usize) -> &AtomicI64 {
        &self.shards[cpu & (self.shards.len() - 1)]
    }

    /// Makes a dead count alive, with the reference for being current. Returns false if the count was not
    /// dead.
    pub(crate) fn reinit(&self) -> bool {
        // AcqRel. Acquire pairs with the Release of the last `put`: everything that users of the place's last
        // pool did comes before this. Release pairs with the Acquire of `try_get` and `resurrect`: each
        // thread that gets a reference sees the new pool. Relaxed on failure: nothing is done.
        let (order, failed) = (Ordering::AcqRel, Ordering::Relaxed);
        let reinited = self.word.compare_exchange(0, SPREAD + 1, order, failed).is_ok();
        if reinited {
            self.open();
        }
        reinited
    }

    /// Returns the heap bytes of the shards.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.shards)
    }

    /// Spreads the count of a living pool again, and adds the reference for being current. Returns false if
    /// the count is dead.
    pub(crate) fn resurrect(&self) -> bool {
        let alive = |word: i64| (word > 0).then_some(word + SPREAD + 1);
        // Acquire pairs with the Release of `reinit`. Relaxed on failure: nothing is done.
        let resurrect = self.word.fetch_update(Ordering::Acquire, Ordering::Relaxed, alive).is_ok();
        if resurrect {
            self.open();
        }
        resurrect
    }

    fn open(&self) {
        for shard in &self.shards {
            // Release pairs with the Acquire of `try_get`.
            shard.swap(0, Ordering::Release);
        }
    }

    /// Closes the shards of a pool that stops being current. The caller still has to put the reference for
    /// being current.
    pub(crate) fn kill(&self) {
        for shard in &self.shards {
            // AcqRel: the accesses of the shard's users become visible to the thread that puts the last
            // reference.
            let sum = shard.swap(CLOSED, Ordering::AcqRel);
            // Relaxed: the Release of the subtraction below covers this addition.
            self.word.fetch_add(sum, Ordering::Relaxed);
        }
        // Release pairs with the AcqRel of `put`.
        self.word.fetch_sub(SPREAD, Ordering::Release);
    }

    /// Takes a reference. Returns false if the pool is dead. That cannot happen if another reference exists
    /// during the whole call.
    #[inline]
    pub(crate) fn try_get(&self, cpu: usize) -> bool {
        // Acquire pairs with the Release of `open`: this thread sees the whole pool.
        if self.shard(cpu).fetch_add(1, Ordering::Acquire) > CLOSED / 2 {
            return true;
        }
        let alive = |word: i64| (word > 0).then_some(word + 1);
        // Acquire pairs with the Release of `reinit`. Relaxed on failure: nothing is done.
        self.word.fetch_update(Ordering::Acquire, Ordering::Relaxed, alive).is_ok()
    }

    /// Puts (drops) a reference. Returns true if it was the last one. Then the pool is dead, and the caller
    /// must take it down.
    #[inline]
    #[must_use]
    pub(crate) fn put(&self, cpu: usize) -> bool {
        // Release pairs with the Acquire of `kill`'s swap, or of the last put: this user's last access to
        // the pool comes before the pool is taken down.
        if self.shard(cpu).fetch_sub(1, Ordering::Release) > CLOSED / 2 {
            return false;
        }
        // AcqRel: Release as above; Acquire, so that the last put comes after all accesses of other users.
        self.word.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_last_reference_is_told_once_wherever_it_was_taken() {
        let refs = PercpuRef::new(4);
        assert!(!refs.try_get(0), "dead");
        assert!(refs.reinit() && !refs.reinit());
        for cpu in 0..9 {
            assert!(refs.try_get(cpu));
        }
        // Put references on another CPU than they were taken on, so that its shard falls below zero.
        for _ in 0..5 {
            assert!(!refs.put(3));
        }
        refs.kill();
        assert!(!refs.put(0), "of being current");
        for cpu in 0..3 {
            assert!(!refs.put(cpu));
        }
        assert!(refs.try_get(2) && !refs.put(1));
        assert!(refs.put(1), "the last one");
        assert!(!refs.try_get(0) && !refs.resurrect());
        assert!(refs.reinit());
    }

    #[test]
    fn a_pool_that_still_has_pages_becomes_current_again() {
        let refs = PercpuRef::new(2);
        assert!(refs.reinit() && refs.try_get(0));
        for round in 0..3 {
            refs.kill();
            assert!(!refs.put(round));
            assert!(refs.try_get(1), "a page more, while it was not current");
            assert!(refs.resurrect());
        }
        refs.kill();
        for _ in 0..4 {
            assert!(!refs.put(0));
        }
        assert!(refs.put(0));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::sync::Mutex;
    use loom::sync::Arc;
    use loom::thread;
    use zpool_base::sync::Watched;

    struct Pool {
        refs: PercpuRef,
        /// A value that stands for the pool itself. The model checks that accesses to it are ordered.
        body: Watched,
        /// How often the pool was taken down. Guarded by the pools lock.
        downs: Mutex<u64>,
    }

    impl Pool {
        fn current() -> Arc<Pool> {
            let pool = Pool { refs: PercpuRef::new(2), body: Watched::new(), downs: Mutex::new(0) };
            pool.body.write();
            assert!(pool.refs.reinit());
            Arc::new(pool)
        }

        fn put(&self, cpu: usize) {
            if self.refs.put(cpu) {
                let mut downs = self.downs.lock();
                self.body.write();
                *downs += 1;
            }
        }
    }

    /// A user takes and puts a reference while another pool becomes current. The pool is taken down once,
    /// after its last user. This fails if `kill` closes shards by a store instead of a swap, if `kill`
    /// subtracts SPREAD before it has all sums, if `put` is Relaxed, or if `try_get` does not check that the
    /// word is not 0.
    #[test]
    fn loom_percpu_ref_users_against_kill() {
        loom::model(|| {
            let pool = Pool::current();
            let user = {
                let pool = pool.clone();
                thread::spawn(move || {
                    if pool.refs.try_get(1) {
                        pool.body.read();
                        pool.put(0);
                    }
                })
            };
            pool.refs.kill();
            pool.put(0);
            user.join().unwrap();
            assert_eq!(*pool.downs.lock(), 1);
            assert!(!pool.refs.try_get(0));
        });
    }

    /// A pool with one page left becomes current again while another thread drops that page. Afterwards the
    /// pool is either current or dead. This fails if `resurrect` accepts a dead pool, or opens the shards
    /// before it changes the word.
    #[test]
    fn loom_percpu_ref_last_put_against_resurrect() {
        loom::model(|| {
            let pool = Pool::current();
            assert!(pool.refs.try_get(0));
            pool.refs.kill();
            pool.put(0);
            let user = {
                let pool = pool.clone();
                thread::spawn(move || pool.put(1))
            };
            let current = pool.refs.resurrect();
            if current {
                assert!(pool.refs.try_get(0));
                pool.body.read();
                pool.put(1);
            }
            user.join().unwrap();
            assert_eq!(*pool.downs.lock(), u64::from(!current));
            if current {
                pool.refs.kill();
                pool.put(0);
                assert_eq!(*pool.downs.lock(), 1);
            }
        });
    }

    /// A thread has read a pool's number. Then another pool becomes current, the first pool is taken down,
    /// and a third pool takes its place. The thread gets a living pool or none. This fails if `open` is
    /// Relaxed.
    #[test]
    fn loom_percpu_ref_late_get_against_reinit() {
        loom::model(|| {
            let pool = Pool::current();
            let user = {
                let pool = pool.clone();
                thread::spawn(move || {
                    if pool.refs.try_get(0) {
                        pool.body.read();
                        pool.put(0);
                    }
                })
            };
            pool.refs.kill();
            pool.put(1);
            let downs = pool.downs.lock();
            let down = *downs == 1;
            if down {
                pool.body.write();
                assert!(pool.refs.reinit());
                pool.refs.kill();
            }
            drop(downs);
            if down {
                pool.put(0);
            }
            user.join().unwrap();
            assert!(!pool.refs.try_get(0));
        });
    }
}
