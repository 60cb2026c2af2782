//! Uses a pool in a child of the process that made it. Calls must fail, and drops must leak. Nothing may
//! wait for a lock that another thread of the parent held at the fork.
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use zpool_api::{Evicted, Handle, ObjRead, PageProvider, Zpool, ZpoolError};
use zpool_pages::{FailingPages, HeapPages, MmapOptions, MmapPages};

pub(crate) type Build = fn(Arc<dyn PageProvider>) -> Arc<dyn Zpool>;

/// The number of seconds after which an alarm kills a child that hangs. Then the test fails.
const HANGS_AFTER: u32 = 20;

/// Runs `work` in a child and returns its result. Returns `None` if the child died. The child has only the
/// thread that forked, so `work` should neither allocate nor panic.
pub(crate) fn in_child(work: impl FnOnce() -> u8) -> Option<u8> {
    // SAFETY: the child only runs `work` and calls `_exit`. It runs neither a destructor of the parent nor
    // the test harness.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: this system call takes no pointers.
        unsafe { libc::alarm(HANGS_AFTER) };
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

/// When dropped, signals the other threads to stop.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Makes calls that a pool must refuse in a child. Returns 0 if all behave. Otherwise returns the number of
/// the first call that does not, counted from 1.
fn refused(pool: &dyn Zpool, handle: Handle) -> u8 {
    let backend = pool.name();
    let is = |error: ZpoolError| error == ZpoolError::Forked { backend };
    let evict = |_: Handle, _: ObjRead<'_>| Evicted::Keep;
    let stats = pool.stats();
    let calls = [
        pool.malloc(100).is_err_and(is),
        pool.malloc_from(&[1]).is_err_and(is),
        pool.free(handle).is_err_and(is),
        pool.obj_read_begin(handle).is_err_and(is),
        pool.reclaim(1, &evict).is_err_and(is),
        pool.total_pages() == 0,
        pool.trim() == 0,
        (stats.objects, stats.total_pages, stats.cached_pages, stats.metadata_bytes)
            == (0, 0, 0, 0),
        pool.tag().get() > 0 && pool.caps().reclaim,
    ];
    calls.iter().position(|refused| !refused).map_or(0, |call| call as u8 + 1)
}

/// Copies a value of the parent, so that the child can drop the copy. The child ends with `_exit`, which
/// never drops the original.
fn copy<T>(value: &T) -> T {
    // SAFETY: this is called only in a child, and only once for each value. The child neither uses nor
    // drops the original.
    unsafe { std::ptr::read(value) }
}

fn providers() -> Vec<Arc<dyn PageProvider>> {
    let mapped = |options| Arc::new(MmapPages::with_options(options).unwrap());
    vec![
        Arc::new(HeapPages::new()),
        mapped(MmapOptions::new()),
        mapped(MmapOptions::new().dont_fork(true).cache_pages(0)),
        Arc::new(FailingPages::new(mapped(MmapOptions::new().dont_fork(true)))),
    ]
}

pub(crate) fn a_child_of_a_busy_pool_refuses_and_leaks(build: Build) {
    for pages in providers() {
        let pool = build(pages.clone());
        let handle = pool.malloc_from(&[1; 3000]).unwrap();
        let freed = pool.malloc_from(&[2; 3000]).unwrap();
        let read = ManuallyDrop::new(pool.obj_read_begin(handle).unwrap());
        let last = ManuallyDrop::new(pool.obj_read_begin(freed).unwrap());
        let owned = ManuallyDrop::new(zpool_api::obj_read_owned(pool.clone(), handle).unwrap());
        pool.free(freed).unwrap();
        let write = ManuallyDrop::new(pool.malloc(10).unwrap());
        let mut full = ManuallyDrop::new(pool.malloc(1).unwrap());
        full.write(&[1]).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for byte in 1..4u8 {
                let (pool, stop) = (&pool, &stop);
                scope.spawn(move || {
                    while !stop.load(Relaxed) {
                        let handles: Vec<_> = (1..20)
                            .map(|n| pool.malloc_from(&vec![byte; n * 200]).unwrap())
                            .collect();
                        for handle in handles {
                            let guard = pool.obj_read_begin(handle).unwrap();
                            pool.free(handle).unwrap();
                            drop(guard);
                        }
                    }
                });
            }
            // Stops the threads even if this closure panics, since the scope waits for them.
            let _stop = StopOnDrop(&stop);
            for round in 0..40 {
                let said = in_child(|| {
                    let refused = refused(&*pool, handle);
                    if refused != 0 {
                        return refused;
                    }
                    drop(ManuallyDrop::into_inner(copy(&read)));
                    drop(ManuallyDrop::into_inner(copy(&last)));
                    drop(ManuallyDrop::into_inner(copy(&owned)));
                    drop(ManuallyDrop::into_inner(copy(&write)));
                    let backend = pool.name();
                    let full = ManuallyDrop::into_inner(copy(&full)).commit();
                    if full != Err(ZpoolError::Forked { backend }) {
                        return 100;
                    }
                    while Arc::strong_count(&pool) > 1 {
                        // SAFETY: the owners of the other shares never run in this process, so they never
                        // give up their shares. `_exit` ends this process.
                        unsafe { Arc::decrement_strong_count(Arc::as_ptr(&pool)) };
                    }
                    drop(copy(&pool));
                    drop(copy(&pages));
                    0
                });
                assert_eq!(said, Some(0), "round {round} over {pages:?}");
            }
        });
        // The parent's guards are unaffected.
        assert!(read.iter().all(|byte| *byte == 1) && last.iter().all(|byte| *byte == 2));
        drop(ManuallyDrop::into_inner(read));
        drop(ManuallyDrop::into_inner(last));
        drop(ManuallyDrop::into_inner(owned));
        drop(ManuallyDrop::into_inner(write));
        pool.free(ManuallyDrop::into_inner(full).commit().unwrap()).unwrap();
        pool.free(handle).unwrap();
        pool.trim();
        let stats = pool.stats();
        assert_eq!((stats.total_pages, stats.objects, stats.parked_objects), (0, 0, 0));
    }
}

/// If a callback forks and returns in the child, the reclaim fails in the child with `Forked`.
pub(crate) fn a_callback_may_return_in_a_child(build: Build) {
    let pool = build(Arc::new(MmapPages::new()));
    for n in 0..9 {
        pool.malloc_from(&[n; 3000]).unwrap();
    }
    let said = std::cell::Cell::new(None);
    let child = std::cell::Cell::new(false);
    let freed = pool.reclaim(9, &|_, _: ObjRead<'_>| {
        if said.get().is_none() {
            // SAFETY: the child returns from this callback and calls `_exit` below.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: this system call takes no pointers.
                unsafe { libc::alarm(HANGS_AFTER) };
                child.set(true);
                return Evicted::Evicted;
            }
            let mut status = 0;
            // SAFETY: the child was forked above, and `status` is a local variable.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            said.set(Some((libc::WIFEXITED(status), libc::WEXITSTATUS(status))));
        }
        Evicted::Evicted
    });
    if child.get() {
        let forked = freed == Err(ZpoolError::Forked { backend: pool.name() });
        // SAFETY: `_exit` ends the child immediately.
        unsafe { libc::_exit(if forked { 0 } else { 1 }) };
    }
    assert_eq!((said.get(), freed), (Some((true, 0)), Ok(9)));
}
