//! A test that every provider must pass. The tests of each provider call it.

use std::sync::Arc;

use zpool_api::{MAX_RUN_PAGES, PAGE_SIZE, PageError, PageProvider, PageRun};
use zpool_base::sync::test_rng::Rng;

/// Allocates and frees runs of every length. Checks that the bytes of a run do not change while it is in
/// use.
pub(crate) fn exercise(provider: Arc<dyn PageProvider>) {
    let page = provider.page_size();
    assert!(page.is_power_of_two() && page >= PAGE_SIZE);
    assert!(matches!(provider.alloc_run(0), Err(PageError::RunLength { pages: 0, .. })));
    assert!(matches!(provider.alloc_run(17), Err(PageError::RunLength { pages: 17, .. })));
    let mut rng = Rng::new(3);
    let mut held: Vec<(PageRun, u8)> = Vec::new();
    // Checking every byte is slow under Miri.
    let (rounds, step) = if cfg!(miri) { (40, 997) } else { (2000, 1) };
    for round in 0..rounds {
        if held.len() < 20 || rng.below(2) == 0 {
            let pages = rng.below(MAX_RUN_PAGES) + 1;
            let mut run = provider.alloc_run(pages).unwrap();
            assert_eq!(run.pages(), pages);
            assert_eq!(run.base().as_ptr().align_offset(page), 0);
            run.mark_resident(0..pages);
            let fill = round as u8;
            // SAFETY: only this test uses the run's pages.
            unsafe { run.base().as_ptr().write_bytes(fill, pages * page) };
            held.push((run, fill));
        } else {
            let (run, fill) = held.swap_remove(rng.below(held.len()));
            let len = run.pages() * page;
            // SAFETY: only this test uses the run's pages, and it has written all of them.
            let bytes = unsafe { core::slice::from_raw_parts(run.base().as_ptr(), len) };
            assert!(bytes.iter().step_by(step).all(|b| *b == fill), "another run wrote here");
            // SAFETY: the run comes from this provider, and `bytes` is not used again.
            unsafe { provider.free_run(run) };
        }
    }
    for (run, _) in held {
        // SAFETY: the run comes from this provider, and no reference to its bytes is left.
        unsafe { provider.free_run(run) };
    }
    let cached = provider.cached_pages();
    assert_eq!(provider.trim(), cached);
    assert_eq!(provider.cached_pages(), 0);
}
