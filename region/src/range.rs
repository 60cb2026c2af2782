//! Ranges of bytes, as pages.

use core::ops::Range;

use zswap_core::PAGE_SIZE;

/// Returns the pages that a range of bytes touches.
pub(crate) fn pages_of(range: &Range<usize>) -> Range<usize> {
    if range.is_empty() {
        return 0..0;
    }
    range.start / PAGE_SIZE..range.end.div_ceil(PAGE_SIZE)
}
