//! Locks, atomics and threads of std or loom. No other module knows which of the two is in use.
//!
//! Backends take their locks and atomics from here. So the same code runs in a program and under the model
//! checker (`--cfg loom`). [`Mutex`] and [`RwLock`] differ from std's in one point: a panic does not poison them. Whenever
//! user code may panic under a lock of these crates, the data under the lock is valid, so the next holder
//! may continue.

/// Whether this build runs under the model checker. Tables are smaller there, because the checker has to
/// track every atomic.
pub const MODEL: bool = cfg!(loom);

/// Whether the lock order is checked at run time. This is so in debug builds, except under the model
/// checker, where all threads share one thread-local.
pub(crate) const LOCKDEP: bool = cfg!(all(debug_assertions, not(loom)));

#[cfg(not(loom))]
mod imp {
    pub use std::sync::atomic;
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
    pub(super) use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
    /// A cell whose accesses the model checker watches. In this build, without the checker, it is empty.
    #[derive(Debug, Default)]
    pub struct Watched(());
    impl Watched {
        /// Makes a new cell.
        pub const fn new() -> Self {
            Watched(())
        }
        /// Records a read of the memory that this cell stands for.
        #[inline(always)]
        pub fn read(&self) {}
        /// Records a write to the memory that this cell stands for.
        #[inline(always)]
        pub fn write(&self) {}
    }
    /// Lets another thread run.
    pub fn yield_now() {
        std::thread::yield_now();
    }
}

#[cfg(loom)]
mod imp {
    pub use loom::sync::atomic;
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
    pub(super) use loom::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
    /// A cell whose accesses the model checker watches. If a read and a write of it are not ordered, the
    /// model fails.
    #[derive(Debug)]
    pub struct Watched(loom::cell::UnsafeCell<u32>);
    // SAFETY: only the volatile accesses below touch the cell's number. Loom runs one thread at a time and
    // reports accesses that are not ordered, so sharing the cell causes no data race.
    unsafe impl Sync for Watched {}
    impl Default for Watched {
        fn default() -> Self {
            Self::new()
        }
    }
    impl Watched {
        /// Makes a new cell.
        pub fn new() -> Self {
            Watched(loom::cell::UnsafeCell::new(0))
        }
        /// Records a read of the memory that this cell stands for.
        pub fn read(&self) {
            // SAFETY: the pointer is to the cell's own number and valid in the closure. Loom checks that no
            // write is concurrent.
            self.0.with(|p| unsafe { p.read_volatile() });
        }
        /// Records a write to the memory that this cell stands for.
        pub fn write(&self) {
            // SAFETY: the pointer is to the cell's own number and valid in the closure. Loom checks that no
            // access is concurrent.
            self.0.with_mut(|p| unsafe { p.write_volatile(0) });
        }
    }
    /// Lets another thread run. It shows loom that this thread waits for another one.
    pub fn yield_now() {
        loom::thread::yield_now();
    }
}

pub use imp::{Watched, atomic, yield_now};

/// A mutex that a panic does not poison.
///
/// ```
/// use zpool_base::sync::Mutex;
///
/// let pages = Mutex::new(3);
/// *pages.lock() += 1;
/// assert_eq!(pages.try_lock().map(|n| *n), Some(4));
/// ```
#[derive(Debug, Default)]
pub struct Mutex<T>(imp::Mutex<T>);

/// Holds a [`Mutex`] until dropped.
#[derive(Debug)]
pub struct MutexGuard<'a, T>(imp::MutexGuard<'a, T>);

impl<T> Mutex<T> {
    /// Makes a new, unlocked mutex.
    pub fn new(value: T) -> Self {
        Mutex(imp::Mutex::new(value))
    }

    /// Waits for the mutex and locks it. Does not panic if another thread panicked while it held the mutex.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Locks the mutex if it is free. Otherwise returns `None`. Never blocks.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(MutexGuard(guard)),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => {
                Some(MutexGuard(poisoned.into_inner()))
            }
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }
}

/// A lock that many readers or one writer hold. A panic does not poison it.
///
/// A thread that holds it for reading must not ask for it again: if a writer waits in between, neither goes on.
///
/// ```
/// use zpool_base::sync::RwLock;
///
/// let pages = RwLock::new(3);
/// *pages.write() += 1;
/// let (one, other) = (pages.read(), pages.read());
/// assert_eq!((*one, *other), (4, 4));
/// ```
#[derive(Debug, Default)]
pub struct RwLock<T>(imp::RwLock<T>);

/// Holds a [`RwLock`] for reading until dropped.
#[derive(Debug)]
pub struct ReadGuard<'a, T>(imp::RwLockReadGuard<'a, T>);

/// Holds a [`RwLock`] for writing until dropped.
#[derive(Debug)]
pub struct WriteGuard<'a, T>(imp::RwLockWriteGuard<'a, T>);

impl<T> RwLock<T> {
    /// Makes a new, unlocked lock.
    pub fn new(value: T) -> Self {
        RwLock(imp::RwLock::new(value))
    }

    /// Waits until no writer holds the lock, and takes it for reading. Does not panic if another thread panicked
    /// while it held the lock.
    pub fn read(&self) -> ReadGuard<'_, T> {
        ReadGuard(self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Waits until nobody holds the lock, and takes it for writing. Does not panic if another thread panicked
    /// while it held the lock.
    pub fn write(&self) -> WriteGuard<'_, T> {
        WriteGuard(self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl<T> core::ops::Deref for ReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> core::ops::Deref for WriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> core::ops::DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// A condition variable for [`Mutex`].
#[derive(Debug, Default)]
pub struct Condvar(imp::Condvar);

impl Condvar {
    /// Makes a new condition variable.
    pub fn new() -> Self {
        Condvar(imp::Condvar::new())
    }

    /// Releases the mutex, sleeps until woken, and locks the mutex again. May also return without having
    /// been woken.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        MutexGuard(self.0.wait(guard.0).unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Wakes all waiting threads.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

impl<T> core::ops::Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> core::ops::DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// A small deterministic source of random numbers for tests. Tests always use fixed seeds.
#[doc(hidden)]
pub mod test_rng {
    /// The generator xorshift64*, with Vigna's constants.
    #[derive(Debug, Clone)]
    pub struct Rng(u64);

    impl Rng {
        /// Makes a source. Equal seeds give equal sequences.
        pub fn new(seed: u64) -> Self {
            let mut rng = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
            for _ in 0..8 {
                rng.next();
            }
            rng
        }

        /// Returns the next 64 bits.
        #[expect(clippy::should_implement_trait, reason = "an endless source, not an iterator")]
        pub fn next(&mut self) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
        }

        /// Returns a number below `bound`, which must not be 0.
        pub fn below(&mut self, bound: usize) -> usize {
            ((self.next() >> 11) % bound as u64) as usize
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_panic_does_not_poison() {
        let m = std::sync::Arc::new(Mutex::new(1));
        let m2 = m.clone();
        let r = std::thread::spawn(move || {
            let mut g = m2.lock();
            *g = 2;
            panic!("on purpose");
        })
        .join();
        assert!(r.is_err());
        assert_eq!(*m.lock(), 2);
        assert_eq!(m.try_lock().map(|g| *g), Some(2));
        let held = m.lock();
        assert!(m.try_lock().is_none());
        drop(held);
    }

    #[test]
    fn a_panic_does_not_poison_a_lock_of_readers() {
        let lock = std::sync::Arc::new(RwLock::new(1));
        let other = lock.clone();
        let panicked = std::thread::spawn(move || {
            *other.write() = 2;
            let _held = other.write();
            panic!("on purpose");
        })
        .join();
        assert!(panicked.is_err());
        let (one, two) = (lock.read(), lock.read());
        assert_eq!((*one, *two), (2, 2));
    }
}
