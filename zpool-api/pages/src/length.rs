//! Checks the length of a run.

use zpool_api::{MAX_RUN_PAGES, PageError};

/// Checks that a run may have `pages` pages.
///
/// # Errors
/// [`PageError::RunLength`] if `pages` is 0 or more than [`MAX_RUN_PAGES`].
pub(crate) fn check_run_length(pages: usize) -> Result<(), PageError> {
    if (1..=MAX_RUN_PAGES).contains(&pages) {
        Ok(())
    } else {
        Err(PageError::RunLength { pages, max: MAX_RUN_PAGES })
    }
}
