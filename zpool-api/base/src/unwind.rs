//! Panics of foreign code, such as codecs, devices and backends. Foreign code may also panic in a
//! destructor, and a second panic there would abort the process.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs `call` and returns its result. Returns `None` if `call` panicked. Also works in a destructor that
/// runs because of a panic.
///
/// Drops the payload of the panic. If the payload's destructor panics in turn, the payload of this second
/// panic is leaked.
///
/// ```
/// use zpool_base::unwind::caught;
/// assert_eq!(caught(|| 7), Some(7));
/// assert_eq!(caught(|| -> i32 { std::panic::resume_unwind(Box::new("on purpose")) }), None);
/// ```
#[inline]
pub fn caught<T>(call: impl FnOnce() -> T) -> Option<T> {
    // Unwind-safe: whatever `call` borrowed may be half changed, and `None` informs the caller of that.
    catch_unwind(AssertUnwindSafe(call)).map_err(drop_payload).ok()
}

/// Drops `value` and returns true. Returns false if its destructor panicked; then unwinding still drops the
/// other fields of the value.
///
/// ```
/// assert!(zpool_base::unwind::dropped(vec![1]));
/// ```
pub fn dropped<T>(value: T) -> bool {
    caught(|| drop(value)).is_some()
}

/// Runs the work of a destructor. If `work` panics, the panic propagates, unless the thread is already
/// unwinding. In that case the new panic is dropped, and the first one continues.
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

/// Runs each of `works`, even if others panic. At the end, the first panic propagates as described at
/// [`in_destructor`]; the other panics are dropped.
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

/// Drops the payload of a panic. If the payload's destructor panics, the payload of this second panic is
/// leaked.
#[cold]
fn drop_payload(payload: Box<dyn Any + Send>) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        core::mem::forget(another);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A payload whose destructor panics. It has no size, so leaking it leaks no memory.
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
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&2), "a first panic is not swallowed");
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
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&1), "the first panic propagates");
        assert_eq!(done.get(), 6, "after all work is done");
    }
}
