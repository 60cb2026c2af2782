//! The pages that are kept: those of the files that are not same-filled, page-aligned, as direct I/O
//! wants them, and a whole number of the largest unit that any contestant takes at a time.

use std::path::PathBuf;

use measure::{Page, PageSet};

use crate::error::{Error, Result};

/// Pages of the largest request: 128 KiB.
pub(crate) const LARGEST_UNIT: usize = 32;

/// Bytes of a page.
pub(crate) const PAGE: usize = size_of::<Page>();

/// Most bytes of pages that are read.
const LIMIT: u64 = 4 << 30;

/// A page on a page's boundary.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(4096))]
pub(crate) struct Aligned(pub(crate) Page);

/// What every contestant keeps.
#[derive(Debug)]
pub(crate) struct Source {
    /// The same pages as the bare codec takes them.
    pub(crate) set: PageSet,
    pub(crate) pages: Vec<Aligned>,
}

impl Source {
    /// The pages of all files, at most `most` of them, evenly spread.
    pub(crate) fn load(files: &[PathBuf], most: Option<usize>) -> Result<Self> {
        let all = PageSet::load(files, LIMIT)?;
        let step = most.map_or(1, |most| all.timed().len().div_ceil(most.max(1)).max(1));
        let mut pages: Vec<Page> =
            all.timed().iter().step_by(step).map(|&i| all.pages()[i]).collect();
        let origin = all.origin().to_owned();
        drop(all);
        let found = pages.len();
        pages.truncate(found / LARGEST_UNIT * LARGEST_UNIT);
        if pages.is_empty() {
            return Err(Error::FewPages { pages: found, least: LARGEST_UNIT });
        }
        let aligned = pages.iter().map(|page| Aligned(*page)).collect();
        Ok(Source { set: PageSet::new(pages, origin), pages: aligned })
    }
}

/// Where a page begins on a disk.
pub(crate) fn offset(page: usize) -> u64 {
    (page * PAGE) as u64
}

/// The pages' bytes on end.
pub(crate) fn bytes(pages: &[Aligned]) -> &[u8] {
    // SAFETY: `Aligned` is 4096 bytes and nothing else, on a boundary of as many, so a slice of them
    // is initialised memory without gaps, of so many bytes, borrowed for as long as the result.
    unsafe { std::slice::from_raw_parts(pages.as_ptr().cast(), size_of_val(pages)) }
}

/// The pages' bytes on end, to be written.
pub(crate) fn bytes_mut(pages: &mut [Aligned]) -> &mut [u8] {
    // SAFETY: as in `bytes`, and any bytes make valid pages.
    unsafe { std::slice::from_raw_parts_mut(pages.as_mut_ptr().cast(), size_of_val(pages)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_the_pages_bytes() {
        let mut two = [Aligned([3; PAGE]); 2];
        bytes_mut(&mut two)[PAGE + 1] = 99;
        assert_eq!(two[1].0[1], 99);
        assert_eq!(bytes(&two).len(), 2 * PAGE);
        assert_eq!(bytes(&two)[PAGE + 1], 99);
    }
}
