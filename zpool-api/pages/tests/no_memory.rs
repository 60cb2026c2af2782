//! If the heap refuses memory at any step, providers must return an error and never abort.
#![cfg(all(target_os = "linux", not(miri), not(loom)))]
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

#[path = "../../tests/refusing/mod.rs"]
mod refusing;

use std::sync::Arc;

use refusing::{warm_lockdep, with_allocations};
use zpool_api::{PageError, PageProvider, PageRun};
use zpool_base::sync::test_rng::Rng;
use zpool_pages::{FailingPages, HeapPages, MmapOptions, MmapPages};

fn free(pages: &dyn PageProvider, run: PageRun) {
    // SAFETY: a test frees a run to the provider that it came from, and accesses none of its bytes
    // afterwards.
    unsafe { pages.free_run(run) };
}

/// Makes calls of all kinds. Counts in `refused` the runs that the provider refuses.
fn traffic(pages: &dyn PageProvider, held: &mut Vec<PageRun>, refused: &mut usize) {
    let mut rng = Rng::new(4);
    for step in 0..3000 {
        match rng.below(10) {
            0..=5 if held.len() < held.capacity() => {
                // Most runs are long, so that several regions are needed.
                match pages.alloc_run([16, 16, 16, 3][step % 4]) {
                    Ok(mut run) => {
                        if step % 3 > 0 {
                            run.mark_resident(0..1);
                            // SAFETY: this is the first page of the run, and only this test uses the run.
                            unsafe { run.base().as_ptr().write_bytes(1, 64) };
                        }
                        held.push(run);
                    }
                    Err(PageError::Refused { pages, .. }) if pages > 0 => *refused += 1,
                    // Only the heap refuses memory here, so no other error may occur. This aborts instead
                    // of panicking, because a panic would need the heap.
                    Err(_) => std::process::abort(),
                }
            }
            6 | 7 if !held.is_empty() => free(pages, held.swap_remove(rng.below(held.len()))),
            8 if !held.is_empty() => {
                let at = rng.below(held.len());
                // SAFETY: the run comes from this provider, and nobody uses its bytes.
                unsafe { pages.discard(&mut held[at], 0..2) };
            }
            9 if rng.below(8) == 0 => {
                if let Some(block) = pages.isolate_block() {
                    if !held.is_empty() {
                        free(pages, held.swap_remove(rng.below(held.len())));
                    }
                    pages.putback_block(block);
                }
                pages.trim();
                pages.metadata_bytes();
            }
            _ => {}
        }
    }
}

#[test]
fn providers_refuse_and_go_on() {
    warm_lockdep();
    let mut ever_refused = 0;
    for granted in (0..40).chain((40..200).step_by(23)).chain([usize::MAX - 1]) {
        let mapped: Arc<MmapPages> =
            Arc::new(MmapPages::with_options(MmapOptions::new().cache_pages(30)).unwrap());
        let heap: Arc<dyn PageProvider> = Arc::new(HeapPages::new());
        let wrapped: Arc<dyn PageProvider> = Arc::new(FailingPages::new(mapped.clone()));
        for pages in [wrapped, heap] {
            let mut held = Vec::with_capacity(1500);
            let mut refused = 0;
            with_allocations(granted, || {
                traffic(&*pages, &mut held, &mut refused);
                // The list is empty if there is no memory for it.
                drop(mapped.regions());
            });
            ever_refused += refused;
            assert!(
                granted < 1000 || refused == 0,
                "{refused} runs refused although there was memory"
            );
            for run in held {
                free(&*pages, run);
            }
            // With enough memory, everything works again.
            let again: Vec<_> = (0..100).map(|_| pages.alloc_run(16).unwrap()).collect();
            again.into_iter().for_each(|run| free(&*pages, run));
            pages.trim();
            assert_eq!(pages.cached_pages(), 0, "{granted} allocations granted");
        }
    }
    assert!(ever_refused > 0);
}
