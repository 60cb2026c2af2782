//! The read guards, through which an object's bytes are read.
//!
//! Module invariant, ensured by the caller of `from_pin` and by `from_owner` itself: the bytes are readable
//! and do not change from the moment the guard is made until its drop. A guard keeps raw pointers, not
//! references. The pin ends *inside* the drop, and from that moment another thread may write to the memory.

use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;
use std::sync::Arc;

/// The backend's half of a read guard: ends the pin.
///
/// A backend implements it on a private type, so that only the guard can end its pin.
pub trait ObjPin: Sync {
    /// Ends the pin that `token` identifies. A guard calls `unpin` once, on any thread. That thread may
    /// hold a short lock of the consumer, for instance a store's entry lock. So `unpin` must not wait for a
    /// guard, must not call the page provider and must not panic. It may take only the backend's short
    /// locks, which come after the consumer's in the lock order. If `unpin` empties pages, the pool keeps
    /// them until its next call that may block. That call gives them back.
    fn unpin(&self, token: u64);
}

enum Hold<'p> {
    /// A pin on the pool's memory. `pin` was a `&'p dyn ObjPin`. It is kept as a raw pointer, because
    /// ending the pin may free what it points to, and no reference to that may exist afterwards.
    Pin { pin: NonNull<dyn ObjPin + 'p>, token: u64 },
    /// Memory that the guard keeps alive by owning a share of it. No pin has to be ended.
    Owner(#[expect(dead_code, reason = "kept for its drop")] Arc<dyn AsRef<[u8]> + Send + Sync>),
}

/// The bytes of an object, borrowed from its pool. Derefs to a `&[u8]` of exactly the object's length.
///
/// A guard holds no mutex and is bound to no thread or CPU. While it lives, its bytes neither move nor
/// change. The object may be freed while it is being read. Then its space is reused only after all its
/// readers have ended. A guard may live as long as the caller likes. If it is forgotten, its object stays
/// pinned until the pool is dropped. Nothing else is affected.
///
/// `Send` and `Sync`. Dropping the guard ends the read. The guard may be dropped on any thread, even under
/// a short lock of the consumer, because its drop waits for no guard and does not call the page provider.
/// If the guard was the last reader of a freed object, the object's space or its emptied page may stay in
/// use until the pool's next call that may block.
#[must_use = "the object is pinned only while the guard lives"]
pub struct ObjRead<'p> {
    bytes: NonNull<u8>,
    len: usize,
    hold: Hold<'p>,
    pool: PhantomData<&'p [u8]>,
}

// SAFETY: the bytes do not change while the guard lives (module invariant), so any thread may read them.
// `ObjPin` is `Sync`, and its `unpin` may be called on any thread.
unsafe impl Send for ObjRead<'_> {}
// SAFETY: `&ObjRead` gives access only to a `&[u8]`, and the bytes do not change (module invariant).
unsafe impl Sync for ObjRead<'_> {}

impl<'p> ObjRead<'p> {
    /// Makes a guard over pinned memory of a pool. The guard's drop calls `pin.unpin(token)`.
    ///
    /// # Safety
    /// `bytes` must be readable and initialised, and must not change until `pin.unpin(token)` is called. If
    /// that call never comes, this must hold until `'p` ends.
    #[inline]
    pub unsafe fn from_pin(bytes: NonNull<[u8]>, pin: &'p (dyn ObjPin + 'p), token: u64) -> Self {
        ObjRead {
            bytes: bytes.cast(),
            len: bytes.len(),
            hold: Hold::Pin { pin: NonNull::from(pin), token },
            pool: PhantomData,
        }
    }

    /// Makes a guard over reference-counted bytes. Meant for a backend that keeps each object in its own
    /// heap allocation; such a backend needs no `unsafe`. The guard shows the first `len` bytes of `owner`,
    /// or all of them if there are fewer.
    ///
    /// When the guard drops its share of the owner, the owner's destructor may run. So the destructor must
    /// follow the rules of [`ObjPin::unpin`].
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zpool_api::ObjRead;
    ///
    /// let object = ObjRead::from_owner(Arc::new(*b"bytes and padding"), 5);
    /// assert_eq!(&*object, b"bytes");
    /// ```
    pub fn from_owner(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, len: usize) -> Self {
        let (bytes, len) = {
            // `as_ref` is called only once: an unusual `AsRef` might return other bytes on a second call.
            // The slice borrows from the owner, and the guard keeps the owner alive. So the bytes cannot
            // change while the guard lives.
            let slice = (*owner).as_ref();
            (NonNull::from(slice).cast(), len.min(slice.len()))
        };
        ObjRead { bytes, len, hold: Hold::Owner(owner), pool: PhantomData }
    }

    /// Returns the same guard without the lifetime `'p` of the pool.
    ///
    /// # Safety
    /// The pool must outlive the returned guard.
    pub(crate) unsafe fn unbound(self) -> ObjRead<'static> {
        // SAFETY: the two types differ only in a lifetime, and the caller keeps the pool alive.
        unsafe { core::mem::transmute::<ObjRead<'p>, ObjRead<'static>>(self) }
    }
}

impl Deref for ObjRead<'_> {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes are readable and do not change until the drop (module invariant). The slice
        // borrows `self`, so the drop comes after the slice's last use.
        unsafe { core::slice::from_raw_parts(self.bytes.as_ptr(), self.len) }
    }
}

impl Drop for ObjRead<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Hold::Pin { pin, token } = self.hold {
            // SAFETY: the pin's target lives for `'p` (`from_pin`), or the owned guard that wraps this
            // guard keeps it alive (`unbound`).
            let pin = unsafe { pin.as_ref() };
            pin.unpin(token);
        }
    }
}

impl fmt::Debug for ObjRead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjRead").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    const _: fn() = || {
        fn both<T: Send + Sync>() {}
        both::<ObjRead<'static>>();
    };

    #[derive(Default)]
    struct Count(AtomicU64);
    impl ObjPin for Count {
        fn unpin(&self, token: u64) {
            self.0.fetch_add(token, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_pin_ends_once_on_whatever_thread() {
        let count = Count::default();
        let bytes = *b"pinned";
        // SAFETY: `bytes` lives to the end of the test and does not change. The guard is dropped earlier.
        let guard = unsafe { ObjRead::from_pin(NonNull::from(&bytes[..]), &count, 7) };
        assert_eq!(&*guard, b"pinned");
        std::thread::scope(|s| {
            s.spawn(move || {
                assert_eq!(guard.len(), 6);
                drop(guard);
            });
        });
        assert_eq!(count.0.load(Ordering::SeqCst), 7);
    }

    #[test]
    fn a_message_tells_the_length_and_not_the_bytes() {
        let guard = ObjRead::from_owner(Arc::new(b"secret"), 6);
        assert_eq!(format!("{guard:?}"), "ObjRead { len: 6, .. }");
    }

    #[test]
    fn an_owner_is_kept_and_cut_to_length() {
        let owner: Arc<Vec<u8>> = Arc::new(b"owned bytes".to_vec());
        let guard = ObjRead::from_owner(owner.clone(), 5);
        assert_eq!(&*guard, b"owned");
        assert_eq!(Arc::strong_count(&owner), 2);
        drop(guard);
        assert_eq!(Arc::strong_count(&owner), 1);
        assert_eq!(&*ObjRead::from_owner(owner, 99), b"owned bytes");
    }
}
