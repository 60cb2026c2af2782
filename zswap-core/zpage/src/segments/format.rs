//! The layout of a segment.
//!
//! Each object is followed by its tag ([`seal`](super::seal)), and starts at a multiple of 16 bytes. Behind the
//! objects is the directory: 13 bytes for each object (key; 16 bits of offset in units; 21 bits of length; the codec's
//! number in the upper 3 bits), and a tag. Between them are zeros. All numbers are little-endian. Only cleaning reads
//! the directory.

use super::address::{Address, Layout, UNIT};

/// Bytes of an object's entry in the directory.
pub(super) const LISTED: usize = 13;
/// Where an entry's 5 bytes of offset, length and codec begin.
const PLACE: usize = 8;
const LEN_SHIFT: u32 = 16;
const CODEC_SHIFT: u32 = 37;
const LEN_MASK: u64 = (1 << (CODEC_SHIFT - LEN_SHIFT)) - 1;
/// A segment lists at most one object for this many of its bytes.
pub(super) const BYTES_AN_OBJECT: usize = 128;

/// Returns the most objects that a segment of this length lists.
pub(super) fn most_objects(segment_bytes: usize) -> usize {
    segment_bytes / BYTES_AN_OBJECT
}

/// The units of an object with its tag.
pub(super) fn units(len: usize, tag_len: usize) -> u32 {
    (len + tag_len).div_ceil(UNIT) as u32
}

/// An object that a directory lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Listed {
    pub(super) key: u64,
    pub(super) at: Address,
}

/// Writes an object's entry in the directory.
pub(super) fn list(Listed { key, at }: Listed, entry: &mut [u8]) {
    let place = (at.offset() / UNIT) as u64
        | (at.len() as u64) << LEN_SHIFT
        | u64::from(at.codec()) << CODEC_SHIFT;
    entry[..PLACE].copy_from_slice(&key.to_le_bytes());
    entry[PLACE..].copy_from_slice(&place.to_le_bytes()[..LISTED - PLACE]);
}

/// Reads the objects that the directory of a segment lists.
pub(super) fn listed(
    layout: Layout,
    segment: u32,
    directory: &[u8],
) -> impl Iterator<Item = Listed> + use<'_> {
    let all = directory.chunks_exact(LISTED).map(move |entry| entry_of(layout, segment, entry));
    all.filter(|listed| listed.at.len() > 0)
}

/// Removes those objects from a directory for which `keep` returns false.
pub(super) fn retain<E>(
    layout: Layout,
    segment: u32,
    directory: &mut [u8],
    mut keep: impl FnMut(Listed) -> Result<bool, E>,
) -> Result<(), E> {
    for entry in directory.chunks_exact_mut(LISTED) {
        if !keep(entry_of(layout, segment, entry))? {
            // No object is empty.
            entry[PLACE..].fill(0);
        }
    }
    Ok(())
}

fn entry_of(layout: Layout, segment: u32, entry: &[u8]) -> Listed {
    let number = |range: core::ops::Range<usize>| {
        entry[range].iter().rev().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte))
    };
    let place = number(PLACE..LISTED);
    let offset = place as usize % (1 << LEN_SHIFT) * UNIT;
    let len = (place >> LEN_SHIFT & LEN_MASK) as usize;
    let at = layout.address(segment, offset, len, (place >> CODEC_SHIFT) as u8);
    Listed { key: number(0..8), at }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_lists_what_was_written_in_it() {
        let last = (1 << 18) - UNIT;
        let layout = Layout::of(65536);
        let all = [(7, 0, 1, 0), (u64::MAX, last, 65536, 7), (0, 16, 1590, 2)];
        let all = all.map(|(key, offset, len, codec)| {
            let at = layout.address(5, offset, len, codec);
            Listed { key, at }
        });
        let mut directory = [0; 3 * LISTED];
        for (object, entry) in all.iter().zip(directory.chunks_exact_mut(LISTED)) {
            list(*object, entry);
        }
        assert_eq!(listed(layout, 5, &directory).collect::<Vec<_>>(), all);
        let keep = |listed: Listed| Ok::<_, ()>(listed.key != u64::MAX);
        assert_eq!(retain(layout, 5, &mut directory, keep), Ok(()));
        assert_eq!(listed(layout, 5, &directory).collect::<Vec<_>>(), [all[0], all[2]]);
        assert_eq!([1, 12, 13, 4096].map(|len| units(len, 4)), [1, 1, 2, 257]);
        assert_eq!([1, 16, 17, 4096].map(|len| units(len, 16)), [2, 2, 3, 257]);
    }
}
