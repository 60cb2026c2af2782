//! Pages on page boundaries, as a kernel has them and as direct I/O requires.
//!
//! The only `unsafe` code here views a slice of aligned pages as a slice of [`Page`].

use std::collections::TryReserveError;
use std::ops::{Deref, DerefMut};

use zpool_api::PAGE_SIZE;

/// A page of 4096 bytes, the page size of all measurements.
pub type Page = [u8; PAGE_SIZE];

/// A page on a page boundary: 4096 bytes and nothing else.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(4096))]
struct Aligned(Page);

/// Pages one after another, each on a page boundary. Dereferences to a slice of [`Page`].
///
/// ```
/// use measure::Pages;
///
/// let mut pages = Pages::filled(7, 2);
/// pages[1][0] = 9;
/// assert_eq!((pages.len(), pages[0][0], pages[1][0]), (2, 7, 9));
/// assert_eq!(pages.as_ptr().addr() % 4096, 0);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Pages(Vec<Aligned>);

impl Pages {
    /// Makes `count` pages full of `byte`. All of them are touched.
    pub fn filled(byte: u8, count: usize) -> Self {
        Pages(vec![Aligned([byte; PAGE_SIZE]); count])
    }

    /// Reserves memory for `more` further pages.
    ///
    /// # Errors
    ///
    /// If the system has no memory for them.
    pub fn try_reserve(&mut self, more: usize) -> Result<(), TryReserveError> {
        self.0.try_reserve(more)
    }

    /// Changes the length to `count` pages: truncates, or appends pages of `byte`.
    pub fn resize(&mut self, count: usize, byte: u8) {
        self.0.resize(count, Aligned([byte; PAGE_SIZE]));
    }
}

impl Deref for Pages {
    type Target = [Page];

    fn deref(&self) -> &[Page] {
        let pages = self.0.as_slice();
        // SAFETY: `Aligned` has the size of a `Page` and a stricter alignment, so the memory of `pages` holds
        // the same number of valid `Page`s. The result borrows them.
        unsafe { std::slice::from_raw_parts(pages.as_ptr().cast(), pages.len()) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [Page] {
        let pages = self.0.as_mut_slice();
        // SAFETY: as in `deref`; any bytes are a valid `Aligned`.
        unsafe { std::slice::from_raw_parts_mut(pages.as_mut_ptr().cast(), pages.len()) }
    }
}

impl FromIterator<Page> for Pages {
    fn from_iter<I: IntoIterator<Item = Page>>(pages: I) -> Self {
        Pages(pages.into_iter().map(Aligned).collect())
    }
}

impl From<Vec<Page>> for Pages {
    fn from(pages: Vec<Page>) -> Self {
        pages.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_the_pages_bytes_on_page_boundaries() {
        let mut pages = Pages::filled(3, 2);
        pages.as_flattened_mut()[PAGE_SIZE + 1] = 99;
        assert_eq!((pages[1][0], pages[1][1]), (3, 99));
        assert_eq!(pages.as_flattened().len(), 2 * PAGE_SIZE);
        assert!(pages.iter().all(|page| page.as_ptr().addr() % PAGE_SIZE == 0));
        pages.resize(1, 0);
        pages.resize(2, 7);
        assert_eq!((pages[0][0], pages[1][0]), (3, 7));
    }
}
