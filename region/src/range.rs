//! Ranges of bytes, as pages.

use core::ops::Range;

/// Returns the pages, of `unit` bytes each, that a range of bytes touches.
pub(crate) fn pages_of(range: &Range<usize>, unit: usize) -> Range<usize> {
    if range.is_empty() {
        return 0..0;
    }
    range.start / unit..range.end.div_ceil(unit)
}
