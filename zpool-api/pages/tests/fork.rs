//! Uses page providers in a child of the process that made them. Calls must fail, and drops must leak.
//! Nothing may wait for a lock that another thread of the parent held at the fork.
#![cfg(all(target_os = "linux", not(miri), not(loom)))]
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use zpool_api::{PageBlock, PageError, PageProvider, PageRun};
use zpool_pages::{FailingPages, HeapPages, MmapOptions, MmapPages, OwnedRun};

/// Runs `work` in a child and returns its result. Returns `None` if the child died. If the child hangs, an
/// alarm kills it.
fn in_child(work: impl FnOnce() -> u8) -> Option<u8> {
    // SAFETY: the child only runs `work` and calls `_exit`. It runs neither a destructor of the parent nor
    // the test harness.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: this system call takes no pointers.
        unsafe { libc::alarm(20) };
        let said = work();
        // SAFETY: `_exit` ends the process immediately.
        unsafe { libc::_exit(i32::from(said)) };
    }
    assert!(pid > 0, "fork failed");
    let mut status = 0;
    // SAFETY: the child was forked above, and `status` is a local variable.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid);
    libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status) as u8)
}

fn free(pages: &dyn PageProvider, run: PageRun) {
    // SAFETY: a test frees a run to the provider that it came from, and accesses none of its bytes
    // afterwards.
    unsafe { pages.free_run(run) };
}

/// When dropped, signals the other threads to stop.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Makes calls in a child and checks that the provider refuses them or does nothing. Returns 0 if all
/// checks pass. Otherwise returns the number of the first check that fails, counted from 1.
fn refused(pages: &dyn PageProvider, run: &mut PageRun, block: (usize, usize)) -> u8 {
    let resident = run.resident();
    // SAFETY: the run comes from this provider, and nobody uses its bytes in this process.
    unsafe { pages.discard(run, 0..4) };
    let calls = [
        matches!(pages.alloc_run(1), Err(PageError::Forked)),
        matches!(pages.alloc_run(99), Err(PageError::Forked)),
        run.resident() == resident,
        pages.isolate_block().is_none(),
        !pages.putback_block(PageBlock::new(block.0, block.1)),
        pages.cached_pages() == 0,
        pages.trim() == 0,
        pages.metadata_bytes() == 0,
        pages.page_size() == 4096,
    ];
    calls.iter().position(|refused| !refused).map_or(0, |call| call as u8 + 1)
}

#[test]
fn a_child_of_a_busy_provider_refuses_and_leaks() {
    let mapped = |options: MmapOptions| -> Arc<dyn PageProvider> {
        Arc::new(MmapPages::with_options(options.page_size(4096)).unwrap())
    };
    let providers: [Arc<dyn PageProvider>; 5] = [
        Arc::new(HeapPages::new()),
        mapped(MmapOptions::new()),
        mapped(MmapOptions::new().dont_fork(true).cache_pages(0)),
        mapped(MmapOptions::new().zero_on_free(true).dont_fork(true)),
        Arc::new(FailingPages::new(mapped(MmapOptions::new().dont_fork(true)))),
    ];
    for pages in providers {
        let mut run = pages.alloc_run(4).unwrap();
        run.mark_resident(0..4);
        let run = ManuallyDrop::new(run);
        let owned = ManuallyDrop::new(OwnedRun::alloc(pages.clone(), 2).unwrap());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for n in 1..4 {
                let (pages, stop) = (&pages, &stop);
                scope.spawn(move || {
                    while !stop.load(Relaxed) {
                        let runs: Vec<_> = (0..20)
                            .map(|_| {
                                let mut run = pages.alloc_run(n).unwrap();
                                run.mark_resident(0..n);
                                run
                            })
                            .collect();
                        runs.into_iter().for_each(|run| free(&**pages, run));
                        if let Some(block) = pages.isolate_block() {
                            pages.putback_block(block);
                        }
                    }
                });
            }
            // Stops the threads even if this closure panics, since the scope waits for them.
            let _stop = StopOnDrop(&stop);
            for round in 0..60 {
                let said = in_child(|| {
                    // SAFETY: this copies a value of the parent. The child drops the copy once and never
                    // uses the original.
                    let run = unsafe { std::ptr::read(&raw const run) };
                    // SAFETY: as for `run`.
                    let owned = unsafe { std::ptr::read(&raw const owned) };
                    let mut run = ManuallyDrop::into_inner(run);
                    let base = run.base().addr().get();
                    let said = refused(&*pages, &mut run, (base, 2 << 20));
                    if said != 0 {
                        return said;
                    }
                    free(&*pages, run);
                    drop(ManuallyDrop::into_inner(owned));
                    while Arc::strong_count(&pages) > 1 {
                        // SAFETY: the other shares belong to threads that do not exist in this process, so
                        // nobody else gives them up.
                        unsafe { Arc::decrement_strong_count(Arc::as_ptr(&pages)) };
                    }
                    // SAFETY: as for the copies above. The last share is dropped only here.
                    drop(unsafe { std::ptr::read(&raw const pages) });
                    0
                });
                assert_eq!(said, Some(0), "round {round} over {pages:?}");
            }
        });
        free(&*pages, ManuallyDrop::into_inner(run));
        drop(ManuallyDrop::into_inner(owned));
        pages.trim();
        assert_eq!(pages.cached_pages(), 0);
    }
}
