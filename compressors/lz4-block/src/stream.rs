//! liblz4's compressor, for inputs and accelerations that [`compress`](crate::compress) does not take.
//!
//! Each block is compressed as the first block of a new stream. On 4 KiB pages of real processes this is denser and
//! faster than liblz4's calls for a single block. It is denser because a stream's table hashes five bytes. The table
//! for a small single block hashes four. It is faster because the table is cleared each time: clearing 16 KiB costs
//! less than stale candidates do. For the same reason, the library's own fast reset clears its table for inputs of
//! 4 KiB and more.

use core::ffi::{c_char, c_int, c_void};
use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::encode::{CompressError, STREAM_MAX_INPUT};

// lz4-sys does not declare these functions, but the library exports them. `*mut c_void` stands for
// `LZ4_stream_t *`.
unsafe extern "C" {
    fn LZ4_initStream(buffer: *mut c_void, size: usize) -> *mut c_void;
    fn LZ4_compress_fast_continue(
        stream: *mut c_void,
        src: *const c_char,
        dst: *mut c_char,
        src_size: c_int,
        dst_capacity: c_int,
        acceleration: c_int,
    ) -> c_int;
}

/// An empty stream of liblz4, in the caller's memory. It compresses one block.
///
/// ```
/// use lz4_block::Stream;
///
/// let mut memory = vec![0; Stream::LEN + 63];
/// let aligned = memory.as_ptr().align_offset(64);
/// let stream = Stream::in_memory(&mut memory[aligned..]).ok_or("no memory for a stream")?;
///
/// let long = vec![7; 1 << 20];
/// let mut block = vec![0; lz4_block::max_compressed_len(long.len())];
/// let len = stream.compress(&long, &mut block, 1)?;
/// assert!(len < 5000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Stream<'m> {
    /// Invariant S1: an `LZ4_stream_t` without input, in memory that is borrowed for `'m`. Only
    /// [`as_mut_ptr`](Self::as_mut_ptr) lets others change it.
    state: NonNull<c_void>,
    memory: PhantomData<&'m mut [u8]>,
}

impl<'m> Stream<'m> {
    /// The length of a stream's memory, in bytes.
    pub const LEN: usize = 16416;

    /// The longest input of [`compress`](Self::compress), in bytes.
    pub const MAX_INPUT: usize = STREAM_MAX_INPUT;

    /// Makes an empty stream in `memory`, whose content does not matter. Returns `None` if the memory is shorter than
    /// [`LEN`](Self::LEN) or not aligned to 8 bytes. Memory that is aligned to 64 bytes is fastest.
    #[must_use]
    pub fn in_memory(memory: &'m mut [u8]) -> Option<Self> {
        // SAFETY: the memory is valid for its length. The library checks its length and alignment.
        let state = unsafe { LZ4_initStream(memory.as_mut_ptr().cast(), memory.len()) };
        Some(Stream { state: NonNull::new(state)?, memory: PhantomData })
    }

    /// Returns the `LZ4_stream_t *`, for library functions that this crate does not wrap, such as the functions that
    /// load or attach a dictionary.
    ///
    /// The caller of such a function must ensure that the stream can still compress a first block, and that a
    /// dictionary outlives this value.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut c_void {
        self.state.as_ptr()
    }

    /// Compresses `src` into `dst` and returns the length of the block. A greater acceleration is faster and less
    /// dense. The library clamps it to 1 to 65537.
    ///
    /// The library may refuse an output into which the block just fits. It never refuses an output of
    /// [`max_compressed_len`](crate::max_compressed_len) bytes.
    ///
    /// # Errors
    /// [`CompressError::OutputTooSmall`] if there is no room for the block in `dst`,
    /// [`CompressError::InputTooLong`] if `src` is longer than [`Stream::MAX_INPUT`](Self::MAX_INPUT).
    pub fn compress(
        self,
        src: &[u8],
        dst: &mut [u8],
        acceleration: i32,
    ) -> Result<usize, CompressError> {
        let too_long = CompressError::InputTooLong { len: src.len() };
        if src.len() > Self::MAX_INPUT {
            return Err(too_long);
        }
        let src_len = c_int::try_from(src.len()).map_err(|_| too_long)?;
        // If the length does not fit an `int`, the library uses only the start of the output.
        let capacity = c_int::try_from(dst.len()).unwrap_or(c_int::MAX);
        // SAFETY: S1; the slices are valid for the lengths passed.
        let written = unsafe {
            LZ4_compress_fast_continue(
                self.state.as_ptr(),
                src.as_ptr().cast(),
                dst.as_mut_ptr().cast(),
                src_len,
                capacity,
                acceleration,
            )
        };
        match usize::try_from(written) {
            Ok(len) if len > 0 => Ok(len),
            _ => Err(CompressError::OutputTooSmall { capacity: dst.len() }),
        }
    }
}

impl core::fmt::Debug for Stream<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::{Stream, c_int};

    unsafe extern "C" {
        fn LZ4_sizeofState() -> c_int;
    }

    #[repr(align(64))]
    struct Memory([u8; Stream::LEN + 64]);

    #[test]
    fn a_stream_wants_aligned_memory_of_its_size() {
        // SAFETY: the call takes no arguments and returns a constant.
        assert_eq!(unsafe { LZ4_sizeofState() } as usize, Stream::LEN);
        let mut memory = Memory([0xA5; Stream::LEN + 64]);
        assert!(Stream::in_memory(&mut memory.0).is_some());
        assert!(Stream::in_memory(&mut memory.0[8..]).is_some());
        assert!(Stream::in_memory(&mut memory.0[4..]).is_none());
        assert!(Stream::in_memory(&mut memory.0[..Stream::LEN]).is_some());
        assert!(Stream::in_memory(&mut memory.0[..Stream::LEN - 1]).is_none());
        assert!(Stream::in_memory(&mut []).is_none());
    }
}
