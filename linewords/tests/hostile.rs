//! Decompresses altered, truncated and arbitrary streams with every variant of the decoder. All variants must return
//! the same error or the same bytes, and none may access memory out of bounds. Each buffer starts or ends at an
//! inaccessible page.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's own message")]
#![allow(clippy::print_stdout, reason = "how many were refused, for `--nocapture`")]

mod common;
#[path = "../../compressors/tests/common/fence.rs"]
mod fence;

use common::{Both, KINDS, SMOOTH, WITHOUT_LZ4, agreed, mutate, unit};
use fence::{Fenced, Side};
use linewords::{Error, PageContext, Variant, decompress_with};
use zpool_base::sync::test_rng::Rng;

const ROOM: usize = 128 << 10;

/// Buffers that start at a fence, and buffers that end at one. `turn` is the index of the buffers that were used last.
struct Fences {
    turn: usize,
    src: [Fenced; 2],
    dst: [Fenced; 2],
}

impl Fences {
    fn new() -> Self {
        let both = || [Side::Start, Side::End].map(|side| Fenced::new(ROOM, side));
        Fences { turn: 0, src: both(), dst: both() }
    }

    /// Decompresses `stream` with every variant and returns their result, which must be the same. Successive calls
    /// alternate between the buffers that start at a fence and the buffers that end at one.
    fn verdict(&mut self, stream: &[u8], len: usize) -> Result<Vec<u8>, Error> {
        self.turn ^= 1;
        let src = self.src[self.turn].slice(stream.len());
        src.copy_from_slice(stream);
        let dst = self.dst[self.turn].slice(len);
        let mut agreed: Option<Result<Vec<u8>, Error>> = None;
        for (i, variant) in Variant::all().enumerate() {
            // Fills the buffer differently for each variant. The filling must not show in the result.
            dst.fill(0x5a + i as u8);
            let result = decompress_with(variant, src, dst).map(|()| &*dst);
            match &agreed {
                None => agreed = Some(result.map(<[u8]>::to_vec)),
                Some(Ok(first)) => assert!(result == Ok(first), "{variant:?} differs"),
                Some(Err(first)) => assert!(result == Err(*first), "{variant:?} differs"),
            }
        }
        assert!(*src == *stream, "the stream was written to");
        agreed.unwrap()
    }
}

/// Overwrites the head. The new head says that the unit has `blocks` blocks of lines of words, and gives the stream's
/// true length. So decoders do not refuse the stream before they examine the rest.
fn pass_the_head(stream: &mut [u8], blocks: usize) {
    let len = stream.len() as u16;
    if let Some(head) = stream.first_chunk_mut() {
        let [low, high] = len.to_le_bytes();
        *head = [0x3f + blocks as u8, low, high];
    }
}

/// Makes `count` streams of all kinds of units. Most have lines of words or deltas. Under Miri, which runs no C
/// code, all do.
fn streams(rng: &mut Rng, count: usize, lens: &[usize]) -> Vec<(Vec<u8>, usize)> {
    let mut contexts = Both::all();
    (0..count)
        .map(|i| {
            let len = lens[i % lens.len()];
            let kind = match rng.below(4) {
                _ if cfg!(miri) => WITHOUT_LZ4[i % WITHOUT_LZ4.len()],
                0 => i % KINDS,
                1 => SMOOTH,
                _ => i % 8,
            };
            let unit = unit(rng, kind, len);
            (agreed(&mut contexts, &unit, true), len)
        })
        .collect()
}

/// Decompresses `count` altered streams with every variant.
fn mutations(count: u64, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut fences = Fences::new();
    let (mut refused, mut accepted) = (0u64, 0u64);
    let mut done = 0;
    while done < count {
        let pages = if cfg!(miri) { 2 } else { 100 };
        let mut pool = streams(&mut rng, pages, &[4096, 4096, 4096, 2048]);
        if !cfg!(miri) {
            pool.extend(streams(&mut rng, 4, &[8192, 16384]));
        }
        let share = if cfg!(miri) { count } else { (count / 10).clamp(1, 100_000) };
        for _ in 0..share.min(count - done) {
            let (stream, len) = &pool[rng.below(pool.len())];
            let mut stream = stream.clone();
            for _ in 0..1 + rng.below(3) {
                let other = rng.below(pool.len());
                mutate(&mut rng, &mut stream, &pool[other].0);
            }
            if cfg!(miri) || rng.below(4) != 0 {
                // Usually corrects the head, so that the stream passes the first checks and is not an LZ4 block.
                pass_the_head(&mut stream, len / 2048);
            }
            match fences.verdict(&stream, *len) {
                Ok(_) => accepted += 1,
                Err(_) => refused += 1,
            }
            done += 1;
        }
    }
    println!("{done} streams: {accepted} accepted, {refused} refused");
    assert!(refused > 0 && (accepted > 0 || cfg!(miri)));
}

#[test]
fn altered_streams_are_errors_or_units() {
    mutations(if cfg!(miri) { 8 } else { 100_000 }, 1);
}

/// Run it with `cargo test --release -p linewords --test hostile -- --ignored --nocapture`. The environment
/// variable `LINEWORDS_MUTATIONS` sets the number of streams, `LINEWORDS_SEED` the seed of the random numbers.
#[test]
#[ignore = "takes an hour"]
fn very_many_altered_streams_are_errors_or_units() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let count = number("LINEWORDS_MUTATIONS").unwrap_or(100_000_000);
    mutations(count, number("LINEWORDS_SEED").unwrap_or(2));
}

#[test]
fn every_bit_of_a_hundred_streams_may_change() {
    let mut rng = Rng::new(3);
    let mut fences = Fences::new();
    // The first streams are those of zeros and of counters.
    let count = if cfg!(miri) { 2 } else { 100 };
    let (mut refused, mut changed, mut same) = (0, 0, 0);
    for (stream, len) in streams(&mut rng, count, &[2048, 4096]) {
        let unit = fences.verdict(&stream, len).unwrap();
        let step = if cfg!(miri) { 499 } else { 1 };
        for bit in (if cfg!(miri) { 8 } else { 0 }..8 * stream.len()).step_by(step) {
            let mut stream = stream.clone();
            stream[bit / 8] ^= 1 << (bit % 8);
            match fences.verdict(&stream, len) {
                Err(_) => refused += 1,
                Ok(other) if other == unit => same += 1,
                Ok(_) => changed += 1,
            }
        }
    }
    println!("{refused} refused, {changed} other units, {same} the same unit");
    assert!(refused > 0 && changed > 0);
}

#[test]
fn streams_cut_short_are_errors_at_every_length() {
    let mut rng = Rng::new(4);
    let mut fences = Fences::new();
    for (stream, len) in streams(&mut rng, if cfg!(miri) { 1 } else { 60 }, &[2048, 4096, 8192]) {
        let step = if cfg!(miri) { 199 } else { 1 };
        for cut in (0..stream.len()).step_by(step) {
            assert!(fences.verdict(&stream[..cut], len).is_err(), "{cut} bytes");
        }
        let longer = [&stream[..], &[0]].concat();
        assert!(fences.verdict(&longer, len).is_err());
    }
}

#[test]
fn streams_of_another_length_are_errors() {
    let mut rng = Rng::new(5);
    let mut fences = Fences::new();
    for (stream, len) in streams(&mut rng, if cfg!(miri) { 1 } else { 40 }, &[2048, 4096, 8192]) {
        for other in [0, 1, 2048, 4095, 4096, 4097, 8192, 65536] {
            assert!(other == len || fences.verdict(&stream, other).is_err());
        }
    }
}

#[test]
fn arbitrary_bytes_are_errors_or_units() {
    let mut rng = Rng::new(6);
    let mut fences = Fences::new();
    for _ in 0..if cfg!(miri) { 6 } else { 20_000 } {
        let len = [rng.below(8), rng.below(80), rng.below(5000)][rng.below(3)];
        let mut bytes: Vec<u8> = match rng.below(4) {
            0 => (0..len).map(|_| rng.next() as u8).collect(),
            1 => vec![rng.next() as u8; len],
            2 => (0..len).map(|_| [0xff, 0, 0xf0, 0x0f][rng.below(4)]).collect(),
            // Ends with zeros: the last lines are not coded, and control is shorter.
            _ => (0..len).map(|i| if i + 14 > len { 0 } else { rng.next() as u8 }).collect(),
        };
        let blocks = 1 + rng.below(if cfg!(miri) { 2 } else { 32 });
        pass_the_head(&mut bytes, blocks);
        let _ = fences.verdict(&bytes, 2048 * blocks);
    }
}

/// Decompresses streams with few coded lines and few bytes before the kinds. Decoders then read control and
/// payload near the ends of the slice.
#[test]
fn short_streams_are_read_within_their_slices() {
    let mut rng = Rng::new(7);
    let mut fences = Fences::new();
    for round in 0..if cfg!(miri) { 5 } else { 20_000 } {
        let blocks = 1 + round % 3;
        let mut stream = vec![0; 3];
        stream.extend((0..rng.below(20)).map(|_| rng.next() as u8));
        // Up to three coded lines at random places.
        let mut kinds = vec![0u64; blocks];
        for _ in 0..rng.below(4) {
            kinds[rng.below(blocks)] |= (2 + rng.next() % 2) << (2 * rng.below(32));
        }
        for _ in 0..rng.below(3) {
            let (block, line) = (rng.below(blocks), rng.below(32));
            if kinds[block] >> (2 * line) & 3 == 0 {
                kinds[block] |= 1 << (2 * line);
            }
        }
        for kinds in kinds {
            stream.extend_from_slice(&kinds.to_le_bytes());
        }
        pass_the_head(&mut stream, blocks);
        let _ = fences.verdict(&stream, 2048 * blocks);
    }
}

#[test]
#[cfg_attr(miri, ignore = "LZ4 is C code")]
fn compression_stays_within_its_buffers() {
    let mut rng = Rng::new(8);
    let mut fences = Fences::new();
    for kind in 0..KINDS {
        let unit = unit(&mut rng, kind, 4096);
        for capacity in (0..4200).step_by(13) {
            for (src, dst) in fences.src.iter_mut().zip(&mut fences.dst) {
                let src = src.slice(4096);
                src.copy_from_slice(&unit);
                for variant in Variant::all() {
                    let mut context = Box::new(PageContext::with_variant(variant));
                    let _ = context.compress(src, dst.slice(capacity));
                }
            }
        }
    }
}
