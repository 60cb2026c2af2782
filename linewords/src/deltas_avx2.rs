//! Deltas of bytes with AVX2: two groups at a time.
//!
//! Invariants on which the `unsafe` code rests:
//! 1. The processor has AVX2. The caller ensures this: it has a `Variant`, which exists only if the feature was found.
//! 2. The unit is a multiple of 2048 bytes, so pair `p` of groups is 32 bytes at `32 * p`. `begin` checks it for the
//!    encoder. The decoder takes only whole pairs.
//! 3. A distance is 1 to 16. The encoder gets it from `deltas::choose`, and checks it; the decoder's parts have it.

#![allow(unused_unsafe, reason = "newer compilers take these intrinsics for safe here")]
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "each intrinsic is an unsafe operation for older compilers"
)]

use core::arch::x86_64::*;

use crate::deltas::{GROUP, HEAD, MOST_DISTANCE, Parts, begin, widths_len};

/// Bytes in two groups.
const PAIR: usize = 2 * GROUP;

/// Shuffles for one distance.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Shuffles {
    /// Move bytes up by one, two, four and eight distances.
    up: [[u8; GROUP]; 4],
    /// Gives each byte the last byte of the group before that is a multiple of the distance away from it.
    carry: [u8; GROUP],
}

/// The shuffles for each distance. Those for distance 0 are not used.
static SHUFFLES: [Shuffles; MOST_DISTANCE + 1] = {
    let mut all = [Shuffles { up: [[0x80; GROUP]; 4], carry: [0; GROUP] }; MOST_DISTANCE + 1];
    let mut distance = 1;
    while distance <= MOST_DISTANCE {
        let mut i = 0;
        while i < GROUP {
            let mut step = 0;
            while step < 4 {
                let by = distance << step;
                if i >= by {
                    all[distance].up[step][i] = (i - by) as u8;
                }
                step += 1;
            }
            all[distance].carry[i] = (GROUP - distance + i % distance) as u8;
            i += 1;
        }
        distance += 1;
    }
    all
};

/// For each width, a mask of the planes that a group of this width has. A width has four bits in a stream, but is at
/// most 8.
static PLANES: [[u8; GROUP]; 16] = {
    let mut masks = [[0; GROUP]; 16];
    let mut width = 0;
    while width < 16 {
        let mut i = 0;
        while i < GROUP && i < 2 * width {
            masks[width][i] = 0xFF;
            i += 1;
        }
        width += 1;
    }
    masks
};

/// Exchanges bits in each eight bytes: bit `j` of byte `i` becomes bit `i` of byte `j`.
///
/// # Safety
/// Invariant 1.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn transpose(x: __m256i) -> __m256i {
    // SAFETY: invariant 1.
    unsafe {
        let swap = |x, t| _mm256_xor_si256(x, t);
        let low =
            |x, moved, mask| _mm256_and_si256(_mm256_xor_si256(x, moved), _mm256_set1_epi64x(mask));
        let t = low(x, _mm256_srli_epi64::<7>(x), 0x00AA_00AA_00AA_00AA);
        let x = swap(swap(x, t), _mm256_slli_epi64::<7>(t));
        let t = low(x, _mm256_srli_epi64::<14>(x), 0x0000_CCCC_0000_CCCC);
        let x = swap(swap(x, t), _mm256_slli_epi64::<14>(t));
        let t = low(x, _mm256_srli_epi64::<28>(x), 0x0000_0000_F0F0_F0F0);
        swap(swap(x, t), _mm256_slli_epi64::<28>(t))
    }
}

/// Does what [`deltas::compress`](crate::deltas::compress) does.
///
/// # Safety
/// Invariant 1, for the features named below.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) unsafe fn compress(distance: u8, src: &[u8], dst: &mut [u8]) -> Option<usize> {
    let back = usize::from(distance);
    if back == 0 || back > MOST_DISTANCE {
        return None;
    }
    let (widths, rest) = begin(distance, src.len(), dst)?;
    // The first pair, after zeros.
    let mut first = [0; GROUP + PAIR];
    first[GROUP..].copy_from_slice(src.get(..PAIR)?);
    let mut at = 0;
    // SAFETY: invariants 1 to 3. All loads are of 32 bytes: of pair `p`, and `back` bytes before it, which is in the
    // unit if `p` is not 0. For pair 0, both are in `first`. A store of 16 bytes is in `rest` or in `spare`.
    unsafe {
        let zero = _mm256_setzero_si256();
        // From eight planes of one byte each, twice, to eight planes of two bytes.
        let join = _mm256_broadcastsi128_si256(_mm_setr_epi8(
            0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15,
        ));
        for (p, two) in widths.iter_mut().enumerate() {
            let here = if p == 0 { first.as_ptr().add(GROUP) } else { src.as_ptr().add(PAIR * p) };
            let bytes = _mm256_loadu_si256(here.cast::<__m256i>());
            let before = _mm256_loadu_si256(here.sub(back).cast::<__m256i>());
            let difference = _mm256_sub_epi8(bytes, before);
            let folded = _mm256_xor_si256(
                _mm256_add_epi8(difference, difference),
                _mm256_cmpgt_epi8(zero, difference),
            );
            let planes = _mm256_shuffle_epi8(transpose(folded), join);
            // Two bits for each plane that is not empty: 16 for the first group, then 16 for the second.
            let used = !(_mm256_movemask_epi8(_mm256_cmpeq_epi16(planes, zero)) as u32);
            let len0 = (32 - (used & 0xFFFF).leading_zeros()) as usize;
            let len1 = (32 - (used >> 16).leading_zeros()) as usize;
            *two = ((len0 / 2) | ((len1 / 2) << 4)) as u8;
            let planes = [_mm256_castsi256_si128(planes), _mm256_extracti128_si256::<1>(planes)];
            for (len, planes) in [len0, len1].into_iter().zip(planes) {
                if at + GROUP <= rest.len() {
                    _mm_storeu_si128(rest.as_mut_ptr().add(at).cast::<__m128i>(), planes);
                } else {
                    let mut spare = [0; GROUP];
                    _mm_storeu_si128(spare.as_mut_ptr().cast::<__m128i>(), planes);
                    rest.get_mut(at..at + len)?.copy_from_slice(&spare[..len]);
                }
                at += len;
            }
        }
    }
    Some(HEAD + widths_len(src.len()) + at)
}

/// Does what [`deltas::decompress`](crate::deltas::decompress) does.
///
/// # Safety
/// Invariant 1, for the features named below.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) unsafe fn decompress(body: &[u8], dst: &mut [u8]) -> bool {
    // SAFETY: invariant 1.
    unsafe { crate::avx2::prefetch(body) };
    let Some(Parts { distance, widths, planes }) = Parts::of(body, dst.len()) else {
        return false;
    };
    let shuffles = &SHUFFLES[distance];
    let mut at = 0;
    // SAFETY: invariants 1 to 3. A load of planes is of 16 bytes in `planes` or in a copy. Loads of tables are of 16
    // bytes: a table has that many in each entry, and an index of `PLANES` is four bits.
    unsafe {
        let load = |from: &[u8; GROUP]| _mm_loadu_si128(from.as_ptr().cast::<__m128i>());
        let twice = |from: &[u8; GROUP]| _mm256_broadcastsi128_si256(load(from));
        let up = [0, 1, 2, 3].map(|step| twice(&shuffles.up[step]));
        let carry = load(&shuffles.carry);
        let split = _mm256_broadcastsi128_si256(_mm_setr_epi8(
            0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15,
        ));
        let one = _mm256_set1_epi8(1);
        let mut before = _mm_setzero_si128();
        for (pair, &two) in dst.chunks_exact_mut(PAIR).zip(widths) {
            let widths = [usize::from(two & 15), usize::from(two >> 4)];
            let group = |at: usize, width: usize| match planes.get(at..at + GROUP) {
                Some(planes) => _mm_and_si128(
                    _mm_loadu_si128(planes.as_ptr().cast::<__m128i>()),
                    load(&PLANES[width]),
                ),
                None => {
                    let mut copy = [0; GROUP];
                    for (to, &byte) in copy.iter_mut().zip(planes.get(at..).unwrap_or_default()) {
                        *to = byte;
                    }
                    _mm_and_si128(load(&copy), load(&PLANES[width]))
                }
            };
            let low = group(at, widths[0]);
            let high = group(at + 2 * widths[0], widths[1]);
            at += 2 * (widths[0] + widths[1]);
            let deltas = transpose(_mm256_shuffle_epi8(_mm256_set_m128i(high, low), split));
            // Undo the folding.
            let half = _mm256_and_si256(_mm256_srli_epi16::<1>(deltas), _mm256_set1_epi8(0x7F));
            let sign = _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_and_si256(deltas, one));
            let mut sums = _mm256_xor_si256(half, sign);
            for up in up {
                sums = _mm256_add_epi8(sums, _mm256_shuffle_epi8(sums, up));
            }
            let first = _mm_add_epi8(_mm256_castsi256_si128(sums), _mm_shuffle_epi8(before, carry));
            before =
                _mm_add_epi8(_mm256_extracti128_si256::<1>(sums), _mm_shuffle_epi8(first, carry));
            let to = pair.as_mut_ptr().cast::<__m256i>();
            _mm256_storeu_si256(to, _mm256_set_m128i(before, first));
        }
    }
    true
}
