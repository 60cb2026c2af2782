//! The encoder's choices. They are the same in all variants, but no part of the format.

use crate::deltas;
use crate::format::{BLOCK_LINES, Header, LINE, MIN_DISTANCE, Unit, Width};

/// The form in which a unit is stored if lines of words do not pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instead {
    /// An LZ4 block, or the unit itself.
    Lz4,
    /// Deltas at this distance.
    Deltas(u8),
}

/// 2^32 divided by the golden ratio, made odd. Multiplying by an odd number is a bijection.
pub(crate) const MULTIPLIER: u32 = 0x9E37_79B1;

/// The tag of empty slots in a [`Wide`](crate::format::Wide) table. Words can have this tag, too, since every
/// tag is possible there. Such words are not looked up.
pub(crate) const EMPTY_TAG: u32 = ((0xA5C3_u32 << 2).wrapping_mul(MULTIPLIER) >> 2) & 0xFFFF;

/// The most payload that lines of words may have on average, in bytes for each line. With more, they do not pay.
/// 64 bytes are not counted: the first line has nothing to refer to.
const DEAREST_LINE: usize = 44;
/// The encoder checks its payload so far only before lines whose number is a multiple of this.
const LOOK: usize = 4;
/// Before this line, deltas are tried if the payload so far has more than this average, in bytes for each line.
const PROBE: usize = 8;
const PROBED_LINE: usize = 20;

/// A unit may be text if more than this many of 1024 bytes are printable. LZ4 compresses text better.
const TEXT: usize = 850;
/// A unit is half text if more than this many are printable. Often LZ4 finds more in it, unless its lines are cheap.
const HALF_TEXT: usize = 600;
const DEAREST_LINE_OF_HALF_TEXT: usize = 24;
/// Every eighth line is examined for printable bytes.
const SAMPLE: usize = 8;

/// Empties the table, so that no word matches the entry of an empty slot.
///
/// With `OVERLAP`, the uppermost bit of an entry is also the lowest bit of its slot's number. In an empty slot,
/// it is the opposite of that bit. Without `OVERLAP`, the entry of an empty slot has a tag that is not looked up.
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

/// Returns the most payload that the unit's lines of words may have on average, in bytes for each line; or, if the unit
/// is text, the form to try instead.
#[inline(always)]
pub(crate) fn dearest_line(unit: &[u8]) -> Result<usize, Instead> {
    let printable = printable(unit);
    if printable > TEXT {
        Err(deltas::choose(unit, true, usize::MAX).map_or(Instead::Lz4, Instead::Deltas))
    } else if printable > HALF_TEXT {
        Ok(DEAREST_LINE_OF_HALF_TEXT)
    } else {
        Ok(DEAREST_LINE)
    }
}

/// Decides before line `l` whether to give lines of words up, and for what. The lines before it have `payload` bytes of
/// payload. `dearest` is what [`dearest_line`] returned.
#[inline(always)]
pub(crate) fn instead(unit: &[u8], l: usize, payload: usize, dearest: usize) -> Option<Instead> {
    if l % LOOK != 0 {
        return None;
    }
    if payload > dearest * l + LINE {
        return Some(deltas::choose(unit, false, usize::MAX).map_or(Instead::Lz4, Instead::Deltas));
    }
    if l == PROBE && payload > PROBED_LINE * l + LINE {
        // The lines so far cost this much, and so may the others.
        let whole = unit.len() / LINE / PROBE * payload;
        return deltas::choose(unit, false, whole).map(Instead::Deltas);
    }
    None
}

/// For each distance below [`MIN_DISTANCE`], its least multiple that is not below it.
pub(crate) static UP: [u32; MIN_DISTANCE] = {
    let mut up = [MIN_DISTANCE as u32; MIN_DISTANCE];
    let mut d = 1;
    while d < MIN_DISTANCE {
        up[d] = (MIN_DISTANCE.div_ceil(d) * d) as u32;
        d += 1;
    }
    up
};

/// Returns the least multiple of `d` that is at least [`MIN_DISTANCE`].
#[inline(always)]
pub(crate) fn distance(d: usize) -> usize {
    if d < MIN_DISTANCE { UP[d & (MIN_DISTANCE - 1)] as usize } else { d }
}

/// Returns how many of 1024 examined bytes are printable, rounded down.
#[inline(always)]
fn printable(unit: &[u8]) -> usize {
    let mut printable = 0;
    for block in unit.chunks_exact(BLOCK_LINES * LINE) {
        // Counts the printable bytes at each place in a line. Four lines are examined, so a count is at most 4.
        let mut counts = [0u8; LINE];
        for line in block.chunks_exact(LINE).step_by(SAMPLE) {
            for (count, &byte) in counts.iter_mut().zip(line) {
                *count += u8::from(byte.wrapping_sub(0x20) < 0x5F);
            }
        }
        printable += counts.iter().map(|&count| usize::from(count)).sum::<usize>();
    }
    printable * 1024 / (unit.len() / SAMPLE)
}

/// Completes a stream whose payload ends at `at`: writes its head, and control and kinds after the payload.
/// Returns the length of the stream; `None` if there is no room or the length does not fit 16 bits.
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
