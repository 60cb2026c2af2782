//! If memory ends while a dictionary is trained, the training is an error. It neither aborts nor crashes the process,
//! and leaves nothing allocated. Allocations are refused in Rust and in the C library, from 1 KiB on: smaller ones,
//! such as an `Arc`, abort by design.
#![cfg(all(target_os = "linux", target_env = "gnu", not(miri), feature = "zstd"))]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's own message")]

use std::cell::Cell;
use std::os::raw::c_void;

use compressors::training::{Samples, TrainError, Trainer};
use compressors::{CompressorError, Zstd};
use zpool_base::sync::test_rng::Rng;

thread_local! {
    /// The large allocation of this thread to refuse, counted from 1 downwards; 0 for none.
    static REFUSED: Cell<usize> = const { Cell::new(0) };
    /// This thread's large allocations so far.
    static LARGE: Cell<usize> = const { Cell::new(0) };
    /// This thread's allocations minus its frees.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    /// The bytes of these allocations, and the most that they have been.
    static BYTES: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// Counts an allocation (`sign` 1) or a free (-1) of memory that is allocated now.
fn count(pointer: *mut c_void, sign: isize) {
    if pointer.is_null() {
        return;
    }
    LIVE.set(LIVE.get() + sign);
    // SAFETY: the caller passes a living allocation of the C library.
    let size = unsafe { malloc_usable_size(pointer) } as isize;
    let (now, most) = BYTES.get();
    let now = now + sign * size;
    BYTES.set((now, most.max(now)));
}

fn refuses(size: usize) -> bool {
    size >= 1024 && {
        LARGE.set(LARGE.get() + 1);
        LARGE.get() == REFUSED.get()
    }
}

unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(number: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(pointer: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(align: usize, size: usize) -> *mut c_void;
    fn __libc_free(pointer: *mut c_void);
    fn malloc_usable_size(pointer: *mut c_void) -> usize;
}

/// Replaces the function that Rust's allocator uses for large alignments.
// SAFETY: as for `malloc`.
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> i32 {
    // The value of ENOMEM.
    const NO_MEMORY: i32 = 12;
    if refuses(size) {
        return NO_MEMORY;
    }
    // SAFETY: the caller promises a power of two.
    let pointer = unsafe { __libc_memalign(align, size) };
    if pointer.is_null() {
        return NO_MEMORY;
    }
    count(pointer, 1);
    // SAFETY: as the caller promises.
    unsafe { out.write(pointer) };
    0
}

// SAFETY: the calls are forwarded to the C library, or fail as it may.
#[unsafe(no_mangle)]
unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
    if refuses(size) {
        return std::ptr::null_mut();
    }
    // SAFETY: `__libc_malloc` takes any size.
    let pointer = unsafe { __libc_malloc(size) };
    count(pointer, 1);
    pointer
}

// SAFETY: as for `malloc`.
#[unsafe(no_mangle)]
unsafe extern "C" fn calloc(number: usize, size: usize) -> *mut c_void {
    if refuses(number.saturating_mul(size)) {
        return std::ptr::null_mut();
    }
    // SAFETY: `__libc_calloc` takes any numbers.
    let pointer = unsafe { __libc_calloc(number, size) };
    count(pointer, 1);
    pointer
}

// SAFETY: as for `malloc`.
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(pointer: *mut c_void, size: usize) -> *mut c_void {
    if refuses(size) {
        return std::ptr::null_mut();
    }
    count(pointer, -1);
    // SAFETY: as the caller promises.
    let pointer = unsafe { __libc_realloc(pointer, size) };
    count(pointer, 1);
    pointer
}

// SAFETY: as for `malloc`.
#[unsafe(no_mangle)]
unsafe extern "C" fn free(pointer: *mut c_void) {
    count(pointer, -1);
    // SAFETY: as the caller promises.
    unsafe { __libc_free(pointer) }
}

fn samples(count: usize) -> Samples {
    let mut rng = Rng::new(1);
    let record = |_| {
        let (id, name) = (rng.next(), rng.below(50));
        format!("{{\"id\":{id},\"name\":\"user number {name}\",\"rights\":[\"read\",\"write\"]}}")
            .into_bytes()
    };
    Samples::from((0..count).map(record).collect::<Vec<_>>())
}

#[test]
fn training_takes_no_more_memory_than_it_says() {
    for (count, dictionary_bytes, level) in
        [(300, 1024, 1), (20_000, 16 << 10, 3), (20_000, 16 << 10, 12)]
    {
        let samples = samples(count);
        let trainer = Trainer::new(dictionary_bytes).unwrap();
        let in_use = Zstd::builder().level(level).build().unwrap();
        let (before, _) = BYTES.get();
        BYTES.set((before, before));
        drop(trainer.train(&in_use, &samples, &|| false).unwrap());
        let taken = (BYTES.get().1 - before) as usize;
        let said = trainer.memory_bytes(samples.bytes());
        assert!(
            taken <= said && taken * 8 > said,
            "{taken} of {said} for {count} at level {level}"
        );
    }
}

#[test]
fn training_that_runs_out_of_memory_is_an_error_wherever_memory_ends() {
    let samples = samples(300);
    let (trainer, in_use) = (Trainer::new(1024).unwrap(), Zstd::default());
    let train = || trainer.train(&in_use, &samples, &|| false);
    drop(train().unwrap());
    let mut failures = 0;
    for refused in 1.. {
        let before = LIVE.get();
        LARGE.set(0);
        REFUSED.set(refused);
        let result = train();
        REFUSED.set(0);
        let refused_any = LARGE.get() >= refused;
        match result {
            Ok(trained) => {
                // A candidate may fail where the library has no memory for it, and another one serve.
                assert!(trained.verdict.trained.is_some());
                drop(trained);
            }
            Err(error) => {
                failures += 1;
                // The library does not always say that it is memory which it lacks.
                let expected = matches!(
                    error,
                    TrainError::OutOfMemory { .. }
                        | TrainError::Trainer { .. }
                        | TrainError::Codec(
                            CompressorError::OutOfMemory { .. }
                                | CompressorError::BadParameter { .. }
                        )
                );
                assert!(expected, "{refused}: {error:?}");
            }
        }
        assert_eq!(LIVE.get(), before, "{refused}");
        if !refused_any {
            break;
        }
    }
    assert!(failures > 20, "{failures}");
}
