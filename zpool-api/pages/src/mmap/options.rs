//! The options of [`MmapPages`](super::MmapPages).

use zpool_api::{MAX_RUN_PAGES, PAGE_SIZE, PageError};
use zpool_base::mapping::system_page_size;

/// The largest page size of runs, in bytes. It is the largest that common Linux builds use.
const MAX_PAGE_SIZE: usize = 65536;

/// How many bytes of warm pages a provider keeps by default.
///
/// With this amount, a backend that frees pages and soon allocates again makes no system calls. It is small
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
    /// Returns the default options. Each setter documents its default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the page size in bytes: a power of two from 4096 to 65536 that is not less than the system's
    /// page size. The length and alignment of runs and all counts are in units of this size. Default: the
    /// system's page size.
    pub fn page_size(mut self, bytes: usize) -> Self {
        self.page_size = Some(bytes);
        self
    }

    /// Sets the greatest number of resident pages of freed runs that are kept warm. With 0, none is kept,
    /// so each freed run costs a system call. Default: 512 KiB of pages (128 pages of 4096 bytes), but at
    /// least 16 pages.
    ///
    /// Pages that are just being returned to the system count as cached, too, although this limit does not
    /// apply to them. There are about 64 of them for each thread that is returning pages.
    pub fn cache_pages(mut self, pages: usize) -> Self {
        self.cache_pages = Some(pages);
        self
    }

    /// Allows the system to back the provider's memory with huge pages. Default: off, which forbids huge
    /// pages (`MADV_NOHUGEPAGE`).
    ///
    /// Huge pages reduce TLB misses but cost memory. The first touch of one page may make 2 MiB resident,
    /// and no count of this crate shows that. Before the system can take back a part of a huge page, it
    /// must split the page. To see the cost, measure the resident set of the process.
    pub fn huge_pages(mut self, on: bool) -> Self {
        self.huge_pages = on;
        self
    }

    /// Excludes the provider's memory from children after `fork` (`MADV_DONTFORK`). In a child, the
    /// provider does not touch this memory, and neither does a pool that refuses calls there. But if a
    /// guard was open at the `fork`, reading its bytes in the child faults. Default: off.
    pub fn dont_fork(mut self, on: bool) -> Self {
        self.dont_fork = on;
        self
    }

    /// Excludes the provider's memory from core dumps (`MADV_DONTDUMP`). Default: off.
    pub fn dont_dump(mut self, on: bool) -> Self {
        self.dont_dump = on;
        self
    }

    /// Overwrites the resident pages of each freed run with zeros, before the run is kept warm or allocated
    /// again. Default: off. Then old bytes stay until the run's next holder overwrites them or the memory
    /// returns to the system.
    pub fn zero_on_free(mut self, on: bool) -> Self {
        self.zero_on_free = on;
        self
    }

    /// Returns the page size to use, in bytes: the chosen one or the default.
    ///
    /// # Errors
    /// [`PageError::PageSize`] if the chosen page size cannot be used on this system.
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

    /// Returns the greatest number of warm pages: the chosen one or the default.
    pub(super) fn warm_bound(&self, page_size: usize) -> usize {
        self.cache_pages.unwrap_or((WARM_BYTES / page_size).max(MAX_RUN_PAGES))
    }
}
