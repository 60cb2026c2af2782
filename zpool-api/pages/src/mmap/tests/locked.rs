//! Pages that are locked in memory. The system refuses to take them back.
//!
//! These tests do not run under a sanitizer: `TESTS_LEFT_OUT` in xtask's `sanitizer.rs` lists them.

use super::*;

/// If `on` is true, locks the first page of a run in memory, so that the system refuses to take it. If `on`
/// is false, unlocks this page.
fn lock_in_memory(run: &PageRun, on: bool) {
    let page = run.base().as_ptr().cast();
    let done = if on {
        // SAFETY: the page belongs to a live run, and locking changes none of its bytes.
        unsafe { rustix::mm::mlock(page, 1) }
    } else {
        // SAFETY: the page belongs to a live run, and unlocking changes none of its bytes.
        unsafe { rustix::mm::munlock(page, 1) }
    };
    done.unwrap();
}

#[test]
fn pages_that_the_system_refuses_stay_counted_and_warm() {
    let pages = MmapPages::new();
    let page_size = pages.page_size();
    let mut runs: Vec<PageRun> = (0..3).map(|_| touched(&pages, 2, 5)).collect();
    let locked = runs[1].base();
    lock_in_memory(&runs[1], true);
    discard(&pages, &mut runs[1], 0..1);
    assert_eq!(runs[1].resident(), 0b11);
    runs.into_iter().for_each(|run| free(&pages, run));

    // The system takes the neighbours of the locked run, although they were offered in the same call.
    assert_eq!(pages.trim(), 4);
    assert_eq!(pages.cached_pages(), 2);
    // The refused call may still have taken the second page of the run. So the provider may count one page
    // more than the system does.
    assert!((page_size..=2 * page_size).contains(&resident_bytes(&pages)));
    let run = pages.alloc_run(2).unwrap();
    assert_eq!((run.base(), run.resident()), (locked, 0b11));
    assert!(page(&pages, &run, 0).iter().all(|b| *b == 5));
    lock_in_memory(&run, false);
    free(&pages, run);
    assert_eq!(pages.trim(), 2);
    assert_eq!((pages.cached_pages(), resident_bytes(&pages)), (0, 0));
}

#[test]
fn refused_pages_are_offered_again_a_batch_later() {
    let pages = with(MmapOptions::new().cache_pages(0));
    let locked = touched(&pages, 1, 1);
    let others: Vec<PageRun> = (0..2 * BATCH_RUNS).map(|_| touched(&pages, 1, 1)).collect();
    lock_in_memory(&locked, true);
    free(&pages, locked);
    assert_eq!(pages.cached_pages(), 1);
    let cached: Vec<usize> = others
        .into_iter()
        .map(|run| {
            free(&pages, run);
            pages.cached_pages()
        })
        .collect();
    // The next 64 runs (`BATCH_RUNS`) are kept without trying the locked run again. Then a full batch
    // leaves. It begins with the oldest run. This is the locked run, so the system refuses it again.
    let expect = (2..=BATCH_RUNS + 1).chain([3]).chain(4..);
    assert!(cached.iter().copied().eq(expect.take(2 * BATCH_RUNS)), "{cached:?}");
    // Takes every cached run to reach the locked one: the run that was freed last is reused first, and the
    // locked run was not freed last.
    let runs: Vec<PageRun> =
        (0..pages.cached_pages()).map(|_| pages.alloc_run(1).unwrap()).collect();
    runs.iter().for_each(|run| lock_in_memory(run, false));
    runs.into_iter().for_each(|run| free(&pages, run));
    pages.trim();
    assert_eq!((pages.cached_pages(), resident_bytes(&pages)), (0, 0));
    free(&pages, touched(&pages, 1, 1));
    assert_eq!(pages.cached_pages(), 0, "the bound is in effect again");
}

/// When a block is isolated, one of its runs can still be warm. Here this is because the system refuses to
/// take the run. In a program, another thread may have freed it just then. Such a run leaves together with
/// the block.
#[test]
fn warm_runs_of_a_block_leave_with_it() {
    if mapping::system_page_size() != 4096 {
        return;
    }
    let provider = four_kib();
    let mut runs = sparse_third_block(&provider);
    let (last, warm) = (runs.pop().unwrap(), runs.pop().unwrap());
    let locked = warm.base();
    lock_in_memory(&warm, true);
    free(&provider, warm);
    let block = provider.isolate_block().unwrap();
    assert!(block.range().contains(&locked.addr().get()));
    assert_eq!(provider.cached_pages(), 1);
    let others: Vec<PageRun> = (0..LONG).map(|_| provider.alloc_run(16).unwrap()).collect();
    assert!(
        others.iter().all(|run| run.base() != locked),
        "handed out while its block was isolated"
    );
    others.into_iter().for_each(|run| free(&provider, run));
    free(&provider, last);
    // SAFETY: the page lies in a mapped region of the provider, and unlocking changes none of its bytes.
    unsafe { rustix::mm::munlock(locked.as_ptr().cast(), 1) }.unwrap();
    assert!(provider.putback_block(block), "a warm run kept the block");
    runs.into_iter().for_each(|run| free(&provider, run));
    provider.trim();
    assert_eq!((provider.cached_pages(), resident_bytes(&provider)), (0, 0));
}
