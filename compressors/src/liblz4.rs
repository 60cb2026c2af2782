//! Safe calls of the C library lz4. All `unsafe` code of lz4 and lz4hc is here.
//!
//! States and dictionaries live in our own memory ([`Scratch`]). The library
//! allocates nothing, except for lz4hc from level 10 on: there, each call allocates
//! 64 KiB until it returns.
//!
//! lz4's compressors are those of `lz4_block`: our own encoder for inputs up to 64 KiB at the default acceleration,
//! without a dictionary, and the library's for all others. That of the library clears its table for each page.
//! lz4hc's tables are sixteen times as large, so lz4hc resets without clearing.
//!
//! Invariants: every length passed to C was checked against [`MAX_INPUT`] or
//! [`MAX_LEN`] and fits an `int`; a state is used through `&mut`, so by one
//! thread at a time; a dictionary's stream is only read after it is loaded.

use std::os::raw::{c_char, c_int, c_void};

use lz4_block::Stream;

use crate::compressor::{MAX_LEN, check_len};
use crate::dictionary::Dictionary;
use crate::error::CompressorError;
use crate::scratch::Scratch;

/// The longest input the library compresses, in bytes.
const MAX_INPUT: usize = Stream::MAX_INPUT;

/// How far back a match can reach, in bytes. Of a longer dictionary, only the end is used.
pub(crate) const DICTIONARY_REACH: usize = 64 << 10;

// lz4-sys does not declare these functions, but the library exports them. States are
// opaque here: `*mut c_void` stands for `LZ4_stream_t *` and `LZ4_streamHC_t *`.
unsafe extern "C" {
    fn LZ4_loadDictSlow(stream: *mut c_void, dict: *const c_char, dict_size: c_int) -> c_int;
    fn LZ4_attach_dictionary(stream: *mut c_void, dict_stream: *const c_void);

    fn LZ4_sizeofStateHC() -> c_int;
    fn LZ4_initStreamHC(buffer: *mut c_void, size: usize) -> *mut c_void;
    fn LZ4_resetStreamHC_fast(stream: *mut c_void, level: c_int);
    fn LZ4_loadDictHC(stream: *mut c_void, dict: *const c_char, dict_size: c_int) -> c_int;
    fn LZ4_attach_HC_dictionary(stream: *mut c_void, dict_stream: *const c_void);
    fn LZ4_compress_HC_continue(
        stream: *mut c_void,
        src: *const c_char,
        dst: *mut c_char,
        src_size: c_int,
        dst_capacity: c_int,
    ) -> c_int;

    fn LZ4_decompress_safe_usingDict(
        src: *const c_char,
        dst: *mut c_char,
        src_size: c_int,
        dst_capacity: c_int,
        dict: *const c_char,
        dict_size: c_int,
    ) -> c_int;
}

/// Returns the most bytes that `src_len` bytes can compress to, or `usize::MAX` if `src_len` exceeds
/// [`MAX_INPUT`].
pub(crate) fn compress_bound(src_len: usize) -> usize {
    if src_len > MAX_INPUT { usize::MAX } else { lz4_block::max_compressed_len(src_len) }
}

/// Returns a length as a C `int`. If it does not fit, returns the largest `int`: C then uses only the start of
/// an output buffer.
fn int(len: usize) -> c_int {
    c_int::try_from(len).unwrap_or(c_int::MAX)
}

/// Returns the error for memory that the library rejects.
fn refused_memory(codec: &'static str) -> CompressorError {
    CompressorError::Codec {
        codec,
        code: 0,
        reason: "the library refused the memory for its state",
    }
}

/// Compresses an empty input to one token without literals.
///
/// This does not call the library. At the optimal levels, its lz4hc computes an
/// address twelve bytes before the end of its input. An empty slice may have an
/// address so low that this wraps around.
fn compress_nothing(codec: &'static str, dst: &mut [u8]) -> Result<usize, CompressorError> {
    let Some(token) = dst.first_mut() else {
        return Err(CompressorError::OutputTooSmall { codec, src_len: 0, capacity: 0 });
    };
    *token = 0;
    Ok(1)
}

/// Turns the result of a compression into a `Result`. The library returns a length, or 0 for a failure.
fn finish_compress(
    codec: &'static str,
    written: c_int,
    src: &[u8],
    dst: &[u8],
) -> Result<usize, CompressorError> {
    match usize::try_from(written) {
        Ok(len) if len > 0 => Ok(len),
        // `dst` has room for the worst case. So the failure is that the optimal levels
        // of lz4hc could not allocate their temporary memory.
        _ if dst.len() >= compress_bound(src.len()) => {
            Err(CompressorError::OutOfMemory { codec, what: "a compression" })
        }
        _ => {
            Err(CompressorError::OutputTooSmall { codec, src_len: src.len(), capacity: dst.len() })
        }
    }
}

/// The longest input that [`FastState::compress_block`] takes, in bytes.
pub(crate) const MAX_BLOCK: usize = lz4_block::MAX_INPUT;

/// The memory of lz4's table, which is cleared for each page.
pub(crate) struct FastState {
    memory: Scratch,
}

impl FastState {
    const CODEC: &'static str = crate::names::LZ4;

    pub(crate) fn new() -> Result<Self, CompressorError> {
        let mut state = FastState { memory: Scratch::new(Self::CODEC, Stream::LEN)? };
        state.stream()?;
        Ok(state)
    }

    /// Makes an empty stream in the memory.
    fn stream(&mut self) -> Result<Stream<'_>, CompressorError> {
        Stream::in_memory(self.memory.bytes_mut()).ok_or(refused_memory(Self::CODEC))
    }

    /// Compresses at most [`MAX_BLOCK`] bytes with our own encoder. Its table shares the memory with the library's
    /// state. This is safe since both are initialised before each use.
    pub(crate) fn compress_block(
        &mut self,
        src: &[u8],
        dst: &mut [u8],
    ) -> Result<usize, CompressorError> {
        let Some(table) = lz4_block::Table::in_memory(self.memory.bytes_mut()) else {
            return Err(refused_memory(Self::CODEC));
        };
        lz4_block::compress(src, dst, table).map_err(|error| match error {
            lz4_block::CompressError::InputTooLong { len } => {
                CompressorError::InputTooLarge { codec: Self::CODEC, len, max: MAX_BLOCK }
            }
            _ => CompressorError::OutputTooSmall {
                codec: Self::CODEC,
                src_len: src.len(),
                capacity: dst.len(),
            },
        })
    }

    /// Compresses `src` into `dst` with the library and returns the length.
    pub(crate) fn compress(
        &mut self,
        src: &[u8],
        dst: &mut [u8],
        acceleration: c_int,
        dictionary: Option<&FastDictionary>,
    ) -> Result<usize, CompressorError> {
        check_len(Self::CODEC, src.len(), MAX_INPUT)?;
        if src.is_empty() {
            return compress_nothing(Self::CODEC, dst);
        }
        let mut stream = self.stream()?;
        if let Some(dictionary) = dictionary {
            // SAFETY: both are initialised streams. The dictionary's stream and the
            // bytes that it refers to are borrowed for longer than `stream` lives.
            unsafe {
                LZ4_attach_dictionary(stream.as_mut_ptr(), dictionary.stream.as_ptr().cast());
            }
        }
        let written = stream.compress(src, dst, acceleration).map_or(0, int);
        finish_compress(Self::CODEC, written, src, dst)
    }

    /// Returns the heap bytes of the state.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory.len()
    }
}

/// The memory of lz4hc's tables. They are cleared when they are made and after a failure,
/// but not between pages: the indices of a page are beyond those of all old entries.
pub(crate) struct HcState {
    memory: Scratch,
}

impl HcState {
    const CODEC: &'static str = crate::names::LZ4HC;

    pub(crate) fn new() -> Result<Self, CompressorError> {
        // SAFETY: the call takes no arguments and returns a constant.
        let size = unsafe { LZ4_sizeofStateHC() };
        let mut state = HcState { memory: Scratch::new(Self::CODEC, size as usize)? };
        state.clear()?;
        Ok(state)
    }

    fn clear(&mut self) -> Result<(), CompressorError> {
        let len = self.memory.len();
        // SAFETY: the memory is ours, `len` bytes long and aligned to 64.
        let stream = unsafe { LZ4_initStreamHC(self.memory.as_mut_ptr().cast(), len) };
        if stream.is_null() { Err(refused_memory(Self::CODEC)) } else { Ok(()) }
    }

    /// Compresses `src` into `dst` and returns the length.
    pub(crate) fn compress(
        &mut self,
        src: &[u8],
        dst: &mut [u8],
        level: c_int,
        dictionary: Option<&HcDictionary>,
    ) -> Result<usize, CompressorError> {
        check_len(Self::CODEC, src.len(), MAX_INPUT)?;
        if src.is_empty() {
            return compress_nothing(Self::CODEC, dst);
        }
        let stream: *mut c_void = self.memory.as_mut_ptr().cast();
        // SAFETY: `new` initialised the stream, and each call that failed
        // since then initialised it again.
        unsafe { LZ4_resetStreamHC_fast(stream, level) };
        if let Some(dictionary) = dictionary {
            // SAFETY: both are initialised streams. The dictionary's stream and the
            // bytes that it refers to are borrowed for longer than `stream` uses them:
            // the next call drops the reference before anything else.
            unsafe { LZ4_attach_HC_dictionary(stream, dictionary.stream.as_ptr().cast()) };
        }
        // SAFETY: the stream was just reset; the slices are valid for their
        // lengths, and `int` can only shorten that of `dst`.
        let written = unsafe {
            LZ4_compress_HC_continue(
                stream,
                src.as_ptr().cast(),
                dst.as_mut_ptr().cast(),
                int(src.len()),
                int(dst.len()),
            )
        };
        let done = finish_compress(Self::CODEC, written, src, dst);
        if done.is_err() {
            // A compression that failed half-way leaves tables that the fast
            // reset cannot handle.
            self.clear()?;
        }
        done
    }

    /// Returns the heap bytes of the state.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory.len()
    }
}

/// A dictionary prepared for lz4. It does not change once it is loaded, so all
/// contexts share it.
pub(crate) struct FastDictionary {
    stream: Scratch,
    /// The bytes that the stream refers to.
    pub(crate) bytes: Dictionary,
}

impl FastDictionary {
    pub(crate) fn new(bytes: Dictionary) -> Result<Self, CompressorError> {
        let mut state = FastState::new()?;
        let mut stream = state.stream()?;
        let dict = bytes.bytes();
        // SAFETY: the stream is initialised; the bytes stay where they are while
        // `bytes` lives, and it lives as long as the stream.
        unsafe { LZ4_loadDictSlow(stream.as_mut_ptr(), dict.as_ptr().cast(), int(dict.len())) };
        Ok(FastDictionary { stream: state.memory, bytes })
    }
}

/// A dictionary prepared for lz4hc at one level. It does not change once it is
/// loaded, so all contexts share it.
pub(crate) struct HcDictionary {
    stream: Scratch,
    /// The bytes that the stream refers to.
    pub(crate) bytes: Dictionary,
}

impl HcDictionary {
    pub(crate) fn new(bytes: Dictionary, level: c_int) -> Result<Self, CompressorError> {
        let mut state = HcState::new()?;
        let stream: *mut c_void = state.memory.as_mut_ptr().cast();
        // SAFETY: the stream is initialised. The level decides the kind of table, and
        // loading the dictionary does not change it.
        unsafe { LZ4_resetStreamHC_fast(stream, level) };
        let dict = bytes.bytes();
        // SAFETY: as above; the bytes stay where they are while `bytes` lives, and it
        // lives as long as the stream.
        unsafe { LZ4_loadDictHC(stream, dict.as_ptr().cast(), int(dict.len())) };
        Ok(HcDictionary { stream: state.memory, bytes })
    }
}

/// Decompresses `src`, which is output of lz4 or lz4hc, and fills all of `dst`.
pub(crate) fn decompress(
    codec: &'static str,
    src: &[u8],
    dst: &mut [u8],
    dictionary: Option<&Dictionary>,
) -> Result<(), CompressorError> {
    check_len(codec, src.len(), MAX_LEN)?;
    check_len(codec, dst.len(), MAX_LEN)?;
    let got = match dictionary {
        None => lz4_block::decompress(src, dst).ok(),
        Some(dictionary) => {
            // SAFETY: whatever the bytes, the call reads within `src` and the dictionary, and writes within
            // `dst`. The lengths fit an `int`.
            let got = unsafe {
                LZ4_decompress_safe_usingDict(
                    src.as_ptr().cast(),
                    dst.as_mut_ptr().cast(),
                    int(src.len()),
                    int(dst.len()),
                    dictionary.bytes().as_ptr().cast(),
                    int(dictionary.bytes().len()),
                )
            };
            usize::try_from(got).ok()
        }
    };
    match got {
        None => Err(CompressorError::Corrupt {
            codec,
            reason: "not an LZ4 block, or one of more bytes than asked for",
        }),
        Some(got) if got != dst.len() => {
            Err(CompressorError::WrongLength { codec, expected: dst.len(), got: Some(got) })
        }
        Some(_) => Ok(()),
    }
}
