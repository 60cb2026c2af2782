//! Tests liblz4's compressor: with two decoders, and with inputs and outputs at fences.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

#[path = "../../tests/common/fence.rs"]
mod fence;

use fence::{Fenced, Side};
use lz4_block::{CompressError, MAX_INPUT, Stream, max_compressed_len};

fn input(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(i) / 977) as u8).collect()
}

/// Compresses `src` with a stream whose memory ends at a fence.
fn compress(src: &[u8], dst: &mut [u8], acceleration: i32) -> Result<usize, CompressError> {
    let mut memory = Fenced::new(Stream::LEN, Side::End);
    let memory = memory.slice(Stream::LEN);
    memory.fill(0xA5);
    Stream::in_memory(memory).unwrap().compress(src, dst, acceleration)
}

#[test]
fn inputs_of_all_lengths_come_back() {
    let around = MAX_INPUT - 1..=MAX_INPUT + 1;
    for len in (0..40).chain([4096]).chain(around).chain([300_000]) {
        for (acceleration, side) in [
            (i32::MIN, Side::Start),
            (0, Side::End),
            (1, Side::Start),
            (1, Side::End),
            (17, Side::Start),
            (65537, Side::End),
            (i32::MAX, Side::Start),
        ] {
            let mut from = Fenced::new(len, side);
            let from = from.slice(len);
            from.copy_from_slice(&input(len));
            let most = max_compressed_len(len);
            let mut to = Fenced::new(most, side);
            let to = to.slice(most);
            let written = compress(from, to, acceleration).unwrap();
            let mut back = vec![0xA5; len];
            let block = &to[..written];
            assert_eq!(lz4_flex::block::decompress_into(block, &mut back).unwrap(), len);
            assert!(back == from);
            back.fill(0x5A);
            assert_eq!(lz4_block::decompress(block, &mut back), Ok(len));
            assert!(back == from);
        }
    }
}

#[test]
fn an_output_too_short_is_refused() {
    let src = input(70_000);
    let mut block = vec![0; max_compressed_len(src.len())];
    let len = compress(&src, &mut block, 1).unwrap();
    for room in [0, 1, len / 2, len - 1] {
        let mut to = Fenced::new(room, Side::End);
        let refused = Err(CompressError::OutputTooSmall { capacity: room });
        assert_eq!(compress(&src, to.slice(room), 1), refused);
    }
    assert_eq!(compress(&[], &mut [], 1), Err(CompressError::OutputTooSmall { capacity: 0 }));
    let mut token = [0xA5];
    assert_eq!(compress(&[], &mut token, 1), Ok(1));
    assert_eq!(token, [0]);
}

#[test]
fn a_greater_acceleration_is_less_dense() {
    let src: Vec<u8> = (0..4096u32).flat_map(|i| [(i / 3) as u8, (i / 50) as u8]).collect();
    let mut block = vec![0; max_compressed_len(src.len())];
    assert!(compress(&src, &mut block, 1).unwrap() < compress(&src, &mut block, 60).unwrap());
}
