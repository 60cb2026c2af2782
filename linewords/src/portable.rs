//! Lines of words in safe code, for any processor. The other variants must give the same results.

use crate::format::{
    ALL_CODES, BLOCK_LINES, CODE_BITS, CODE_LOW, CODES, DISTANCE, FROM_DISTANCE, FROM_PAYLOAD,
    HEAD, LENGTH, LINE, LINE_WORDS, MIN_DISTANCE, Unit, Width, code, kind,
};
use crate::parts::Parts;
use crate::plan::{self, Instead, MULTIPLIER};

type Line = [u32; LINE_WORDS];

/// Returns the sixteen words of `unit` from index `word` on. All of them must exist.
#[inline(always)]
fn line_at(unit: &[u8], word: usize) -> Line {
    let Some(bytes) = unit.get(4 * word..).and_then(|rest| rest.first_chunk::<LINE>()) else {
        debug_assert!(false, "no line at {word}");
        return [0; LINE_WORDS];
    };
    let mut line = [0; LINE_WORDS];
    for (word, bytes) in line.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    line
}

/// Returns a bit for each of sixteen flags, each 0 or 1. The bit of word 0 is the lowest.
#[inline(always)]
fn mask(flags: &[u8; LINE_WORDS]) -> u32 {
    // The multiplication gathers eight flags in the uppermost byte.
    let all = u128::from_le_bytes(*flags);
    let eight = |flags: u64| (flags.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32;
    eight(all as u64) | eight((all >> 64) as u64) << 8
}

/// Returns how many words of `x` are not zero and equal the word at the same place in `y`.
#[inline(always)]
fn score(x: &Line, y: &Line) -> u32 {
    (0..LINE_WORDS).map(|j| u32::from(x[j] == y[j]) & u32::from(x[j] != 0)).sum()
}

/// Stores a unit as lines of words. Returns the length of the stream, or `None` if another form is likely to be shorter
/// or if there is no room. If that form is not LZ4, it is written to `instead`.
pub(crate) fn compress<W: Width>(
    table: &mut [u32],
    control: &mut [u8],
    src: &[u8],
    dst: &mut [u8],
    instead: &mut Instead,
) -> Option<usize> {
    let unit = Unit::of(src.len())?;
    let dearest = plan::dearest_line(src).map_err(|form| *instead = form).ok()?;
    let table = table.get_mut(..=W::SLOTS)?;
    plan::clear::<W>(&mut table[..W::SLOTS]);
    let mut at = HEAD;
    let mut control_at = 0;
    let mut distance = MIN_DISTANCE;
    let mut all_kinds = [0u64; 32];
    for l in 0..src.len() / LINE {
        if let Some(form) = plan::instead(src, l, at - HEAD, dearest) {
            *instead = form;
            return None;
        }
        let base = l * LINE_WORDS;
        let x = line_at(src, base);
        let far = |distance: usize| {
            if l == 0 { [0; LINE_WORDS] } else { line_at(src, base - distance) }
        };
        let mut t = far(distance);
        let (mut not_zero, mut not_same, mut neither) = (0, 0, 0);
        for j in 0..LINE_WORDS {
            not_zero |= x[j];
            not_same |= x[j] ^ t[j];
            neither |= u32::from(x[j] != 0) & u32::from(x[j] != t[j]);
        }
        let kinds = &mut all_kinds[l / BLOCK_LINES];
        let shift = 2 * (l % BLOCK_LINES);
        if neither == 0 {
            if not_zero == 0 {
                *kinds |= kind::ZERO << shift;
            } else if not_same == 0 {
                *kinds |= kind::SAME << shift;
            } else {
                *kinds |= kind::CODED << shift;
                let codes = pack(&x.map(|x| if x == 0 { code::ZERO } else { code::SAME }));
                control.get_mut(control_at..control_at + 8)?.copy_from_slice(&codes.to_le_bytes());
                control_at += CODES;
            }
            continue;
        }

        // Look up each word in the table: the last word before the line with the same tag.
        let mut hashes: Line = [0; LINE_WORDS];
        let mut entries: Line = [0; LINE_WORDS];
        for j in 0..LINE_WORDS {
            let rotated = x[j].rotate_right(W::MIDDLE);
            let hash = (rotated & !W::MIDDLE_MASK).wrapping_mul(MULTIPLIER);
            let index = (base + j) as u32;
            entries[j] = (hash | rotated & W::MIDDLE_MASK) << W::INDEX_BITS | index;
            hashes[j] = hash >> (32 - W::SLOT_BITS);
        }
        let mut found: Line = [0; LINE_WORDS];
        for j in 0..LINE_WORDS {
            found[j] = table[hashes[j] as usize];
        }
        for j in 0..LINE_WORDS {
            // A plain word (zero, or the word at the distance) is not entered: it goes to the surplus slot
            // behind the table.
            let plain = (x[j] == 0) | (x[j] == t[j]);
            table[if plain { W::SLOTS } else { hashes[j] as usize }] = entries[j];
        }

        // Choose the distance. There are three candidates: how far back the table found the first, the last
        // and the second word, each rounded up as `plan::distance` does, and at most `base`. (If too few
        // words were found, the table's entry for word 0 or 15 is tried instead.) The best candidate is
        // taken if it makes at least two more nonzero words equal than the distance in force does.
        let mut this_kind = kind::CODED;
        if l != 0 {
            let mut flags = [0; LINE_WORDS];
            for j in 0..LINE_WORDS {
                let equal = (found[j] ^ entries[j]) >> W::INDEX_BITS == 0;
                let looked_up = W::OVERLAP | (entries[j] >> 16 != plan::EMPTY_TAG);
                let plain = (x[j] == 0) | (x[j] == t[j]);
                flags[j] = u8::from(equal & looked_up & !plain);
            }
            let mut left = mask(&flags);
            let mut best = score(&x, &t) + 1;
            let mut chosen = distance;
            for pick in [
                left.trailing_zeros() & 15,
                {
                    left &= left.wrapping_sub(1);
                    left.leading_zeros() & 15 ^ 15
                },
                left.trailing_zeros() & 15,
            ] {
                let j = pick as usize & 15;
                let candidate = (found[j] & W::INDEX_MASK) as usize;
                let candidate = plan::distance(base + j - candidate).min(base);
                let y = line_at(src, base - candidate);
                let same = score(&x, &y);
                if same > best {
                    best = same;
                    chosen = candidate;
                }
            }
            if chosen != distance {
                this_kind = kind::CODED_AT;
                distance = chosen;
                t = line_at(src, base - distance);
            }
        }
        *kinds |= this_kind << shift;
        if this_kind == kind::CODED_AT {
            let bytes = (distance as u16).to_le_bytes();
            control.get_mut(control_at..control_at + DISTANCE)?.copy_from_slice(&bytes);
            control_at += DISTANCE;
        }

        let mut codes: Line = [0; LINE_WORDS];
        let mut values: Line = [0; LINE_WORDS];
        for j in 0..LINE_WORDS {
            let differ = x[j] ^ t[j];
            let flips = found[j] ^ entries[j];
            let index = found[j] & W::INDEX_MASK;
            let near = (base as u32).wrapping_sub(1).wrapping_sub(index);
            let looked_up = W::OVERLAP | (entries[j] >> 16 != plan::EMPTY_TAG);
            let tagged = (flips >> 16 == 0) & looked_up;
            let equal = tagged & (flips >> W::INDEX_BITS == 0);
            let mut c = code::LITERAL;
            c = if differ >> 16 == 0 { code::HALF } else { c };
            c = if tagged { code::INDEX } else { c };
            c = if differ >> 8 == 0 { code::BYTE } else { c };
            c = if equal & (near < 256) { code::NEAR } else { c };
            c = if differ == 0 { code::SAME } else { c };
            c = if x[j] == 0 { code::ZERO } else { c };
            let v = if c == code::INDEX { index | flips & W::FLIPS } else { x[j] };
            values[j] = if c == code::NEAR { near } else { v };
            codes[j] = c;
        }
        let bytes = pack(&codes).to_le_bytes();
        control.get_mut(control_at..control_at + 8)?.copy_from_slice(&bytes);
        control_at += CODES;
        let mut used = 0;
        let mut write = |room: &mut [u8; LINE]| -> Option<()> {
            for j in 0..LINE_WORDS {
                room.get_mut(used..used + 4)?.copy_from_slice(&values[j].to_le_bytes());
                used += usize::from(LENGTH[codes[j] as usize & 7]);
            }
            Some(())
        };
        if let Some(room) = dst.get_mut(at..)?.first_chunk_mut() {
            write(room)?;
        } else {
            // Near the end of `dst`, the payload goes through memory with room for 64 bytes.
            let mut spare = [0; LINE];
            write(&mut spare)?;
            dst.get_mut(at..at + used)?.copy_from_slice(&spare[..used]);
        }
        at += used;
    }
    plan::finish(dst, unit, at, control.get(..control_at)?, &all_kinds)
}

/// Packs sixteen codes into three bits each. The code of word 0 is in the lowest bits.
#[inline(always)]
fn pack(codes: &Line) -> u64 {
    let mut bytes = [0; LINE_WORDS];
    for j in 0..LINE_WORDS {
        bytes[j] = codes[j] as u8;
    }
    let all = u128::from_le_bytes(bytes);
    let eight = |x: u64| {
        let x = (x | x >> 5) & 0x003F_003F_003F_003F;
        let x = (x | x >> 10) & 0x0000_0FFF_0000_0FFF;
        (x | x >> 20) & 0x00FF_FFFF
    };
    eight(all as u64) | eight((all >> 64) as u64) << (8 * CODE_BITS)
}

/// Removes the first `N` bytes of `from` and returns them; `None` if there are fewer.
#[inline(always)]
fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = from.split_first_chunk::<N>()?;
    *from = rest;
    Some(*bytes)
}

/// Decompresses `body`, the stream without its first three bytes, into all of `dst`. Returns false if `body` is
/// malformed.
pub(crate) fn decompress<W: Width>(body: &[u8], dst: &mut [u8]) -> bool {
    inner::<W>(body, dst).is_some()
}

fn inner<W: Width>(body: &[u8], dst: &mut [u8]) -> Option<()> {
    let parts = Parts::of(body, dst.len())?;
    let (mut payload, mut control) = (parts.payload, parts.control);
    let mut distance = MIN_DISTANCE;
    let mut base = 0;
    for kinds in parts.kinds() {
        for i in 0..BLOCK_LINES {
            let kind = kinds >> (2 * i) & 3;
            let (before, rest) = dst.split_at_mut_checked(4 * base)?;
            let line = rest.first_chunk_mut::<LINE>()?;
            if kind == kind::ZERO {
                line.fill(0);
                base += LINE_WORDS;
                continue;
            }
            if kind == kind::CODED_AT {
                distance = usize::from(u16::from_le_bytes(take(&mut control)?));
                if distance < MIN_DISTANCE || distance > base {
                    return None;
                }
            }
            let t = if base == 0 {
                &[0; LINE]
            } else {
                before.get(4 * (base - distance)..)?.first_chunk::<LINE>()?
            };
            if kind == kind::SAME {
                *line = *t;
                base += LINE_WORDS;
                continue;
            }
            let [a, b, c, d, e, f] = take::<CODES>(&mut control)?;
            let codes = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]) & ALL_CODES;
            if codes & !(codes >> 1 | codes >> 2) & CODE_LOW != 0 {
                return None;
            }
            let mut pad = [0; LINE + 4];
            let window: &[u8; LINE + 4] = match payload.first_chunk() {
                Some(window) => window,
                None => {
                    pad[..payload.len()].copy_from_slice(payload);
                    &pad
                }
            };
            // Load and store word by word. A vector load of words that were just stored one by one would
            // have to wait for these stores.
            let mut used = 0;
            let mut rest = codes;
            for (far, words) in t.chunks_exact(16).zip(line.chunks_exact_mut(16)) {
                // Compilers unroll this loop over four words.
                for j in 0..4 {
                    let c = (rest & 7) as usize;
                    rest >>= CODE_BITS;
                    let at = used & (LINE - 1);
                    let v = [window[at], window[at + 1], window[at + 2], window[at + 3]];
                    let far = [far[4 * j], far[4 * j + 1], far[4 * j + 2], far[4 * j + 3]];
                    let word = u32::from_le_bytes(v) & FROM_PAYLOAD[c]
                        | u32::from_le_bytes(far) & FROM_DISTANCE[c];
                    words[4 * j..4 * j + 4].copy_from_slice(&word.to_le_bytes());
                    used += usize::from(LENGTH[c]);
                }
            }
            payload = payload.get(used..)?;
            let mut refer = codes & (codes >> 1 ^ codes >> 2) & CODE_LOW;
            while refer != 0 {
                let bit = refer.trailing_zeros();
                refer &= refer - 1;
                // So far, the word holds only its payload.
                let to = line.get_mut(4 * (bit / CODE_BITS) as usize..)?.first_chunk_mut::<4>()?;
                let v = u32::from_le_bytes(*to);
                let (index, flips) = if codes >> (bit + 2) & 1 != 0 {
                    (base.checked_sub(1 + v as usize)?, 0)
                } else {
                    ((v & W::INDEX_MASK) as usize, v >> W::INDEX_BITS << W::MIDDLE)
                };
                let word = before.get(4 * index..)?.first_chunk::<4>()?;
                *to = (u32::from_le_bytes(*word) ^ flips).to_le_bytes();
            }
            base += LINE_WORDS;
        }
    }
    (payload.is_empty() && control.is_empty()).then_some(())
}
