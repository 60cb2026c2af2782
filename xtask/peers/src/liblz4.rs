//! liblz4 itself, by its fastest calls for pages. All contestants of the LZ4 format are compared
//! with its times.
//!
//! The C library is called directly, since `lz4` in `compressors` may be another implementation. A
//! page is compressed as the first block of a stream that has just been initialised. This is denser
//! and faster than the one-shot calls.

use std::os::raw::{c_char, c_int, c_void};

use compressors::{Compressor, CompressorCtx, CompressorError, StatelessDecompress};

/// Its name among the contestants.
pub(crate) const LIBLZ4: &str = "liblz4";

/// The greatest length that is accepted. A `c_int` can hold it, and no contestant needs more.
const MAX_LEN: usize = 1 << 20;

// The library exports these functions, but lz4-sys does not declare them. `*mut c_void` stands for
// `LZ4_stream_t *`.
unsafe extern "C" {
    fn LZ4_sizeofState() -> c_int;
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

/// liblz4 at its default acceleration.
#[derive(Debug)]
pub(crate) struct Liblz4;

fn failed(reason: &'static str) -> CompressorError {
    CompressorError::Codec { codec: LIBLZ4, code: 0, reason }
}

fn int(len: usize) -> Result<c_int, CompressorError> {
    let too_long = CompressorError::InputTooLarge { codec: LIBLZ4, len, max: MAX_LEN };
    if len > MAX_LEN { Err(too_long) } else { c_int::try_from(len).map_err(|_| too_long) }
}

impl Compressor for Liblz4 {
    fn name(&self) -> &str {
        LIBLZ4
    }

    fn spec(&self) -> String {
        LIBLZ4.to_owned()
    }

    fn max_compressed_len(&self, src_len: usize) -> usize {
        src_len + src_len / 255 + 16
    }

    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        // SAFETY: the call takes no arguments and returns a constant.
        let bytes = unsafe { LZ4_sizeofState() };
        let lines = usize::try_from(bytes).unwrap_or_default().div_ceil(size_of::<Line>());
        Ok(Box::new(State { lines: vec![Line([0; 64]); lines] }))
    }

    fn stateless(&self) -> Option<&dyn StatelessDecompress> {
        Some(self)
    }
}

impl StatelessDecompress for Liblz4 {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        let (src_len, dst_len) = (int(src.len())?, int(dst.len())?);
        // SAFETY: the slices are valid for the lengths passed. Whatever the bytes of `src` are, the
        // call reads within `src` and writes within `dst`.
        let got = unsafe {
            lz4_sys::LZ4_decompress_safe(
                src.as_ptr().cast(),
                dst.as_mut_ptr().cast(),
                src_len,
                dst_len,
            )
        };
        if got == dst_len { Ok(()) } else { Err(failed("not a block of that many bytes")) }
    }
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; 64]);

#[derive(Debug)]
struct State {
    lines: Vec<Line>,
}

impl CompressorCtx for State {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        let (src_len, dst_len) = (int(src.len())?, int(dst.len())?);
        let bytes = size_of_val(&self.lines[..]);
        // SAFETY: `self` owns the memory, which is `bytes` long and aligned to 64 bytes.
        let stream = unsafe { LZ4_initStream(self.lines.as_mut_ptr().cast(), bytes) };
        if stream.is_null() {
            return Err(failed("the library refused the memory for its state"));
        }
        // SAFETY: the stream has just been initialised, and the slices are valid for the lengths
        // passed.
        let written = unsafe {
            LZ4_compress_fast_continue(
                stream,
                src.as_ptr().cast(),
                dst.as_mut_ptr().cast(),
                src_len,
                dst_len,
                1,
            )
        };
        match usize::try_from(written) {
            Ok(len) if len > 0 => Ok(len),
            _ => Err(failed("no room for its output")),
        }
    }

    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        StatelessDecompress::decompress(&Liblz4, src, dst)
    }

    fn memory_bytes(&self) -> usize {
        size_of_val(&self.lines[..])
    }
}
