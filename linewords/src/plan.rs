//! The encoder's choices, which are no part of the format and the same in all variants.

use crate::format::{BLOCK_LINES, Header, LINE, MIN_DISTANCE, Unit, Width};

/// An odd number, so that multiplying by it is a bijection: the golden ratio of 2^32.
pub(crate) const MULTIPLIER: u32 = 0x9E37_79B1;

/// The tag of an empty slot of a [`Wide`](crate::format::Wide) table, where no tag is impossible. Words
/// that have it are not looked up.
pub(crate) const EMPTY_TAG: u32 = ((0xA5C3_u32 << 2).wrapping_mul(MULTIPLIER) >> 2) & 0xFFFF;

/// Payload bytes a line, on the mean since the start and after the first, which has nothing to refer to,
/// beyond which lines of words do not pay.
const DEAREST_LINE: usize = 44;
/// Lines between two checks of the mean.
const LOOK: usize = 4;

/// Of 1024 bytes, how many are printable in a unit that LZ4 compresses better.
const TEXT: usize = 850;
/// Which lines are counted: each eighth.
const SAMPLE: usize = 8;

/// Empties the table: no word matches an entry of an empty slot.
///
/// With overlap, the uppermost bit of an entry is the lowest of the number of its slot; here it is the
/// opposite. Without, each entry has the tag that is not looked up.
#[inline(always)]
pub(crate) fn clear<W: Width>(table: &mut [u32]) {
    if W::OVERLAP {
        for pair in table.chunks_exact_mut(2) {
            pair[0] = 1 << 31;
            pair[1] = 0;
        }
    } else {
        table.fill(EMPTY_TAG << 16);
    }
}

/// Whether to give up before line `l`, after `payload` bytes of payload.
#[inline(always)]
pub(crate) fn gives_up(l: usize, payload: usize) -> bool {
    l % LOOK == 0 && payload > DEAREST_LINE * l + LINE
}

/// For distances less than a line, the least multiple that is no less.
pub(crate) static UP: [u32; MIN_DISTANCE] = {
    let mut up = [MIN_DISTANCE as u32; MIN_DISTANCE];
    let mut d = 1;
    while d < MIN_DISTANCE {
        up[d] = (MIN_DISTANCE.div_ceil(d) * d) as u32;
        d += 1;
    }
    up
};

/// The least multiple of a distance at which a line refers to nothing within itself.
#[inline(always)]
pub(crate) fn distance(d: usize) -> usize {
    if d < MIN_DISTANCE { UP[d & (MIN_DISTANCE - 1)] as usize } else { d }
}

/// Whether so much of the unit is printable that LZ4 does better.
#[inline(always)]
pub(crate) fn is_text(unit: &[u8]) -> bool {
    let mut printable = 0;
    for block in unit.chunks_exact(BLOCK_LINES * LINE) {
        // Four lines: no count of a byte's place exceeds four.
        let mut counts = [0u8; LINE];
        for line in block.chunks_exact(LINE).step_by(SAMPLE) {
            for (count, &byte) in counts.iter_mut().zip(line) {
                *count += u8::from(byte.wrapping_sub(0x20) < 0x5F);
            }
        }
        printable += counts.iter().map(|&count| usize::from(count)).sum::<usize>();
    }
    printable * 1024 > TEXT * (unit.len() / SAMPLE)
}

/// Puts the header, and behind the payload, which ends at `at`, control and kinds. The length of the
/// stream, or nothing if there is no room.
#[inline(always)]
pub(crate) fn finish(
    dst: &mut [u8],
    unit: Unit,
    at: usize,
    control: &[u8],
    kinds: &[u64; 32],
) -> Option<usize> {
    let kinds = kinds.get(..unit.blocks())?;
    let end = at + control.len() + 8 * kinds.len();
    let dst = dst.get_mut(..end)?;
    let [low, high] = u16::try_from(end).ok()?.to_le_bytes();
    *dst.first_chunk_mut()? = [Header::Words(unit).byte(), low, high];
    let (to, rest) = dst.get_mut(at..)?.split_at_mut(control.len());
    to.copy_from_slice(control);
    for (to, kinds) in rest.chunks_exact_mut(8).zip(kinds) {
        to.copy_from_slice(&kinds.to_le_bytes());
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Narrow, Wide};

    #[test]
    fn no_word_is_found_in_an_empty_table() {
        fn check<W: Width>() {
            let mut table = vec![0; W::SLOTS];
            clear::<W>(&mut table);
            let mut x: u32 = 1;
            for step in 0..if cfg!(miri) { 2000 } else { 200_000u32 } {
                let word = if step < 65536 { step.rotate_left(step % 7 * 5) } else { x };
                x = x.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
                let rotated = word.rotate_right(W::MIDDLE);
                let hash = (rotated & !W::MIDDLE_MASK).wrapping_mul(MULTIPLIER);
                let entry = (hash | rotated & W::MIDDLE_MASK) << W::INDEX_BITS;
                let found = table[(hash >> (32 - W::SLOT_BITS)) as usize];
                let looked_up = W::OVERLAP || entry >> 16 != EMPTY_TAG;
                assert!(!looked_up || (found ^ entry) >> 16 != 0, "{word:#x}");
            }
        }
        check::<Narrow>();
        check::<Wide>();
    }

    #[test]
    fn a_distance_is_the_least_multiple_that_leaves_the_line() {
        for d in 1..100 {
            let up = distance(d);
            assert!(up >= MIN_DISTANCE && up % d == 0 && (up - d < MIN_DISTANCE || up == d));
        }
    }
}
