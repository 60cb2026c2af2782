//! The place of an object on a device, in 54 bits, so that it fits in the word of an entry or a slot.
//!
//! ```text
//!  53   51 50          38 37             24 23        0
//! +-------+--------------+-----------------+-----------+
//! | codec |  len (bytes) |offset (16 bytes)|  segment  |
//! +-------+--------------+-----------------+-----------+
//! ```

use core::fmt;

use crate::PAGE_SIZE;

/// Objects start at multiples of this many bytes.
pub(super) const UNIT: usize = 16;
const SEGMENT_BITS: u32 = 24;
const OFFSET_BITS: u32 = 14;
pub(super) const LEN_BITS: u32 = 13;
const OFFSET_SHIFT: u32 = SEGMENT_BITS;
const LEN_SHIFT: u32 = OFFSET_SHIFT + OFFSET_BITS;
const CODEC_SHIFT: u32 = LEN_SHIFT + LEN_BITS;
const CODEC_BITS: u32 = 3;

/// The most codecs whose objects share a segment.
pub(super) const MOST_CODECS: usize = 1 << CODEC_BITS;

/// The most segments of a device that are used.
pub(super) const MOST_SEGMENTS: u64 = 1 << SEGMENT_BITS;

const _: () = assert!(PAGE_SIZE < 1 << LEN_BITS);
const _: () = assert!(crate::device::Geometry::MOST_SEGMENT / UNIT <= 1 << OFFSET_BITS);

/// The place of an object on a device: its segment, where it starts there, its length, and which of the segment's
/// codecs compressed it. `Copy`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Address(u64);

impl Address {
    /// The number of bits of an address.
    pub const BITS: u32 = CODEC_SHIFT + CODEC_BITS;

    pub(super) const fn new(segment: u32, offset: usize, len: usize, codec: u8) -> Self {
        assert!((segment as u64) < MOST_SEGMENTS, "a segment that no address can name");
        assert!(offset % UNIT == 0 && offset / UNIT < 1 << OFFSET_BITS, "an object between units");
        assert!(
            len < 1 << LEN_BITS && (codec as usize) < MOST_CODECS,
            "an object that no address can describe"
        );
        Address(
            segment as u64
                | ((offset / UNIT) as u64) << OFFSET_SHIFT
                | (len as u64) << LEN_SHIFT
                | (codec as u64) << CODEC_SHIFT,
        )
    }

    /// Returns the address as a number below 2^54.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Returns the address that [`bits`](Self::bits) returned as a number. Ignores the upper 10 bits.
    pub const fn from_bits(bits: u64) -> Self {
        Address(bits & ((1 << Self::BITS) - 1))
    }

    /// Returns the number of the segment.
    pub const fn segment(self) -> u32 {
        (self.0 & (MOST_SEGMENTS - 1)) as u32
    }

    /// Returns where the object starts in its segment, in bytes.
    pub const fn offset(self) -> usize {
        (self.0 >> OFFSET_SHIFT) as usize % (1 << OFFSET_BITS) * UNIT
    }

    /// Returns the length of the object in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no object is empty")]
    pub const fn len(self) -> usize {
        (self.0 >> LEN_SHIFT) as usize % (1 << LEN_BITS)
    }

    pub(super) const fn codec(self) -> u8 {
        (self.0 >> CODEC_SHIFT) as u8 & (MOST_CODECS as u8 - 1)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (segment, start) = (self.segment(), self.offset());
        write!(f, "segment {segment}, bytes {start} to {}", start + self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_round_trips_beside_every_other() {
        let last = (1 << SEGMENT_BITS) - 1;
        for segment in [0, 1, 0x0055_5555, last] {
            for offset in [0, 16, 65520, (1 << 18) - 16] {
                for (len, codec) in [(1, 0), (1590, 7), (4096, 2), (8191, 5)] {
                    let address = Address::new(segment, offset, len, codec);
                    assert!(address.bits() < 1 << Address::BITS);
                    let again = Address::from_bits(address.bits() | u64::MAX << Address::BITS);
                    assert_eq!(again, address);
                    assert_eq!((again.segment(), again.offset()), (segment, offset));
                    assert_eq!((again.len(), again.codec()), (len, codec));
                }
            }
        }
        let shown = format!("{:?}", Address::new(7, 32, 100, 0));
        assert_eq!(shown, "segment 7, bytes 32 to 132");
    }
}
