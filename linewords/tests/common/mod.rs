//! Makes units, both like those of real processes and artificial ones, and alters streams.

#![allow(dead_code, reason = "each test program uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed unwrap and a panic are the test's own message"
)]

use linewords::{Error, LargeContext, PageContext, Variant, decompress_with, max_compressed_len};
use zpool_base::sync::test_rng::Rng;

/// The number of kinds of units.
pub(crate) const KINDS: usize = 15;

/// The kind whose units are stored as deltas, if they can be.
pub(crate) const SMOOTH: usize = 13;

/// Units of these kinds are stored as lines of words or as deltas, never as LZ4 blocks, whatever the random numbers
/// are.
pub(crate) const WITHOUT_LZ4: [usize; 6] = [0, 1, 2, 4, 6, SMOOTH];

/// Makes a unit of the given kind. Most units of the first eight kinds are stored as lines of words.
pub(crate) fn unit(rng: &mut Rng, kind: usize, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 64);
    let words = |rng: &mut Rng, word: &mut dyn FnMut(&mut Rng, usize) -> u32| -> Vec<u8> {
        (0..len.div_ceil(4)).flat_map(|i| word(rng, i).to_le_bytes()).collect()
    };
    match kind % KINDS {
        0 => out.resize(len, 0),
        // Counters and zeros.
        1 => {
            let step = rng.below(40) as u32;
            out = words(rng, &mut |rng, i| if rng.below(3) == 0 { i as u32 * step } else { 0 });
        }
        // Pointers to objects of one heap.
        2 => {
            let heap = 0x7f3a_0000_0000 + (rng.next() & 0xff_ffff_f000);
            let apart = 16 << rng.below(4);
            while out.len() < len {
                let to = heap + apart * rng.below(200) as u64;
                out.extend_from_slice(&to.to_le_bytes());
            }
        }
        // Records of one length, each changed in one byte.
        3 => {
            let period = 4 * (1 + rng.below(60));
            let record: Vec<u8> = (0..period).map(|_| rng.next() as u8).collect();
            while out.len() < len {
                let mut record = record.clone();
                let at = rng.below(period);
                record[at] = rng.next() as u8;
                out.extend_from_slice(&record);
            }
        }
        // Few values. The table entries of some resemble empty slots.
        4 => {
            const FEW: [u32; 8] =
                [0, 1 << 31, 1 << 22, 0xffc0_0000, 5 << 22, 77, 0x1_0000, u32::MAX];
            let odd = rng.next() as u32;
            out = words(rng, &mut |rng, _| if rng.below(9) == 0 { odd } else { FEW[rng.below(8)] });
        }
        // Floats.
        5 => {
            let scale = rng.below(1000) as f32;
            out = words(rng, &mut |rng, _| (scale + rng.below(64) as f32 / 8.0).to_bits());
        }
        // Zeros with a few other bytes.
        6 => {
            out.resize(len, 0);
            for _ in 0..rng.below(1 + len / 16) {
                let at = rng.below(len.max(1));
                out[at] = rng.next() as u8;
            }
        }
        // Earlier words, some of them changed in the middle bits or in the lower half.
        7 => {
            let mut seen = vec![0x1234_5678u32];
            out = words(rng, &mut |rng, _| {
                let old = seen[rng.below(seen.len())];
                let new = match rng.below(6) {
                    0 => rng.next() as u32,
                    1 => old ^ (rng.below(64) as u32) << 5,
                    2 => old ^ rng.below(1 << 16) as u32,
                    3 => old ^ (rng.below(4) as u32) << 8,
                    _ => old,
                };
                seen.push(new);
                new
            });
        }
        // Noise.
        8 => out.extend((0..len).map(|_| rng.next() as u8)),
        // Noise, then zeros.
        9 => {
            out.extend((0..len).map(|i| if i < len / 2 { rng.next() as u8 } else { 0 }));
        }
        // Text.
        10 => {
            const WORDS: [&str; 8] =
                ["the ", "page ", "of ", "memory ", "is\n", "{\"id\": ", "0.25, ", "</div>"];
            while out.len() < len {
                out.extend_from_slice(WORDS[rng.below(8)].as_bytes());
            }
        }
        // One byte, repeated.
        11 => out.resize(len, rng.next() as u8),
        // A few bytes, repeated.
        12 => {
            let period = 1 + rng.below(200);
            for i in 0..len {
                let byte = if i < period { rng.next() as u8 } else { out[i - period] };
                out.push(byte);
            }
        }
        // Smooth bytes, as in an image with one to four channels.
        13 => {
            let channels = 1 + rng.below(4);
            let mut last: Vec<u8> = (0..channels).map(|_| rng.next() as u8).collect();
            for i in 0..len {
                let level = &mut last[i % channels];
                *level = level.wrapping_add(rng.below(7) as u8).wrapping_sub(2);
                out.push(*level);
            }
        }
        // A part of one kind, then a part of another.
        _ => {
            let (a, b) = (rng.below(KINDS - 1), rng.below(KINDS - 1));
            out = unit(rng, a, len);
            let at = rng.below(len.max(1));
            out.truncate(at);
            let other = unit(rng, b, len - out.len());
            out.extend_from_slice(&other);
        }
    }
    out.truncate(len);
    out
}

/// One context of each size, for the same variant.
#[derive(Debug)]
pub(crate) struct Both {
    pub(crate) variant: Variant,
    pub(crate) page: Box<PageContext>,
    pub(crate) large: Box<LargeContext>,
}

impl Both {
    pub(crate) fn all() -> Vec<Both> {
        Variant::all()
            .map(|variant| Both {
                variant,
                page: Box::new(PageContext::with_variant(variant)),
                large: Box::new(LargeContext::with_variant(variant)),
            })
            .collect()
    }
}

/// Compresses `unit` with every variant, and returns the stream, which must be the same. Checks that every variant
/// decompresses it to `unit`.
pub(crate) fn agreed(contexts: &mut [Both], unit: &[u8], large: bool) -> Vec<u8> {
    let mut agreed: Option<Vec<u8>> = None;
    for Both { variant, page, large: wide } in contexts {
        let mut out = vec![0x5a; max_compressed_len(unit.len())];
        let len = if large { wide.compress(unit, &mut out) } else { page.compress(unit, &mut out) };
        out.truncate(len.unwrap());
        match &agreed {
            None => agreed = Some(out),
            Some(first) => assert!(*first == out, "{variant:?} differs"),
        }
    }
    let stream = agreed.unwrap();
    assert_eq!(verdict(&stream, unit.len()).unwrap(), unit);
    stream
}

/// Decompresses `stream` with every variant and returns their result, which must be the same.
pub(crate) fn verdict(stream: &[u8], len: usize) -> Result<Vec<u8>, Error> {
    let mut agreed: Option<Result<Vec<u8>, Error>> = None;
    for (fill, variant) in Variant::all().enumerate() {
        // Fills the buffer differently for each variant. The filling must not show in the result.
        let mut out = vec![0x5a + fill as u8; len];
        let result = decompress_with(variant, stream, &mut out).map(|()| out);
        match &agreed {
            None => agreed = Some(result),
            Some(first) => assert!(*first == result, "{variant:?} differs"),
        }
    }
    agreed.unwrap()
}

/// Makes one small change, like a stray write, a lost tail or a mixed-up block.
pub(crate) fn mutate(rng: &mut Rng, stream: &mut Vec<u8>, other: &[u8]) {
    let len = stream.len();
    let at = rng.below(len.max(1));
    match rng.below(10) {
        0..=2 if len > 0 => stream[at] ^= 1 << rng.below(8),
        3 | 4 if len > 0 => stream[at] = [0, 0xff, 0x7f, 0x80, rng.next() as u8][rng.below(5)],
        // Near the end, where kinds and control are.
        5 if len > 0 => {
            let back = 1 + rng.below(len.min(400));
            stream[len - back] ^= 1 << rng.below(8);
        }
        6 => stream.truncate(at),
        7 => stream.extend((0..1 + rng.below(40)).map(|_| rng.next() as u8)),
        8 => {
            let cut = rng.below(other.len().max(1));
            stream.truncate(at);
            stream.extend_from_slice(&other[cut..]);
        }
        _ => stream.insert(at, rng.next() as u8),
    }
}
