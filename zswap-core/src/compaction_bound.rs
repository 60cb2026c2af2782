//! When a compaction that goes on and on is left.

/// Pages won in a step of compaction, after which a thread that is to stop does.
pub(crate) const STEP_PAGES: usize = 64;
/// Most objects, and pages, that a figure of a pool is taken for: 1 TiB of pages of 4096.
const MOST_OBJECTS: usize = 1 << 28;

/// Steps after which a pool that has so many objects and pages when compaction begins is left. Four times
/// what one takes that moves each object once, or wins each page, a step 256 objects or `STEP_PAGES`; and
/// a few for what is not moved. Figures beyond what a pool can have count as that.
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
