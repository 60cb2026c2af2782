//! What happens when an invariant of this crate is broken.

use core::fmt;

/// Panics with a sentence that names the invariant.
#[cold]
#[expect(clippy::panic, reason = "a broken invariant of this crate")]
pub(crate) fn broken(sentence: fmt::Arguments<'_>) -> ! {
    panic!("{sentence}")
}
