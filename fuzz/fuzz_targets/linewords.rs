//! Tests every variant of linewords with arbitrary bytes, in two ways. If the bytes are a stream,
//! all variants must decompress it to the same unit or return the same error. If the bytes are a
//! unit, all variants must compress it to the same stream, and decompress that stream to the unit.
#![no_main]

use std::cell::RefCell;

use linewords::{LargeContext, Variant, decompress_with, max_compressed_len};

thread_local! {
    /// The contexts are kept from one input to the next. If an input corrupts a context, the
    /// following inputs notice it.
    static CONTEXTS: RefCell<Vec<(Variant, Box<LargeContext>)>> = RefCell::new(
        Variant::all().map(|v| (v, Box::new(LargeContext::with_variant(v)))).collect(),
    );
}

fn all_equal<T: PartialEq>(results: &[T]) -> &T {
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "variants differ");
    &results[0]
}

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| {
    let (blocks, bytes) = input;
    // The length of the unit: 2048 bytes to 64 KiB.
    let blocks = 1 + usize::from(blocks) % 32;
    let len = 2048 * blocks;
    let bytes = &bytes[..bytes.len().min(16384)];

    // The bytes as a stream: after a valid header, so that the decoder reads them as the body. They
    // are also tried without a header.
    let mut stream = vec![0x3f + blocks as u8, 0, 0];
    stream.extend_from_slice(bytes);
    let whole = (stream.len() as u16).to_le_bytes();
    stream[1..3].copy_from_slice(&whole);
    // The bytes as the distance, the widths and the planes of deltas. The planes get the length that
    // the widths require.
    let mut deltas = vec![0x7f + blocks as u8];
    deltas.extend_from_slice(bytes);
    let widths = 2..2 + 64 * blocks;
    if let Some(widths) = deltas.get(widths.clone()) {
        let sum: usize = widths.iter().map(|two| usize::from((two & 15) + (two >> 4))).sum();
        deltas.resize(2 + widths.len() + 2 * sum, 0xa5);
    }
    for stream in [&stream[..], &deltas, bytes] {
        let results: Vec<_> = Variant::all()
            .enumerate()
            .map(|(fill, variant)| {
                // The buffer's old bytes differ from variant to variant. They must not show up in
                // the result.
                let mut out = vec![fill as u8; len];
                decompress_with(variant, stream, &mut out).map(|()| out)
            })
            .collect();
        all_equal(&results);
    }

    // The bytes as a unit: they are repeated, each time followed by a byte that changes.
    let mut unit = Vec::with_capacity(len + bytes.len());
    while unit.len() < len {
        let round = unit.len() as u8;
        unit.extend_from_slice(bytes);
        unit.push(round);
    }
    for len in [len, blocks] {
        let unit = &unit[..len];
        let streams: Vec<_> = CONTEXTS.with_borrow_mut(|contexts| {
            contexts
                .iter_mut()
                .map(|(_, context)| {
                    let mut out = vec![0; max_compressed_len(len)];
                    let written =
                        context.compress(unit, &mut out).expect("room for the worst case");
                    out.truncate(written);
                    out
                })
                .collect()
        });
        let stream = all_equal(&streams);
        assert!(stream.len() <= len + 1);
        for variant in Variant::all() {
            let mut back = vec![0x5a; len];
            decompress_with(variant, stream, &mut back).expect("what was just compressed");
            assert!(back == unit, "{variant:?}");
        }
    }
});
