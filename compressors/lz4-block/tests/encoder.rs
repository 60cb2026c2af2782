//! Tests the encoder: with two decoders, against the rules of the format, and with outputs of many lengths. Miri
//! runs fewer tests, with the decoder that is written in Rust.
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

#[path = "../../tests/common/fence.rs"]
mod fence;

use fence::{Fenced, Side};
use lz4_block::{CompressError, MAX_INPUT, Table, compress, max_compressed_len};
use zpool_base::sync::test_rng::Rng;

const KINDS: usize = 9;

/// Makes an input of the given kind. Some kinds are like the memory of processes, others are artificial.
fn input(kind: usize, len: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut bytes = vec![0; len];
    match kind {
        0 => {}
        1 => bytes.iter_mut().for_each(|b| *b = rng.next() as u8),
        2 => bytes.iter_mut().for_each(|b| *b = b"ab\0"[rng.below(3)]),
        // A few bytes, repeated.
        3 => {
            let period = 1 + rng.below(200);
            for i in 0..len {
                bytes[i] = if i < period { rng.next() as u8 } else { bytes[i - period] };
            }
        }
        // Pointers.
        4 => {
            for word in bytes.chunks_mut(8) {
                let pointer = 0x7f12_3456_0000 + 16 * (rng.next() % 64);
                word.copy_from_slice(&pointer.to_le_bytes()[..word.len()]);
            }
        }
        // Zeros with a few other bytes.
        5 => {
            for _ in 0..len / 100 {
                bytes[rng.below(len)] = rng.next() as u8;
            }
        }
        // Copies of earlier bytes, of various lengths and distances, and random bytes.
        6 | 7 => {
            let longest = if kind == 6 { 12 } else { 600 };
            let mut at = 0;
            while at < len {
                let run = (1 + rng.below(longest)).min(len - at);
                let from = rng.below(at + 1);
                for i in at..at + run {
                    bytes[i] =
                        if at == 0 || run < 4 { rng.next() as u8 } else { bytes[from + i - at] };
                }
                at += run;
            }
        }
        // Random bytes, then zeros.
        _ => {
            let end = rng.below(len + 1);
            bytes[..end].iter_mut().for_each(|b| *b = rng.next() as u8);
        }
    }
    bytes
}

/// Checks a block against the format: its lengths and distances, the rules for its end, and that it gives `src_len`
/// bytes.
fn check_format(block: &[u8], src_len: usize) {
    let (mut at, mut out) = (0, 0);
    let rest = |at: &mut usize, half: usize| {
        let (mut len, mut more) = (half, half == 15);
        while more {
            len += usize::from(block[*at]);
            more = block[*at] == 255;
            *at += 1;
        }
        len
    };
    loop {
        let token = usize::from(block[at]);
        at += 1;
        let literals = rest(&mut at, token >> 4);
        at += literals;
        out += literals;
        if at == block.len() {
            assert_eq!(out, src_len);
            assert_eq!(token & 15, 0, "the last sequence has no match");
            assert!(literals >= 5.min(src_len), "{literals} literals at the end of {src_len}");
            return;
        }
        let distance = usize::from(u16::from_le_bytes([block[at], block[at + 1]]));
        at += 2;
        let len = 4 + rest(&mut at, token & 15);
        assert!((1..=out).contains(&distance), "{distance} at {out}");
        assert!(out + 12 <= src_len, "a match begins at {out} of {src_len}");
        out += len;
    }
}

/// Compresses `src` in buffers that end at fences. Checks that both decoders (one under Miri) restore `src`. Returns
/// the block.
fn round_trip(src: &[u8], table: &mut Table) -> Vec<u8> {
    let mut from = Fenced::new(src.len(), Side::End);
    let from = from.slice(src.len());
    from.copy_from_slice(src);
    let most = max_compressed_len(src.len());
    let mut to = Fenced::new(most, Side::End);
    let to = to.slice(most);
    let len = compress(from, to, table).unwrap();
    let block = to[..len].to_vec();
    check_format(&block, src.len());
    let mut back = vec![0xA5; src.len()];
    assert_eq!(lz4_flex::block::decompress_into(&block, &mut back).unwrap(), src.len());
    assert!(back == src);
    if !cfg!(miri) {
        back.fill(0x5A);
        assert_eq!(lz4_block::decompress(&block, &mut back), Ok(src.len()));
        assert!(back == src);
    }
    block
}

#[test]
fn inputs_of_every_short_length_come_back() {
    let mut table = Table::new();
    let step = if cfg!(miri) { 17 } else { 1 };
    for len in (0..=300).step_by(step) {
        for kind in 0..KINDS {
            round_trip(&input(kind, len, len as u64), &mut table);
        }
    }
}

#[test]
fn inputs_around_the_lengths_that_matter_come_back() {
    let mut table = Table::new();
    let lens: Vec<usize> = if cfg!(miri) {
        vec![4096]
    } else {
        (4080..=4112).chain([8192, 16384, 65520]).chain(65530..=65536).collect()
    };
    for len in lens {
        for kind in 0..KINDS {
            round_trip(&input(kind, len, 1), &mut table);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn many_pages_come_back() {
    let mut table = Table::new();
    for seed in 0..300 {
        for kind in 0..KINDS {
            round_trip(&input(kind, 4096, seed), &mut table);
        }
    }
}

#[test]
fn an_input_that_starts_at_a_fence_comes_back() {
    let mut table = Table::new();
    for kind in 0..KINDS {
        let src = input(kind, 4096, 3);
        let mut from = Fenced::new(src.len(), Side::Start);
        let from = from.slice(src.len());
        from.copy_from_slice(&src);
        let mut to = Fenced::new(8192, Side::Start);
        let to = to.slice(8192);
        let len = compress(from, to, &mut table).unwrap();
        assert!(to[..len] == round_trip(&src, &mut table));
        if cfg!(miri) && kind == 2 {
            break;
        }
    }
}

#[test]
fn an_output_is_long_enough_to_the_byte_or_refused() {
    let mut table = Table::new();
    let len = if cfg!(miri) { 60 } else { 1500 };
    for kind in 0..KINDS {
        let src = input(kind, len, 5);
        let block = round_trip(&src, &mut table);
        let mut to = Fenced::new(block.len() + 40, Side::End);
        for room in 0..block.len() + 40 {
            let to = to.slice(room);
            let done = compress(&src, to, &mut table);
            if room < block.len() {
                assert_eq!(done, Err(CompressError::OutputTooSmall { capacity: room }));
            } else {
                assert_eq!(done, Ok(block.len()), "{kind} into {room}");
                assert!(to[..block.len()] == block);
            }
        }
    }
}

#[test]
fn a_table_keeps_nothing() {
    let mut used = Table::new();
    for kind in 0..KINDS {
        let src = input(kind, if cfg!(miri) { 100 } else { 4096 }, 7);
        let fresh = round_trip(&src, &mut Table::new());
        assert!(round_trip(&src, &mut used) == fresh, "{kind}");
    }
}

#[test]
fn lengths_of_matches_and_literals_around_their_steps_come_back() {
    let mut table = Table::new();
    let around = |n: usize| n.saturating_sub(2)..n + 3;
    let steps = if cfg!(miri) { vec![15, 32] } else { vec![4, 15, 19, 32, 270, 274, 525, 529] };
    for literals in steps.iter().flat_map(|&n| around(n)) {
        for matched in steps.iter().flat_map(|&n| around(n)) {
            // Random bytes, more of them, a copy of `matched` earlier bytes, and random bytes again.
            let mut src = input(1, 700, 11);
            src.extend(input(1, literals, 12));
            src.extend_from_within(20..20 + matched);
            src.extend(input(1, 30, 13));
            round_trip(&src, &mut table);
        }
        if cfg!(miri) {
            break;
        }
    }
}

#[test]
fn inputs_too_long_are_refused() {
    let src = vec![0; MAX_INPUT + 1];
    let refused = CompressError::InputTooLong { len: MAX_INPUT + 1 };
    let mut to = vec![0; 1000];
    assert_eq!(compress(&src, &mut to, &mut Table::new()), Err(refused));
    assert!(refused.to_string().contains("65537 bytes"), "{refused}");
}

#[test]
fn repetitive_pages_are_small() {
    let mut table = Table::new();
    assert!(round_trip(&[0; 4096], &mut table).len() < 40);
    let random = input(1, 4096, 17);
    assert!(round_trip(&random, &mut table).len() <= 4096 + 4096 / 255 + 2);
    assert_eq!(round_trip(&[], &mut table), [0]);
}
