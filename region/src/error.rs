//! Why a region cannot be built, or a call or a fault not be served.

use core::ops::Range;
use std::io;

use zswap_core::{LoadError, StoreError, UnitError};

use crate::backend::BackendKind;

/// Why a page cannot be made resident. A call returns this inside its error; a fault has nobody to return it to, so the
/// handler writes it and aborts.
#[derive(thiserror::Error, Debug)]
#[non_exhaustive]
pub enum Trouble {
    /// Nothing more can be evicted, and the limits leave no room.
    #[error(
        "no room for a page: {resident} resident pages of at most {limit}, of which {pinned} are pinned, {beside} bytes of \
         tables and compressed pages, a budget of {budget:?} bytes{}; raise the budget, pin less, or add a swap device",
        Refused(refusal.as_deref())
    )]
    #[non_exhaustive]
    Full {
        /// The resident pages.
        resident: usize,
        /// The most that there may be now.
        limit: usize,
        /// The bytes of everything else.
        beside: usize,
        /// The budget in bytes.
        budget: Option<usize>,
        /// The pins of all pages.
        pinned: usize,
        /// Why the store refused a page last, if it did.
        refusal: Option<Box<StoreError>>,
    },
    /// The store cannot read a page.
    #[error("page {page} of the region cannot be read: {source}")]
    #[non_exhaustive]
    Load {
        /// The number of the page.
        page: usize,
        /// The store's error.
        source: Box<LoadError>,
    },
    /// The system refuses a call.
    #[error("{doing} failed: {source}")]
    #[non_exhaustive]
    System {
        /// What the call was for.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A page has as many pins as can be counted, some four million.
    #[error("page {page} of the region has as many pins as can be counted; drop some")]
    #[non_exhaustive]
    Pins {
        /// The number of the page.
        page: usize,
    },
}

/// Shows why the store refused a page, if it did. Allocates nothing.
struct Refused<'a>(Option<&'a StoreError>);

impl core::fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.map_or(Ok(()), |why| write!(f, ", and the store refuses pages: {why}"))
    }
}

impl Trouble {
    pub(crate) fn system(doing: &'static str) -> impl Fn(io::Error) -> Trouble {
        move |source| Trouble::System { doing, source }
    }
}

/// Why a region cannot be built.
#[derive(thiserror::Error, Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// The capacity is 0 or more than 2^31 pages.
    #[error("a region of {capacity} bytes cannot be built: a capacity is 1 byte to 8 TiB")]
    #[non_exhaustive]
    Capacity {
        /// The capacity in bytes.
        capacity: usize,
    },
    /// The pages' length is no unit.
    #[error("a region's pages are units of its store: {0}")]
    Unit(#[from] UnitError),
    /// An allocator needs pages of 4096 bytes.
    #[error(
        "an allocator places blocks in pages of 4096 bytes, not of {unit}; build its region with unit(4096)"
    )]
    #[non_exhaustive]
    AllocatorUnit {
        /// The bytes of the region's pages.
        unit: usize,
    },
    /// Neither a budget nor a number of resident bytes was given.
    #[error("a region needs a limit: set budget() or resident_bytes(), or both")]
    NoLimit,
    /// A limit is too small to work with.
    #[error("{0}")]
    Limit(#[from] LimitError),
    /// This system, or its settings, cannot do it.
    #[error("no region can be built here: {why}")]
    #[non_exhaustive]
    Unsupported {
        /// Which calls were refused, for each backend that was tried, and what that means.
        why: String,
    },
    /// A thread blocks the signal that a fault in the region raises, so a fault on this thread would kill the process.
    #[error(
        "thread {thread} blocks {signal}, which a touch of an evicted page raises; unblock it before building a region, or say by check_signals(false) that it never touches it"
    )]
    #[non_exhaustive]
    SignalBlocked {
        /// The thread's id.
        thread: u32,
        /// The signal's name.
        signal: &'static str,
    },
    /// The signal handlers of this process were replaced more often than can be followed.
    #[error(
        "the handler of {signal} was replaced after a region was built, more often than can be followed; build regions \
             after everything that installs handlers"
    )]
    #[non_exhaustive]
    Handlers {
        /// The signal's name.
        signal: &'static str,
    },
    /// The system has no memory, address space or thread for the region.
    #[error("{doing} failed: {source}")]
    #[non_exhaustive]
    System {
        /// What was tried.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The store below the region cannot be built.
    #[error("the store below the region cannot be built: {0}")]
    Store(zswap_core::BuildError),
}

/// A limit that is too small.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
#[error("a {limit} of {bytes} bytes is too small: at least {needed} are needed")]
#[non_exhaustive]
pub struct LimitError {
    /// The name of the limit.
    pub limit: &'static str,
    /// What was asked for, in bytes.
    pub bytes: usize,
    /// The least that is possible now, in bytes.
    pub needed: usize,
}

/// A range that is not in the region.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
#[error("the bytes {range:?} are not in a region of {len} bytes")]
#[non_exhaustive]
pub struct RangeError {
    /// The range in bytes.
    pub range: Range<usize>,
    /// The length of the region in bytes.
    pub len: usize,
}

/// Why a range cannot be pinned.
#[derive(thiserror::Error, Debug)]
#[non_exhaustive]
pub enum PinError {
    /// The range is not in the region.
    #[error("{0}")]
    Range(#[from] RangeError),
    /// As many pages are pinned as may be: pinned pages cannot be evicted, and other pages need room, too.
    #[error(
        "{pages} pages cannot be pinned: {pinned} are, and at most {most} may be within the limits of this region"
    )]
    #[non_exhaustive]
    TooMany {
        /// The pages to pin.
        pages: usize,
        /// The pins that exist.
        pinned: usize,
        /// The most that may exist now.
        most: usize,
    },
    /// A page cannot be made resident.
    #[error("{0}")]
    Page(Trouble),
}

/// Why a call about a range of pages ended early.
#[derive(thiserror::Error, Debug)]
#[non_exhaustive]
pub enum AdviceError {
    /// The range is not in the region.
    #[error("{0}")]
    Range(#[from] RangeError),
    /// A page cannot be made resident.
    #[error("{0}")]
    Page(Trouble),
}

/// How a region works, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Chosen {
    /// The backend.
    pub kind: BackendKind,
    /// Why this one: what was asked for, or what the system refused.
    pub why: String,
}
