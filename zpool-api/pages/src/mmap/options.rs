//! The options of [`MmapPages`](super::MmapPages).

use zpool_api::PageError;
use zpool_api::provider::{MAX_RUN_PAGES, PAGE_SIZE};
use zpool_base::mapping::system_page_size;

/// Largest page size of runs, in bytes: the largest that common Linux builds use.
const MAX_PAGE_SIZE: usize = 65536;

/// Warm bytes that a provider keeps by default.
///
/// Enough that a backend that frees pages and allocates again within a batch or two makes no system call,
/// and little compared with any useful store: under 1 % of one of 64 MiB.
const WARM_BYTES: usize = 512 * 1024;

/// Options of [`MmapPages::with_options`](super::MmapPages::with_options). `Send` and `Sync`.
///
/// ```
/// use zpool_api::PageProvider;
/// use zpool_pages::{MmapOptions, MmapPages};
///
/// # if cfg!(miri) { return Ok(()); }
/// let pages = MmapPages::with_options(MmapOptions::new().page_size(65536).dont_dump(true))?;
/// assert_eq!(pages.page_size(), 65536);
/// # Ok::<(), zpool_api::PageError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "options do nothing until a provider is made with them"]
pub struct MmapOptions {
    page_size: Option<usize>,
    cache_pages: Option<usize>,
    pub(super) huge_pages: bool,
    pub(super) dont_fork: bool,
    pub(super) dont_dump: bool,
    pub(super) zero_on_free: bool,
}

impl MmapOptions {
    /// The defaults, which each setter names.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes per page: a power of two from 4096 to 65536, not below the system's page size. It may be
    /// larger; then runs, their alignment and all counts are in units of this size. Default: the system's
    /// page size.
    pub fn page_size(mut self, bytes: usize) -> Self {
        self.page_size = Some(bytes);
        self
    }

    /// Most resident pages to keep warm in freed runs. 0 keeps none, so each freed run costs a system call.
    /// Pages on their way to the system are counted but not bounded: about 64 more for each thread that is
    /// returning some. Default: 512 KiB of pages (128 of 4096 bytes), at least 16 pages.
    pub fn cache_pages(mut self, pages: usize) -> Self {
        self.cache_pages = Some(pages);
        self
    }

    /// Lets the system back the regions with huge pages. Default: off, which also forbids them
    /// (`MADV_NOHUGEPAGE`).
    ///
    /// Huge pages reduce TLB misses but cost memory: the first touch of one page may make 2 MiB resident,
    /// which no count of this crate includes, and the system must split a huge page to take back a part of
    /// it. Measure the cost by the process's resident set.
    pub fn huge_pages(mut self, on: bool) -> Self {
        self.huge_pages = on;
        self
    }

    /// Excludes the regions from a forked child (`MADV_DONTFORK`). The provider, and pools that refuse calls
    /// in a child, do not touch them there; reading the bytes of a guard that was open at the `fork` faults.
    /// Default: off.
    pub fn dont_fork(mut self, on: bool) -> Self {
        self.dont_fork = on;
        self
    }

    /// Excludes the regions from core dumps (`MADV_DONTDUMP`). Default: off.
    pub fn dont_dump(mut self, on: bool) -> Self {
        self.dont_dump = on;
        self
    }

    /// Overwrites the resident pages of each freed run with zeros, before the run is kept warm or handed out
    /// again. Default: off; then old bytes stay until the run's next holder overwrites them or the memory
    /// returns to the system.
    pub fn zero_on_free(mut self, on: bool) -> Self {
        self.zero_on_free = on;
        self
    }

    /// The page size in effect, in bytes; an error if it cannot be used here.
    pub(super) fn checked_page_size(&self) -> Result<usize, PageError> {
        let smallest = system_page_size().max(PAGE_SIZE);
        let page_size = self.page_size.unwrap_or(smallest);
        if page_size.is_power_of_two() && (smallest..=MAX_PAGE_SIZE).contains(&page_size) {
            Ok(page_size)
        } else {
            let allowed = format!("a power of two from {smallest} to {MAX_PAGE_SIZE}");
            Err(PageError::PageSize { page_size, allowed })
        }
    }

    /// The bound on warm pages in effect.
    pub(super) fn warm_bound(&self, page_size: usize) -> usize {
        self.cache_pages.unwrap_or((WARM_BYTES / page_size).max(MAX_RUN_PAGES))
    }
}
