//! The pages of a run: those of the files that are not same-filled, a multiple of the largest
//! request of any contestant.

use std::path::PathBuf;

use measure::{Page, PageSet, Pages};

use crate::error::{Error, Result};

/// Pages of the largest request: 128 KiB.
pub(crate) const LARGEST_UNIT: usize = 32;

/// Bytes of a page.
pub(crate) const PAGE: usize = size_of::<Page>();

/// Most bytes of pages that are read.
pub(crate) const LIMIT: u64 = 4 << 30;

/// The pages of all files, at most `most` of them, evenly spread.
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

/// Where a page begins on a disk.
pub(crate) fn offset(page: usize) -> u64 {
    (page * PAGE) as u64
}
