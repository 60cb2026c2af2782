//! A small lockdep: debug builds check at run time that locks are taken in order and that no thread sleeps
//! under a lock.
//!
//! Each lock has a rank (docs/locking.md). The ranks are, from the outermost in: [`Rank::Entry`] →
//! [`Rank::Pool`] → [`Rank::Zspage`] → [`Rank::Structure`] → [`Rank::Leaf`]. A thread may take a lock only
//! if its rank is greater (further in) than the rank of every lock that the thread holds. A function that
//! may block calls [`might_sleep`], which panics if the thread holds a ranked lock. A per-CPU compression
//! context has no rank, because its holder may sleep. Taking such a context may block, so the thread must
//! hold no ranked lock.
//!
//! A fault handler runs within whatever its thread does, perhaps under ranked locks. It sets their ranks aside
//! ([`interrupted`]).
//!
//! All of this compiles to nothing in release builds. The same is true under loom, because its threads
//! share one thread-local.

use core::marker::PhantomData;

use crate::sync::LOCKDEP;

/// The place of a lock in the lock order. A greater rank is further in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(u8)]
pub enum Rank {
    /// The lock bit of a page store's entry.
    Entry = 1,
    /// The lock of a backend's lists, for instance zbud's pool lock or zsmalloc's class lock.
    Pool = 2,
    /// The lock of a z3fold page. A zspage's lock has no rank (docs/locking.md).
    Zspage = 3,
    /// The lock of the structure of a store's index. It guards the nodes, not the entries.
    Structure = 4,
    /// A lock under which no other lock is taken. For instance, such locks guard the growth of tables, the
    /// page provider's cache, and z3fold's lists.
    Leaf = 5,
}

/// Records that the thread holds a lock of some rank. Drop it together with the lock's guard.
#[must_use = "the rank counts as held only while this lives"]
#[derive(Debug)]
pub struct Held(Rank);

/// Records that the calling thread takes a lock of `rank`. Call it just before taking the lock.
///
/// # Panics
/// In debug builds, panics if the thread holds a lock of the same rank or of one further in. That is a bug
/// in the caller; no input causes it.
///
/// ```
/// use zpool_base::lockdep::{Rank, acquire, might_sleep};
///
/// let outer = acquire(Rank::Pool);
/// let inner = acquire(Rank::Leaf); // the other way round would panic
/// drop((inner, outer));
/// might_sleep("a page request"); // with either lock held, this would panic, too
/// ```
#[inline]
pub fn acquire(rank: Rank) -> Held {
    if LOCKDEP {
        checks::push(rank);
    }
    Held(rank)
}

/// Declares that the caller may block: in a system call, in user code, or waiting for another thread.
///
/// # Panics
/// In debug builds, panics if the thread holds a ranked lock. That is a bug in the caller.
#[inline]
pub fn might_sleep(what: &str) {
    if LOCKDEP {
        checks::might_sleep(what);
    }
}

/// The ranks that the interrupted code holds. They are set aside until this is dropped.
#[must_use = "the ranks are set aside only while this lives"]
#[derive(Debug)]
pub struct Interrupted {
    held: u8,
    /// The ranks are those of this thread, so the value stays on it.
    _thread: PhantomData<*const ()>,
}

/// Sets aside the ranks of the locks that this thread holds. For a handler that runs on a thread in the middle of
/// other code, such as a handler of page faults: until the result is dropped, the thread counts as holding no ranked
/// lock. Allocates nothing and never fails.
///
/// The handler must not wait for a lock that the interrupted code may hold. This is not checked.
///
/// ```
/// use zpool_base::lockdep::{Rank, acquire, interrupted, might_sleep};
///
/// let _of_the_interrupted_code = acquire(Rank::Leaf);
/// let handler = interrupted();
/// might_sleep("a page request");
/// drop(acquire(Rank::Entry));
/// drop(handler);
/// ```
#[inline]
pub fn interrupted() -> Interrupted {
    let held = if LOCKDEP { checks::replace(0) } else { 0 };
    Interrupted { held, _thread: PhantomData }
}

impl Drop for Interrupted {
    #[inline]
    fn drop(&mut self) {
        if LOCKDEP {
            checks::replace(self.held);
        }
    }
}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        if LOCKDEP {
            checks::pop(self.0);
        }
    }
}

mod checks {
    use super::Rank;
    use std::cell::Cell;

    thread_local! {
        /// One bit for each rank that the thread holds. One bit is enough, because a thread never holds two
        /// locks of one rank. A vector would have to allocate, and locks are also taken where a failed
        /// allocation must not abort the process.
        static HELD: Cell<u8> = const { Cell::new(0) };
    }

    const RANKS: [Rank; 5] = [Rank::Entry, Rank::Pool, Rank::Zspage, Rank::Structure, Rank::Leaf];

    fn bit(rank: Rank) -> u8 {
        1 << rank as u8
    }

    /// Returns the innermost rank in `held`, or `None` if `held` is empty.
    fn innermost(held: u8) -> Option<Rank> {
        RANKS.into_iter().rev().find(|rank| held & bit(*rank) != 0)
    }

    pub(super) fn push(rank: Rank) {
        // While a thread ends, the destructor of another thread-local may take a lock although `HELD` is
        // gone already. Then nothing is checked.
        let _ = HELD.try_with(|held| {
            let innermost = innermost(held.get());
            debug_assert!(
                innermost.is_none_or(|inner| inner < rank),
                "lock order: {rank:?} taken while {innermost:?} is held (docs/locking.md)"
            );
            held.set(held.get() | bit(rank));
        });
    }

    pub(super) fn pop(rank: Rank) {
        let _ = HELD.try_with(|held| held.set(held.get() & !bit(rank)));
    }

    /// Replaces the bits of the ranks that the thread holds. Returns the old ones; none if the thread is ending and
    /// nothing is checked.
    pub(super) fn replace(held: u8) -> u8 {
        HELD.try_with(|old| old.replace(held)).unwrap_or(0)
    }

    pub(super) fn might_sleep(what: &str) {
        let _ = HELD.try_with(|held| {
            let under = innermost(held.get());
            debug_assert!(
                under.is_none(),
                "{what} may sleep, but was called under {under:?} (docs/locking.md)"
            );
        });
    }
}

#[cfg(all(test, debug_assertions, not(loom)))]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    #[test]
    fn the_right_order_passes_and_unwinds_in_any_order() {
        let a = acquire(Rank::Entry);
        let b = acquire(Rank::Pool);
        let c = acquire(Rank::Leaf);
        drop(b);
        drop(a);
        drop(c);
        might_sleep("nothing held");
        drop(acquire(Rank::Entry));
    }

    #[test]
    fn the_wrong_order_fires() {
        for (outer, inner) in
            [(Rank::Pool, Rank::Entry), (Rank::Pool, Rank::Pool), (Rank::Leaf, Rank::Zspage)]
        {
            let fired = catch_unwind(|| {
                let _outer = acquire(outer);
                let _inner = acquire(inner);
            });
            assert!(fired.is_err(), "{outer:?} then {inner:?}");
        }
        drop(acquire(Rank::Entry));
    }

    #[test]
    fn a_handler_is_not_under_the_locks_of_what_it_interrupts() {
        let fires = |check: fn()| catch_unwind(check).is_err();
        let held = acquire(Rank::Pool);
        for _ in 0..2 {
            let handler = interrupted();
            might_sleep("a page request");
            let (outer, inner) = (acquire(Rank::Entry), acquire(Rank::Pool));
            assert!(fires(|| might_sleep("under the handler's own locks")));
            {
                // A handler within a handler.
                let _inner = interrupted();
                drop(acquire(Rank::Entry));
            }
            assert!(fires(|| drop(acquire(Rank::Pool))));
            drop((outer, inner));
            drop(handler);
            assert!(fires(|| might_sleep("under the interrupted code's lock")));
            assert!(fires(|| drop(acquire(Rank::Entry))));
            drop(acquire(Rank::Leaf));
        }
        drop(held);
        might_sleep("nothing held");
        // A panic of the handler restores the ranks, too.
        let _held = acquire(Rank::Leaf);
        assert!(fires(|| {
            let _handler = interrupted();
            panic!("on purpose");
        }));
        assert!(fires(|| might_sleep("under the interrupted code's lock")));
    }

    #[test]
    fn sleeping_fires_under_every_ranked_lock() {
        for rank in [Rank::Entry, Rank::Pool, Rank::Zspage, Rank::Structure, Rank::Leaf] {
            let fired = catch_unwind(|| {
                let _held = acquire(rank);
                might_sleep("a page request");
            });
            assert!(fired.is_err(), "{rank:?}");
        }
    }
}
