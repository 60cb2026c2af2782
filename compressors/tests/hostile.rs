//! Tries garbage, truncated input, altered input and output buffers that are too small. None may cause an access
//! out of bounds. Each buffer ends or starts at an inaccessible page, so an access one byte too far crashes the
//! test.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's own message")]

mod common;
#[path = "common/fence.rs"]
mod fence;

use common::{pages, specs};
use compressors::{Compressor, CompressorCtx, CompressorError, build};
use fence::{Fenced, Side};
use zpool_base::sync::test_rng::Rng;

/// Buffers that start at a fence, and buffers that end at one. They are large enough for every test below.
struct Fences {
    src: [Fenced; 2],
    dst: [Fenced; 2],
}

const ROOM: usize = 128 << 10;

impl Fences {
    fn new() -> Self {
        let both = || [Side::Start, Side::End].map(|side| Fenced::new(ROOM, side));
        Fences { src: both(), dst: both() }
    }

    /// Decompresses `src` four times: with and without a context, at either fence. Checks that the results are
    /// equal, and returns one.
    fn decompress(
        &mut self,
        codec: &dyn Compressor,
        ctx: &mut dyn CompressorCtx,
        src: &[u8],
        dst_len: usize,
    ) -> Result<Vec<u8>, CompressorError> {
        let mut results = Vec::new();
        for (fenced_src, fenced_dst) in self.src.iter_mut().zip(&mut self.dst) {
            let input = fenced_src.slice(src.len());
            input.copy_from_slice(src);
            let output = fenced_dst.slice(dst_len);
            let result = ctx.decompress(input, output);
            results.push(result.map(|()| output.to_vec()));
            if let Some(stateless) = codec.stateless() {
                let result = stateless.decompress(input, output);
                results.push(result.map(|()| output.to_vec()));
            }
            assert!(input == src, "{}: the input was written to", codec.spec());
        }
        let first = results.swap_remove(0);
        assert!(results.iter().all(|other| *other == first), "{}: results differ", codec.spec());
        first
    }
}

fn compressed(codec: &dyn Compressor, ctx: &mut dyn CompressorCtx, page: &[u8]) -> Vec<u8> {
    let mut out = vec![0; codec.max_compressed_len(page.len())];
    let len = ctx.compress(page, &mut out).unwrap();
    out.truncate(len);
    out
}

/// Makes one small change, like a stray write, a lost tail or a mixed-up block.
fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = rng.below(bytes.len().max(1));
    match rng.below(8) {
        0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << rng.below(8),
        2 if !bytes.is_empty() => bytes[at] = [0, 0xff, 0x7f, 0x80, rng.next() as u8][rng.below(5)],
        3 => bytes.truncate(at),
        4 => {
            let count = 1 + rng.below(40);
            bytes.extend((0..count).map(|_| rng.next() as u8));
        }
        5 => {
            let cut = rng.below(other.len().max(1));
            bytes.truncate(at);
            bytes.extend_from_slice(&other[cut..]);
        }
        6 if !bytes.is_empty() => drop(bytes.remove(at)),
        _ => bytes.insert(at.min(bytes.len()), rng.next() as u8),
    }
}

#[test]
fn altered_pages_are_errors_or_pages() {
    let mut fences = Fences::new();
    let mut errors = 0;
    for (i, spec) in specs().into_iter().enumerate() {
        let codec = build(&spec).unwrap();
        let mut ctx = codec.new_ctx().unwrap();
        let mut rng = Rng::new(i as u64);
        let pages = pages(4096);
        let whole: Vec<_> =
            pages.iter().map(|(_, page)| compressed(&*codec, &mut *ctx, page)).collect();
        let rounds = if cfg!(miri) { 20 } else { 1500 };
        for round in 0..rounds {
            let which = rng.below(whole.len());
            let mut bytes = whole[which].clone();
            for _ in 0..1 + rng.below(3) {
                let other = rng.below(whole.len());
                mutate(&mut rng, &mut bytes, &whole[other]);
            }
            let dst_len = [4096, 4096, 4096, 4095, 4097, 0, 1, 65536][rng.below(8)];
            errors += usize::from(fences.decompress(&*codec, &mut *ctx, &bytes, dst_len).is_err());
            // The context must still work.
            if round % 50 == 0 {
                let back = fences.decompress(&*codec, &mut *ctx, &whole[which], 4096).unwrap();
                assert!(back == pages[which].1, "{spec}");
            }
        }
    }
    assert!(errors > 0);
}

#[test]
fn garbage_is_an_error_or_a_page() {
    let mut fences = Fences::new();
    for (i, spec) in specs().into_iter().enumerate() {
        let codec = build(&spec).unwrap();
        let mut ctx = codec.new_ctx().unwrap();
        let mut rng = Rng::new(1000 + i as u64);
        for _ in 0..if cfg!(miri) { 5 } else { 300 } {
            let len = [rng.below(8), rng.below(64), rng.below(5000)][rng.below(3)];
            let garbage: Vec<u8> = match rng.below(3) {
                0 => (0..len).map(|_| rng.next() as u8).collect(),
                1 => vec![rng.next() as u8; len],
                // Bytes that are common in length fields.
                _ => (0..len).map(|_| [0xff, 0, 0xf0, 0x0f][rng.below(4)]).collect(),
            };
            let dst_len = [4096, 0, 1, 17, ROOM][rng.below(5)];
            // Either result is correct. Only the fences are tested here.
            let _ = fences.decompress(&*codec, &mut *ctx, &garbage, dst_len);
        }
    }
}

#[test]
fn a_page_cut_short_is_an_error_at_every_length() {
    let mut fences = Fences::new();
    for spec in specs() {
        let codec = build(&spec).unwrap();
        let mut ctx = codec.new_ctx().unwrap();
        let (_, page) = &pages(4096)[8];
        let whole = compressed(&*codec, &mut *ctx, page);
        let step = if cfg!(miri) { 97 } else { 1 + whole.len() / 400 };
        for len in (0..whole.len()).step_by(step) {
            let cut = fences.decompress(&*codec, &mut *ctx, &whole[..len], page.len());
            assert!(cut.is_err(), "{spec}: {len} of {} bytes were enough", whole.len());
        }
    }
}

#[test]
fn only_the_exact_length_is_accepted() {
    let mut fences = Fences::new();
    for spec in specs() {
        let codec = build(&spec).unwrap();
        let mut ctx = codec.new_ctx().unwrap();
        for (kind, page) in pages(4096) {
            let whole = compressed(&*codec, &mut *ctx, &page);
            for dst_len in [0, 1, 2048, 4094, 4095, 4097, 4098, 8192] {
                let result = fences.decompress(&*codec, &mut *ctx, &whole, dst_len);
                assert!(
                    matches!(
                        result,
                        Err(CompressorError::WrongLength { .. } | CompressorError::Corrupt { .. })
                    ),
                    "{spec}, {kind}, {dst_len} bytes: {result:?}"
                );
                if let Err(CompressorError::WrongLength { expected, got, .. }) = result {
                    assert_eq!(expected, dst_len);
                    assert!(got.is_none_or(|got| got == 4096), "{spec}: {got:?}");
                }
            }
            // A byte after the end of a compressed page must be an error.
            let longer = [&whole[..], &[0]].concat();
            assert!(
                fences.decompress(&*codec, &mut *ctx, &longer, 4096).is_err(),
                "{spec}, {kind}: a byte too many"
            );
        }
    }
}

#[test]
fn output_stays_within_its_buffer_at_every_capacity() {
    let mut fences = Fences::new();
    for spec in specs() {
        let codec = build(&spec).unwrap();
        let mut ctx = codec.new_ctx().unwrap();
        let pages = pages(if cfg!(miri) { 64 } else { 700 });
        for (kind, page) in pages.iter().filter(|(kind, _)| !kind.starts_with("more")) {
            let bound = codec.max_compressed_len(page.len());
            let whole = compressed(&*codec, &mut *ctx, page);
            // Capacities near the compressed length, and others in larger steps over the whole range.
            let near = whole.len().saturating_sub(20)..whole.len() + 20;
            let step = 1 + bound / 40;
            for capacity in near.chain((0..=bound).step_by(step)).chain([bound, bound + 1]) {
                for (fenced_src, fenced_dst) in fences.src.iter_mut().zip(&mut fences.dst) {
                    let input = fenced_src.slice(page.len());
                    input.copy_from_slice(page);
                    let output = fenced_dst.slice(capacity);
                    match ctx.compress(input, output) {
                        Ok(len) => {
                            assert!(len <= capacity, "{spec}, {kind}, {capacity}");
                            let mut back = vec![0; page.len()];
                            ctx.decompress(&output[..len], &mut back).unwrap();
                            assert!(back == *page, "{spec}, {kind}, {capacity}");
                        }
                        Err(error) => {
                            assert!(
                                matches!(error, CompressorError::OutputTooSmall { .. }),
                                "{spec}, {kind}, {capacity}: {error}"
                            );
                            assert!(capacity < bound, "{spec}, {kind}, {capacity}: {error}");
                        }
                    }
                }
            }
        }
    }
}
