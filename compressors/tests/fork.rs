//! A codec forks on a worker of an engine, and returns both in the parent and in the child. In the child, the
//! worker must end.
#![cfg(all(target_os = "linux", not(miri)))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    reason = "fork; a failure in a test's helper is the test's own message"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

use compressors::{
    Acomp, AcompCompletions, AcompEngine, AcompOp, AcompRequest, CompressorCtx, CompressorError,
};

#[derive(Debug)]
struct Forks(Arc<AtomicI32>);

impl CompressorCtx for Forks {
    fn compress(&mut self, _src: &[u8], _dst: &mut [u8]) -> Result<usize, CompressorError> {
        // SAFETY: the child goes on in the thread that forked: it returns from this call, and the worker then ends.
        // This is what the test checks.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: only sets a timer. Its signal kills a child that does not exit.
            unsafe { libc::alarm(10) };
        }
        self.0.store(pid, SeqCst);
        Ok(1)
    }
    fn decompress(&mut self, _src: &[u8], _dst: &mut [u8]) -> Result<(), CompressorError> {
        Ok(())
    }
    fn memory_bytes(&self) -> usize {
        0
    }
}

#[test]
fn a_worker_that_is_forked_ends_in_the_child() {
    let engine = AcompEngine::new(1, 4).unwrap();
    let (child, done) = (Arc::new(AtomicI32::new(0)), Arc::new(AcompCompletions::new()));
    let ctx = Box::new(Forks(child.clone()));
    let (input, output) = (vec![1; 16], vec![0; 16]);
    engine.submit(AcompRequest { op: AcompOp::Compress, input, output, ctx }, 7, &done).unwrap();
    // Waits until the worker has the request. Otherwise `wait_any` might run it in this thread.
    while child.load(SeqCst) == 0 {
        std::thread::yield_now();
    }
    let (tag, completed) = engine.wait_any(&done).unwrap();
    assert_eq!((tag, completed.result), (7, Ok(1)));
    let (child, mut status) = (child.load(SeqCst), 0);
    // SAFETY: `child` is a child of this process, and `status` is a valid place for its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status), "ended by signal {}", libc::WTERMSIG(status));
}
