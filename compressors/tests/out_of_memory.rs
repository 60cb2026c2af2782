//! If there is no memory, calls of compressors and engines fail. None of them aborts the process.

#![cfg(not(miri))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::Arc;

use compressors::{
    Acomp, AcompCompletions, AcompEngine, AcompOp, AcompRequest, CompletionsPool, CompressorError,
    Registry, Scomp, build,
};

thread_local! {
    /// The number of allocations that this thread may still make; `None` if there is no limit.
    static GIVEN: Cell<Option<usize>> = const { Cell::new(None) };
}

struct Limited;

fn refused() -> bool {
    let less = |given: &Cell<Option<usize>>| match given.get() {
        None => false,
        Some(0) => true,
        Some(n) => {
            given.set(Some(n - 1));
            false
        }
    };
    GIVEN.try_with(less).unwrap_or(false)
}

// SAFETY: each call is passed to the system's allocator or refused.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        if refused() { null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static LIMITED: Limited = Limited;

fn with_allocations<T>(given: usize, call: impl FnOnce() -> T) -> T {
    GIVEN.set(Some(given));
    let result = call();
    GIVEN.set(None);
    result
}

#[test]
fn a_context_that_cannot_be_made_is_an_error_wherever_memory_ends() {
    for spec in Registry::builtin().names() {
        let codec = build(spec).unwrap();
        let mut failures = 0;
        for given in 0.. {
            assert!(given < 100, "{spec}");
            match with_allocations(given, || codec.new_ctx()) {
                Ok(_ctx) => break,
                Err(CompressorError::OutOfMemory { .. }) => failures += 1,
                Err(other) => panic!("{spec}: {other}"),
            }
        }
        // The context of `null` needs no memory.
        assert!(failures > 0 || spec == "null", "{spec}");
    }
}

fn request() -> AcompRequest {
    let ctx = build("null").unwrap().new_ctx().unwrap();
    AcompRequest { op: AcompOp::Compress, input: vec![1; 16], output: vec![0; 16], ctx }
}

#[test]
fn a_request_whose_completion_cannot_be_noted_comes_back() {
    let engine = AcompEngine::new(1, 1 << 20).unwrap();
    let kinds: [&dyn Acomp; 2] = [&Scomp, &engine];
    for acomp in kinds {
        let done = Arc::new(AcompCompletions::new());
        let refused = with_allocations(0, || acomp.submit(request_of(), 0, &done)).unwrap_err();
        assert!(done.is_idle() && acomp.wait_any(&done).is_none());
        acomp.submit(refused, 1, &done).unwrap();
        let (tag, completed) = acomp.wait_any(&done).unwrap();
        assert_eq!((tag, completed.result), (1, Ok(16)));
    }

    fn request_of() -> AcompRequest {
        GIVEN.set(None);
        let request = request();
        GIVEN.set(Some(0));
        request
    }
}

#[test]
fn batches_with_completions_from_a_pool_allocate_nothing() {
    // There are more requests than the engine's queue has room for at first.
    let engine = AcompEngine::new(1, usize::MAX).unwrap();
    let pool = CompletionsPool::new(1, 300).unwrap();
    for _ in 0..5 {
        let mut requests: Vec<_> = (0..300).map(|_| request()).collect();
        let completed = with_allocations(0, || {
            let done = pool.take().unwrap();
            while let Some(request) = requests.pop() {
                assert!(engine.submit(request, requests.len(), &done).is_ok());
            }
            let mut completed = 0;
            while let Some((_, done)) = engine.wait_any(&done) {
                completed += usize::from(done.result == Ok(16));
            }
            pool.give(done);
            completed
        });
        assert_eq!(completed, 300);
    }
}
