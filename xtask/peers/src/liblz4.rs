//! liblz4 itself, called through its fastest functions for pages. All contestants of the LZ4
//! format, and `linewords`, are compared with its times.
//!
//! The C library is called through `lz4_block::{Stream, decompress}` and not through the compressor
//! `lz4`, which compresses pages with another encoder. A page is compressed as the first block of a
//! stream that has just been initialised. This is denser and faster than the one-shot calls.

use compressors::{Compressor, CompressorCtx, CompressorError, StatelessDecompress};
use lz4_block::Stream;

/// The name of liblz4 among the contestants.
pub(crate) const LIBLZ4: &str = "liblz4";

/// The library's default.
const ACCELERATION: i32 = 1;

/// The alignment of a stream in bytes: a cache line.
const ALIGNMENT: usize = 64;

/// liblz4 at its default acceleration.
#[derive(Debug)]
pub(crate) struct Liblz4;

fn failed(reason: &'static str) -> CompressorError {
    CompressorError::Codec { codec: LIBLZ4, code: 0, reason }
}

impl Compressor for Liblz4 {
    fn name(&self) -> &str {
        LIBLZ4
    }

    fn spec(&self) -> String {
        LIBLZ4.to_owned()
    }

    fn max_compressed_len(&self, src_len: usize) -> usize {
        lz4_block::max_compressed_len(src_len)
    }

    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        Ok(Box::new(State { memory: vec![0; Stream::LEN + ALIGNMENT - 1] }))
    }

    fn stateless(&self) -> Option<&dyn StatelessDecompress> {
        Some(self)
    }
}

impl StatelessDecompress for Liblz4 {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        match lz4_block::decompress(src, dst) {
            Ok(got) if got == dst.len() => Ok(()),
            _ => Err(failed("not a block of that many bytes")),
        }
    }
}

#[derive(Debug)]
struct State {
    /// The memory of a stream, which begins at the first aligned byte.
    memory: Vec<u8>,
}

impl CompressorCtx for State {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        let aligned = self.memory.as_ptr().align_offset(ALIGNMENT);
        let memory = self.memory.get_mut(aligned..).unwrap_or_default();
        let stream = Stream::in_memory(memory)
            .ok_or(failed("the library refused the memory for its state"))?;
        stream.compress(src, dst, ACCELERATION).map_err(|_| failed("no room for its output"))
    }

    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        StatelessDecompress::decompress(&Liblz4, src, dst)
    }

    fn memory_bytes(&self) -> usize {
        self.memory.len()
    }
}
