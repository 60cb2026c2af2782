//! Identifies the process, so that a child after `fork` is distinguished from its parent.
//!
//! A child has a copy of every object of its parent. But it has only one of the parent's threads, the one
//! that forked. If another thread held a lock, the copy of this lock stays locked for ever. A file, a
//! device or shared memory behind an object still belongs to the parent. So an object works only in the
//! process that made it. In any other process, dropping the object leaks it, and every other call fails.
//! [`Maker`] remembers the process that made an object. [`Leaked`] is a value that leaks when any other
//! process drops it.
//!
//! A number identifies the process. It is stored in a page that the kernel clears in every child
//! (`MADV_WIPEONFORK`, Linux 4.14), so checking it costs one load. A child that finds 0 there takes the
//! next number of a counter that it has inherited. So no process has the number of one of its ancestors.
//! Without such a page, on older kernels and other Unix systems, each check reads the process id.

use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};

use crate::sync::MODEL;

/// The process in which an object was made. `Copy`, `Send`, `Sync`; never blocks.
///
/// ```
/// use zpool_base::fork::Maker;
/// assert!(Maker::here().is_here());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Maker(u64);

impl Maker {
    /// Returns the calling process.
    #[inline]
    pub fn here() -> Self {
        Maker(generation())
    }

    /// Whether the caller is the process that this value stands for, and not a child of it.
    #[inline]
    pub fn is_here(self) -> bool {
        generation() == self.0
    }
}

/// Returns the number of this process. Under loom it is constant, because a model has only one process.
#[inline]
fn generation() -> u64 {
    if MODEL { 1 } else { imp::generation() }
}

/// A value whose destructor runs only in the process that made the value. If another process drops it, the
/// value leaks. Derefs to the value.
///
/// ```
/// use zpool_base::fork::Leaked;
/// let mut value = Leaked::new(vec![1]);
/// value.push(2);
/// assert_eq!(value.into_inner(), [1, 2]);
/// ```
pub struct Leaked<T> {
    value: ManuallyDrop<T>,
    maker: Maker,
}

impl<T> Leaked<T> {
    /// Wraps a value that this process made.
    pub fn new(value: T) -> Self {
        Leaked { value: ManuallyDrop::new(value), maker: Maker::here() }
    }

    /// Whether the calling process made this value.
    #[inline]
    pub fn is_here(&self) -> bool {
        self.maker.is_here()
    }

    /// Returns the wrapped value, whichever process made it.
    pub fn into_inner(self) -> T {
        let mut whole = ManuallyDrop::new(self);
        // SAFETY: the value is taken only once, because `whole` is neither used nor dropped afterwards.
        unsafe { ManuallyDrop::take(&mut whole.value) }
    }
}

impl<T: Default> Default for Leaked<T> {
    fn default() -> Self {
        Leaked::new(T::default())
    }
}

impl<T> Drop for Leaked<T> {
    fn drop(&mut self) {
        if self.is_here() {
            // SAFETY: the value is dropped only here, because `ManuallyDrop` does not drop it.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}

impl<T> Deref for Leaked<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Leaked<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Leaked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

#[cfg(all(target_os = "linux", not(miri)))]
mod imp {
    use core::ptr::{self, NonNull, null_mut};
    // Always the types of std, not of loom: no protocol that loom checks depends on them.
    use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

    const BYTES: usize = 65536;

    /// How many numbers this process and its ancestors have taken.
    static FORKS: AtomicU64 = AtomicU64::new(0);
    /// The word that holds this process's number, in a page that is cleared in each new child. Null before
    /// the first call. Points to [`NONE`] if no such page could be made.
    static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(null_mut());
    /// The id of the last process that read its number. Used only if `PAGE` points to [`NONE`].
    static LAST: AtomicU64 = AtomicU64::new(0);
    /// Always 0. `PAGE` points here if no page that is cleared in children could be made.
    static NONE: AtomicU64 = AtomicU64::new(0);

    #[inline]
    pub(super) fn generation() -> u64 {
        let page = PAGE.load(Ordering::SeqCst);
        // SAFETY: `page` is null, or points to `NONE` or into a mapping. Once a mapping is stored in
        // `PAGE`, it is never unmapped.
        match unsafe { page.as_ref() } {
            Some(word) => match word.load(Ordering::SeqCst) {
                0 => renew(word),
                generation => generation,
            },
            None => set_up(),
        }
    }

    #[cold]
    fn renew(word: &AtomicU64) -> u64 {
        if ptr::eq(word, &raw const NONE) {
            let id = u64::from(std::process::id());
            if LAST.swap(id, Ordering::SeqCst) != id {
                FORKS.fetch_add(1, Ordering::SeqCst);
            }
            return FORKS.load(Ordering::SeqCst);
        }
        let next = FORKS.fetch_add(1, Ordering::SeqCst) + 1;
        match word.compare_exchange(0, next, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => next,
            Err(another_thread) => another_thread,
        }
    }

    #[cold]
    fn set_up() -> u64 {
        let mapped = map().map_or((&raw const NONE).cast_mut(), |page| page.cast().as_ptr());
        let (order, failed) = (Ordering::SeqCst, Ordering::SeqCst);
        let lost = PAGE.compare_exchange(null_mut(), mapped, order, failed).is_err();
        if lost && !ptr::eq(mapped, &raw const NONE) {
            // SAFETY: this thread made the mapping just now, and no other thread knows it.
            let _ = unsafe { munmap(mapped.cast(), BYTES) };
        }
        generation()
    }

    fn map() -> Option<NonNull<u8>> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: the system chooses the address of a new mapping, so it replaces no other one.
        let page = unsafe { mmap_anonymous(null_mut(), BYTES, access, flags) }.ok()?;
        // SAFETY: this call made the mapping, and the advice changes nothing in this process.
        if unsafe { madvise(page, BYTES, Advice::LinuxWipeOnFork) }.is_err() {
            // SAFETY: this call made the mapping, and nobody else knows it.
            let _ = unsafe { munmap(page, BYTES) };
            return None;
        }
        NonNull::new(page.cast())
    }
}

#[cfg(all(unix, not(target_os = "linux"), not(miri)))]
mod imp {
    use std::sync::atomic::{AtomicU64, Ordering};

    static FORKS: AtomicU64 = AtomicU64::new(0);
    static LAST: AtomicU64 = AtomicU64::new(0);

    pub(super) fn generation() -> u64 {
        let id = u64::from(std::process::id());
        if LAST.swap(id, Ordering::SeqCst) != id {
            FORKS.fetch_add(1, Ordering::SeqCst);
        }
        FORKS.load(Ordering::SeqCst)
    }
}

/// For Miri and for systems without `fork`: there is only one process.
#[cfg(any(not(unix), miri))]
mod imp {
    #[inline(always)]
    pub(super) fn generation() -> u64 {
        1
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_value_of_this_process_is_dropped() {
        let token = Arc::new(());
        let kept = Leaked::new(token.clone());
        assert!(kept.is_here() && Maker::here() == Maker::here());
        drop(kept);
        assert_eq!(Arc::strong_count(&token), 1);
        drop(Leaked::new(token.clone()).into_inner());
        assert_eq!(Arc::strong_count(&token), 1);
    }

    #[test]
    fn all_threads_of_a_process_are_its_own() {
        let here = Maker::here();
        let others: Vec<_> =
            (0..4).map(|_| std::thread::spawn(move || (here.is_here(), Maker::here()))).collect();
        for other in others {
            assert_eq!(other.join().unwrap(), (true, here));
        }
    }
}
