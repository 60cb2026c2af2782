//! Tests every codec with arbitrary bytes, in two ways. The bytes are decompressed into buffers
//! with guard bytes around them. They are also compressed, and must come back unchanged.
#![no_main]

use std::cell::RefCell;

use compressors::{Compressor, CompressorCtx, CompressorError};
use std::sync::Arc;

const SPECS: [&str; 7] =
    ["lz4", "lz4hc:level=3", "zstd:level=1", "zstd:level=-5", "deflate", "null", "linewords"];
const GUARD: u8 = 0x5A;

type Codec = (Arc<dyn Compressor>, Box<dyn CompressorCtx>);

thread_local! {
    /// The contexts are kept from one input to the next, as in a store. So an input that corrupts a
    /// context is noticed by the following inputs.
    static CODECS: RefCell<Vec<Codec>> = RefCell::new(
        SPECS
            .iter()
            .map(|spec| {
                let codec = compressors::build(spec).expect("a built-in codec");
                let ctx = codec.new_ctx().expect("memory for a context");
                (codec, ctx)
            })
            .collect(),
    );
}

/// Passes `len` bytes in the middle of a buffer to `call`. Checks that the bytes around them have
/// not changed. Returns the result of `call`, and the `len` bytes.
fn guarded<T>(len: usize, call: impl FnOnce(&mut [u8]) -> T) -> (T, Vec<u8>) {
    let mut buffer = vec![GUARD; len + 64];
    let result = call(&mut buffer[32..32 + len]);
    assert!(buffer[..32].iter().chain(&buffer[32 + len..]).all(|b| *b == GUARD), "out of bounds");
    (result, buffer[32..32 + len].to_vec())
}

libfuzzer_sys::fuzz_target!(|input: (u8, u16, &[u8])| {
    let (pick, odd, bytes) = input;
    let bytes = &bytes[..bytes.len().min(8192)];
    CODECS.with_borrow_mut(|codecs| {
        let (codec, ctx) = &mut codecs[usize::from(pick) % SPECS.len()];
        for len in [4096, usize::from(odd) % 5000] {
            let (with_ctx, out) = guarded(len, |dst| ctx.decompress(bytes, dst));
            if let Some(stateless) = codec.stateless() {
                let (without, other) = guarded(len, |dst| stateless.decompress(bytes, dst));
                assert_eq!(with_ctx.is_ok(), without.is_ok());
                assert!(without.is_err() || out == other);
            }
        }
        let room = codec.max_compressed_len(bytes.len());
        let (written, packed) = guarded(room, |dst| ctx.compress(bytes, dst));
        let packed = &packed[..written.expect("there was room for the worst case")];
        let (back, out) = guarded(bytes.len(), |dst| ctx.decompress(packed, dst));
        back.expect("what was just compressed");
        assert_eq!(out, bytes);

        let short = usize::from(odd) % (room + 1);
        match guarded(short, |dst| ctx.compress(bytes, dst)) {
            (Ok(len), out) => {
                let (back, again) = guarded(bytes.len(), |dst| ctx.decompress(&out[..len], dst));
                assert!(back.is_ok() && again == bytes);
            }
            (Err(CompressorError::OutputTooSmall { .. }), _) => {}
            (Err(other), _) => panic!("{short} bytes of room: {other}"),
        }
    });
});
