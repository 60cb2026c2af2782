//! Loads the pages for a measurement. Same-filled pages are left out. The number of pages is a
//! multiple of the number of pages in the largest request that any contestant makes.

use std::path::PathBuf;

use measure::{Page, PageSet, Pages};

use crate::error::{Error, Result};

/// The number of pages in the largest request: 128 KiB.
pub(crate) const LARGEST_UNIT: usize = 32;

/// The size of a page in bytes.
pub(crate) const PAGE: usize = size_of::<Page>();

/// The greatest number of bytes to read from the files.
pub(crate) const LIMIT: u64 = 4 << 30;

/// Loads pages from the files, or the built-in sample if there are none. If `most` is given, loads
/// at most that many pages, spread evenly over the files. Fails if fewer pages are left than the
/// largest request has.
pub(crate) fn load(files: &[PathBuf], most: Option<usize>) -> Result<PageSet> {
    let all = PageSet::load(files, LIMIT)?;
    let step = most.map_or(1, |most| all.timed().len().div_ceil(most.max(1)).max(1));
    let mut pages: Pages = all.timed().iter().step_by(step).map(|&i| all.pages()[i]).collect();
    let origin = all.origin().to_owned();
    drop(all);
    let found = pages.len();
    pages.resize(found / LARGEST_UNIT * LARGEST_UNIT, 0);
    if pages.is_empty() {
        return Err(Error::FewPages { pages: found, least: LARGEST_UNIT });
    }
    Ok(PageSet::new(pages, origin))
}

/// Returns the byte offset at which a page begins on a disk.
pub(crate) fn offset(page: usize) -> u64 {
    (page * PAGE) as u64
}
