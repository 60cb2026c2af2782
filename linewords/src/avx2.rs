//! Lines of words with AVX2 and BMI2. A line is two registers.
//!
//! Invariants on which the `unsafe` code rests:
//! 1. The processor has the features that each function names. The caller ensures this: it has a `Variant`,
//!    which exists only if the features were found.
//! 2. The unit is a multiple of `BLOCK` bytes, so line `l` is 64 bytes at `64 * l`. Checked on entry.
//! 3. A line reads other lines only at a word index `base - distance` with `16 <= distance <= base`. Line 0
//!    reads a line of zeros instead. The encoder takes distances from [`plan::distance`] and limits them to
//!    `base`; the decoder checks each distance.
//! 4. The number of a slot is at most `W::SLOTS`, and the table has `W::SLOTS + 1` entries. A number below
//!    `W::SLOTS` is the upper `W::SLOT_BITS` bits of a hash. The size of the table is checked on entry.
//! 5. The index in an entry is less than `base`: the table is emptied on entry, and an entry holds the index
//!    of a word in an earlier line.
//! 6. The payload of a line is at most 64 bytes, and there is room for 64 where it is written. Checked for each
//!    line. All payload so far fits `dst`.
//! 7. The buffer for control has 8 bytes for each line and 8 more. Checked on entry.
//! 8. The decoder passes the kinds of the lines to `Reader::control` in order, and loads at most 64 bytes of
//!    payload from where `Reader::payload` points. The invariants of reader.rs cover the rest.

#![allow(unused_unsafe, reason = "newer compilers take these intrinsics for safe here")]
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "each intrinsic is an unsafe operation for older compilers"
)]

use core::arch::x86_64::*;
use core::hint::black_box;

use crate::format::{
    ALL_CODES, BLOCK_LINES, CODE_CLASS, CODE_LOW, CODES, DISTANCE, FROM_DISTANCE, HEAD, LINE,
    LINE_WORDS, MIN_DISTANCE, Unit, Width, code, kind,
};
use crate::plan::{self, Instead, MULTIPLIER};
use crate::reader::Reader;

/// Tables for four words, by their classes. The class of a word is the two upper bits of its code.
/// `expand` makes words of payload, `pack` makes payload of words, and `len` is the length of the payload.
#[repr(C, align(64))]
struct Shuffles {
    expand: [[u8; 16]; 256],
    pack: [[u8; 16]; 256],
    len: [u8; 256],
}

static SHUFFLES: Shuffles = {
    let mut table = Shuffles { expand: [[0x80; 16]; 256], pack: [[0x80; 16]; 256], len: [0; 256] };
    let mut classes = 0;
    while classes < 256 {
        let mut at = 0;
        let mut word = 0;
        while word < 4 {
            let len = crate::format::LENGTH[2 * (classes >> (2 * word) & 3)];
            let mut byte = 0;
            while byte < len {
                table.expand[classes][4 * word + byte as usize] = at + byte;
                table.pack[classes][(at + byte) as usize] = 4 * word as u8 + byte;
                byte += 1;
            }
            at += len;
            word += 1;
        }
        table.len[classes] = at;
        classes += 1;
    }
    table
};

pub(crate) static ZEROS: [u32; LINE_WORDS] = [0; LINE_WORDS];

const ALL: u32 = u32::MAX;

/// Takes sixteen words, each all ones or all zeros. Returns two bits for each word, both set if it is all ones.
/// The bits are not in the order of the words.
///
/// # Safety
/// Invariant 1.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn mask2(a: __m256i, b: __m256i) -> u32 {
    // SAFETY: invariant 1.
    unsafe { _mm256_movemask_epi8(_mm256_packs_epi32(a, b)) as u32 }
}

/// Returns the uppermost bit of each of sixteen words. The bit of word 0 is the lowest.
///
/// # Safety
/// Invariant 1.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn mask(a: __m256i, b: __m256i) -> u32 {
    // SAFETY: invariant 1.
    unsafe {
        let low = _mm256_movemask_ps(_mm256_castsi256_ps(a)) as u32;
        low | (_mm256_movemask_ps(_mm256_castsi256_ps(b)) as u32) << 8
    }
}

/// Prefetches a whole unit or stream, since cold pages are rarely in the cache.
///
/// # Safety
/// Invariant 1.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) unsafe fn prefetch(bytes: &[u8]) {
    for line in bytes.chunks(LINE) {
        // SAFETY: invariant 1.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast::<i8>()) };
    }
}

/// Returns the words of `from` at eight indices: with a gather instruction if `GATHER`, else with eight loads.
///
/// # Safety
/// Invariant 1. Each index is that of a word that may be read. The words need not be aligned.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn look_up<const GATHER: bool>(from: *const u32, index: __m256i) -> __m256i {
    // SAFETY: invariant 1, and the caller's for the indices.
    unsafe {
        if GATHER {
            return _mm256_i32gather_epi32::<4>(from.cast::<i32>(), index);
        }
        let mut lanes = [0u32; 8];
        _mm256_storeu_si256(lanes.as_mut_ptr().cast::<__m256i>(), index);
        // `black_box`: reading lanes from memory is faster than extracting them from a register.
        let lanes = black_box(&mut lanes);
        // A unit need not be aligned to words.
        let word = |j: usize| from.add(lanes[j] as usize).read_unaligned() as i32;
        _mm256_setr_epi32(word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7))
    }
}

/// Stores a unit as lines of words. Returns the length of the stream, or `None` if another form is likely to be shorter
/// or if there is no room. If that form is not LZ4, it is written to `instead`.
///
/// # Safety
/// Invariant 1, for the features named below.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) unsafe fn compress<W: Width, const GATHER: bool>(
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
    // SAFETY: invariants 1 to 7 of this file.
    unsafe {
        let words = src.as_ptr().cast::<u32>();
        let slots = table.as_mut_ptr();
        let zero = _mm256_setzero_si256();
        let splat = |word: u32| _mm256_set1_epi32(word as i32);
        let multiplier = splat(MULTIPLIER);
        let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let up = _mm256_loadu_si256(plan::UP.as_ptr().cast::<__m256i>());
        let load = |from: *const u32| {
            (
                _mm256_loadu_si256(from.cast::<__m256i>()),
                _mm256_loadu_si256(from.add(8).cast::<__m256i>()),
            )
        };
        let shl = |v: __m256i, by: u32| _mm256_sllv_epi32(v, splat(by));
        let shr = |v: __m256i, by: u32| _mm256_srlv_epi32(v, splat(by));
        let is_zero = |v: __m256i| _mm256_cmpeq_epi32(v, zero);
        // `black_box` hides these constants from the compiler. It would otherwise replace single operations
        // by blends, which take three.
        let code_half = black_box(splat(code::HALF));
        let code_index = black_box(splat(code::INDEX));
        let code_byte = black_box(splat(code::BYTE));
        let code_near = black_box(splat(code::NEAR));
        let code_same = black_box(splat(code::SAME));
        let code_zero = black_box(splat(code::ZERO));
        let mut distance = MIN_DISTANCE;
        for l in 0..lines {
            if let Some(form) = plan::instead(src, l, at - HEAD, dearest) {
                *instead = form;
                return None;
            }
            let base = l * LINE_WORDS;
            let line = words.add(base);
            let (x0, x1) = load(line);
            let mut far = if l == 0 { ZEROS.as_ptr() } else { line.sub(distance) };
            let (t0, t1) = load(far);
            let (z0, z1) = (is_zero(x0), is_zero(x1));
            let (r0, r1) = (_mm256_cmpeq_epi32(x0, t0), _mm256_cmpeq_epi32(x1, t1));
            let z = mask2(z0, z1);
            let r = mask2(r0, r1);
            let shift = 2 * (l % BLOCK_LINES);
            let kinds = all_kinds.get_unchecked_mut(l / BLOCK_LINES);
            if z | r == ALL {
                // Each word is zero or the word at the distance, so the line has no payload.
                let trivial = z == ALL || r == ALL;
                let this = if r == ALL { kind::SAME } else { kind::CODED };
                *kinds |= (if z == ALL { kind::ZERO } else { this }) << shift;
                let same = !mask(z0, z1) & 0xFFFF;
                // Code 7 for each word that is zero, code 6 for the others.
                let codes = ALL_CODES & !_pdep_u64(u64::from(same), CODE_LOW);
                control.as_mut_ptr().add(control_at).cast::<u64>().write_unaligned(codes.to_le());
                control_at += if trivial { 0 } else { CODES };
                continue;
            }

            // Look up each word in the table: the last word before the line with the same tag.
            let rotate = |v| _mm256_or_si256(shr(v, W::MIDDLE), shl(v, 32 - W::MIDDLE));
            let middle = splat(W::MIDDLE_MASK);
            let (y0, y1) = (rotate(x0), rotate(x1));
            let h0 = _mm256_mullo_epi32(_mm256_andnot_si256(middle, y0), multiplier);
            let h1 = _mm256_mullo_epi32(_mm256_andnot_si256(middle, y1), multiplier);
            let (i0, i1) = (shr(h0, 32 - W::SLOT_BITS), shr(h1, 32 - W::SLOT_BITS));
            let index = _mm256_add_epi32(splat(base as u32), lane);
            let entry = |h, y, index| {
                let tag = _mm256_or_si256(h, _mm256_and_si256(y, middle));
                _mm256_or_si256(shl(tag, W::INDEX_BITS), index)
            };
            let n0 = entry(h0, y0, index);
            let n1 = entry(h1, y1, _mm256_add_epi32(index, splat(8)));
            let e0 = look_up::<GATHER>(slots, i0);
            let e1 = look_up::<GATHER>(slots, i1);
            let index_mask = splat(W::INDEX_MASK);
            let (c0, c1) = (_mm256_and_si256(e0, index_mask), _mm256_and_si256(e1, index_mask));
            let mut slot = [0u32; LINE_WORDS];
            let mut new = [0u32; LINE_WORDS];
            let mut distances = [0u32; LINE_WORDS];
            let store = |to: &mut [u32; LINE_WORDS], a, b| {
                _mm256_storeu_si256(to.as_mut_ptr().cast::<__m256i>(), a);
                _mm256_storeu_si256(to.as_mut_ptr().add(8).cast::<__m256i>(), b);
            };
            // A plain word (zero, or the word at the distance) is not entered: it goes to the surplus slot
            // behind the table. Otherwise many gathers would read a slot that was just stored, and wait for
            // the store.
            let behind = splat(W::SLOTS as u32);
            let (plain0, plain1) = (_mm256_or_si256(z0, r0), _mm256_or_si256(z1, r1));
            let enter0 = _mm256_max_epu32(i0, _mm256_and_si256(plain0, behind));
            let enter1 = _mm256_max_epu32(i1, _mm256_and_si256(plain1, behind));
            store(&mut slot, enter0, enter1);
            store(&mut new, n0, n1);
            // How far back each found word lies, rounded up as `plan::distance` does. From 8 to 15, the least
            // multiple that is 16 or more is the double.
            let back = |index, c| {
                let back = _mm256_sub_epi32(index, c);
                let near = _mm256_cmpgt_epi32(splat(MIN_DISTANCE as u32), back);
                let nearer = _mm256_cmpgt_epi32(splat(MIN_DISTANCE as u32 / 2), back);
                let double = _mm256_add_epi32(back, _mm256_and_si256(back, near));
                let up = _mm256_permutevar8x32_epi32(up, back);
                _mm256_min_epu32(_mm256_blendv_epi8(double, up, nearer), splat(base as u32))
            };
            store(&mut distances, back(index, c0), back(_mm256_add_epi32(index, splat(8)), c1));
            // Reading lanes from memory is faster than extracting them from registers. Compilers would
            // extract them if `black_box` did not hide where they come from.
            let (slot, new) = (black_box(&mut slot), black_box(&mut new));
            let distances = black_box(&mut distances);
            for j in 0..LINE_WORDS {
                slots.add(slot[j] as usize).write(new[j]);
            }
            let (f0, f1) = (_mm256_xor_si256(e0, n0), _mm256_xor_si256(e1, n1));
            let mut tagged0 = is_zero(_mm256_srli_epi32::<16>(f0));
            let mut tagged1 = is_zero(_mm256_srli_epi32::<16>(f1));
            if !W::OVERLAP {
                let empty = splat(plan::EMPTY_TAG);
                let is_empty = |n| _mm256_cmpeq_epi32(_mm256_srli_epi32::<16>(n), empty);
                tagged0 = _mm256_andnot_si256(is_empty(n0), tagged0);
                tagged1 = _mm256_andnot_si256(is_empty(n1), tagged1);
            }
            let equal0 = _mm256_and_si256(is_zero(shr(f0, W::INDEX_BITS)), tagged0);
            let equal1 = _mm256_and_si256(is_zero(shr(f1, W::INDEX_BITS)), tagged1);

            // Choose the distance. There are three candidates: how far back the table found the first, the
            // last and the second word, each rounded up as `plan::distance` does, and at most `base`. (If
            // too few words were found, the table's entry for word 0 or 15 is tried instead.) The best
            // candidate is taken if it makes at least two more nonzero words equal than the distance in
            // force does.
            let mut this = kind::CODED;
            let (mut t0, mut t1, mut r0, mut r1) = (t0, t1, r0, r1);
            if l != 0 {
                let mut left =
                    mask(_mm256_andnot_si256(plain0, equal0), _mm256_andnot_si256(plain1, equal1));
                // `mask2` has two bits for each word, so 2 stands for one word.
                let mut best = (r & !z).count_ones() + 2;
                let mut chosen = distance;
                let mut attempt = |j: u32| {
                    let candidate = distances[j as usize & 15] as usize;
                    let (a, b) = load(line.sub(candidate));
                    let same = mask2(_mm256_cmpeq_epi32(x0, a), _mm256_cmpeq_epi32(x1, b)) & !z;
                    let same = same.count_ones();
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
                far = line.sub(distance);
                (t0, t1) = load(far);
                (r0, r1) = (_mm256_cmpeq_epi32(x0, t0), _mm256_cmpeq_epi32(x1, t1));
            }

            // Take the greatest code that fits.
            let (d0, d1) = (_mm256_xor_si256(x0, t0), _mm256_xor_si256(x1, t1));
            let before = splat((base as u32).wrapping_sub(1));
            let (near0, near1) = (_mm256_sub_epi32(before, c0), _mm256_sub_epi32(before, c1));
            let code_of = |z, r, d, near, tagged, equal| {
                let when = |is, code| _mm256_and_si256(is, code);
                let max = |a, b| _mm256_max_epu32(a, b);
                let half = is_zero(_mm256_srli_epi32::<16>(d));
                let byte = is_zero(_mm256_srli_epi32::<8>(d));
                let close = _mm256_and_si256(equal, _mm256_cmpgt_epi32(splat(256), near));
                let four = max(when(half, code_half), when(tagged, code_index));
                let one = max(when(byte, code_byte), when(close, code_near));
                let none = max(when(r, code_same), when(z, code_zero));
                max(max(four, one), none)
            };
            let k0 = code_of(z0, r0, d0, near0, tagged0, equal0);
            let k1 = code_of(z1, r1, d1, near1, tagged1, equal1);
            let value_of = |x, f, c, near, k| {
                let index = _mm256_or_si256(c, _mm256_and_si256(f, splat(W::FLIPS)));
                let v = _mm256_blendv_epi8(x, index, _mm256_cmpeq_epi32(k, code_index));
                _mm256_blendv_epi8(v, near, _mm256_cmpeq_epi32(k, code_near))
            };
            let v0 = value_of(x0, f0, c0, near0, k0);
            let v1 = value_of(x1, f1, c1, near1, k1);

            let narrow = _mm256_permute4x64_epi64::<0xD8>(_mm256_packs_epi32(k0, k1));
            let bytes = _mm_packs_epi16(
                _mm256_castsi256_si128(narrow),
                _mm256_extracti128_si256::<1>(narrow),
            );
            let low = _pext_u64(_mm_cvtsi128_si64(bytes) as u64, 0x0707_0707_0707_0707);
            let high = _pext_u64(_mm_extract_epi64::<1>(bytes) as u64, 0x0707_0707_0707_0707);
            let codes = low | high << 24;
            *kinds |= this << shift;
            let to = control.as_mut_ptr().add(control_at);
            to.cast::<u16>().write_unaligned((distance as u16).to_le());
            let with_distance = DISTANCE * (this & 1) as usize;
            to.add(with_distance).cast::<u64>().write_unaligned(codes.to_le());
            control_at += with_distance + CODES;

            let classes = _pext_u64(codes, CODE_CLASS) as u32;
            // Near the end of `dst`, the payload goes through memory with room for 64 bytes.
            let start = at;
            let fits = capacity - start >= LINE;
            let mut spare = [0u8; LINE];
            let mut to = if fits { dst.as_mut_ptr().add(start) } else { spare.as_mut_ptr() };
            let quarters = [
                _mm256_castsi256_si128(v0),
                _mm256_extracti128_si256::<1>(v0),
                _mm256_castsi256_si128(v1),
                _mm256_extracti128_si256::<1>(v1),
            ];
            for (i, quarter) in quarters.into_iter().enumerate() {
                let class = (classes >> (8 * i)) as usize & 0xFF;
                let shuffle = _mm_load_si128(SHUFFLES.pack.as_ptr().add(class).cast::<__m128i>());
                _mm_storeu_si128(to.cast::<__m128i>(), _mm_shuffle_epi8(quarter, shuffle));
                let len = usize::from(SHUFFLES.len[class]);
                to = to.add(len);
                at += len;
            }
            if !fits {
                dst.get_mut(start..at)?.copy_from_slice(&spare[..at - start]);
            }
        }
    }
    plan::finish(dst, unit, at, control.get(..control_at)?, &all_kinds)
}

/// Decompresses `body`, the stream without its first three bytes, into all of `dst`. Returns false if `body` is
/// malformed.
///
/// # Safety
/// Invariant 1, for the features named below.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) unsafe fn decompress<W: Width, const GATHER: bool>(body: &[u8], dst: &mut [u8]) -> bool {
    // SAFETY: invariant 1.
    unsafe { prefetch(body) };
    let mut copy = [0; 2 * LINE];
    let Some((mut reader, kinds)) = Reader::of(body, dst.len(), &mut copy) else { return false };
    // SAFETY: invariants 1, 2, 3 and 8 of this file. A gather reads only lanes whose index is less than `base`.
    unsafe {
        let out = dst.as_mut_ptr().cast::<u32>();
        let splat = |word: u32| _mm256_set1_epi32(word as i32);
        let table = |words: [u32; 8]| _mm256_loadu_si256(words.as_ptr().cast::<__m256i>());
        let from_distance = table(FROM_DISTANCE);
        let refers = table([0, 0, 0, u32::MAX, 0, u32::MAX, 0, 0]);
        let steps = _mm256_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21);
        let mut bad = _mm256_setzero_si256();
        for (block, mut kinds) in kinds.enumerate() {
            for i in 0..BLOCK_LINES {
                let base = (block * BLOCK_LINES + i) * LINE_WORDS;
                let line = out.add(base);
                let this = kinds & 3;
                kinds >>= 2;
                let Some((distance, codes)) = reader.control(this, base) else { return false };

                let classes = _pext_u64(codes, CODE_CLASS) as u32;
                let class = [0, 8, 16, 24].map(|shift| (classes >> shift) as usize & 0xFF);
                let l0 = usize::from(SHUFFLES.len[class[0]]);
                let l1 = l0 + usize::from(SHUFFLES.len[class[1]]);
                let l2 = l1 + usize::from(SHUFFLES.len[class[2]]);
                let l3 = l2 + usize::from(SHUFFLES.len[class[3]]);
                let Some(payload) = reader.payload(l3) else { return false };
                let expand = |at: usize, class: usize| {
                    let shuffle =
                        _mm_load_si128(SHUFFLES.expand.as_ptr().add(class).cast::<__m128i>());
                    let bytes = _mm_loadu_si128(payload.add(at).cast::<__m128i>());
                    _mm_shuffle_epi8(bytes, shuffle)
                };
                let v0 = _mm256_set_m128i(expand(l0, class[1]), expand(0, class[0]));
                let v1 = _mm256_set_m128i(expand(l2, class[3]), expand(l1, class[2]));

                // Above its code, each lane has bits of other words' codes. Permutes read only the code's
                // three bits.
                let k0 = _mm256_srlv_epi32(splat(codes as u32), steps);
                let k1 = _mm256_srlv_epi32(splat((codes >> 24) as u32), steps);
                let far = if base == 0 { ZEROS.as_ptr() } else { line.sub(distance).cast_const() };
                let t0 = _mm256_loadu_si256(far.cast::<__m256i>());
                let t1 = _mm256_loadu_si256(far.add(8).cast::<__m256i>());
                let keep0 = _mm256_permutevar8x32_epi32(from_distance, k0);
                let keep1 = _mm256_permutevar8x32_epi32(from_distance, k1);
                let mut w0 = _mm256_or_si256(v0, _mm256_and_si256(t0, keep0));
                let mut w1 = _mm256_or_si256(v1, _mm256_and_si256(t1, keep1));
                if codes & (codes >> 1 ^ codes >> 2) & CODE_LOW != 0 {
                    let based = splat(base as u32);
                    let before = splat((base as u32).wrapping_sub(1));
                    let mut gather = |w: __m256i, v: __m256i, k: __m256i| {
                        let refer = _mm256_permutevar8x32_epi32(refers, k);
                        let index = _mm256_and_si256(v, splat(W::INDEX_MASK));
                        let near = _mm256_sub_epi32(before, v);
                        // Bit 2 of the code is set for code 5, but not for code 3.
                        let is_near = _mm256_castsi256_ps(_mm256_slli_epi32::<29>(k));
                        let index = _mm256_castps_si256(_mm256_blendv_ps(
                            _mm256_castsi256_ps(index),
                            _mm256_castsi256_ps(near),
                            is_near,
                        ));
                        let beyond = _mm256_cmpeq_epi32(_mm256_max_epu32(index, based), index);
                        bad = _mm256_or_si256(bad, _mm256_and_si256(beyond, refer));
                        let read = _mm256_andnot_si256(beyond, refer);
                        // A lane that reads a word takes it in place of its payload. Other lanes do not
                        // change.
                        let words = if GATHER {
                            let out = out.cast_const().cast::<i32>();
                            _mm256_mask_i32gather_epi32::<4>(w, out, index, read)
                        } else {
                            // Lanes that read nothing read the first word instead.
                            let words = look_up::<false>(out, _mm256_and_si256(index, read));
                            _mm256_blendv_epi8(w, words, read)
                        };
                        let flips = _mm256_sllv_epi32(
                            _mm256_srlv_epi32(v, splat(W::INDEX_BITS)),
                            splat(W::MIDDLE),
                        );
                        _mm256_xor_si256(words, _mm256_and_si256(flips, refer))
                    };
                    w0 = gather(w0, v0, k0);
                    w1 = gather(w1, v1, k1);
                }
                _mm256_storeu_si256(line.cast::<__m256i>(), w0);
                _mm256_storeu_si256(line.add(8).cast::<__m256i>(), w1);
            }
        }
        reader.is_done() && _mm256_testz_si256(bad, bad) != 0
    }
}
