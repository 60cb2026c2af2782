//! Lines of words with AVX-512 (F, BW, VL, VBMI, VBMI2) and BMI2. A line is one register.
//!
//! The numbers of invariants below refer to those of `avx2.rs`.

#![allow(clippy::incompatible_msrv, reason = "built only by compilers that have these intrinsics")]
#![allow(unused_unsafe, reason = "newer compilers take these intrinsics for safe here")]
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "as in avx2.rs, so that the two read alike"
)]

use core::arch::x86_64::*;
use core::hint::black_box;

use crate::avx2::{ZEROS, prefetch};
use crate::format::{
    ALL_CODES, BLOCK_LINES, CODE_LOW, CODES, DISTANCE, FROM_DISTANCE, HEAD, LENGTH, LINE,
    LINE_WORDS, MIN_DISTANCE, Unit, Width, code, kind,
};
use crate::plan::{self, Instead, MULTIPLIER};
use crate::reader::Reader;

/// Returns eight words twice. A permute reads four bits of an index, and a code has three: the fourth bit must
/// not matter.
const fn twice(words: [u32; 8]) -> [u32; 16] {
    let mut all = [0; 16];
    let mut i = 0;
    while i < 16 {
        all[i] = words[i % 8];
        i += 1;
    }
    all
}

/// For each code, a word: the uppermost bit is set in each byte that comes from the payload.
static PAYLOAD_BYTES: [u32; 16] = {
    let mut bytes = [0; 8];
    let mut i = 0;
    while i < 8 {
        bytes[i] = (0x8080_8080u64 >> (8 * (4 - LENGTH[i]))) as u32;
        i += 1;
    }
    twice(bytes)
};
static FAR: [u32; 16] = twice(FROM_DISTANCE);
/// All ones for codes 3 and 5, which refer to one word before the line. Zero for all others.
static REFERS: [u32; 16] = twice([0, 0, 0, u32::MAX, 0, u32::MAX, 0, 0]);

/// Stores a unit as lines of words. Returns the length of the stream, or `None` if another form is likely to be shorter
/// or if there is no room. If that form is not LZ4, it is written to `instead`.
///
/// # Safety
/// Invariant 1, for the features named below.
#[target_feature(
    enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt"
)]
pub(crate) unsafe fn compress<W: Width>(
    table: &mut [u32],
    control: &mut [u8],
    src: &[u8],
    dst: &mut [u8],
    instead: &mut Instead,
) -> Option<usize> {
    let unit = Unit::of(src.len())?;
    // SAFETY: invariant 1.
    unsafe { prefetch(src) };
    let dearest = plan::dearest_line(src).map_err(|form| *instead = form).ok()?;
    let lines = src.len() / LINE;
    let table = table.get_mut(..=W::SLOTS)?;
    if control.len() < 8 * lines + 8 {
        return None;
    }
    let capacity = dst.len();
    if capacity < HEAD {
        return None;
    }
    plan::clear::<W>(&mut table[..W::SLOTS]);
    let mut all_kinds = [0u64; 32];
    let mut at = HEAD;
    let mut control_at = 0;
    // SAFETY: invariants 1 to 7 of avx2.rs.
    unsafe {
        let words = src.as_ptr().cast::<u32>();
        let slots = table.as_mut_ptr();
        let splat = |word: u32| _mm512_set1_epi32(word as i32);
        let load = |from: *const u32| _mm512_loadu_si512(from.cast());
        let multiplier = splat(MULTIPLIER);
        let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let shl = |v: __m512i, by: u32| _mm512_sllv_epi32(v, splat(by));
        let shr = |v: __m512i, by: u32| _mm512_srlv_epi32(v, splat(by));
        let payload_bytes = load(PAYLOAD_BYTES.as_ptr());
        let up = load(plan::UP.as_ptr());
        let mut distance = MIN_DISTANCE;
        for l in 0..lines {
            if let Some(form) = plan::instead(src, l, at - HEAD, dearest) {
                *instead = form;
                return None;
            }
            let base = l * LINE_WORDS;
            let line = words.add(base);
            let x = load(line);
            let mut t = load(if l == 0 { ZEROS.as_ptr() } else { line.sub(distance) });
            let z = _mm512_testn_epi32_mask(x, x);
            let mut r = _mm512_cmpeq_epi32_mask(x, t);
            let shift = 2 * (l % BLOCK_LINES);
            let kinds = all_kinds.get_unchecked_mut(l / BLOCK_LINES);
            if z | r == u16::MAX {
                // Each word is zero or the word at the distance, so the line has no payload.
                let trivial = z == u16::MAX || r == u16::MAX;
                let this = if r == u16::MAX { kind::SAME } else { kind::CODED };
                *kinds |= (if z == u16::MAX { kind::ZERO } else { this }) << shift;
                // Code 7 for each word that is zero, code 6 for the others.
                let codes = ALL_CODES & !_pdep_u64(u64::from(!z), CODE_LOW);
                control.as_mut_ptr().add(control_at).cast::<u64>().write_unaligned(codes.to_le());
                control_at += if trivial { 0 } else { CODES };
                continue;
            }

            // Look up each word in the table: the last word before the line with the same tag.
            let y = _mm512_rorv_epi32(x, splat(W::MIDDLE));
            let middle = splat(W::MIDDLE_MASK);
            let h = _mm512_mullo_epi32(_mm512_andnot_si512(middle, y), multiplier);
            let slot = shr(h, 32 - W::SLOT_BITS);
            let index = _mm512_add_epi32(splat(base as u32), lane);
            let tag = _mm512_or_si512(h, _mm512_and_si512(y, middle));
            let new = _mm512_or_si512(shl(tag, W::INDEX_BITS), index);
            let e = _mm512_i32gather_epi32::<4>(slot, slots.cast::<i32>());
            let c = _mm512_and_si512(e, splat(W::INDEX_MASK));
            let mut slot_of = [0u32; LINE_WORDS];
            let mut new_of = [0u32; LINE_WORDS];
            let mut distances = [0u32; LINE_WORDS];
            // A plain word (zero, or the word at the distance) is not entered: it goes to the surplus slot
            // behind the table.
            let enter = _mm512_mask_mov_epi32(slot, z | r, splat(W::SLOTS as u32));
            _mm512_storeu_si512(slot_of.as_mut_ptr().cast(), enter);
            _mm512_storeu_si512(new_of.as_mut_ptr().cast(), new);
            // How far back each found word lies, rounded up as `plan::distance` does.
            let back = _mm512_sub_epi32(index, c);
            let near = _mm512_cmplt_epu32_mask(back, splat(MIN_DISTANCE as u32));
            let back = _mm512_mask_permutexvar_epi32(back, near, back, up);
            let back = _mm512_min_epu32(back, splat(base as u32));
            _mm512_storeu_si512(distances.as_mut_ptr().cast(), back);
            // `black_box` as in avx2.rs: the compiler must read the lanes from memory.
            let (slot_of, new_of) = (black_box(&mut slot_of), black_box(&mut new_of));
            let distances = black_box(&mut distances);
            for j in 0..LINE_WORDS {
                slots.add(slot_of[j] as usize).write(new_of[j]);
            }
            let f = _mm512_xor_si512(e, new);
            let mut tagged = _mm512_testn_epi32_mask(f, splat(0xFFFF_0000));
            if !W::OVERLAP {
                let tag = _mm512_srli_epi32::<16>(new);
                tagged &= _mm512_cmpneq_epi32_mask(tag, splat(plan::EMPTY_TAG));
            }
            let equal = tagged & _mm512_testn_epi32_mask(f, splat(!W::INDEX_MASK));

            // Choose the distance. There are three candidates: how far back the table found the first, the
            // last and the second word, each rounded up as `plan::distance` does, and at most `base`. (If
            // too few words were found, the table's entry for word 0 or 15 is tried instead.) The best
            // candidate is taken if it makes at least two more nonzero words equal than the distance in
            // force does.
            let mut this = kind::CODED;
            if l != 0 {
                let mut left = u32::from(equal & !(z | r));
                let mut best = u32::from(r & !z).count_ones() + 1;
                let mut chosen = distance;
                let mut attempt = |j: u32| {
                    let candidate = distances[j as usize & 15] as usize;
                    let same = _mm512_cmpeq_epi32_mask(x, load(line.sub(candidate))) & !z;
                    let same = u32::from(same).count_ones();
                    let better = same > best;
                    best = if better { same } else { best };
                    chosen = if better { candidate } else { chosen };
                };
                attempt(left.trailing_zeros() & 15);
                left &= left.wrapping_sub(1);
                attempt(left.leading_zeros() & 15 ^ 15);
                attempt(left.trailing_zeros() & 15);
                this |= u64::from(chosen != distance);
                distance = chosen;
                t = load(line.sub(distance));
                r = _mm512_cmpeq_epi32_mask(x, t);
            }

            // Take the greatest code that fits.
            let d = _mm512_xor_si512(x, t);
            let near = _mm512_sub_epi32(splat((base as u32).wrapping_sub(1)), c);
            let half = _mm512_testn_epi32_mask(d, splat(0xFFFF_0000));
            let byte = _mm512_testn_epi32_mask(d, splat(0xFFFF_FF00));
            let close = equal & _mm512_cmplt_epi32_mask(near, splat(256));
            let set = |k, mask, code| _mm512_mask_mov_epi32(k, mask, splat(code));
            let mut k = _mm512_maskz_mov_epi32(half, splat(code::HALF));
            k = set(k, tagged, code::INDEX);
            k = set(k, byte, code::BYTE);
            k = set(k, close, code::NEAR);
            k = set(k, r, code::SAME);
            k = set(k, z, code::ZERO);
            let index = _mm512_or_si512(c, _mm512_and_si512(f, splat(W::FLIPS)));
            let v = _mm512_mask_mov_epi32(x, tagged & !byte, index);
            let v = _mm512_mask_mov_epi32(v, close, near);

            let bytes = _mm512_cvtepi32_epi8(k);
            let low = _pext_u64(_mm_cvtsi128_si64(bytes) as u64, 0x0707_0707_0707_0707);
            let high = _pext_u64(_mm_extract_epi64::<1>(bytes) as u64, 0x0707_0707_0707_0707);
            let codes = low | high << 24;
            *kinds |= this << shift;
            let to = control.as_mut_ptr().add(control_at);
            to.cast::<u16>().write_unaligned((distance as u16).to_le());
            let with_distance = DISTANCE * (this & 1) as usize;
            to.add(with_distance).cast::<u64>().write_unaligned(codes.to_le());
            control_at += with_distance + CODES;

            let payload = _mm512_movepi8_mask(_mm512_permutexvar_epi32(k, payload_bytes));
            let packed = _mm512_maskz_compress_epi8(payload, v);
            let end = at + payload.count_ones() as usize;
            if capacity - at >= LINE {
                _mm512_storeu_si512(dst.as_mut_ptr().add(at).cast(), packed);
            } else {
                // Near the end of `dst`, the payload goes through memory with room for 64 bytes.
                let mut spare = [0u8; LINE];
                _mm512_storeu_si512(spare.as_mut_ptr().cast(), packed);
                dst.get_mut(at..end)?.copy_from_slice(&spare[..end - at]);
            }
            at = end;
        }
    }
    plan::finish(dst, unit, at, control.get(..control_at)?, &all_kinds)
}

/// Decompresses `body`, the stream without its first three bytes, into all of `dst`. Returns false if `body` is
/// malformed.
///
/// # Safety
/// Invariant 1, for the features named below.
#[target_feature(
    enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt"
)]
pub(crate) unsafe fn decompress<W: Width>(body: &[u8], dst: &mut [u8]) -> bool {
    // SAFETY: invariant 1.
    unsafe { prefetch(body) };
    let mut copy = [0; 2 * LINE];
    let Some((mut reader, kinds)) = Reader::of(body, dst.len(), &mut copy) else { return false };
    // SAFETY: invariants 1, 2, 3 and 8 of avx2.rs. A gather reads only lanes whose index is less than `base`.
    unsafe {
        let out = dst.as_mut_ptr().cast::<u32>();
        let splat = |word: u32| _mm512_set1_epi32(word as i32);
        let load = |from: *const u32| _mm512_loadu_si512(from.cast());
        let from_distance = load(FAR.as_ptr());
        let payload_bytes = load(PAYLOAD_BYTES.as_ptr());
        let refers = load(REFERS.as_ptr());
        // Moves code `j`, which begins at bit `3 * j`, to the lowest byte of word `j`.
        let steps = {
            let mut bytes = [0u8; LINE];
            let mut j = 0;
            while j < LINE_WORDS {
                bytes[4 * j] = 3 * j as u8;
                j += 1;
            }
            _mm512_loadu_si512(bytes.as_ptr().cast())
        };
        let mut bad = 0u16;
        for (block, mut kinds) in kinds.enumerate() {
            for i in 0..BLOCK_LINES {
                let base = (block * BLOCK_LINES + i) * LINE_WORDS;
                let line = out.add(base);
                let this = kinds & 3;
                kinds >>= 2;
                let Some((distance, codes)) = reader.control(this, base) else { return false };

                // Above its code, each lane has bits of other words' codes. Permutes read four bits, so the
                // fourth is one of these. It does not matter, since the tables repeat after eight words.
                let k = _mm512_multishift_epi64_epi8(steps, _mm512_set1_epi64(codes as i64));
                let mask = _mm512_movepi8_mask(_mm512_permutexvar_epi32(k, payload_bytes));
                let used = mask.count_ones() as usize;
                let Some(payload) = reader.payload(used) else { return false };
                let v = _mm512_maskz_expand_epi8(mask, _mm512_loadu_si512(payload.cast()));

                let t = load(if base == 0 { ZEROS.as_ptr() } else { line.sub(distance) });
                let keep = _mm512_permutexvar_epi32(k, from_distance);
                let mut w = _mm512_or_si512(v, _mm512_and_si512(t, keep));
                if codes & (codes >> 1 ^ codes >> 2) & CODE_LOW != 0 {
                    let refer = _mm512_permutexvar_epi32(k, refers);
                    // Not `_mm512_movepi32_mask`: it needs AVX-512 DQ, which is not among the features.
                    let refer = _mm512_test_epi32_mask(refer, refer);
                    // Bit 2 of the code is set for code 5, but not for code 3.
                    let is_near = _mm512_test_epi32_mask(k, splat(4));
                    let before = splat((base as u32).wrapping_sub(1));
                    let index = _mm512_and_si512(v, splat(W::INDEX_MASK));
                    let index = _mm512_mask_sub_epi32(index, is_near, before, v);
                    let read = _mm512_mask_cmplt_epu32_mask(refer, index, splat(base as u32));
                    bad |= refer & !read;
                    let words = _mm512_mask_i32gather_epi32::<4>(
                        w,
                        read,
                        index,
                        out.cast_const().cast::<i32>(),
                    );
                    let flips = _mm512_sllv_epi32(
                        _mm512_srlv_epi32(v, splat(W::INDEX_BITS)),
                        splat(W::MIDDLE),
                    );
                    w = _mm512_mask_xor_epi32(words, refer, words, flips);
                }
                _mm512_storeu_si512(line.cast(), w);
            }
        }
        reader.is_done() && bad == 0
    }
}
