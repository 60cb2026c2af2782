//! Pages on page boundaries, as a kernel has them and as direct I/O wants them.
//!
//! The only `unsafe` here is the view of aligned pages as plain ones.

use std::collections::TryReserveError;
use std::ops::{Deref, DerefMut};

use zpool_api::provider::PAGE_SIZE;

/// A page as all here have it: 4096 bytes.
pub type Page = [u8; PAGE_SIZE];

/// A page on a page's boundary: 4096 bytes and nothing else.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(4096))]
struct Aligned(Page);

/// Pages one after another, each on a page boundary. Used as a slice of [`Page`].
#[derive(Clone, Debug, Default)]
pub struct Pages(Vec<Aligned>);

impl Pages {
    /// `count` pages of `byte`, touched.
    pub fn filled(byte: u8, count: usize) -> Self {
        Pages(vec![Aligned([byte; PAGE_SIZE]); count])
    }

    /// Makes room for `more` pages without growing step by step.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn try_reserve(&mut self, more: usize) -> Result<(), TryReserveError> {
        self.0.try_reserve(more)
    }

    /// Makes it `count` pages: cuts the end off, or appends pages of `byte`.
    pub fn resize(&mut self, count: usize, byte: u8) {
        self.0.resize(count, Aligned([byte; PAGE_SIZE]));
    }
}

impl Deref for Pages {
    type Target = [Page];

    fn deref(&self) -> &[Page] {
        let pages = self.0.as_slice();
        // SAFETY: `Aligned` is a `Page` and nothing else, as long and more strictly aligned, so as many
        // pages lie there, borrowed for as long as the result.
        unsafe { std::slice::from_raw_parts(pages.as_ptr().cast(), pages.len()) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [Page] {
        let pages = self.0.as_mut_slice();
        // SAFETY: as in `deref`; any bytes make a valid `Aligned`.
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
