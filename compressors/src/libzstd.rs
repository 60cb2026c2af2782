//! Safe wrappers around the C library zstd. All `unsafe` code of the codec zstd is here; that of its trainer of
//! dictionaries is in `libzdict`.
//!
//! An [`Encoder`] lives either in our own memory or in the library's. Our memory
//! has a fixed size, and an encoder in it neither allocates nor frees. The library's
//! memory grows and shrinks with the inputs: the library shrinks tables that were three
//! times as large as needed for more than 128 inputs in a row. So in a store, a series
//! of short inputs among the pages would cause allocations.
//!
//! Invariants: encoders and decoders are used through `&mut`, so by one thread
//! at a time. A [`Prepared`] dictionary does not change once it is made, and
//! every context that refers to one keeps it alive. Objects are freed exactly
//! once, by `drop`.

use std::ptr::NonNull;
use std::sync::Arc;

use zstd_safe::zstd_sys as sys;

use sys::ZSTD_cParameter as CParameter;

use crate::dictionary::{Content, Dictionary, refused};
use crate::error::CompressorError;
use crate::names::ZSTD as NAME;
use crate::scratch::Scratch;

/// The parameters `ZSTD_c_format` and `ZSTD_d_format`. The bindings have other names for them.
const C_FORMAT: CParameter = CParameter::ZSTD_c_experimentalParam2;
const D_FORMAT: sys::ZSTD_dParameter = sys::ZSTD_dParameter::ZSTD_d_experimentalParam1;
const MAGICLESS: i32 = sys::ZSTD_format_e::ZSTD_f_zstd1_magicless as i32;

/// An error of the library: its number in `zstd_errors.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure(usize);

impl Failure {
    pub(crate) const OUT_OF_MEMORY: Failure = Failure(64);
    pub(crate) const DST_TOO_SMALL: Failure = Failure(70);

    /// Returns the library's description of the error.
    pub(crate) fn reason(self) -> &'static str {
        zstd_safe::get_error_name(self.0.wrapping_neg())
    }

    /// Returns the error for a failure that the input did not cause. If the library ran out of memory, `what`
    /// says what the memory was for.
    pub(crate) fn into_error(self, what: &'static str) -> CompressorError {
        if self == Self::OUT_OF_MEMORY {
            return CompressorError::OutOfMemory { codec: NAME, what };
        }
        let code = i64::try_from(self.0).unwrap_or(i64::MAX);
        CompressorError::Codec { codec: NAME, code, reason: self.reason() }
    }
}

/// Turns the result of a call into a length or a failure.
pub(crate) fn check(result: usize) -> Result<usize, Failure> {
    // SAFETY: the call only computes from the number.
    if unsafe { sys::ZSTD_isError(result) } == 0 {
        Ok(result)
    } else {
        Err(Failure(result.wrapping_neg()))
    }
}

fn no_memory(what: &'static str) -> CompressorError {
    CompressorError::OutOfMemory { codec: NAME, what }
}

/// A dictionary that is prepared for compression and decompression.
pub(crate) struct Prepared {
    pub(crate) bytes: Dictionary,
    encode: NonNull<sys::ZSTD_CDict>,
    decode: NonNull<sys::ZSTD_DDict>,
}

// SAFETY: the objects are heap memory that only `self` refers to, and not tied to a thread.
unsafe impl Send for Prepared {}
// SAFETY: the library takes prepared dictionaries as `const` and documents that
// threads may share them.
unsafe impl Sync for Prepared {}

impl Prepared {
    pub(crate) fn new(bytes: Content, level: i32) -> Result<Self, CompressorError> {
        let bytes = Dictionary::new(NAME, bytes, usize::MAX)?;
        let content = bytes.bytes();
        // The library does not report why it failed.
        let failed = || {
            let allowed = "any content, or an undamaged dictionary of zstd's trainer \
                           (and memory to prepare it in)";
            refused(NAME, content.len(), allowed)
        };
        // SAFETY: the call copies the content, which is valid for its length.
        let encode =
            unsafe { sys::ZSTD_createCDict(content.as_ptr().cast(), content.len(), level) };
        let encode = NonNull::new(encode).ok_or_else(failed)?;
        // SAFETY: as above.
        let decode = unsafe { sys::ZSTD_createDDict(content.as_ptr().cast(), content.len()) };
        let Some(decode) = NonNull::new(decode) else {
            // SAFETY: the object was made above, and nothing refers to it.
            unsafe { sys::ZSTD_freeCDict(encode.as_ptr()) };
            return Err(failed());
        };
        Ok(Prepared { bytes, encode, decode })
    }

    /// Returns the heap bytes of the dictionary and of its prepared forms.
    pub(crate) fn memory_bytes(&self) -> usize {
        // SAFETY: the object is alive.
        let encode = unsafe { sys::ZSTD_sizeof_CDict(self.encode.as_ptr()) };
        // SAFETY: the object is alive.
        let decode = unsafe { sys::ZSTD_sizeof_DDict(self.decode.as_ptr()) };
        self.bytes.bytes().len() + encode + decode
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // SAFETY: the object is alive, and nothing refers to it: every context that
        // refers to the dictionary holds an `Arc` of it.
        unsafe { sys::ZSTD_freeCDict(self.encode.as_ptr()) };
        // SAFETY: as above.
        unsafe { sys::ZSTD_freeDDict(self.decode.as_ptr()) };
    }
}

/// A compression context with its parameters set.
pub(crate) struct Encoder {
    raw: NonNull<sys::ZSTD_CCtx>,
    /// The memory in which the context lives; `None` if the library allocated it.
    fixed: Option<Scratch>,
    /// The dictionary that the context refers to. This keeps it alive.
    dictionary: Option<Arc<Prepared>>,
}

// SAFETY: the context is memory that only `self` refers to, not tied to a
// thread, and the dictionary is `Sync`.
unsafe impl Send for Encoder {}

impl Encoder {
    /// Makes an encoder that allocates memory as its inputs need it.
    pub(crate) fn growing(
        level: i32,
        dictionary: Option<Arc<Prepared>>,
    ) -> Result<Self, CompressorError> {
        // SAFETY: the call takes no arguments.
        let raw = unsafe { sys::ZSTD_createCCtx() };
        let raw = NonNull::new(raw).ok_or(no_memory("a compression context"))?;
        Encoder { raw, fixed: None, dictionary }.set_up(level)
    }

    /// Makes an encoder that never allocates. It has memory for inputs like `page`.
    /// An input that needs more fails with [`Failure::OUT_OF_MEMORY`].
    pub(crate) fn fixed_for(
        page: &[u8],
        level: i32,
        dictionary: Option<Arc<Prepared>>,
    ) -> Result<Self, CompressorError> {
        // Compress the page with a growing encoder to learn how much memory it needs.
        let mut model = Self::growing(level, dictionary.clone())?;
        match model.compress(page, &mut [0; 64]) {
            // It does not matter if the output is too short: the library allocates the tables first.
            Ok(_) | Err(Failure::DST_TOO_SMALL) => (),
            Err(failure) => return Err(failure.into_error("tables")),
        }
        let size = model.memory_bytes();
        drop(model);

        // The size fits at once, unless the library was built to leave gaps between its
        // tables, for instance for an address sanitizer.
        for slack in [0, 4 << 10, 32 << 10] {
            let mut memory = Scratch::new(NAME, size + slack)?;
            // SAFETY: the memory is ours, `memory.len()` bytes long and aligned to
            // 64. It does not move, since the encoder keeps it.
            let raw = unsafe { sys::ZSTD_initStaticCCtx(memory.as_mut_ptr().cast(), memory.len()) };
            let Some(raw) = NonNull::new(raw) else { continue };
            let fixed = Some(memory);
            let mut encoder =
                Encoder { raw, fixed, dictionary: dictionary.clone() }.set_up(level)?;
            match encoder.compress(page, &mut [0; 64]) {
                Ok(_) | Err(Failure::DST_TOO_SMALL) => return Ok(encoder),
                Err(Failure::OUT_OF_MEMORY) => (),
                Err(failure) => return Err(failure.into_error("tables")),
            }
        }
        Err(no_memory("tables"))
    }

    fn set_up(self, level: i32) -> Result<Self, CompressorError> {
        let what = "compression parameters";
        for (parameter, value) in [
            (CParameter::ZSTD_c_compressionLevel, level),
            (C_FORMAT, MAGICLESS),
            (CParameter::ZSTD_c_contentSizeFlag, 0),
            (CParameter::ZSTD_c_checksumFlag, 0),
            (CParameter::ZSTD_c_dictIDFlag, 0),
        ] {
            // SAFETY: the context is alive. The library checks the parameter and the
            // value.
            let set = unsafe { sys::ZSTD_CCtx_setParameter(self.raw.as_ptr(), parameter, value) };
            check(set).map_err(|failure| failure.into_error(what))?;
        }
        if let Some(prepared) = &self.dictionary {
            // SAFETY: both are alive, and `self` keeps the dictionary for as
            // long as the context.
            let set =
                unsafe { sys::ZSTD_CCtx_refCDict(self.raw.as_ptr(), prepared.encode.as_ptr()) };
            check(set).map_err(|failure| failure.into_error(what))?;
        }
        Ok(self)
    }

    /// Compresses `src` into one frame in `dst` and returns the length of the frame.
    /// An error leaves the encoder ready for the next input.
    pub(crate) fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Failure> {
        // SAFETY: the context is alive and ours; both slices are valid for their
        // lengths. The call first resets the session, whatever its state.
        check(unsafe {
            sys::ZSTD_compress2(
                self.raw.as_ptr(),
                dst.as_mut_ptr().cast(),
                dst.len(),
                src.as_ptr().cast(),
                src.len(),
            )
        })
    }

    /// Returns the heap bytes of the context.
    pub(crate) fn memory_bytes(&self) -> usize {
        match &self.fixed {
            Some(memory) => memory.len(),
            // SAFETY: the context is alive.
            None => unsafe { sys::ZSTD_sizeof_CCtx(self.raw.as_ptr()) },
        }
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        if self.fixed.is_none() {
            // SAFETY: the library allocated the context, and nothing refers to it.
            unsafe { sys::ZSTD_freeCCtx(self.raw.as_ptr()) };
        }
    }
}

/// A decompression context with its parameters set. It decompresses a frame in one
/// call, which allocates nothing, whatever window the frame declares.
pub(crate) struct Decoder {
    raw: NonNull<sys::ZSTD_DCtx>,
    dictionary: Option<Arc<Prepared>>,
}

// SAFETY: as for `Encoder`.
unsafe impl Send for Decoder {}

impl Decoder {
    pub(crate) fn new(dictionary: Option<Arc<Prepared>>) -> Result<Self, CompressorError> {
        // SAFETY: the call takes no arguments.
        let raw = unsafe { sys::ZSTD_createDCtx() };
        let raw = NonNull::new(raw).ok_or(no_memory("a decompression context"))?;
        let decoder = Decoder { raw, dictionary };
        // SAFETY: the context is alive; the library checks the value.
        let set = unsafe { sys::ZSTD_DCtx_setParameter(raw.as_ptr(), D_FORMAT, MAGICLESS) };
        check(set).map_err(|failure| failure.into_error("decompression parameters"))?;
        Ok(decoder)
    }

    /// Decompresses `src` and returns how many bytes of `dst` it filled. An
    /// error leaves the decoder ready for the next input.
    pub(crate) fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Failure> {
        check(match &self.dictionary {
            // SAFETY: the context is alive and ours; whatever the bytes, the
            // call reads within `src` and writes within `dst`.
            None => unsafe {
                sys::ZSTD_decompressDCtx(
                    self.raw.as_ptr(),
                    dst.as_mut_ptr().cast(),
                    dst.len(),
                    src.as_ptr().cast(),
                    src.len(),
                )
            },
            // SAFETY: as above. The call also reads within the dictionary, which is alive.
            Some(prepared) => unsafe {
                sys::ZSTD_decompress_usingDDict(
                    self.raw.as_ptr(),
                    dst.as_mut_ptr().cast(),
                    dst.len(),
                    src.as_ptr().cast(),
                    src.len(),
                    prepared.decode.as_ptr(),
                )
            },
        })
    }

    /// Returns the heap bytes of the context.
    pub(crate) fn memory_bytes(&self) -> usize {
        // SAFETY: the context is alive.
        unsafe { sys::ZSTD_sizeof_DCtx(self.raw.as_ptr()) }
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: the context is alive, and nothing refers to it.
        unsafe { sys::ZSTD_freeDCtx(self.raw.as_ptr()) };
    }
}
