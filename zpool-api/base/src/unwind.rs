//! Panics of code that is not ours: a codec's, a device's, a backend's, and the destructors of any, where a second one
//! would end the process.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs `call`; `None` if it panicked. Also within a destructor that runs because of a panic.
///
/// The payload of the panic is dropped here. One whose own destructor panics is leaked.
///
/// ```
/// use zpool_base::unwind::caught;
/// assert_eq!(caught(|| 7), Some(7));
/// assert_eq!(caught(|| -> i32 { std::panic::resume_unwind(Box::new("on purpose")) }), None);
/// ```
#[inline]
pub fn caught<T>(call: impl FnOnce() -> T) -> Option<T> {
    // What `call` borrows is the caller's, who knows from `None` that it may be half done.
    catch_unwind(AssertUnwindSafe(call)).map_err(drop_payload).ok()
}

/// Drops `value`; whether its destructor ran to its end. What a destructor that panics had still to
/// drop is dropped by the unwinding.
pub fn dropped<T>(value: T) -> bool {
    caught(|| drop(value)).is_some()
}

/// Does what a destructor has to do. A panic under it goes on, unless the thread is unwinding already:
/// then it is dropped, and the first one goes on.
///
/// ```
/// use std::panic::{catch_unwind, panic_any};
/// use zpool_base::unwind::in_destructor;
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

/// As [`in_destructor`], for several things that each have to be done, whatever the others panic with: the first
/// panic goes on when all are done.
pub fn each_in_destructor<W: FnOnce()>(works: impl IntoIterator<Item = W>) {
    let mut first = None;
    for work in works {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
            match first {
                None => first = Some(payload),
                Some(_) => drop_payload(payload),
            }
        }
    }
    if let Some(payload) = first {
        in_destructor(|| resume_unwind(payload));
    }
}

/// Drops what a panic carried; what its destructor panics with is leaked.
#[cold]
fn drop_payload(payload: Box<dyn Any + Send>) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        core::mem::forget(another);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

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
        let done = core::cell::Cell::new(0);
        let works = (1..4).map(|n| {
            let done = &done;
            move || {
                done.set(done.get() + n);
                resume_unwind(Box::new(n));
            }
        });
        let caught = catch_unwind(AssertUnwindSafe(|| each_in_destructor(works)));
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&1), "the first one goes on");
        assert_eq!(done.get(), 6, "when all are done");
    }
}
