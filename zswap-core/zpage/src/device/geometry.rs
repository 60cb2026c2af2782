//! The sizes of a device.

use super::DeviceError;
use crate::PAGE_SIZE;

/// The sizes of a device.
///
/// ```
/// use zpage::device::Geometry;
///
/// let geometry = Geometry::of_pages(1 << 20);
/// assert_eq!(geometry.segment_bytes, 64 << 10);
/// assert_eq!(geometry.bytes(), 4 << 30);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// The number of segments. They are numbered from 0. A store uses only the first 2^24.
    pub segments: u64,
    /// The bytes of a segment: 8 KiB to 256 KiB, and a multiple of `block_bytes`.
    pub segment_bytes: usize,
    /// Lengths and offsets of reads and writes are multiples of this: a power of two, from 1 to 4096.
    pub block_bytes: usize,
}

impl Geometry {
    /// The fewest bytes of a segment.
    pub const LEAST_SEGMENT: usize = 2 * PAGE_SIZE;
    /// The most bytes of a segment.
    pub const MOST_SEGMENT: usize = 64 * PAGE_SIZE;

    /// Returns sizes for a device of `pages` times 4096 bytes without blocks: segments of 64 KiB, or smaller
    /// ones, down to 8 KiB, if there would be fewer than four. Bytes that fill no segment are left out.
    pub const fn of_pages(pages: u64) -> Self {
        let mut pages_of_segment = 16;
        while pages_of_segment > 2 && pages / pages_of_segment < 4 {
            pages_of_segment /= 2;
        }
        let segment_bytes = pages_of_segment as usize * PAGE_SIZE;
        Geometry { segments: pages / pages_of_segment, segment_bytes, block_bytes: 1 }
    }

    /// Returns the bytes of all segments; `u64::MAX` if there are more.
    pub const fn bytes(&self) -> u64 {
        self.segments.saturating_mul(self.segment_bytes as u64)
    }

    /// Returns whether a store can use a device of these sizes.
    pub(crate) const fn is_valid(&self) -> bool {
        Self::LEAST_SEGMENT <= self.segment_bytes
            && self.segment_bytes <= Self::MOST_SEGMENT
            && self.block_bytes.is_power_of_two()
            && self.block_bytes <= PAGE_SIZE
            && self.segment_bytes % self.block_bytes == 0
    }

    /// Checks that a segment exists and is at least `offset + len` bytes long, and that the range consists of whole
    /// blocks.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`] or [`DeviceError::Unaligned`] otherwise.
    pub fn check(&self, segment: u64, offset: usize, len: usize) -> Result<(), DeviceError> {
        let end = offset.saturating_add(len);
        if segment >= self.segments || end > self.segment_bytes {
            return Err(DeviceError::OutOfRange { segment, start: offset, end, geometry: *self });
        }
        let block_bytes = self.block_bytes;
        if [offset, end].iter().any(|at| at.checked_rem(block_bytes) != Some(0)) {
            return Err(DeviceError::Unaligned { segment, start: offset, end, block_bytes });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_devices_have_small_segments() {
        let sizes = |pages| {
            let geometry = Geometry::of_pages(pages);
            assert!(geometry.is_valid() && geometry.bytes() <= pages * PAGE_SIZE as u64);
            (geometry.segments, geometry.segment_bytes / PAGE_SIZE)
        };
        assert_eq!([0, 1, 2, 7, 8].map(sizes), [(0, 2), (0, 2), (1, 2), (3, 2), (4, 2)]);
        assert_eq!([16, 32, 63].map(sizes), [(4, 4), (4, 8), (7, 8)]);
        assert_eq!([64, 79, 1 << 20].map(sizes), [(4, 16), (4, 16), (1 << 16, 16)]);
        assert_eq!(Geometry::of_pages(u64::MAX).bytes(), u64::MAX);
        assert_eq!(Geometry::of_pages(1 << 51).bytes(), 1 << 63);
    }

    #[test]
    fn sizes_that_a_store_cannot_use() {
        let fine = Geometry { segments: 1, segment_bytes: 1 << 16, block_bytes: 512 };
        assert!(fine.is_valid());
        for (segment_bytes, block_bytes) in [
            (1 << 12, 512),
            (1 << 19, 512),
            (1 << 16, 0),
            (1 << 16, 3),
            (1 << 16, 8192),
            (9000, 512),
        ] {
            assert!(!Geometry { segment_bytes, block_bytes, ..fine }.is_valid());
        }
    }

    #[test]
    fn a_range_beyond_a_segment_or_the_segments_is_an_error() {
        let geometry = Geometry::of_pages(64);
        assert_eq!(geometry.check(3, 1, 65535), Ok(()));
        for (segment, offset, len) in [(4, 0, 1), (0, 1, 65536), (0, usize::MAX, 2)] {
            let error = geometry.check(segment, offset, len).unwrap_err();
            assert!(error.to_string().contains("4 segments of 65536 bytes"), "{error}");
        }
    }

    #[test]
    fn a_range_that_is_not_whole_blocks_is_an_error() {
        let geometry = Geometry { segments: 2, segment_bytes: 8192, block_bytes: 512 };
        for (offset, len) in [(0, 0), (0, 8192), (512, 1024), (7680, 512)] {
            assert_eq!(geometry.check(1, offset, len), Ok(()));
        }
        for (offset, len) in [(0, 1), (256, 512), (511, 1), (512, 513)] {
            let error = geometry.check(1, offset, len).unwrap_err();
            let (start, end) = (offset, offset + len);
            let expected = DeviceError::Unaligned { segment: 1, start, end, block_bytes: 512 };
            assert_eq!(error, expected);
            assert!(error.to_string().contains("multiples of 512"), "{error}");
        }
        let whole = Geometry { block_bytes: 4096, ..geometry };
        assert!(whole.check(1, 4096, 4096).is_ok() && whole.check(1, 512, 4096).is_err());
        let odd = Geometry { block_bytes: 0, ..geometry };
        assert!(matches!(odd.check(0, 0, 512), Err(DeviceError::Unaligned { block_bytes: 0, .. })));
    }
}
