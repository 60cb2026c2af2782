//! Which process this is: distinguishes a child after `fork` from its parent.
//!
//! A child has a copy of every object of its parent but only the thread that forked. A lock that another
//! thread held stays held for ever, and a file, a device or shared memory behind an object is still the
//! parent's. So in any process but its maker's an object does nothing: a drop leaks, and every other call is
//! an error. [`Maker`] remembers the maker, [`Leaked`] does the leaking.
//!
//! A number in a page that the kernel clears in every child (`MADV_WIPEONFORK`, Linux 4.14) identifies the
//! process, so a check costs one load. A child that finds 0 there takes the next number of a counter that it
//! inherited: no number occurs twice in a line of descent. On other Unix systems each check reads the process
//! id.

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
    /// This process.
    #[inline]
    pub fn here() -> Self {
        Maker(generation())
    }

    /// Whether this process is still the maker, and not a child of it.
    #[inline]
    pub fn is_here(self) -> bool {
        generation() == self.0
    }
}

/// The number of this process; constant under loom, whose models have one process.
#[inline]
fn generation() -> u64 {
    if MODEL { 1 } else { imp::generation() }
}

/// A value whose destructor runs only in the process that made it; elsewhere dropping it leaks. Derefs to
/// the value.
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
    /// A value of this process.
    pub fn new(value: T) -> Self {
        Leaked { value: ManuallyDrop::new(value), maker: Maker::here() }
    }

    /// Whether this process made it.
    #[inline]
    pub fn is_here(&self) -> bool {
        self.maker.is_here()
    }

    /// The value itself, in whichever process it was made.
    pub fn into_inner(self) -> T {
        let mut whole = ManuallyDrop::new(self);
        // SAFETY: taken once: `whole` is not used or dropped afterwards.
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
            // SAFETY: dropped once, here; the wrapper does not drop it.
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
    // Always std's, not loom's: no part of any modelled protocol.
    use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

    const BYTES: usize = 65536;

    /// Numbers taken in this process and its ancestors.
    static FORKS: AtomicU64 = AtomicU64::new(0);
    /// A word in a page that is zero in each new child, or [`NONE`] if the kernel does not support that.
    static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(null_mut());
    /// The id of the last process that asked, for kernels without such a page.
    static LAST: AtomicU64 = AtomicU64::new(0);
    /// Stands for "not supported by this kernel". Always 0.
    static NONE: AtomicU64 = AtomicU64::new(0);

    #[inline]
    pub(super) fn generation() -> u64 {
        let page = PAGE.load(Ordering::SeqCst);
        // SAFETY: null, `NONE`, or a mapping that is never unmapped once it is stored here.
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
            // SAFETY: mapped just now by this thread, and known to nobody else.
            let _ = unsafe { munmap(mapped.cast(), BYTES) };
        }
        generation()
    }

    fn map() -> Option<NonNull<u8>> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address that the system chooses: it replaces none.
        let page = unsafe { mmap_anonymous(null_mut(), BYTES, access, flags) }.ok()?;
        // SAFETY: the mapping is this call's own; the advice changes nothing in this process.
        if unsafe { madvise(page, BYTES, Advice::LinuxWipeOnFork) }.is_err() {
            // SAFETY: as above.
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

/// Where there is no `fork`.
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
