//! liblz4 itself, by the quickest of its calls for pages: the base of every ratio of the LZ4 format.
//!
//! The C library is called here and not through `compressors`, whose `lz4` need not be it. As the first block
//! of a stream whose state was just initialised, a page comes out denser and sooner than by the one-shot calls.

use std::os::raw::{c_char, c_int, c_void};

use compressors::{Compressor, CompressorCtx, CompressorError, StatelessDecompress};

/// Its name among the contestants.
pub(crate) const LIBLZ4: &str = "liblz4";

/// `int` of both lengths holds this, and no contestant has more.
const MAX_LEN: usize = 1 << 20;

// Exported by the library but not declared by lz4-sys; `*mut c_void` stands for `LZ4_stream_t *`.
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
        // SAFETY: takes nothing, returns a constant.
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
        // SAFETY: whatever the bytes, the call reads within `src` and writes within `dst`.
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
        // SAFETY: the memory is ours, `bytes` long and aligned to 64.
        let stream = unsafe { LZ4_initStream(self.lines.as_mut_ptr().cast(), bytes) };
        if stream.is_null() {
            return Err(failed("the library refused the memory for its state"));
        }
        // SAFETY: the stream was just initialised; the slices are valid for their lengths.
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
