//! A context allocates only when it is made, except those of `allocates_by_design`.
//! Later calls allocate neither in Rust nor, where `malloc` can be replaced, in a C
//! library. Dropping the context frees everything.

#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's own message")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{pages, specs};
use compressors::build;

thread_local! {
    /// The number of this thread's allocations, in Rust and in C.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    /// This thread's allocations minus its frees, in Rust and in C.
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

fn count_alloc() {
    // `try_with`, since the counters may already be destroyed when the thread ends.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
    let _ = LIVE.try_with(|live| live.set(live.get() + 1));
}

fn count_free() {
    let _ = LIVE.try_with(|live| live.set(live.get() - 1));
}

struct Counting;

// SAFETY: each call is passed to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_alloc();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count_free();
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Replaces the C library's allocator for the whole program, to count the codecs'
/// allocations in C, too. Each allocation in Rust then counts twice.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod c_side {
    use std::os::raw::c_void;

    use super::{count_alloc, count_free};

    unsafe extern "C" {
        fn __libc_malloc(size: usize) -> *mut c_void;
        fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
        fn __libc_realloc(pointer: *mut c_void, size: usize) -> *mut c_void;
        fn __libc_memalign(align: usize, size: usize) -> *mut c_void;
        fn __libc_free(pointer: *mut c_void);
    }

    /// Replaces the function that Rust's allocator uses for large alignments.
    // SAFETY: as for `malloc`.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn posix_memalign(
        out: *mut *mut c_void,
        align: usize,
        size: usize,
    ) -> std::os::raw::c_int {
        count_alloc();
        // SAFETY: the caller promises a power of two.
        let pointer = unsafe { __libc_memalign(align, size) };
        if pointer.is_null() {
            // The value of ENOMEM.
            return 12;
        }
        // SAFETY: as the caller promises.
        unsafe { out.write(pointer) };
        0
    }

    // SAFETY: the calls are forwarded to the C library, so its contract holds.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
        count_alloc();
        // SAFETY: `__libc_malloc` takes any size.
        unsafe { __libc_malloc(size) }
    }

    // SAFETY: as for `malloc`.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
        count_alloc();
        // SAFETY: `__libc_calloc` takes any numbers.
        unsafe { __libc_calloc(count, size) }
    }

    // SAFETY: as for `malloc`.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn realloc(pointer: *mut c_void, size: usize) -> *mut c_void {
        count_alloc();
        count_free();
        // SAFETY: as the caller promises.
        unsafe { __libc_realloc(pointer, size) }
    }

    // SAFETY: as for `malloc`.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn free(pointer: *mut c_void) {
        if !pointer.is_null() {
            count_free();
        }
        // SAFETY: as the caller promises.
        unsafe { __libc_free(pointer) }
    }
}

/// Returns whether the codec of `spec` allocates in each compression by design, as lz4hc does from level 10 on.
fn allocates_by_design(spec: &str) -> bool {
    ["lz4hc:level=10", "lz4hc:level=11", "lz4hc:level=12"].contains(&spec)
}

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counters_count() {
    assert!(allocations(|| drop(std::hint::black_box(vec![1u8; 100]))) > 0);
    assert_eq!(allocations(|| ()), 0);
    #[cfg(all(feature = "zstd", target_os = "linux", target_env = "gnu"))]
    {
        // In Rust, making a context of zstd allocates the encoder's memory and a box. They count twice, so any
        // count above four includes allocations in C.
        let codec = build("zstd").unwrap();
        assert!(allocations(|| drop(codec.new_ctx().unwrap())) > 4);
    }
}

#[test]
fn pages_cost_no_allocation() {
    for spec in specs() {
        let codec = build(&spec).unwrap();
        let pages = pages(4096);
        let mut out = vec![0; codec.max_compressed_len(4096)];
        let mut back = vec![0; 4096];
        let mut ctx = codec.new_ctx().unwrap();
        let memory = ctx.memory_bytes();
        let live = LIVE.get();
        let count = allocations(|| {
            for _ in 0..3 {
                for (_, page) in &pages {
                    let len = ctx.compress(page, &mut out).unwrap();
                    ctx.decompress(&out[..len], &mut back).unwrap();
                    if let Some(stateless) = codec.stateless() {
                        stateless.decompress(&out[..len], &mut back).unwrap();
                    }
                    // Calls that fail must not allocate either.
                    assert!(ctx.compress(page, &mut out[..2]).is_err());
                    assert!(ctx.decompress(&out[..len / 2], &mut back).is_err());
                }
            }
        });
        assert!(count == 0 || allocates_by_design(&spec), "{spec}: {count}");
        assert_eq!(LIVE.get(), live, "{spec}");
        assert_eq!(ctx.memory_bytes(), memory, "{spec}");
    }
}

#[test]
fn short_inputs_in_between_cost_none_either() {
    for spec in specs() {
        let codec = build(&spec).unwrap();
        let (_, page) = pages(4096).swap_remove(6);
        let mut out = vec![0; codec.max_compressed_len(4096)];
        let mut ctx = codec.new_ctx().unwrap();
        let count = allocations(|| {
            for _ in 0..300 {
                ctx.compress(&page[..10], &mut out).unwrap();
            }
            ctx.compress(&page, &mut out).unwrap();
        });
        assert!(count == 0 || allocates_by_design(&spec), "{spec}: {count}");
    }
}

#[test]
#[cfg(all(feature = "lz4", feature = "zstd"))]
fn dictionaries_cost_none_either() {
    use std::sync::Arc;

    use compressors::{Compressor, Lz4, Lz4Hc, Zstd};

    let dictionary: Arc<[u8]> = pages(8192).swap_remove(6).1.into();
    let codecs: [Arc<dyn Compressor>; 4] = [
        Arc::new(Lz4::builder().dictionary(Arc::clone(&dictionary)).build().unwrap()),
        Arc::new(Lz4Hc::builder().dictionary(Arc::clone(&dictionary)).build().unwrap()),
        Arc::new(Zstd::builder().dictionary(Arc::clone(&dictionary)).build().unwrap()),
        Arc::new(Zstd::builder().level(19).dictionary(dictionary).build().unwrap()),
    ];
    for codec in codecs {
        let mut out = vec![0; codec.max_compressed_len(4096)];
        let mut back = vec![0; 4096];
        let pages = pages(4096);
        let mut ctx = codec.new_ctx().unwrap();
        let count = allocations(|| {
            for (_, page) in pages.iter().chain(&pages) {
                let len = ctx.compress(page, &mut out).unwrap();
                ctx.decompress(&out[..len], &mut back).unwrap();
                assert!(ctx.compress(page, &mut out[..2]).is_err());
            }
        });
        assert_eq!(count, 0, "{}", codec.spec());
    }
}

#[test]
fn a_dropped_context_leaves_nothing() {
    for spec in specs() {
        let codec = build(&spec).unwrap();
        let page = vec![1u8; 4096];
        let mut out = vec![0; codec.max_compressed_len(4096)];
        let before = LIVE.get();
        for _ in 0..3 {
            let mut ctx = codec.new_ctx().unwrap();
            assert!(spec == "null" || LIVE.get() > before);
            ctx.compress(&page, &mut out).unwrap();
        }
        assert_eq!(LIVE.get(), before, "{spec}");
    }
}
