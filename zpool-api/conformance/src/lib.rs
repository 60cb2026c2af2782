//! A test suite for backends: one check for each promise of [`Zpool`].
//!
//! ```no_run
//! // In a backend's tests/conformance.rs:
//! # use std::sync::Arc;
//! # use zpool_api::{PageProvider, Zpool, ZpoolError};
//! # fn new_pool(_: Arc<dyn PageProvider>) -> Result<Arc<dyn Zpool>, ZpoolError> { unreachable!() }
//! zpool_conformance::conformance_tests!(zpool_conformance::subject("mine", |pages| new_pool(pages)));
//! # fn main() {}
//! ```
//!
//! The macro makes a `#[test]` for each check, so that a failure has a name. [`all`] runs the checks one
//! after another. Both are generated from the list `__conformance_list!`. Each check builds new pools over
//! each of [`Subject::providers`]. The suite wraps the provider in a
//! [`FailingPages`](zpool_pages::FailingPages), which counts pages and can make page requests fail.
//!
//! A failing check panics. The message names the check, the fault and the offending value. But if a backend
//! deadlocks, waits for a guard to be dropped, or never ends a reclaim, the check hangs. If [`Zpool::caps`]
//! does not claim a capability, the checks only require that the backend refuses the corresponding call.
//!
//! All random sequences have constant seeds. Under Miri, the same checks use only boundary sizes and short
//! sequences. All checks together take seconds natively, and less than a minute under Miri.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test suite: a broken promise is reported by a panic"
)]

mod accounting;
mod content;
mod fixture;
mod handles;
mod list;
mod mix;
mod model;
mod readers;
mod reclaim;
mod shortage;
mod sizes;
mod threads;
mod writes;

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use fixture::Rig;
pub use zpool_api::ZpoolError;
use zpool_api::{PageProvider, Zpool};
use zpool_pages::HeapPages;

/// A backend to test. [`subject`] makes one from a name and a closure.
pub trait Subject {
    /// Returns the name with which the messages of failures begin.
    fn name(&self) -> &str;

    /// Builds an empty pool over `pages`. May ignore `pages` if [`Subject::uses_pages`] is false.
    ///
    /// # Errors
    /// Any error of the pool's constructor. The suite expects an error only if a page request fails.
    fn build(&self, pages: Arc<dyn PageProvider>) -> Result<Arc<dyn Zpool>, ZpoolError>;

    /// Whether the pool keeps its objects in pages of the provider. The suite checks the answer. Default:
    /// true.
    fn uses_pages(&self) -> bool {
        true
    }

    /// Returns the page providers over which each check runs, with their names for messages. Called once
    /// per check.
    ///
    /// Default: [`HeapPages`] with pages of 4096 bytes. On Linux, except under Miri, also `MmapPages` with the
    /// system's page size. Override this, for instance, to test other page sizes.
    fn providers(&self) -> Vec<(String, Arc<dyn PageProvider>)> {
        default_providers()
    }
}

fn default_providers() -> Vec<(String, Arc<dyn PageProvider>)> {
    let heap: Arc<dyn PageProvider> = Arc::new(HeapPages::new());
    let providers = vec![("HeapPages".to_owned(), heap)];
    // `MmapPages` needs a form of mmap that Miri does not support.
    #[cfg(all(target_os = "linux", not(miri)))]
    let providers = {
        let mut providers = providers;
        providers.push(("MmapPages".to_owned(), Arc::new(zpool_pages::MmapPages::new())));
        providers
    };
    providers
}

/// The [`Subject`] that [`subject`] makes from a name and a constructor.
pub struct Named<F> {
    name: String,
    build: F,
}

/// Makes a [`Subject`] from a name and a closure. The closure builds a pool over the provider that it is
/// given.
///
/// ```
/// use zpool_api::ZpoolError;
/// use zpool_conformance::{Subject, subject};
///
/// let broken = subject("broken", |_pages| Err(ZpoolError::EmptyObject));
/// assert_eq!(broken.name(), "broken");
/// ```
pub fn subject<F>(name: &str, build: F) -> Named<F>
where
    F: Fn(Arc<dyn PageProvider>) -> Result<Arc<dyn Zpool>, ZpoolError>,
{
    Named { name: name.to_owned(), build }
}

impl<F> Subject for Named<F>
where
    F: Fn(Arc<dyn PageProvider>) -> Result<Arc<dyn Zpool>, ZpoolError>,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn build(&self, pages: Arc<dyn PageProvider>) -> Result<Arc<dyn Zpool>, ZpoolError> {
        (self.build)(pages)
    }
}

impl<F> fmt::Debug for Named<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Named").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One check of the suite. `Send`, `Sync`, `Copy`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Check {
    /// The name of the check and of its function.
    pub name: &'static str,
    /// The promise that the check tests, in words.
    pub promise: &'static str,
    /// Runs the check. Panics if the promise is broken.
    pub run: fn(&dyn Subject),
}

/// Runs every check in order.
///
/// # Panics
/// Panics at the first broken promise. The message names the subject, the check and the fault.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use zpool_api::{PageProvider, Zpool, ZpoolError};
/// # fn new_pool(_: Arc<dyn PageProvider>) -> Result<Arc<dyn Zpool>, ZpoolError> { unreachable!() }
/// zpool_conformance::all(&zpool_conformance::subject("mine", new_pool));
/// ```
pub fn all(subject: &dyn Subject) {
    for check in CHECKS {
        (check.run)(subject);
    }
}

/// Makes a public function and an entry of [`CHECKS`] from every line of the list.
macro_rules! define_checks {
    ($( $theme:ident { $( #[doc = $promise:literal] $check:ident, )* } )*) => {
        $( $(
            #[doc = $promise]
            ///
            /// # Panics
            /// Panics if the promise is broken.
            pub fn $check(subject: &dyn Subject) {
                run(subject, stringify!($check), $theme::$check);
            }
        )* )*

        /// Every check, in the order in which [`all`] runs them.
        pub const CHECKS: &[Check] = &[
            $( $( Check {
                name: stringify!($check),
                promise: $promise.trim_ascii(),
                run: $check,
            }, )* )*
        ];
    };
}

crate::__conformance_list!(define_checks);

/// Runs one check over every provider. If the check fails, puts the names of subject, check and provider
/// before its message.
fn run(subject: &dyn Subject, check: &str, body: fn(&Rig<'_>)) {
    for (provider, pages) in subject.providers() {
        let rig = Rig::new(subject, pages);
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| body(&rig))) {
            let name = subject.name();
            panic!("{name}: {check} over {provider}: {}", message(&*payload));
        }
    }
}

/// Returns the message of a panic.
fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

/// Returns `native` in an ordinary run, and `miri` under Miri, which is much slower.
const fn pick(native: usize, miri: usize) -> usize {
    if cfg!(miri) { miri } else { native }
}

const _: fn() = || {
    fn send<T: Send>() {}
    fn both<T: Send + Sync + ?Sized>() {}
    both::<Arc<dyn Zpool>>();
    both::<zpool_api::ObjRead<'static>>();
    both::<zpool_api::ObjReadOwned>();
    both::<zpool_api::ObjWrite<'static>>();
    both::<zpool_pages::FailingPages>();
    both::<Check>();
    send::<fixture::Fixture>();
};
