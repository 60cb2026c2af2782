//! Units of every kind and many lengths come back unchanged, and all variants write the same streams.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's own message")]

mod common;

use common::{Both, KINDS, SMOOTH, WITHOUT_LZ4, agreed, unit};
use linewords::{Error, PageContext, Variant, decompress, max_compressed_len};
use zpool_base::sync::test_rng::Rng;

/// How many units of each kind and length are tried. Fewer under Miri.
const ROUNDS: usize = if cfg!(miri) { 1 } else { 40 };
/// The kinds of units that are tried. Under Miri, only kinds that are never stored as LZ4 blocks, since LZ4 is C code.
const TRIED: &[usize] =
    if cfg!(miri) { &WITHOUT_LZ4 } else { &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14] };

#[test]
fn pages_round_trip() {
    let mut contexts = Both::all();
    let mut rng = Rng::new(1);
    let mut words = 0;
    for _ in 0..ROUNDS {
        for &kind in TRIED {
            for &len in if cfg!(miri) { &[2048][..] } else { &[2048, 4096] } {
                let unit = unit(&mut rng, kind, len);
                let stream = agreed(&mut contexts, &unit, false);
                assert_eq!(stream, agreed(&mut contexts, &unit, true));
                assert!(stream.len() <= len + 1);
                words += usize::from(stream[0] >= 0x40);
            }
        }
    }
    assert!(words >= ROUNDS * TRIED.len(), "{words} have lines of words");
}

#[test]
fn smooth_units_are_deltas() {
    let mut contexts = Both::all();
    let mut rng = Rng::new(9);
    let lens: &[usize] = if cfg!(miri) { &[2048] } else { &[2048, 4096, 8192, 65536] };
    for _ in 0..ROUNDS {
        for &len in lens {
            let unit = unit(&mut rng, SMOOTH, len);
            let stream = agreed(&mut contexts, &unit, true);
            assert_eq!(usize::from(stream[0]), 0x80 + len / 2048 - 1);
            assert!((1..=4).contains(&stream[1]) && stream.len() < len * 3 / 4, "{}", stream.len());
        }
    }
}

#[test]
fn units_of_many_lengths_round_trip() {
    let mut contexts = Both::all();
    let mut rng = Rng::new(2);
    let lens: &[usize] =
        if cfg!(miri) { &[8192] } else { &[6144, 8192, 12288, 16384, 63488, 65536] };
    let mut words = 0;
    for _ in 0..ROUNDS.div_ceil(8) {
        for kind in 0..if cfg!(miri) { 3 } else { KINDS } {
            for &len in lens {
                let unit = unit(&mut rng, kind, len);
                let stream = agreed(&mut contexts, &unit, true);
                assert!(stream.len() <= len + 1);
                words += usize::from(stream[0] >= 0x40);
                if !cfg!(miri) {
                    // The unit is too long for a `PageContext`: it becomes an LZ4 block, or is stored unchanged.
                    assert!(agreed(&mut contexts, &unit, false)[0] < 2);
                }
            }
        }
    }
    assert!(words > 0);
}

#[test]
#[cfg_attr(miri, ignore = "LZ4 is C code")]
fn other_lengths_round_trip() {
    let mut contexts = Both::all();
    let mut rng = Rng::new(3);
    for len in
        [0, 1, 2, 5, 12, 13, 64, 255, 1024, 2047, 2049, 4095, 4097, 6145, 65535, 67584, 200_000]
    {
        for kind in 0..KINDS {
            let unit = unit(&mut rng, kind, len);
            for large in [false, true] {
                let stream = agreed(&mut contexts, &unit, large);
                assert!(stream.len() <= len + 1);
                assert!(stream[0] < 2, "{len}");
            }
        }
    }
}

#[test]
fn a_used_context_compresses_as_a_new_one() {
    let mut rng = Rng::new(4);
    let mut used = Both::all();
    for round in 0..ROUNDS {
        for &kind in TRIED {
            let unit = unit(&mut rng, kind + if cfg!(miri) { 0 } else { round }, 4096);
            if cfg!(miri) && kind > 1 {
                break;
            }
            assert_eq!(agreed(&mut used, &unit, false), agreed(&mut Both::all(), &unit, false));
        }
    }
}

/// At each capacity of the output, all variants give the same result and write nothing past the end. Every output
/// that has room for the stream of a large output gets that stream.
#[test]
#[cfg_attr(miri, ignore = "LZ4 is C code")]
fn any_capacity_will_do_or_is_too_small() {
    let mut rng = Rng::new(5);
    for kind in 0..KINDS {
        let unit = unit(&mut rng, kind, 4096);
        let whole = agreed(&mut Both::all(), &unit, false);
        let near = whole.len().saturating_sub(80)..whole.len() + 80;
        for capacity in near.chain((0..4300).step_by(61)) {
            let mut results = Vec::new();
            for variant in Variant::all() {
                let mut out = vec![0xa5; capacity + 64];
                let mut context = Box::new(PageContext::with_variant(variant));
                let result = context.compress(&unit, &mut out[..capacity]);
                assert!(out[capacity..].iter().all(|&byte| byte == 0xa5), "{variant:?} {capacity}");
                match result {
                    Ok(len) => {
                        let mut back = vec![0; 4096];
                        decompress(&out[..len], &mut back).unwrap();
                        assert!(back == unit);
                        assert!(capacity < whole.len() || out[..len] == whole, "{capacity}");
                        results.push(Ok(out[..len].to_vec()));
                    }
                    Err(error) => {
                        assert_eq!(error, Error::OutputTooSmall { src_len: 4096, capacity });
                        assert!(capacity < whole.len(), "{capacity}, {} do", whole.len());
                        results.push(Err(error));
                    }
                }
            }
            assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{kind} {capacity}");
        }
    }
}

#[test]
fn lengths_that_are_too_long_are_told() {
    assert_eq!(max_compressed_len(usize::MAX), usize::MAX);
    assert_eq!(max_compressed_len(0x7E00_0001), usize::MAX);
    assert!(max_compressed_len(4096) > 4097);
    let mut back = [0; 4096];
    assert_eq!(decompress(&[], &mut back), Err(Error::Corrupt));
    assert_eq!(
        decompress(&[0x40], &mut back),
        Err(Error::WrongLength { expected: 4096, got: 2048 })
    );
    assert_eq!(decompress(&[0x60], &mut back), Err(Error::Corrupt));
    assert_eq!(decompress(&[1, 2], &mut back), Err(Error::WrongLength { expected: 4096, got: 1 }));
}

/// A stored unit is one byte shorter than its stream, so decompression accepts one byte more than the longest unit
/// has.
#[test]
#[cfg_attr(miri, ignore = "takes 2 GiB of addresses, which Miri fills")]
fn the_longest_stream_is_one_byte_longer_than_the_longest_unit() {
    let longest = 0x7E00_0000;
    let mut stream = vec![0; longest + 2];
    stream[0] = 1;
    let mut back = [0; 4];
    assert_eq!(
        decompress(&stream[..=longest], &mut back),
        Err(Error::WrongLength { expected: 4, got: longest })
    );
    assert_eq!(
        decompress(&stream, &mut back),
        Err(Error::TooLong { len: longest + 2, max: longest + 1 })
    );
}
