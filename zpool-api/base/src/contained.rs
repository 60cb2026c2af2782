//! Panics of user code (devices, codecs, backends) become errors, like any other bad input.

use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Deref;

use crate::unwind::caught;

/// The error of [`contain`]: user code panicked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Panicked;

/// Calls user code and returns its result. A panic becomes an error.
///
/// # Errors
/// [`Panicked`] if the call panics.
///
/// ```
/// use zpool_base::contained::{Panicked, contain};
///
/// assert_eq!(contain(|| 7), Ok(7));
/// assert_eq!(contain(|| -> i32 { std::panic::resume_unwind(Box::new(())) }), Err(Panicked));
/// ```
#[inline]
pub fn contain<T>(call: impl FnOnce() -> T) -> Result<T, Panicked> {
    caught(call).ok_or(Panicked)
}

/// A user's value. If the value's destructor panics, the panic ends in the drop of this wrapper.
pub struct Contained<T>(ManuallyDrop<T>);

impl<T> Contained<T> {
    /// Wraps a user's value.
    ///
    /// ```
    /// use zpool_base::contained::Contained;
    ///
    /// struct Rude;
    /// impl Drop for Rude {
    ///     fn drop(&mut self) {
    ///         std::panic::resume_unwind(Box::new(()));
    ///     }
    /// }
    /// drop(Contained::new(Rude)); // the panic ends here
    /// ```
    pub fn new(value: T) -> Self {
        Contained(ManuallyDrop::new(value))
    }
}

impl<T> Deref for Contained<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> Clone for Contained<T> {
    fn clone(&self) -> Self {
        Contained::new(T::clone(self))
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        let value = &mut self.0;
        // A panic is ignored, because there is nobody to report it to.
        //
        // SAFETY: the value is dropped once, in the wrapper's own drop, and not used afterwards.
        let _ = contain(|| unsafe { ManuallyDrop::drop(value) });
    }
}

impl<T: fmt::Debug> fmt::Debug for Contained<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            // The payload of a second panic is leaked. This payload has no size, so leaking it
            // leaks no memory.
            std::panic::resume_unwind(Box::new(()));
        }
    }

    #[test]
    fn a_destructor_that_panics_does_so_alone_and_so_does_a_panics_payload() {
        drop(Contained::new(Bomb));
        assert_eq!(contain(|| 7), Ok(7));
        assert_eq!(contain(|| std::panic::panic_any(Bomb)), Err(Panicked));
    }
}
