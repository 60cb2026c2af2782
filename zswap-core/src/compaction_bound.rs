//! Limits the steps of a compaction, so that it always ends.

/// The most pages that one step of compaction frees. A thread that is asked to stop finishes its step first.
pub(crate) const STEP_PAGES: usize = 64;
/// The greatest number of objects or pages that [`most_steps`] assumes. As pages of 4096 bytes this is 1 TiB.
const MOST_OBJECTS: usize = 1 << 28;

/// Returns the most steps of compaction in a pool that had this many objects and pages at the start. A usual
/// step moves 256 objects or frees `STEP_PAGES` pages. The result is four times the number of usual steps that
/// move each object once and free each page, plus 64, because some steps do less. More than `MOST_OBJECTS`
/// objects or pages count as `MOST_OBJECTS`.
pub(crate) fn most_steps(objects: usize, pages: usize) -> usize {
    let (objects, pages) = (objects.min(MOST_OBJECTS), pages.min(MOST_OBJECTS));
    64 + objects / 64 + pages / (STEP_PAGES / 4)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn so_many_steps_are_taken_as_the_pool_has_work_for() {
        assert_eq!(most_steps(0, 0), 64);
        assert_eq!(most_steps(256_000, 6400), 64 + 4 * (1000 + 100));
        assert_eq!(most_steps(usize::MAX, usize::MAX), most_steps(MOST_OBJECTS, MOST_OBJECTS));
    }
}
