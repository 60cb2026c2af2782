//! The form for smooth bytes, such as those of images: the difference of each byte from an earlier one, in as few bits
//! as the greatest of sixteen differences needs. `docs/linewords.md` explains it.

use crate::format::{BLOCK_LINES, Header, LINE, Unit};

/// Bytes in a group. The deltas of a group have the same width.
pub(crate) const GROUP: usize = 16;
/// The greatest distance, in bytes.
pub(crate) const MOST_DISTANCE: usize = 16;
/// Bytes of a stream before the widths: the first byte and the distance.
pub(crate) const HEAD: usize = 2;

/// The distances that the encoder tries.
const TRIED: [usize; 6] = [1, 2, 3, 4, 8, 16];
/// The line that is examined, of every eight.
const SAMPLE: usize = 4;
/// Deltas are tried if they are likely to make the unit shorter than this many of 4096 bytes. Above that, LZ4 is often
/// better.
const LIMIT: usize = 3200;
/// Deltas are not tried if their widths are likely to be more than this many sixteenths of those that the bytes themselves
/// would have. Then the unit is not smooth but has a small range of values, and LZ4 often finds more in it. Printable
/// bytes have a small range, but so do the bytes of a dark image.
const SMOOTH: usize = 14;
const SMOOTH_TEXT: usize = 11;
/// Deltas that turn out longer than this many of 4096 bytes are given up.
const MOST: usize = 3600;

/// Returns the bytes that the widths of a unit take: four bits for each group.
#[inline(always)]
pub(crate) fn widths_len(len: usize) -> usize {
    len / (2 * GROUP)
}

/// Begins the stream of a unit of `len` bytes in `dst`. Returns the places of the widths and of the planes. The
/// planes end where the stream would be longer than `MOST` allows. Returns `None` if a unit of this length cannot be deltas, or if
/// there is no room for the widths.
#[inline(always)]
pub(crate) fn begin(distance: u8, len: usize, dst: &mut [u8]) -> Option<(&mut [u8], &mut [u8])> {
    let unit = Unit::of(len)?;
    let capacity = dst.len().min(len * MOST / 4096);
    let (start, rest) = dst.get_mut(..capacity)?.split_at_mut_checked(HEAD)?;
    start.copy_from_slice(&[Header::Deltas(unit).byte(), distance]);
    rest.split_at_mut_checked(widths_len(len))
}

/// Moves the sign of a difference to its lowest bit. So differences of either sign that are near zero have few bits.
#[inline(always)]
fn fold(difference: u8) -> u8 {
    let x = difference as i8;
    (x << 1 ^ x >> 7) as u8
}

/// Returns how many bits the greatest of the bytes needs, each of which is one byte of `all`.
#[inline(always)]
fn bits(all: u128) -> usize {
    let all = all as u64 | (all >> 64) as u64;
    let all = all | all >> 32;
    let all = all | all >> 16;
    let all = all | all >> 8;
    8 - (all as u8).leading_zeros() as usize
}

/// Returns, for each of the four groups of a line, the bits that any of its deltas has. The deltas are those from the 64
/// bytes `before`.
#[inline(always)]
fn line_bits(line: &[u8; LINE], before: &[u8; LINE]) -> [u64; 4] {
    let mut deltas = [0; LINE];
    for i in 0..LINE {
        deltas[i] = fold(line[i].wrapping_sub(before[i]));
    }
    let mut all = [0; 4];
    for (g, all) in all.iter_mut().enumerate() {
        let half = |at: usize| {
            let bytes = deltas.get(at..).and_then(<[u8]>::first_chunk);
            u64::from_le_bytes(*bytes.unwrap_or(&[0; 8]))
        };
        *all = half(GROUP * g) | half(GROUP * g + 8);
    }
    for all in &mut all {
        *all |= *all >> 32;
        *all |= *all >> 16;
        *all = (*all | *all >> 8) & 0xFF;
    }
    all
}

/// Returns how many bits each of the eight bytes needs, summed.
#[inline(always)]
fn sum_of_widths(x: u64) -> usize {
    // In each byte, set all bits below the greatest that is set.
    let x = x | x >> 1 & 0x7F7F_7F7F_7F7F_7F7F;
    let x = x | x >> 2 & 0x3F3F_3F3F_3F3F_3F3F;
    let x = x | x >> 4 & 0x0F0F_0F0F_0F0F_0F0F;
    x.count_ones() as usize
}

/// Returns the distance at which deltas are likely to pay and to make the unit shorter than `limit` bytes; `None` if
/// there is none. Examines every eighth line, and stops after a block in which deltas do not pay.
#[inline(always)]
pub(crate) fn choose(unit: &[u8], is_text: bool, limit: usize) -> Option<u8> {
    let share = if is_text { SMOOTH_TEXT } else { SMOOTH };
    let mut plain = 0;
    let mut sums = [0; TRIED.len()];
    let (mut least, mut best) = (0, 0);
    for block in unit.chunks_exact(BLOCK_LINES * LINE) {
        // For each of four groups, a byte for each examined line.
        let widths = |distance: usize, from_zero: bool| {
            let mut all = [0; 4];
            for (n, l) in (SAMPLE..BLOCK_LINES).step_by(8).enumerate() {
                let at = |byte: usize| block.get(byte..).and_then(<[u8]>::first_chunk);
                let line = at(l * LINE).unwrap_or(&[0; LINE]);
                let before = if from_zero { None } else { at(l * LINE - distance) };
                let bits = line_bits(line, before.unwrap_or(&[0; LINE]));
                for g in 0..4 {
                    all[g] |= bits[g] << (8 * n);
                }
            }
            all.into_iter().map(sum_of_widths).sum::<usize>()
        };
        plain += widths(0, true);
        least = usize::MAX;
        for (sum, &distance) in sums.iter_mut().zip(&TRIED) {
            *sum += widths(distance, false);
            if *sum < least {
                (least, best) = (*sum, distance);
            }
        }
        if 16 * least > share * plain {
            return None;
        }
    }
    // A group takes two bytes for each bit of its width. One of eight groups was examined.
    let len = 8 * 2 * least + widths_len(unit.len()) + HEAD;
    let limit = limit.min(unit.len() * LIMIT / 4096);
    (len < limit && !repeats(unit)).then_some(best as u8)
}

/// Returns whether a quarter of the examined lines or more equal an earlier line of their block, as in an image with equal
/// rows. LZ4 finds such lines, and deltas do not.
#[inline(always)]
fn repeats(unit: &[u8]) -> bool {
    let (mut examined, mut repeated) = (0, 0);
    for block in unit.chunks_exact(BLOCK_LINES * LINE) {
        for l in (SAMPLE..BLOCK_LINES).step_by(8) {
            let lines = block.chunks_exact(LINE);
            let line = lines.clone().nth(l);
            examined += 1;
            repeated += usize::from(lines.take(l).any(|earlier| Some(earlier) == line));
        }
    }
    4 * repeated >= examined
}

/// Exchanges bits: bit `j` of byte `i` becomes bit `i` of byte `j`.
#[inline(always)]
fn transpose(x: u64) -> u64 {
    let t = (x ^ x >> 7) & 0x00AA_00AA_00AA_00AA;
    let x = x ^ t ^ t << 7;
    let t = (x ^ x >> 14) & 0x0000_CCCC_0000_CCCC;
    let x = x ^ t ^ t << 14;
    let t = (x ^ x >> 28) & 0x0000_0000_F0F0_F0F0;
    x ^ t ^ t << 28
}

/// Stores `src` as deltas at this distance in `dst`, header included. Returns the length of the stream; `None` if it is
/// longer than `MOST` allows or does not fit `dst`.
pub(crate) fn compress(distance: u8, src: &[u8], dst: &mut [u8]) -> Option<usize> {
    let back = usize::from(distance);
    let (widths, rest) = begin(distance, src.len(), dst)?;
    widths.fill(0);
    // The first group, after zeros.
    let mut first = [0; MOST_DISTANCE + GROUP];
    first[MOST_DISTANCE..].copy_from_slice(src.first_chunk::<GROUP>()?);
    let mut at = 0;
    for (g, group) in src.chunks_exact(GROUP).enumerate() {
        let before = match g {
            0 => first.get(MOST_DISTANCE - back..)?,
            _ => src.get(GROUP * g - back..)?,
        };
        let before = before.first_chunk::<GROUP>()?;
        let mut deltas = [0; GROUP];
        for j in 0..GROUP {
            deltas[j] = fold(group[j].wrapping_sub(before[j]));
        }
        let all = u128::from_le_bytes(deltas);
        let width = bits(all);
        widths[g / 2] |= (width as u8) << (4 * (g % 2));
        let low = transpose(all as u64).to_le_bytes();
        let high = transpose((all >> 64) as u64).to_le_bytes();
        for (k, to) in rest.get_mut(at..at + 2 * width)?.chunks_exact_mut(2).enumerate() {
            to.copy_from_slice(&[low[k], high[k]]);
        }
        at += 2 * width;
    }
    Some(HEAD + widths_len(src.len()) + at)
}

/// The parts of a stream of deltas.
///
/// Invariants: the distance is 1 to 16, each width is at most 8, and the planes are as long as the widths require.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) distance: usize,
    pub(crate) widths: &'a [u8],
    pub(crate) planes: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Finds the parts of `body`, a stream without its first byte, for a unit of `len` bytes. Returns `None` if it is
    /// malformed.
    #[inline(always)]
    pub(crate) fn of(body: &'a [u8], len: usize) -> Option<Self> {
        let (&distance, rest) = body.split_first()?;
        let distance = usize::from(distance);
        let (widths, planes) = rest.split_at_checked(widths_len(len))?;
        let (mut sum, mut wrong) = (0, false);
        for &two in widths {
            let (low, high) = (two & 15, two >> 4);
            sum += usize::from(low + high);
            wrong |= low > 8 || high > 8;
        }
        let is_right = !wrong && (1..=MOST_DISTANCE).contains(&distance);
        (is_right && planes.len() == 2 * sum).then_some(Parts { distance, widths, planes })
    }
}

/// A word in which each byte is `byte`.
const fn each(byte: u8) -> u128 {
    u128::from_le_bytes([byte; GROUP])
}

/// Adds sixteen bytes to sixteen others, each to its own.
#[inline(always)]
fn add(a: u128, b: u128) -> u128 {
    // With the top bit of each byte cleared, no addition carries into the next byte. The XOR adds the top bits.
    ((a & each(0x7F)) + (b & each(0x7F))) ^ ((a ^ b) & each(0x80))
}

/// Decompresses `body`, the stream without its first byte, into all of `dst`. Returns false if `body` is malformed.
pub(crate) fn decompress(body: &[u8], dst: &mut [u8]) -> bool {
    let Some(Parts { distance, widths, mut planes }) = Parts::of(body, dst.len()) else {
        return false;
    };
    // The group before.
    let mut before = 0u128;
    for (g, group) in dst.chunks_exact_mut(GROUP).enumerate() {
        let width = usize::from(widths[g / 2] >> (4 * (g % 2)) & 15);
        // In bounds: `planes` is as long as all widths require.
        let (these, rest) = planes.split_at(2 * width);
        planes = rest;
        let (mut low, mut high) = (0, 0);
        for (k, plane) in these.chunks_exact(2).enumerate() {
            low |= u64::from(plane[0]) << (8 * k);
            high |= u64::from(plane[1]) << (8 * k);
        }
        let deltas = u128::from(transpose(low)) | u128::from(transpose(high)) << 64;
        // Undo the folding.
        let signs = deltas & each(1);
        let mut sums = (deltas >> 1 & each(0x7F)) ^ ((signs << 8).wrapping_sub(signs));
        // Each byte is the sum of the deltas at its place and one, two, three... distances before, and the byte of the
        // group before that continues this series.
        let mut carry = before >> (8 * (GROUP - distance) % 128);
        let mut step = distance;
        while step < GROUP {
            sums = add(sums, sums << (8 * step));
            carry |= carry << (8 * step);
            step *= 2;
        }
        before = add(sums, carry);
        group.copy_from_slice(&before.to_le_bytes());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_keeps_small_differences_small() {
        let mut seen = [false; 256];
        (0..=u8::MAX).for_each(|x| seen[usize::from(fold(x))] = true);
        assert_eq!(seen, [true; 256]);
        assert_eq!([0, 255, 1, 254].map(fold), [0, 1, 2, 3]);
        assert_eq!(fold(128), 255);
    }

    #[test]
    fn transposing_exchanges_bits_and_undoes_itself() {
        for i in 0..8 {
            for j in 0..8 {
                assert_eq!(transpose(1 << (8 * i + j)), 1 << (8 * j + i));
            }
        }
    }

    #[test]
    fn deltas_are_chosen_for_smooth_bytes_only() {
        let smooth: [u8; 4096] = core::array::from_fn(|i| (i / 3 + i % 5) as u8);
        assert_eq!(choose(&smooth, false, 4096), Some(1));
        let mut x = 1u32;
        let noise: [u8; 4096] = core::array::from_fn(|_| {
            x = x.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            (x >> 24) as u8
        });
        assert_eq!(choose(&noise, false, 4096), None);
        // Each line of these repeats.
        assert_eq!(choose(&[7; 4096], false, 4096), None);
        let rows: [u8; 4096] = core::array::from_fn(|i| smooth[i % 512]);
        assert_eq!(choose(&rows, false, 4096), None);
        assert_eq!(choose(&smooth, false, 100), None);
    }
}
