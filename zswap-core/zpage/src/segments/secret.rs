//! Memory for a key.
//!
//! On Linux a key has a mapping of its own: no core dump has it, a child after `fork` does not have it, and the
//! system does not swap it if the process may lock a page in memory. Elsewhere a key is on the heap.
//!
//! A key is zeroed when it is dropped, also while a panic unwinds. What the processor's registers hold, and what
//! the ciphers leave on the stack of a thread that uses the key, is not zeroed.

use core::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};
use zpool_base::fork::Leaked;

use crate::device::AttachError;

/// More than what the ciphers use of the stack while they are made from a key.
const STACK: usize = 16 << 10;

/// A key in memory of its own. Only the process that made it has it.
pub(super) struct Secret<T: ZeroizeOnDrop>(Leaked<Place<T>>);

impl<T: ZeroizeOnDrop> Secret<T> {
    /// Makes a key, and zeroes the copies that `make` left on the stack.
    pub(super) fn new(make: impl FnOnce() -> Result<T, AttachError>) -> Result<Self, AttachError> {
        let place = Self::place(make);
        zero_stack();
        place.map(|place| Secret(Leaked::new(place)))
    }

    /// Its frame lies where [`zero_stack`] has its own.
    #[inline(never)]
    fn place(make: impl FnOnce() -> Result<T, AttachError>) -> Result<Place<T>, AttachError> {
        Place::new(make)
    }

    /// Returns the key; `None` in a child after `fork`.
    pub(super) fn get(&self) -> Option<&T> {
        self.0.is_here().then(|| self.0.key())
    }
}

impl<T: ZeroizeOnDrop> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

/// Zeroes the part of the stack that calls made before this one have used.
#[inline(never)]
fn zero_stack() {
    let mut below = [0u8; STACK];
    below.zeroize();
    core::hint::black_box(&below);
}

#[cfg(all(target_os = "linux", not(miri)))]
use mapped::Place;
#[cfg(all(target_os = "linux", not(miri)))]
mod mapped {
    use core::marker::PhantomData;
    use core::mem::MaybeUninit;
    use core::ptr::NonNull;

    use zeroize::{ZeroizeOnDrop, zeroize_flat_type};
    use zpool_base::mapping::{Errno, Mapping, system_page_size};

    use crate::device::AttachError;

    /// A mapping that begins with a key.
    pub(super) struct Place<T: ZeroizeOnDrop> {
        mapping: Mapping,
        key: PhantomData<T>,
    }

    // SAFETY: a shared reference to this gives nothing but a shared reference to the key.
    unsafe impl<T: ZeroizeOnDrop + Sync> Sync for Place<T> {}

    impl<T: ZeroizeOnDrop> Place<T> {
        pub(super) fn new(
            make: impl FnOnce() -> Result<T, AttachError>,
        ) -> Result<Self, AttachError> {
            const { assert!(size_of::<T>() <= 4096 && align_of::<T>() <= 4096) };
            let map = || Mapping::closed(system_page_size())?.opened();
            let mut mapping = map().map_err(refused("mmap"))?;
            mapping.keep_out_of_dumps().map_err(refused("madvise"))?;
            mapping.keep_from_children().map_err(refused("madvise"))?;
            // Most processes may lock a few pages. A key that is not locked works as well.
            let _ = mapping.lock();
            let key = make()?;
            // SAFETY: the mapping is accessible, this call has made it, and a page has room for the key.
            unsafe { mapping.base().cast::<T>().write(key) };
            Ok(Place { mapping, key: PhantomData })
        }

        fn at(&self) -> NonNull<T> {
            self.mapping.base().cast()
        }

        pub(super) fn key(&self) -> &T {
            // SAFETY: the key is there from `new` until this is dropped, and nothing changes it.
            unsafe { self.at().as_ref() }
        }

        /// Drops the key and zeroes its bytes.
        ///
        /// # Safety
        /// The key is there, and nobody uses it any more.
        pub(super) unsafe fn wipe(&mut self) {
            let at = self.at();
            // SAFETY: the caller promises that the key is there and that this is its last use.
            unsafe { at.drop_in_place() };
            // SAFETY: the bytes belong to this mapping, and as `MaybeUninit` they may hold anything.
            unsafe { zeroize_flat_type(at.cast::<MaybeUninit<T>>().as_ptr()) };
        }
    }

    impl<T: ZeroizeOnDrop> Drop for Place<T> {
        fn drop(&mut self) {
            // SAFETY: the key is there since `new`, and the borrows that `key` has given have ended.
            unsafe { self.wipe() };
        }
    }

    fn refused(operation: &'static str) -> impl Fn(Errno) -> AttachError {
        move |error| AttachError::Key {
            operation,
            kind: error.kind(),
            code: Some(error.raw_os_error()),
        }
    }

    #[cfg(all(test, not(loom)))]
    mod tests {
        use super::*;
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
        use zeroize::Zeroizing;

        /// Returns what the system knows about the mapping with this address. It may have merged equal neighbours.
        fn flags(address: usize) -> String {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let has_it = |line: &str| {
                let range = line.split(' ').next().and_then(|range| range.split_once('-'));
                let number = |digits| usize::from_str_radix(digits, 16).ok();
                let ends = range.and_then(|(start, end)| Some((number(start)?, number(end)?)));
                ends.is_some_and(|(start, end)| (start..end).contains(&address))
            };
            let mut lines = smaps.lines().skip_while(|line| !has_it(line));
            lines.find(|line| line.starts_with("VmFlags:")).unwrap().to_owned()
        }

        fn place() -> Place<Zeroizing<[u8; 32]>> {
            Place::new(|| Ok(Zeroizing::new([0xa5; 32]))).unwrap()
        }

        #[test]
        fn a_key_is_in_no_dump_and_in_no_child() {
            let place = place();
            assert_eq!(**place.key(), [0xa5; 32]);
            let flags = flags(place.at().addr().get());
            // "Don't dump" and "don't copy".
            assert!([" dd", " dc"].iter().all(|flag| flags.contains(flag)), "{flags}");
        }

        #[test]
        fn dropping_a_place_wipes_it() {
            /// Counts how often it is dropped.
            struct Counted(Arc<AtomicUsize>);
            impl ZeroizeOnDrop for Counted {}
            impl Drop for Counted {
                fn drop(&mut self) {
                    self.0.fetch_add(1, SeqCst);
                }
            }
            let dropped = Arc::new(AtomicUsize::new(0));
            let place = Place::new(|| Ok(Counted(dropped.clone()))).unwrap();
            assert_eq!(dropped.load(SeqCst), 0);
            drop(place);
            assert_eq!(dropped.load(SeqCst), 1);
        }

        #[test]
        fn a_dropped_key_is_zeroed() {
            let mut place = core::mem::ManuallyDrop::new(place());
            let bytes = place.at().cast::<[u8; 32]>();
            // SAFETY: the key is there, and is not used afterwards.
            unsafe { place.wipe() };
            // SAFETY: the mapping is still there.
            assert_eq!(unsafe { bytes.read_volatile() }, [0; 32]);
        }
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
use heap::Place;
#[cfg(not(all(target_os = "linux", not(miri))))]
mod heap {
    use zeroize::ZeroizeOnDrop;

    use crate::device::AttachError;

    /// A key on the heap, in a vector since that reports if there is no memory.
    pub(super) struct Place<T: ZeroizeOnDrop>(Vec<T>);

    impl<T: ZeroizeOnDrop> Place<T> {
        pub(super) fn new(
            make: impl FnOnce() -> Result<T, AttachError>,
        ) -> Result<Self, AttachError> {
            let mut one = Vec::new();
            one.try_reserve_exact(1).map_err(|_| AttachError::OutOfMemory)?;
            one.push(make()?);
            Ok(Place(one))
        }

        pub(super) fn key(&self) -> &T {
            &self.0[0]
        }
    }
}
