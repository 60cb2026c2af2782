//! Safe wrappers around the C library libdeflate. All `unsafe` code of deflate is here.
//!
//! The library does not report how large its compressors and decompressors are. So it
//! gets an allocator that counts bytes. The library allocates only when a compressor
//! or decompressor is made.
//!
//! Invariants: each of these objects is used through `&mut`, so by one thread at a
//! time, and freed exactly once, by `drop`.

use std::alloc::{Layout, alloc, dealloc};
use std::cell::Cell;
use std::os::raw::{c_int, c_void};
use std::ptr::NonNull;

use libdeflate_sys as sys;

use crate::error::CompressorError;
use crate::names::DEFLATE as NAME;

/// The length of the header at the start of each block. The header holds the size that
/// the library asked for. Blocks are aligned to the same 16 bytes, as `malloc` aligns.
const HEADER: usize = 16;

thread_local! {
    /// The bytes that this thread allocated since `counted` last reset this to 0.
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

fn layout_of(size: usize) -> Option<Layout> {
    Layout::from_size_align(size.checked_add(HEADER)?, HEADER).ok()
}

unsafe extern "C" fn counting_malloc(size: usize) -> *mut c_void {
    let Some(layout) = layout_of(size) else { return std::ptr::null_mut() };
    // SAFETY: the layout includes the header, so it is not empty.
    let block = unsafe { alloc(layout) };
    if block.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: the block starts with `HEADER` bytes, aligned for a usize.
    unsafe { block.cast::<usize>().write(size) };
    ALLOCATED.with(|bytes| bytes.set(bytes.get() + layout.size()));
    // SAFETY: the block is `HEADER + size` bytes long.
    unsafe { block.add(HEADER) }.cast()
}

unsafe extern "C" fn counting_free(pointer: *mut c_void) {
    if pointer.is_null() {
        return;
    }
    // SAFETY: the library passes a pointer that `counting_malloc` returned. It lies
    // `HEADER` bytes into its block.
    let block = unsafe { pointer.cast::<u8>().sub(HEADER) };
    // SAFETY: `counting_malloc` wrote the size to the start of the block.
    let size = unsafe { block.cast::<usize>().read() };
    if let Some(layout) = layout_of(size) {
        // SAFETY: the block was allocated with this layout.
        unsafe { dealloc(block, layout) };
    }
}

static OPTIONS: sys::libdeflate_options = sys::libdeflate_options {
    sizeof_options: size_of::<sys::libdeflate_options>(),
    malloc_func: Some(counting_malloc),
    free_func: Some(counting_free),
};

/// Calls `make` to create one of the library's compressors or decompressors. Returns the object and
/// the number of heap bytes that the library allocated for it.
fn counted<T>(
    make: impl FnOnce() -> *mut T,
    what: &'static str,
) -> Result<(NonNull<T>, usize), CompressorError> {
    ALLOCATED.with(|bytes| bytes.set(0));
    let raw = NonNull::new(make()).ok_or(CompressorError::OutOfMemory { codec: NAME, what })?;
    Ok((raw, ALLOCATED.with(Cell::get)))
}

/// Returns the most bytes that `src_len` bytes compress to at any level. `src_len` must fit an `i32`.
pub(crate) fn compress_bound(src_len: usize) -> usize {
    // SAFETY: the library accepts null and then computes from the length alone.
    unsafe { sys::libdeflate_deflate_compress_bound(std::ptr::null_mut(), src_len) }
}

/// The library's compressor for one level.
pub(crate) struct Deflater {
    raw: NonNull<sys::libdeflate_compressor>,
    bytes: usize,
}

// SAFETY: the object is plain heap memory that only `self` refers to; the
// library keeps no thread-local or global state about it.
unsafe impl Send for Deflater {}

impl Deflater {
    /// Makes a compressor of the given level. The library has levels 0 to 12.
    pub(crate) fn new(level: c_int) -> Result<Self, CompressorError> {
        // SAFETY: the options are complete and live for the whole program.
        let make = || unsafe { sys::libdeflate_alloc_compressor_ex(level, &OPTIONS) };
        let (raw, bytes) = counted(make, "a compression context")?;
        Ok(Deflater { raw, bytes })
    }

    /// Compresses `src` into `dst` and returns the length. Returns `None` if the result does not fit.
    pub(crate) fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Option<usize> {
        // SAFETY: the object is alive and ours; both slices are valid for
        // their lengths.
        let written = unsafe {
            sys::libdeflate_deflate_compress(
                self.raw.as_ptr(),
                src.as_ptr().cast(),
                src.len(),
                dst.as_mut_ptr().cast(),
                dst.len(),
            )
        };
        (written > 0).then_some(written)
    }

    /// Returns the heap bytes of the object.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Deflater {
    fn drop(&mut self) {
        // SAFETY: the object is alive and nothing refers to it after this.
        unsafe { sys::libdeflate_free_compressor(self.raw.as_ptr()) };
    }
}

/// The library's decompressor.
pub(crate) struct Inflater {
    raw: NonNull<sys::libdeflate_decompressor>,
    bytes: usize,
}

// SAFETY: as for `Deflater`.
unsafe impl Send for Inflater {}

impl Inflater {
    pub(crate) fn new() -> Result<Self, CompressorError> {
        // SAFETY: the options are complete and live for the whole program.
        let make = || unsafe { sys::libdeflate_alloc_decompressor_ex(&OPTIONS) };
        let (raw, bytes) = counted(make, "a decompression context")?;
        Ok(Inflater { raw, bytes })
    }

    /// Decompresses `src` and fills all of `dst`. Fails if `src` has bytes after the end of the stream.
    pub(crate) fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        let mut read = 0usize;
        let mut written = 0usize;
        // SAFETY: the object is alive and ours; whatever the bytes, the call
        // reads within `src` and writes within `dst`.
        let result = unsafe {
            sys::libdeflate_deflate_decompress_ex(
                self.raw.as_ptr(),
                src.as_ptr().cast(),
                src.len(),
                dst.as_mut_ptr().cast(),
                dst.len(),
                &mut read,
                &mut written,
            )
        };
        let expected = dst.len();
        let wrong_length = |got| Err(CompressorError::WrongLength { codec: NAME, expected, got });
        let corrupt = |reason| Err(CompressorError::Corrupt { codec: NAME, reason });
        match result {
            sys::libdeflate_result_LIBDEFLATE_SUCCESS if read != src.len() => {
                corrupt("bytes follow the end of the stream")
            }
            sys::libdeflate_result_LIBDEFLATE_SUCCESS if written != expected => {
                wrong_length(Some(written))
            }
            sys::libdeflate_result_LIBDEFLATE_SUCCESS => Ok(()),
            sys::libdeflate_result_LIBDEFLATE_INSUFFICIENT_SPACE => wrong_length(None),
            _ => corrupt("not a DEFLATE stream"),
        }
    }

    /// Returns the heap bytes of the object.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Inflater {
    fn drop(&mut self) {
        // SAFETY: the object is alive and nothing refers to it after this.
        unsafe { sys::libdeflate_free_decompressor(self.raw.as_ptr()) };
    }
}
