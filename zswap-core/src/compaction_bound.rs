//! Bounds a compaction that would never end.

/// The most pages that one step of compaction frees. A thread that is asked to stop finishes its step.
pub(crate) const STEP_PAGES: usize = 64;
/// The most objects and pages that a pool is taken to have: 1 TiB of pages of 4096 bytes.
const MOST_OBJECTS: usize = 1 << 28;

/// Returns the number of steps after which compaction leaves a pool, given the objects and pages that the pool
/// had at the start. A step moves 256 objects or frees `STEP_PAGES` pages. The bound is four times the steps
/// that moving each object once and freeing each page take, plus 64 for objects that cannot move. More than
/// `MOST_OBJECTS` objects or pages count as `MOST_OBJECTS`.
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
