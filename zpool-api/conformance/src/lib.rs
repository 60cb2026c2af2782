//! A test suite that any backend can run: what [`Zpool`] promises, one check for each promise.
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
//! makes one `#[test]` of every check, so that a failure has a name. [`all`] runs them one after
//! another. Both come from the one list `__conformance_list!`. Each check builds fresh pools over
//! each of [`Subject::providers`]; the pages of a pool are counted, and made to fail, by a
//! [`FailingPages`](zpool_pages::FailingPages) around them.
//!
//! A check that fails panics, and says which promise was broken by which value: it is a test. A
//! backend that deadlocks, that waits for a guard to be dropped, or whose reclaim has no end, hangs
//! its check. Checks of a capability that [`Zpool::caps`] does not claim ask only that the call is
//! refused.
//!
//! Everything random is seeded by constants. Under Miri the same checks run over boundary sizes
//! and short sequences; a whole run takes seconds natively and less than a minute there.

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

/// What the suite needs to know to test a backend. [`subject`] makes one of a closure.
pub trait Subject {
    /// The name that failures begin with.
    fn name(&self) -> &str;

    /// Builds an empty pool over `pages`. A backend that takes no pages may ignore them, if
    /// [`Subject::uses_pages`] says so.
    fn build(&self, pages: Arc<dyn PageProvider>) -> Result<Arc<dyn Zpool>, ZpoolError>;

    /// Whether the pool's objects live in the provider's pages. The suite holds it to the answer.
    fn uses_pages(&self) -> bool {
        true
    }

    /// The page providers to run each check over, with the names that failures give them. Asked
    /// for once a check.
    ///
    /// [`default_providers`] unless overridden, for other page sizes say.
    fn providers(&self) -> Vec<(String, Arc<dyn PageProvider>)> {
        default_providers()
    }
}

/// [`HeapPages`] with pages of 4096 bytes and, on Linux outside of Miri, `MmapPages` with the
/// system's pages.
pub fn default_providers() -> Vec<(String, Arc<dyn PageProvider>)> {
    let heap: Arc<dyn PageProvider> = Arc::new(HeapPages::new());
    let providers = vec![("HeapPages".to_owned(), heap)];
    // Miri knows no mmap of the kind that is needed.
    #[cfg(all(target_os = "linux", not(miri)))]
    let providers = {
        let mut providers = providers;
        providers.push(("MmapPages".to_owned(), Arc::new(zpool_pages::MmapPages::new())));
        providers
    };
    providers
}

/// A backend given as a name and a constructor; made by [`subject`].
pub struct Named<F> {
    name: String,
    build: F,
}

/// A [`Subject`] of a name and a closure that builds a pool over the pages it is given.
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
    /// The check's name, which is its function's.
    pub name: &'static str,
    /// What it holds a backend to, in words.
    pub promise: &'static str,
    /// Runs it; panics if the promise is broken.
    pub run: fn(&dyn Subject),
}

/// Runs every check in order.
///
/// # Panics
/// At the first broken promise, with the subject's and the check's names and what was wrong.
pub fn all(subject: &dyn Subject) {
    for check in CHECKS {
        (check.run)(subject);
    }
}

/// Makes a public function and an entry of [`CHECKS`] of every line of the list.
macro_rules! define_checks {
    ($( $theme:ident { $( #[doc = $promise:literal] $check:ident, )* } )*) => {
        $( $(
            #[doc = $promise]
            ///
            /// # Panics
            /// If the promise is broken.
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

/// Runs one check over every provider, and puts the names before what it says on failure.
fn run(subject: &dyn Subject, check: &str, body: fn(&Rig<'_>)) {
    for (provider, pages) in subject.providers() {
        let rig = Rig::new(subject, pages);
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| body(&rig))) {
            let name = subject.name();
            panic!("{name}: {check} over {provider}: {}", message(&*payload));
        }
    }
}

/// What a panic said.
fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

/// `native` in an ordinary run, `miri` under Miri, which is some thousand times slower.
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
