//! Segments that are joined from several segments of a device, so that they hold longer units.

use std::sync::Arc;

use super::attach::{AttachError, guarded};
use super::{DeviceError, Geometry, RangeRead, SwapDevice};
use crate::PAGE_SIZE;

/// A segment should hold this many units.
const UNITS: usize = 4;
/// A device should keep this many segments: with fewer, nothing is cleaned.
const LEAST_SEGMENTS: u64 = 4;

/// A device whose segment `n` is the inner device's segments `n * times` to `n * times + times - 1`.
#[derive(Debug)]
struct Joined {
    inner: [Arc<dyn SwapDevice>; 1],
    /// The sizes of the inner device.
    part: Geometry,
    times: usize,
}

/// Returns the device if its segments hold several units of `unit` bytes, or units are pages. Otherwise joins as many
/// segments as it takes, and as there are.
///
/// # Errors
/// [`AttachError::Panicked`] if the device panics; [`AttachError::Unit`] if all its segments together hold no unit.
pub(crate) fn for_unit(
    device: Arc<dyn SwapDevice>,
    unit: usize,
) -> Result<Arc<dyn SwapDevice>, AttachError> {
    if unit <= PAGE_SIZE {
        return Ok(device);
    }
    let part = match guarded("geometry", || device.geometry()) {
        Ok(part) => part,
        Err(panicked) => {
            zpool_base::unwind::dropped(device);
            return Err(panicked);
        }
    };
    // What no store can use is refused when it is attached.
    let times = if part.is_valid() { times(part, unit) } else { 1 };
    if part.segments > 0 && part.segments < times as u64 {
        zpool_base::unwind::dropped(device);
        return Err(AttachError::Unit { unit, segment_bytes: part.segment_bytes });
    }
    if times == 1 { Ok(device) } else { Ok(Arc::new(Joined { inner: [device], part, times })) }
}

/// Returns how many segments make one.
fn times(part: Geometry, unit: usize) -> usize {
    let wanted = (UNITS * unit).min(Geometry::MOST_SEGMENT);
    let mut times = (wanted / part.segment_bytes).max(1);
    // A small device gets shorter segments, as long as a unit fits with its tag and its entry in the directory.
    while times > 1
        && part.segments / (times as u64) < LEAST_SEGMENTS
        && (times - 1) * part.segment_bytes > unit
    {
        times -= 1;
    }
    times
}

impl Joined {
    /// Returns the segment of the inner device that has this byte of a segment, and where.
    fn part_of(&self, segment: u64, offset: usize) -> (u64, usize) {
        let (number, offset) = (offset / self.part.segment_bytes, offset % self.part.segment_bytes);
        (segment * self.times as u64 + number as u64, offset)
    }

    /// Returns how many of `len` bytes from `offset` on are in one segment of the inner device.
    fn first_part(&self, offset: usize, len: usize) -> usize {
        len.min(self.part.segment_bytes - offset % self.part.segment_bytes)
    }
}

impl SwapDevice for Joined {
    fn geometry(&self) -> Geometry {
        Geometry {
            segments: self.part.segments / self.times as u64,
            segment_bytes: self.part.segment_bytes * self.times,
            block_bytes: self.part.block_bytes,
        }
    }

    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.geometry().check(segment, 0, bytes.len())?;
        for (n, part) in bytes.chunks(self.part.segment_bytes).enumerate() {
            let at = n * self.part.segment_bytes;
            let written = self.inner[0].write_segment(self.part_of(segment, at).0, part);
            written.map_err(|error| error.in_segment(segment, at))?;
        }
        Ok(())
    }

    fn read(&self, segment: u64, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.geometry().check(segment, offset, bytes.len())?;
        let (mut rest, mut at) = (bytes, offset);
        while !rest.is_empty() {
            let (part, later) = rest.split_at_mut(self.first_part(at, rest.len()));
            let (inner, start) = self.part_of(segment, at);
            let read = self.inner[0].read(inner, start, part);
            read.map_err(|error| error.in_segment(segment, at - start))?;
            at += part.len();
            rest = later;
        }
        Ok(())
    }

    fn read_many(&self, reads: &mut [RangeRead<'_>]) {
        let mut parts: Vec<RangeRead<'_>> = Vec::new();
        // A read reaches into at most two parts, unless it is longer than one.
        let most = |read: &RangeRead<'_>| read.bytes.len().div_ceil(self.part.segment_bytes) + 1;
        if parts.try_reserve_exact(reads.iter().map(most).sum()).is_err() {
            for RangeRead { segment, offset, bytes, result } in reads {
                *result = self.read(*segment, *offset, bytes);
            }
            return;
        }
        for read in reads.iter_mut() {
            let (segment, mut at) = (read.segment, read.offset);
            read.result = self.geometry().check(segment, at, read.bytes.len());
            let mut rest = if read.result.is_ok() { &mut *read.bytes } else { &mut [] };
            while !rest.is_empty() {
                let (part, later) = rest.split_at_mut(self.first_part(at, rest.len()));
                let (inner, start) = self.part_of(segment, at);
                at += part.len();
                parts.push(RangeRead::new(inner, start, part));
                rest = later;
            }
        }
        self.inner[0].read_many(&mut parts);
        let mut done = parts.into_iter().map(|part| (part.bytes.len(), part.offset, part.result));
        let mut results = Vec::new();
        if results.try_reserve_exact(done.len()).is_err() {
            // Nothing is known of single reads then.
            drop(done);
            reads.iter_mut().for_each(|read| read.result = Err(DeviceError::OutOfMemory));
            return;
        }
        results.extend(&mut done);
        drop(done);
        let mut results = results.into_iter();
        for read in reads.iter_mut().filter(|read| read.result.is_ok()) {
            let (mut at, end) = (read.offset, read.offset + read.bytes.len());
            while at < end {
                let Some((len, start, result)) = results.next() else { break };
                let failed = result.map_err(|error| error.in_segment(read.segment, at - start));
                if let (Ok(()), Err(error)) = (&read.result, failed) {
                    read.result = Err(error);
                }
                at += len;
            }
        }
    }

    fn discard(&self, segment: u64) {
        if self.geometry().check(segment, 0, 0).is_err() {
            return;
        }
        for n in 0..self.times {
            let part = self.part_of(segment, n * self.part.segment_bytes).0;
            // A panic must not keep the other parts: each is discarded before it is written again.
            let _ = zpool_base::unwind::caught(|| self.inner[0].discard(part));
        }
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.inner[0].flush()
    }

    fn inner(&self) -> &[Arc<dyn SwapDevice>] {
        &self.inner
    }

    fn memory_bytes(&self) -> usize {
        self.inner[0].memory_bytes()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::device::MemorySwapDevice;

    #[test]
    fn as_many_segments_as_hold_four_units_make_one() {
        let part = |segments, segment_bytes| Geometry { segments, segment_bytes, block_bytes: 1 };
        let large = part(1 << 20, 65536);
        assert_eq!([8192, 16384, 32768, 65536].map(|unit| times(large, unit)), [1, 1, 2, 4]);
        assert_eq!(times(part(1 << 20, 8192), 8192), 4);
        assert_eq!(times(part(1 << 20, 256 << 10), 65536), 1);
        // Few segments: as long as must be.
        assert_eq!([6, 8, 12, 16].map(|n| times(part(n, 65536), 65536)), [2, 2, 3, 4]);
        assert_eq!(times(part(1, 65536), 65536), 2, "no segment is left");
    }

    #[test]
    fn bytes_come_back_across_the_borders_of_parts() {
        let inner: Arc<dyn SwapDevice> = Arc::new(MemorySwapDevice::new(64));
        let joined = for_unit(inner.clone(), 32768).unwrap();
        assert_eq!(inner.geometry().segments, 4);
        assert_eq!((joined.geometry().segments, joined.geometry().segment_bytes), (4, 65536));
        let inner: Arc<dyn SwapDevice> = Arc::new(MemorySwapDevice::new(1024));
        let joined = for_unit(inner.clone(), 65536).unwrap();
        assert_eq!((joined.geometry().segments, joined.geometry().segment_bytes), (16, 1 << 18));
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n / 7) as u8 ^ (n % 251) as u8).collect();
        joined.write_segment(3, &bytes).unwrap();
        let whole = |at: usize, len: usize| {
            let mut read = vec![0; len];
            joined.read(3, at, &mut read).unwrap();
            assert_eq!(read, bytes[at..at + len]);
            read
        };
        whole(0, bytes.len());
        whole(65535, 2);
        whole(131_000, 66_000);
        let (mut one, mut two, mut three) = ([0; 70_000], [0; 10], [0; 1]);
        let mut reads = [
            RangeRead::new(3, 65_000, &mut one),
            RangeRead::new(16, 0, &mut two),
            RangeRead::new(3, 199_999, &mut three),
        ];
        joined.read_many(&mut reads);
        assert!(reads[0].result.is_ok() && reads[2].result.is_ok());
        assert!(matches!(reads[1].result, Err(DeviceError::OutOfRange { segment: 16, .. })));
        assert_eq!((&one[..], three[0]), (&bytes[65_000..135_000], bytes[199_999]));
        joined.discard(3);
        let missing = joined.read(3, 70_000, &mut [0; 4]).unwrap_err();
        assert!(matches!(missing, DeviceError::Missing { segment: 3 }), "{missing:?}");
        assert!(inner.read(13, 0, &mut [0; 4]).is_err());
    }
}
