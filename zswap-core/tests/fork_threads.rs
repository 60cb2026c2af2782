//! A child after `fork` builds a store and an engine of its own, which starts threads, while the parent's threads are
//! busy.
//!
//! The standard library keeps a list of threads, which a thread locks while it starts or ends. If a thread of the parent
//! does so at the moment of the fork, the list stays locked in the child, and threads that the child starts wait for ever.
//! So the parent's threads have started here before it forks, and this file has no other test.
#![cfg(all(target_os = "linux", not(miri)))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "fork; a failure in a test's helper is the test's own message"
)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread;

use common::{at, page};
use compressors::AcompEngine;
use zswap_core::device::MemorySwapDevice;
use zswap_core::{PAGE_SIZE, Zswap};

/// Returns whether a store with an engine works.
fn own_store_works() -> bool {
    let text = page(5);
    let engine = Arc::new(AcompEngine::new(1, 2).unwrap());
    let device = Arc::new(MemorySwapDevice::new(100));
    let own = Zswap::builder().acomp(engine).swap_device(device).build().unwrap();
    let mut back = [0; PAGE_SIZE];
    own.store_batch(&[(at(1), &text)]).unwrap().pop() == Some(Ok(()))
        && own.shrink(1) == Ok(1)
        && own.load(at(1), &mut back).is_ok()
        && back == *text
}

#[test]
fn a_child_of_a_busy_parent_starts_threads_of_its_own() {
    let store = Zswap::builder().build().unwrap();
    let (stop, started) = (AtomicBool::new(false), Barrier::new(4));
    thread::scope(|scope| {
        for thread in 1..4 {
            let (store, stop, started) = (&store, &stop, &started);
            scope.spawn(move || {
                started.wait();
                for n in 0.. {
                    if stop.load(SeqCst) {
                        break;
                    }
                    store.store(at((thread << 20) | (n % 100)), &page(n)).unwrap();
                }
            });
        }
        started.wait();
        let statuses: Vec<i32> = (0..30)
            .map(|_| {
                // SAFETY: the child uses only code that supports a fork, which is what this test is about, and ends
                // by `_exit`.
                let pid = unsafe { libc::fork() };
                if pid == 0 {
                    // SAFETY: only sets a timer. The timer is a watchdog: its signal ends the child.
                    unsafe { libc::alarm(60) };
                    let worked = std::panic::catch_unwind(own_store_works).unwrap_or(false);
                    // SAFETY: ends the child without running any destructor or exit handler of the parent.
                    unsafe { libc::_exit(i32::from(!worked)) };
                }
                let mut status = 0;
                // SAFETY: `pid` is a child of this process, and `status` is on this stack frame.
                assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
                status
            })
            .collect();
        stop.store(true, SeqCst);
        assert_eq!(statuses, [0; 30]);
    });
}
