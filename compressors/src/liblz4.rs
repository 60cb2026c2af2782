//! Safe wrappers around the C library lz4. All `unsafe` code of lz4 and lz4hc is here.
//!
//! States and dictionaries live in our own memory ([`Scratch`]). The library
//! allocates nothing, with one exception: from level 10 on, each compression of lz4hc
//! allocates 64 KiB and frees them before it returns.
//!
//! lz4 uses the two compressors of `lz4_block`. Our own encoder compresses inputs up to 64 KiB at the default
//! acceleration without a dictionary. The library compresses all others, and its table is cleared for each page.
//! lz4hc's tables are sixteen times as large, so they are reset without clearing.
//!
//! Invariants: every length passed to C was checked against [`MAX_INPUT`] or
//! [`MAX_LEN`] and fits an `int`; a state is used through `&mut`, so by one
//! thread at a time; a dictionary's stream is only read after it is loaded.

use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::os::raw::{c_char, c_int, c_void};

use lz4_block::{Stream, Table};

use crate::compressor::{MAX_LEN, check_len};
use crate::dictionary::Dictionary;
use crate::error::CompressorError;
use crate::names;
use crate::scratch::Scratch;

/// The longest input the library compresses, in bytes.
const MAX_INPUT: usize = Stream::MAX_INPUT;

/// How far back a match can reach, in bytes. Only this much from the end of a dictionary is used.
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

/// Returns a length as a C `int`, or the largest `int` if the length does not fit. The library then uses only the
/// start of the output buffer.
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
/// This does not call the library. At the optimal levels, the library's lz4hc computes
/// an address twelve bytes before the end of the input. An empty slice may have an
/// address so low that this computation wraps around.
fn compress_nothing(codec: &'static str, dst: &mut [u8]) -> Result<usize, CompressorError> {
    let Some(token) = dst.first_mut() else {
        return Err(CompressorError::OutputTooSmall { codec, src_len: 0, capacity: 0 });
    };
    *token = 0;
    Ok(1)
}

/// One of the two compressors: [`Fast`] is lz4, [`Hc`] is lz4hc.
pub(crate) trait Library: Copy + Send + Sync + 'static {
    /// The codec's name.
    const NAME: &'static str;
    /// The key of the parameter in a spec.
    const KEY: &'static str;
    /// The parameter's default.
    const DEFAULT: i32;
    /// The values that the parameter may have.
    const ALLOWED: RangeInclusive<i32>;

    /// Returns the length of a state, in bytes.
    fn state_len() -> usize;

    /// Makes an empty stream in the memory. Returns `None` if the library refuses the memory.
    fn clear(memory: &mut Scratch) -> Option<()>;

    /// Loads a dictionary, for compressions with the given parameter. Returns `None` if the library refuses the
    /// memory.
    ///
    /// # Safety
    /// While compressions use the state as a dictionary, the bytes must stay where they are.
    unsafe fn load(state: &mut State<Self>, parameter: i32, bytes: &[u8]) -> Option<()>;

    /// Compresses `src`, which has 1 to [`MAX_INPUT`] bytes, and returns the length. Returns `None` if there is not
    /// enough room in `dst`, or no temporary memory.
    fn compress(
        state: &mut State<Self>,
        src: &[u8],
        dst: &mut [u8],
        parameter: i32,
        dictionary: Option<&Prepared<Self>>,
    ) -> Option<usize>;
}

/// The working memory of a compressor.
pub(crate) struct State<L> {
    /// Invariant S1: [`Library::clear`] initialised the memory. Between calls, the memory of [`Hc`] holds a stream
    /// that can be reset. The memory of [`Fast`] may hold anything, except in a [`Prepared`] dictionary: each
    /// compression initialises it.
    memory: Scratch,
    library: PhantomData<L>,
}

impl<L: Library> State<L> {
    pub(crate) fn new() -> Result<Self, CompressorError> {
        let mut memory = Scratch::new(L::NAME, L::state_len())?;
        L::clear(&mut memory).ok_or(refused_memory(L::NAME))?;
        Ok(State { memory, library: PhantomData })
    }

    /// Compresses `src` into `dst` and returns the length.
    pub(crate) fn compress(
        &mut self,
        src: &[u8],
        dst: &mut [u8],
        parameter: i32,
        dictionary: Option<&Prepared<L>>,
    ) -> Result<usize, CompressorError> {
        check_len(L::NAME, src.len(), MAX_INPUT)?;
        if src.is_empty() {
            return compress_nothing(L::NAME, dst);
        }
        L::compress(self, src, dst, parameter, dictionary).ok_or_else(|| failure::<L>(src, dst))
    }

    /// Returns the heap bytes of the state.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory.len()
    }
}

/// Returns the error for a compression that failed.
#[cold]
fn failure<L: Library>(src: &[u8], dst: &[u8]) -> CompressorError {
    if dst.len() >= compress_bound(src.len()) {
        // `dst` has room for the worst case. So the failure is that the optimal levels
        // of lz4hc could not allocate their temporary memory.
        CompressorError::OutOfMemory { codec: L::NAME, what: "a compression" }
    } else {
        CompressorError::OutputTooSmall { codec: L::NAME, src_len: src.len(), capacity: dst.len() }
    }
}

/// A dictionary prepared for one value of the parameter. It does not change once it is loaded, so all contexts share
/// it.
pub(crate) struct Prepared<L> {
    state: State<L>,
    /// The bytes that the state refers to.
    pub(crate) bytes: Dictionary,
}

impl<L: Library> Prepared<L> {
    pub(crate) fn new(bytes: Dictionary, parameter: i32) -> Result<Self, CompressorError> {
        let mut state = State::new()?;
        // SAFETY: the bytes stay where they are while `bytes` lives, and it lives as long as the state.
        let loaded = unsafe { L::load(&mut state, parameter, bytes.bytes()) };
        loaded.ok_or(refused_memory(L::NAME))?;
        Ok(Prepared { state, bytes })
    }

    /// Returns the stream into which the dictionary was loaded.
    fn stream(&self) -> *const c_void {
        self.state.memory.as_ptr().cast()
    }
}

/// lz4. Its parameter is the acceleration.
#[derive(Clone, Copy)]
pub(crate) struct Fast;

impl Library for Fast {
    const NAME: &'static str = names::LZ4;
    const KEY: &'static str = "accel";
    const DEFAULT: i32 = 1;
    /// The library replaces larger values by the largest of these.
    const ALLOWED: RangeInclusive<i32> = 1..=65537;

    fn state_len() -> usize {
        Stream::LEN
    }

    fn clear(memory: &mut Scratch) -> Option<()> {
        Stream::in_memory(memory.bytes_mut()).map(drop)
    }

    unsafe fn load(state: &mut State<Self>, _: i32, bytes: &[u8]) -> Option<()> {
        let mut stream = Stream::in_memory(state.memory.bytes_mut())?;
        // SAFETY: the stream is initialised, and the caller keeps the bytes where they are.
        unsafe { LZ4_loadDictSlow(stream.as_mut_ptr(), bytes.as_ptr().cast(), int(bytes.len())) };
        Some(())
    }

    /// The encoder's table and the library's stream share the memory, since each use initialises it.
    fn compress(
        state: &mut State<Self>,
        src: &[u8],
        dst: &mut [u8],
        acceleration: i32,
        dictionary: Option<&Prepared<Self>>,
    ) -> Option<usize> {
        let memory = state.memory.bytes_mut();
        let Some(dictionary) = dictionary else {
            if acceleration == Self::DEFAULT && src.len() <= lz4_block::MAX_INPUT {
                return lz4_block::compress(src, dst, Table::in_memory(memory)?).ok();
            }
            return Stream::in_memory(memory)?.compress(src, dst, acceleration).ok();
        };
        let mut stream = Stream::in_memory(memory)?;
        // SAFETY: both are initialised streams. The dictionary's stream and the bytes that it refers to are borrowed
        // for longer than `stream` lives.
        unsafe { LZ4_attach_dictionary(stream.as_mut_ptr(), dictionary.stream()) };
        stream.compress(src, dst, acceleration).ok()
    }
}

/// lz4hc. Its parameter is the level.
///
/// Its tables are cleared when they are made and after a failure, but not between pages: each page gets indices
/// greater than all indices in old entries.
#[derive(Clone, Copy)]
pub(crate) struct Hc;

impl Library for Hc {
    const NAME: &'static str = names::LZ4HC;
    const KEY: &'static str = "level";
    const DEFAULT: i32 = 9;
    const ALLOWED: RangeInclusive<i32> = 3..=12;

    fn state_len() -> usize {
        // SAFETY: the call takes no arguments and returns a constant.
        unsafe { LZ4_sizeofStateHC() as usize }
    }

    fn clear(memory: &mut Scratch) -> Option<()> {
        let len = memory.len();
        // SAFETY: the memory is ours, `len` bytes long and aligned to 64.
        let stream = unsafe { LZ4_initStreamHC(memory.as_mut_ptr().cast(), len) };
        (!stream.is_null()).then_some(())
    }

    unsafe fn load(state: &mut State<Self>, level: i32, bytes: &[u8]) -> Option<()> {
        let stream: *mut c_void = state.memory.as_mut_ptr().cast();
        // SAFETY: S1. The level decides the kind of table, and loading the dictionary does not change it.
        unsafe { LZ4_resetStreamHC_fast(stream, level) };
        // SAFETY: the stream was just reset, and the caller keeps the bytes where they are.
        unsafe { LZ4_loadDictHC(stream, bytes.as_ptr().cast(), int(bytes.len())) };
        Some(())
    }

    fn compress(
        state: &mut State<Self>,
        src: &[u8],
        dst: &mut [u8],
        level: i32,
        dictionary: Option<&Prepared<Self>>,
    ) -> Option<usize> {
        let stream: *mut c_void = state.memory.as_mut_ptr().cast();
        // SAFETY: S1: `new` initialised the stream, and each call that failed since then
        // initialised it again.
        unsafe { LZ4_resetStreamHC_fast(stream, level) };
        if let Some(dictionary) = dictionary {
            // SAFETY: both are initialised streams. The dictionary's stream and the
            // bytes that it refers to are borrowed for longer than `stream` uses them:
            // the next call drops the reference before anything else.
            unsafe { LZ4_attach_HC_dictionary(stream, dictionary.stream()) };
        }
        // SAFETY: the stream was just reset; the slices are valid for their
        // lengths, and `int` can only shorten the length of `dst`.
        let written = unsafe {
            LZ4_compress_HC_continue(
                stream,
                src.as_ptr().cast(),
                dst.as_mut_ptr().cast(),
                int(src.len()),
                int(dst.len()),
            )
        };
        let written = usize::try_from(written).ok().filter(|&len| len > 0);
        if written.is_none() {
            // A compression that failed half-way leaves tables that the fast
            // reset cannot handle.
            Self::clear(&mut state.memory)?;
        }
        written
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
