//! The place of an object on a device, in 54 bits, so that it fits in the word of an entry or a slot.
//!
//! ```text
//!  53   51 50          38 37             24 23        0
//! +-------+--------------+-----------------+-----------+
//! | codec |  len (bytes) |offset (16 bytes)|  segment  |   units of 4 KiB
//! +-------+--------------+-----------------+-----------+
//! ```
//!
//! Each doubling of the unit takes a bit from the segment's number and gives it to the length: with units of 64 KiB
//! the length has 17 bits, and the segment 20.

use core::fmt;

use crate::PAGE_SIZE;

/// Objects start at multiples of this many bytes.
pub(super) const UNIT: usize = 16;
const SEGMENT_BITS: u32 = 24;
const OFFSET_BITS: u32 = 14;
const LEN_BITS: u32 = 13;
const CODEC_SHIFT: u32 = SEGMENT_BITS + OFFSET_BITS + LEN_BITS;
const CODEC_BITS: u32 = 3;

/// The most codecs whose objects share a segment.
pub(super) const MOST_CODECS: usize = 1 << CODEC_BITS;

const _: () = assert!(PAGE_SIZE < 1 << LEN_BITS);
const _: () = assert!(crate::device::Geometry::MOST_SEGMENT / UNIT <= 1 << OFFSET_BITS);

/// How the addresses of a device are laid out: it depends on the unit. `Copy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    /// How often 4 KiB is doubled to give the unit.
    doublings: u8,
}

impl Layout {
    /// Returns the layout for objects of up to `unit` bytes, a unit ([`check_unit`](crate::check_unit)).
    pub(super) const fn of(unit: usize) -> Layout {
        Layout { doublings: (unit / PAGE_SIZE).trailing_zeros() as u8 }
    }

    const fn segment_bits(self) -> u32 {
        SEGMENT_BITS - self.doublings as u32
    }

    /// Returns the most segments of a device that are used.
    pub(super) const fn most_segments(self) -> u64 {
        1 << self.segment_bits()
    }

    pub(super) fn address(self, segment: u32, offset: usize, len: usize, codec: u8) -> Address {
        assert!(u64::from(segment) < self.most_segments(), "a segment that no address can name");
        assert!(offset % UNIT == 0 && offset / UNIT < 1 << OFFSET_BITS, "an object between units");
        assert!(
            len < 1 << (LEN_BITS + u32::from(self.doublings)) && usize::from(codec) < MOST_CODECS,
            "an object that no address can describe"
        );
        let bits = u64::from(segment)
            | ((offset / UNIT) as u64) << self.segment_bits()
            | (len as u64) << (self.segment_bits() + OFFSET_BITS)
            | u64::from(codec) << CODEC_SHIFT;
        self.read(Address::from_bits(bits))
    }

    /// Returns the address that an entry has, as one of this layout.
    pub(super) const fn read(self, at: Address) -> Address {
        Address { layout: self, ..at }
    }
}

/// The place of an object on a device: its segment, where it starts there, its length, and which of the segment's
/// codecs compressed it. `Copy`. Two addresses are equal if their bits are.
#[derive(Clone, Copy)]
pub struct Address {
    bits: u64,
    /// How the bits are read. Only the segments know it: they set it in every address that they get or give.
    layout: Layout,
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.bits == other.bits
    }
}

impl Eq for Address {}

impl Address {
    /// The number of bits of an address.
    pub const BITS: u32 = CODEC_SHIFT + CODEC_BITS;

    /// Returns the address as a number below 2^54.
    pub const fn bits(self) -> u64 {
        self.bits
    }

    /// Returns the address that [`bits`](Self::bits) returned as a number. Ignores the upper 10 bits.
    pub const fn from_bits(bits: u64) -> Self {
        let layout = Layout { doublings: 0 };
        Address { bits: bits & ((1 << Self::BITS) - 1), layout }
    }

    /// Returns the number of the segment. This, the offset and the length are right for an address that
    /// [`Segments`](super::Segments) gave, and for one made of bits if the unit is 4 KiB.
    pub const fn segment(self) -> u32 {
        (self.bits & (self.layout.most_segments() - 1)) as u32
    }

    /// Returns where the object starts in its segment, in bytes.
    pub const fn offset(self) -> usize {
        (self.bits >> self.layout.segment_bits()) as usize % (1 << OFFSET_BITS) * UNIT
    }

    /// Returns the length of the object in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no object is empty")]
    pub const fn len(self) -> usize {
        let below_codec = self.bits & ((1 << CODEC_SHIFT) - 1);
        (below_codec >> (self.layout.segment_bits() + OFFSET_BITS)) as usize
    }

    pub(super) const fn codec(self) -> u8 {
        (self.bits >> CODEC_SHIFT) as u8 & (MOST_CODECS as u8 - 1)
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
        for unit in [4096, 8192, 16384, 32768, 65536] {
            let layout = Layout::of(unit);
            let last = (layout.most_segments() - 1) as u32;
            for segment in [0, 1, 0x0005_5555, last] {
                for offset in [0, 16, 65520, (1 << 18) - 16] {
                    for (len, codec) in [(1, 0), (1590, 7), (unit, 2), (2 * unit - 1, 5)] {
                        let address = layout.address(segment, offset, len, codec);
                        assert!(address.bits() < 1 << Address::BITS);
                        let again = Address::from_bits(address.bits() | u64::MAX << Address::BITS);
                        let again = layout.read(again);
                        assert_eq!(again, address);
                        assert_eq!((again.segment(), again.offset()), (segment, offset));
                        assert_eq!((again.len(), again.codec()), (len, codec));
                    }
                }
            }
        }
        let segments = [4096, 65536].map(|unit| Layout::of(unit).most_segments());
        assert_eq!(segments, [1 << 24, 1 << 20]);
        let shown = format!("{:?}", Layout::of(4096).address(7, 32, 100, 0));
        assert_eq!(shown, "segment 7, bytes 32 to 132");
    }
}
