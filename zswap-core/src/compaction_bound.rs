//! Bounds a compaction that would never end.

/// Pages that one step of compaction may free. A thread that is asked to stop does so after a step.
pub(crate) const STEP_PAGES: usize = 64;
/// Caps a pool's reported objects and pages: 1 TiB of pages of 4096 bytes.
const MOST_OBJECTS: usize = 1 << 28;

/// The number of steps after which compaction leaves a pool that had this many objects and pages at the
/// start. Four times the steps needed to move each object once, at 256 objects a step, and to free each
/// page, at `STEP_PAGES` a step; and 64 for objects that cannot move. Figures above the cap count as the
/// cap.
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
