//! Safe calls of the C library lz4: all `unsafe` code of lz4 and lz4hc is here.
//!
//! States and dictionaries live in our own memory ([`Scratch`]). The library
//! allocates nothing, except lz4hc from level 10 on, where each call allocates
//! 64 KiB until it returns.
//!
//! lz4 starts each page from a cleared table and compresses it as the first
//! block of a stream. On 4 KiB pages of real processes this is both denser (a
//! stream's table hashes five bytes, a lone small block's four) and faster
//! than the one-shot entry points. Clearing 16 KiB costs less than the stale
//! candidates of an uncleared table, which is why the library's own fast reset
//! clears from 4 KiB on. lz4hc's tables are sixteen times as large, so it resets
//! without clearing.
//!
//! Invariants: every length passed to C was checked against [`MAX_INPUT`] or
//! [`MAX_LEN`] and fits an `int`; a state is used through `&mut`, so by one
//! thread at a time; a dictionary's stream is only read after it is loaded.

use std::os::raw::{c_char, c_int, c_void};

use crate::compressor::{MAX_LEN, check_len};
use crate::dictionary::Dictionary;
use crate::error::CompressorError;
use crate::scratch::Scratch;

/// The longest input the library compresses, in bytes (`LZ4_MAX_INPUT_SIZE`).
const MAX_INPUT: usize = 0x7E00_0000;

/// The furthest a match reaches back, so the most of a dictionary that counts.
pub(crate) const DICTIONARY_REACH: usize = 64 << 10;

// Exported by the library but not declared by lz4-sys. States are opaque here:
// `*mut c_void` stands for `LZ4_stream_t *` and `LZ4_streamHC_t *`.
unsafe extern "C" {
    fn LZ4_sizeofState() -> c_int;
    fn LZ4_initStream(buffer: *mut c_void, size: usize) -> *mut c_void;
    fn LZ4_loadDictSlow(stream: *mut c_void, dict: *const c_char, dict_size: c_int) -> c_int;
    fn LZ4_attach_dictionary(stream: *mut c_void, dict_stream: *const c_void);
    fn LZ4_compress_fast_continue(
        stream: *mut c_void,
        src: *const c_char,
        dst: *mut c_char,
        src_size: c_int,
        dst_capacity: c_int,
        acceleration: c_int,
    ) -> c_int;

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

/// Worst-case output for `src_len` bytes; `usize::MAX` beyond [`MAX_INPUT`].
pub(crate) fn compress_bound(src_len: usize) -> usize {
    if src_len > MAX_INPUT { usize::MAX } else { src_len + src_len / 255 + 16 }
}

/// A length as a C `int`. Of a longer output buffer only the start is used.
fn int(len: usize) -> c_int {
    c_int::try_from(len).unwrap_or(c_int::MAX)
}

/// The error if the library rejects the memory it is given.
fn refused_memory(codec: &'static str) -> CompressorError {
    CompressorError::Codec {
        codec,
        code: 0,
        reason: "the library refused the memory for its state",
    }
}

/// Compresses an empty input: one token without literals.
///
/// The library is not called: at the optimal levels of lz4hc it computes an
/// address twelve bytes before the end of its input, and an empty slice may
/// have an address so low that this wraps around.
fn compress_nothing(codec: &'static str, dst: &mut [u8]) -> Result<usize, CompressorError> {
    let Some(token) = dst.first_mut() else {
        return Err(CompressorError::OutputTooSmall { codec, src_len: 0, capacity: 0 });
    };
    *token = 0;
    Ok(1)
}

/// Turns the result of a compression, a length or 0 for a failure, into ours.
fn finish_compress(
    codec: &'static str,
    written: c_int,
    src: &[u8],
    dst: &[u8],
) -> Result<usize, CompressorError> {
    match usize::try_from(written) {
        Ok(len) if len > 0 => Ok(len),
        // `dst` has room for the worst case, so the temporary allocation of
        // lz4hc's optimal levels failed.
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

/// The tables of lz4, cleared for every page.
pub(crate) struct FastState {
    memory: Scratch,
}

impl FastState {
    const CODEC: &'static str = crate::names::LZ4;

    pub(crate) fn new() -> Result<Self, CompressorError> {
        // SAFETY: takes nothing, returns a constant.
        let size = unsafe { LZ4_sizeofState() };
        let mut state = FastState { memory: Scratch::new(Self::CODEC, size as usize)? };
        state.clear().map(|_| state)
    }

    /// Resets the state to an empty stream.
    fn clear(&mut self) -> Result<*mut c_void, CompressorError> {
        let len = self.memory.len();
        // SAFETY: the memory is ours, `len` bytes long and aligned to 64.
        let stream = unsafe { LZ4_initStream(self.memory.as_mut_ptr().cast(), len) };
        if stream.is_null() { Err(refused_memory(Self::CODEC)) } else { Ok(stream) }
    }

    /// Compresses at most [`MAX_BLOCK`] bytes by the encoder of ours, whose table lies where the library's
    /// state does: that one is initialised before every use.
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

    /// Compresses `src` into `dst` and returns the length.
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
        let stream = self.clear()?;
        if let Some(dictionary) = dictionary {
            // SAFETY: both are initialised streams, and the second with the
            // bytes it refers to is borrowed for longer than `stream` uses it:
            // the next call clears the reference before anything else.
            unsafe { LZ4_attach_dictionary(stream, dictionary.stream.as_ptr().cast()) };
        }
        // SAFETY: the stream was just initialised; the slices are valid for
        // their lengths, and `int` only ever shortens that of `dst`.
        let written = unsafe {
            LZ4_compress_fast_continue(
                stream,
                src.as_ptr().cast(),
                dst.as_mut_ptr().cast(),
                int(src.len()),
                int(dst.len()),
                acceleration,
            )
        };
        finish_compress(Self::CODEC, written, src, dst)
    }

    /// Heap bytes of the state.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory.len()
    }
}

/// The tables of lz4hc. They are cleared when made and after a failure. Between
/// pages they are not cleared: the indices advance past all old entries.
pub(crate) struct HcState {
    memory: Scratch,
}

impl HcState {
    const CODEC: &'static str = crate::names::LZ4HC;

    pub(crate) fn new() -> Result<Self, CompressorError> {
        // SAFETY: takes nothing, returns a constant.
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
            // SAFETY: both are initialised streams, and the second with the
            // bytes it refers to is borrowed for longer than `stream` uses it:
            // the next call drops the reference before anything else.
            unsafe { LZ4_attach_HC_dictionary(stream, dictionary.stream.as_ptr().cast()) };
        }
        // SAFETY: the stream was just reset; the slices are valid for their
        // lengths, and `int` only ever shortens that of `dst`.
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
            // A compression that stops half-way leaves tables that the fast
            // reset does not expect.
            self.clear()?;
        }
        done
    }

    /// Heap bytes of the state.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory.len()
    }
}

/// A dictionary prepared for lz4. Never written to once loaded, so shared by
/// all contexts.
pub(crate) struct FastDictionary {
    stream: Scratch,
    /// The bytes that the stream refers to.
    pub(crate) bytes: Dictionary,
}

impl FastDictionary {
    pub(crate) fn new(bytes: Dictionary) -> Result<Self, CompressorError> {
        let mut state = FastState::new()?;
        let stream = state.clear()?;
        let dict = bytes.bytes();
        // SAFETY: the stream is initialised; the bytes stay where they are for
        // as long as `bytes` lives, which is as long as the stream does.
        unsafe { LZ4_loadDictSlow(stream, dict.as_ptr().cast(), int(dict.len())) };
        Ok(FastDictionary { stream: state.memory, bytes })
    }
}

/// A dictionary prepared for lz4hc at one level. Never written to once loaded,
/// so shared by all contexts.
pub(crate) struct HcDictionary {
    stream: Scratch,
    /// The bytes that the stream refers to.
    pub(crate) bytes: Dictionary,
}

impl HcDictionary {
    pub(crate) fn new(bytes: Dictionary, level: c_int) -> Result<Self, CompressorError> {
        let mut state = HcState::new()?;
        let stream: *mut c_void = state.memory.as_mut_ptr().cast();
        // SAFETY: the stream is initialised. Loading keeps the level set here,
        // which decides the kind of table.
        unsafe { LZ4_resetStreamHC_fast(stream, level) };
        let dict = bytes.bytes();
        // SAFETY: as above; the bytes stay where they are for as long as
        // `bytes` lives, which is as long as the stream does.
        unsafe { LZ4_loadDictHC(stream, dict.as_ptr().cast(), int(dict.len())) };
        Ok(HcDictionary { stream: state.memory, bytes })
    }
}

/// Decompresses `src`, output of lz4 or lz4hc, into all of `dst`.
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
            // SAFETY: whatever the bytes, the call reads within `src`, writes within `dst`, and matches reach
            // into the dictionary at most; the lengths fit an `int`.
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
