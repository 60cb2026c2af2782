//! Panics of code that is called from a destructor, where a second one would end the process.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Does what a destructor has to do. A panic under it goes on, unless the thread is unwinding already:
/// then it is dropped, and the first one goes on.
///
/// ```
/// use std::panic::{catch_unwind, panic_any};
/// use zpool_api::unwind::in_destructor;
///
/// struct Gives;
/// impl Drop for Gives {
///     fn drop(&mut self) {
///         in_destructor(|| panic_any("second"));
///     }
/// }
/// let caught = catch_unwind(|| {
///     let _gives = Gives;
///     panic_any("first")
/// });
/// assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"first"));
/// ```
pub fn in_destructor(work: impl FnOnce()) {
    if !std::thread::panicking() {
        return work();
    }
    if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
        drop_payload(payload);
    }
}

/// Drops what a panic carried; what its destructor panics with is leaked.
pub fn drop_payload(payload: Box<dyn Any + Send>) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        core::mem::forget(another);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::panic::resume_unwind;

    /// Takes no memory, so that leaking it loses none.
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            resume_unwind(Box::new(()));
        }
    }

    struct Carries;
    impl Drop for Carries {
        fn drop(&mut self) {
            in_destructor(|| resume_unwind(Box::new(Bomb)));
        }
    }

    #[test]
    fn a_second_panic_of_a_destructor_ends_with_it() {
        let caught = catch_unwind(|| {
            let _carries = Carries;
            resume_unwind(Box::new(1));
        });
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&1));
        let caught = catch_unwind(|| in_destructor(|| resume_unwind(Box::new(2))));
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&2), "not swallowed without need");
        drop_payload(Box::new(Bomb));
    }
}
