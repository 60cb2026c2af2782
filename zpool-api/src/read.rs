//! Read guards: an object's bytes, pinned.
//!
//! A guard holds no mutex and is bound to no thread or CPU. While it lives, its bytes neither move nor
//! change. The object can be freed meanwhile; its space is reused after its readers have ended. A guard may
//! live as long as the caller likes, move to another thread and be dropped there. A guard that is forgotten
//! pins its object for the pool's life. It has no other effect.
//!
//! Module invariant, kept by the caller of `from_pin` or `from_owner`: the bytes are readable and unchanging
//! from the moment the guard is made until its drop. A guard keeps raw pointers, not references, because the
//! pin ends *inside* the drop, and from that moment another thread may write the memory.

use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;
use std::sync::Arc;

/// The backend's half of a read guard: ends the pin.
///
/// Implemented by a backend's private type, so that nobody else can end a pin.
pub trait ObjPin: Sync {
    /// Ends the pin that `token` stands for. Called once per guard, on any thread. That thread may hold any
    /// locks, for instance a store's entry lock. So `unpin` must not wait, must take only locks of the
    /// innermost ranks, must not call the page provider and must not panic. Pages that it empties stay with
    /// the pool until the pool's next call that may block returns them.
    fn unpin(&self, token: u64);
}

enum Hold<'p> {
    /// A pin inside the pool's memory. `pin` was a `&'p dyn ObjPin`. It is kept as a raw pointer because the
    /// pin may be the last thing that keeps its target alive, and no reference may exist after the target has
    /// gone.
    Pin { pin: NonNull<dyn ObjPin + 'p>, token: u64 },
    /// Memory that the guard keeps alive by owning a share of it; there is no pin to end.
    Owner(#[expect(dead_code, reason = "kept for its drop")] Arc<dyn AsRef<[u8]> + Send + Sync>),
}

/// An object's bytes, borrowed from its pool. Derefs to `&[u8]` of the object's exact length.
///
/// `Send` and `Sync`. Dropping the guard ends the read. It may be dropped on any thread and under any lock,
/// because the drop waits for nobody and calls no page provider. If this was the last reader of a freed
/// object, the pool's next call that may block frees the object's space.
#[must_use = "the object is pinned only while the guard lives"]
pub struct ObjRead<'p> {
    bytes: NonNull<u8>,
    len: usize,
    hold: Hold<'p>,
    pool: PhantomData<&'p [u8]>,
}

// SAFETY: the bytes are immutable while the guard lives (module invariant), so they may be read
// from any thread; `ObjPin` is `Sync`, and `unpin` may be called on any thread by its contract.
unsafe impl Send for ObjRead<'_> {}
// SAFETY: as above; `&ObjRead` gives out nothing but `&[u8]`.
unsafe impl Sync for ObjRead<'_> {}

impl<'p> ObjRead<'p> {
    /// Makes a guard over pinned memory of a pool. Its drop calls `pin.unpin(token)`.
    ///
    /// # Safety
    /// `bytes` must be readable, initialised and unchanging until `pin.unpin(token)` is called. As long as
    /// `'p` lasts, the memory must not be given back before that call.
    #[inline]
    pub unsafe fn from_pin(bytes: NonNull<[u8]>, pin: &'p (dyn ObjPin + 'p), token: u64) -> Self {
        ObjRead {
            bytes: bytes.cast(),
            len: bytes.len(),
            hold: Hold::Pin { pin: NonNull::from(pin), token },
            pool: PhantomData,
        }
    }

    /// Makes a guard over reference-counted bytes, without `unsafe`: for a backend that keeps each object in
    /// its own allocation. Shows the first `len` bytes of `owner`, or all of them if it has fewer.
    ///
    /// When the guard drops its share of the owner, the owner's destructor may run. So that destructor must
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
            // Called only once: a strange `AsRef` may return other bytes next time. The slice borrows from
            // the owner, which the guard keeps alive and shared, hence immutable.
            let slice = (*owner).as_ref();
            (NonNull::from(slice).cast(), len.min(slice.len()))
        };
        ObjRead { bytes, len, hold: Hold::Owner(owner), pool: PhantomData }
    }

    /// Returns the same guard without the pool's lifetime.
    ///
    /// # Safety
    /// The pool must outlive the returned guard.
    pub(crate) unsafe fn unbound(self) -> ObjRead<'static> {
        // SAFETY: the two types differ in a lifetime only; the caller keeps the pool alive.
        unsafe { core::mem::transmute::<ObjRead<'p>, ObjRead<'static>>(self) }
    }
}

impl Deref for ObjRead<'_> {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes are readable and unchanging until the drop (module invariant). `self` is borrowed
        // for as long as the slice, so the drop comes later.
        unsafe { core::slice::from_raw_parts(self.bytes.as_ptr(), self.len) }
    }
}

impl Drop for ObjRead<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Hold::Pin { pin, token } = self.hold {
            // SAFETY: the pin's target lives for `'p` (`from_pin`), or is kept alive by the owned
            // guard that wraps this one (`unbound`).
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
        // SAFETY: `bytes` lives unchanged to the end of the test, the guard does not.
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
