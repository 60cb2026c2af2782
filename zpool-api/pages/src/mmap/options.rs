//! The options of [`MmapPages`](super::MmapPages).

use zpool_api::PageError;
use zpool_api::provider::{MAX_RUN_PAGES, PAGE_SIZE};
use zpool_base::mapping::system_page_size;

/// Largest page size of runs, in bytes: the largest that common Linux builds use.
const MAX_PAGE_SIZE: usize = 65536;

/// Warm bytes that a provider keeps by default.
///
/// With so much, a backend that frees pages and soon allocates again makes no system call. It is little
/// compared with any useful store: less than 1 % of a store of 64 MiB.
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
    /// Returns the defaults. Each setter names its default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the bytes per page: a power of two from 4096 to 65536, not less than the system's page size.
    /// Runs, their alignment and all counts are in units of this size. Default: the system's page size.
    pub fn page_size(mut self, bytes: usize) -> Self {
        self.page_size = Some(bytes);
        self
    }

    /// Sets how many resident pages of freed runs are kept warm at most. 0 keeps none, so each freed run
    /// costs a system call. Pages on their way to the system are counted as cached, but this limit does not
    /// apply to them; they are about 64 for each thread that is returning pages. Default: 512 KiB of pages
    /// (128 of 4096 bytes), but at least 16 pages.
    pub fn cache_pages(mut self, pages: usize) -> Self {
        self.cache_pages = Some(pages);
        self
    }

    /// Lets the system back the regions with huge pages. Default: off, which forbids huge pages
    /// (`MADV_NOHUGEPAGE`).
    ///
    /// Huge pages reduce TLB misses but cost memory. The first touch of one page may make 2 MiB resident, and
    /// no count of this crate includes them. To take back a part of a huge page, the system must split it.
    /// Measure the cost by the process's resident set.
    pub fn huge_pages(mut self, on: bool) -> Self {
        self.huge_pages = on;
        self
    }

    /// Excludes the regions from a forked child (`MADV_DONTFORK`). In the child, the provider and pools that
    /// refuse calls there do not touch the regions. But if a guard was open at the `fork`, reading its bytes
    /// in the child faults. Default: off.
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
    /// again. Default: off. Then old bytes stay until the run's next holder overwrites them or the memory
    /// returns to the system.
    pub fn zero_on_free(mut self, on: bool) -> Self {
        self.zero_on_free = on;
        self
    }

    /// Returns the page size to use, in bytes.
    ///
    /// # Errors
    /// [`PageError::PageSize`] if it cannot be used here.
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

    /// Returns the bound on warm pages to use.
    pub(super) fn warm_bound(&self, page_size: usize) -> usize {
        self.cache_pages.unwrap_or((WARM_BYTES / page_size).max(MAX_RUN_PAGES))
    }
}
