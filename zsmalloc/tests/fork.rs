//! In a child after `fork`, a lock may be held by a thread that exists only in the parent: waiting for
//! it would never end. So the pool takes no lock in a child, and its calls return `Forked`.
#![cfg(all(target_os = "linux", not(miri)))]
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use zpool_api::{Handle, ObjRead, ObjWrite, Zpool, ZpoolError};
use zpool_pages::MmapPages;
use zsmalloc::Zsmalloc;

/// Runs in the child. Returns the number of the first wrong answer, or 0.
fn child(
    pool: &Zsmalloc,
    handle: Handle,
    guards: Vec<ObjRead<'_>>,
    writes: Vec<ObjWrite<'_>>,
) -> i32 {
    fn forked<T>(result: Result<T, ZpoolError>) -> bool {
        matches!(result, Err(ZpoolError::Forked { backend: "zsmalloc" }))
    }
    let stats = pool.stats();
    let answers = [
        forked(pool.malloc(10)),
        forked(pool.malloc_from(b"object")),
        forked(pool.free(handle)),
        forked(pool.obj_read_begin(handle)),
        forked(pool.compact()),
        forked(pool.compact_some(1)),
        forked(pool.migrate()),
        forked(pool.migrate_within(0..usize::MAX)),
        pool.trim() == 0,
        pool.total_pages() == 0,
        (stats.objects, stats.total_pages, stats.cached_pages) == (0, 0, 0),
        pool.class_stats().is_empty(),
    ];
    pool.prefetch(handle);
    drop(guards);
    let mut writes = writes.into_iter();
    let mut whole = writes.next().unwrap();
    whole.write(&[1; 100]).unwrap();
    let committed = forked(whole.commit());
    drop(writes);
    let wrong = answers.iter().chain([&committed]).position(|right| !right);
    wrong.map_or(0, |wrong| wrong as i32 + 1)
}

/// Waits for a child that must end within ten seconds. Returns its exit code, or -1 if it was killed
/// because it did not end.
fn wait(pid: libc::pid_t) -> i32 {
    let end = Instant::now() + Duration::from_secs(10);
    let mut status = 0;
    loop {
        // SAFETY: `status` is writable, and the child is this process's.
        let done = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
        if done == pid {
            assert!(libc::WIFEXITED(status), "the child was killed: {status:#x}");
            return libc::WEXITSTATUS(status);
        }
        if Instant::now() > end {
            // SAFETY: the child is this process's, and has not been waited for.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            // SAFETY: as for the `waitpid` above.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            return -1;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_child_of_a_busy_process_gets_errors_and_ends() {
    let pages = Arc::new(MmapPages::new());
    let pool = Arc::new(Zsmalloc::new(pages).unwrap());
    let stop = AtomicBool::new(false);
    let handle = pool.malloc_from(&[9; 100]).unwrap();
    thread::scope(|scope| {
        for seed in 0..3usize {
            let (pool, stop) = (&pool, &stop);
            scope.spawn(move || {
                let mut live = Vec::new();
                for n in seed.. {
                    if stop.load(SeqCst) {
                        break;
                    }
                    live.push(pool.malloc_from(&vec![n as u8; 1 + n * 97 % 4096]).unwrap());
                    if live.len() > 200 {
                        live.drain(..100).for_each(|handle| pool.free(handle).unwrap());
                        pool.compact_some(3).unwrap();
                    }
                    if n % 1000 == 0 {
                        pool.compact().unwrap();
                    }
                }
                live.into_iter().for_each(|handle| pool.free(handle).unwrap());
            });
        }
        for _ in 0..60 {
            // One guard is of a live object, the other of an object that is freed while it is being read.
            let parked = pool.malloc_from(&[8; 3000]).unwrap();
            let guards =
                vec![pool.obj_read_begin(handle).unwrap(), pool.obj_read_begin(parked).unwrap()];
            pool.free(parked).unwrap();
            let writes: Vec<_> = (0..2).map(|_| pool.malloc(100).unwrap()).collect();
            // SAFETY: the child calls only this crate, `_exit`, and the allocator, which glibc
            // keeps usable after a fork.
            let pid = unsafe { libc::fork() };
            assert!(pid >= 0);
            if pid == 0 {
                let code = child(&pool, handle, guards, writes);
                // Dropping a pool in a child leaks it.
                // SAFETY: takes over the reference that `pool` holds. The child never uses `pool` again.
                drop(unsafe { Arc::from_raw(Arc::as_ptr(&pool)) });
                // SAFETY: ends the process without running any of the parent's exit handlers.
                unsafe { libc::_exit(code) };
            }
            assert_eq!(wait(pid), 0, "the number of a wrong answer, or -1 for a hang");
            drop((guards, writes));
        }
        stop.store(true, SeqCst);
    });
    assert_eq!(pool.obj_read_begin(handle).unwrap()[..], [9; 100]);
    pool.free(handle).unwrap();
    let stats = pool.stats();
    assert_eq!((stats.objects, stats.parked_objects, stats.total_pages), (0, 0, 0));
}

/// In a child, dropping the last reference returns no page and waits for no lock.
#[test]
fn a_pool_dropped_in_a_child_leaks() {
    let pool = Zsmalloc::new(Arc::new(MmapPages::new())).unwrap();
    let handle = pool.malloc_from(&[7; 3000]).unwrap();
    let mut pool = Some(pool);
    // SAFETY: the child calls only this crate, `_exit`, and the allocator, which glibc keeps usable
    // after a fork.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        pool.take();
        // A pool that the child makes works.
        let own = Zsmalloc::new(Arc::new(MmapPages::new())).unwrap();
        let code = own.malloc_from(b"object").and_then(|handle| own.free(handle)).is_err();
        // SAFETY: ends the process without running any of the parent's exit handlers.
        unsafe { libc::_exit(i32::from(code)) };
    }
    assert_eq!(wait(pid), 0);
    assert_eq!(pool.unwrap().obj_read_begin(handle).unwrap()[..], [7; 3000]);
}
