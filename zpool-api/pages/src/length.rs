//! The check of a run's length.

use zpool_api::PageError;
use zpool_api::provider::MAX_RUN_PAGES;

/// Checks that a run may have `pages` pages.
///
/// # Errors
/// [`PageError::RunLength`] unless `pages` is 1 to [`MAX_RUN_PAGES`].
pub(crate) fn check_run_length(pages: usize) -> Result<(), PageError> {
    if (1..=MAX_RUN_PAGES).contains(&pages) {
        Ok(())
    } else {
        Err(PageError::RunLength { pages, max: MAX_RUN_PAGES })
    }
}
