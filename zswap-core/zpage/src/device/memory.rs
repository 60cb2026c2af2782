//! A device in memory, for tests.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zpool_base::fork::Leaked;

use super::{DeviceError, Geometry, SwapDevice};

/// Keeps segments in memory. For tests: it saves no memory.
///
/// The device keeps the bytes that were written to a segment, not the rest of the segment. A read of other
/// bytes fails with [`DeviceError::Missing`].
///
/// `Send` and `Sync`; one mutex guards all segments. In a child after `fork` each call fails with
/// [`DeviceError::Forked`], the device holds nothing, and dropping it does nothing.
///
/// ```
/// use zpage::device::{DeviceError, MemorySwapDevice, SwapDevice};
///
/// let device = MemorySwapDevice::new(1 << 10);
/// device.write_segment(3, b"packed pages")?;
/// let mut back = [0; 5];
/// device.read(3, 7, &mut back)?;
/// assert_eq!(&back, b"pages");
/// assert_eq!(device.read(3, 8, &mut back), Err(DeviceError::Missing { segment: 3 }));
/// assert_eq!((device.segments(), device.bytes()), (1, 12));
/// # Ok::<(), DeviceError>(())
/// ```
#[derive(Debug)]
pub struct MemorySwapDevice {
    geometry: Geometry,
    /// The written bytes by segment.
    segments: Leaked<Mutex<Segments>>,
}

type Segments = HashMap<u64, Box<[u8]>>;

impl MemorySwapDevice {
    /// Makes a device of `pages` times 4096 bytes, with the sizes of [`Geometry::of_pages`]. A segment takes memory
    /// only while it holds bytes.
    pub fn new(pages: u64) -> Self {
        Self::with_geometry(Geometry::of_pages(pages))
    }

    /// Makes a device of these sizes. A store refuses to attach the device if it cannot use them.
    ///
    /// ```
    /// use zpage::device::{DeviceError, Geometry, MemorySwapDevice, SwapDevice};
    ///
    /// let geometry = Geometry { segments: 2, segment_bytes: 8192, block_bytes: 512 };
    /// let device = MemorySwapDevice::with_geometry(geometry);
    /// device.write_segment(1, &[7; 1024])?;
    /// assert!(matches!(device.write_segment(0, &[7; 1000]), Err(DeviceError::Unaligned { .. })));
    /// # Ok::<(), DeviceError>(())
    /// ```
    pub fn with_geometry(geometry: Geometry) -> Self {
        MemorySwapDevice { geometry, segments: Leaked::default() }
    }

    /// Returns the number of segments that hold bytes; 0 in a child after `fork`.
    pub fn segments(&self) -> usize {
        self.lock().map_or(0, |segments| segments.len())
    }

    /// Returns the number of bytes that the segments hold; 0 in a child after `fork`.
    pub fn bytes(&self) -> usize {
        self.lock().map_or(0, |segments| segments.values().map(|held| held.len()).sum())
    }

    fn lock(&self) -> Result<MutexGuard<'_, Segments>, DeviceError> {
        if !self.segments.is_here() {
            // A thread of the parent may have held the lock at the fork.
            return Err(DeviceError::Forked);
        }
        Ok(self.segments.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl SwapDevice for MemorySwapDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.geometry.check(segment, 0, bytes.len())?;
        let mut copy = Vec::new();
        copy.try_reserve_exact(bytes.len()).map_err(|_| DeviceError::OutOfMemory)?;
        copy.extend_from_slice(bytes);
        let mut segments = self.lock()?;
        let older = if copy.is_empty() {
            segments.remove(&segment)
        } else {
            segments.try_reserve(1).map_err(|_| DeviceError::OutOfMemory)?;
            segments.insert(segment, copy.into_boxed_slice())
        };
        drop(segments);
        drop(older);
        Ok(())
    }

    fn read(&self, segment: u64, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.geometry.check(segment, offset, bytes.len())?;
        let segments = self.lock()?;
        let held = segments.get(&segment).and_then(|held| held.get(offset..)?.get(..bytes.len()));
        bytes.copy_from_slice(held.ok_or(DeviceError::Missing { segment })?);
        Ok(())
    }

    fn discard(&self, segment: u64) {
        let Ok(mut segments) = self.lock() else { return };
        let gone = segments.remove(&segment);
        drop(segments);
        drop(gone);
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.lock().map(drop)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_segment_far_behind_the_others_costs_no_more_than_another_one() {
        let geometry = Geometry { segments: u64::MAX, ..Geometry::of_pages(64) };
        let device = MemorySwapDevice::with_geometry(geometry);
        let mut back = [0; 100];
        for segment in [0, u64::MAX - 1] {
            device.write_segment(segment, &[7; 100]).unwrap();
            device.read(segment, 0, &mut back).unwrap();
            assert_eq!(back, [7; 100]);
        }
        device.write_segment(0, &[8; 50]).unwrap();
        let places = device.lock().unwrap().capacity();
        assert!(places < 100, "{places}");
        assert_eq!((device.segments(), device.bytes()), (2, 150));
        device.discard(0);
        assert_eq!(device.read(0, 0, &mut back[..1]), Err(DeviceError::Missing { segment: 0 }));
        assert_eq!((device.segments(), device.bytes()), (1, 100));
    }

    #[test]
    fn only_bytes_of_the_last_write_can_be_read() {
        let device = MemorySwapDevice::new(64);
        let bytes: Vec<u8> = (0..1000_u32).map(|n| n as u8).collect();
        device.write_segment(2, &[0xFF; 2000]).unwrap();
        device.write_segment(2, &bytes).unwrap();
        let mut back = [0; 300];
        for offset in [0, 1, 700] {
            device.read(2, offset, &mut back).unwrap();
            assert_eq!(back, bytes[offset..offset + 300]);
        }
        for offset in [701, 1000, 1001, 65236] {
            assert_eq!(device.read(2, offset, &mut back), Err(DeviceError::Missing { segment: 2 }));
        }
        assert_eq!(device.read(1, 0, &mut back), Err(DeviceError::Missing { segment: 1 }));
        device.write_segment(2, &[]).unwrap();
        assert_eq!((device.segments(), device.bytes()), (0, 0));
    }

    #[test]
    fn a_range_beyond_the_device_or_of_broken_blocks_is_refused() {
        for block_bytes in [1, 512, 4096] {
            let geometry = Geometry { segments: 3, segment_bytes: 8192, block_bytes };
            let device = MemorySwapDevice::with_geometry(geometry);
            assert_eq!(device.geometry(), geometry);
            let mut bytes = vec![5; 8192 + block_bytes];
            let beyond = |segment, start, end| {
                Err(DeviceError::OutOfRange { segment, start, end, geometry })
            };
            let end = bytes.len();
            assert_eq!(device.write_segment(2, &bytes), beyond(2, 0, end));
            assert_eq!(device.write_segment(3, &bytes[..8192]), beyond(3, 0, 8192));
            assert_eq!(device.segments(), 0);
            device.write_segment(2, &bytes[..8192]).unwrap();
            let tail = device.read(2, 4096, &mut bytes[..4096 + block_bytes]);
            assert_eq!(tail, beyond(2, 4096, end));
            assert_eq!(device.read(3, 0, &mut bytes[..4096]), beyond(3, 0, 4096));
            let end = usize::MAX;
            assert_eq!(device.read(2, usize::MAX, &mut bytes[..4096]), beyond(2, end, end));
            device.read(2, 8192 - block_bytes, &mut bytes[..block_bytes]).unwrap();
            if block_bytes > 1 {
                let half = block_bytes / 2;
                let broken = |start, end| {
                    Err(DeviceError::Unaligned { segment: 2, start, end, block_bytes })
                };
                assert_eq!(device.write_segment(2, &bytes[..half]), broken(0, half));
                let read = device.read(2, half, &mut bytes[..block_bytes]);
                assert_eq!(read, broken(half, half + block_bytes));
            }
        }
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    #[test]
    fn a_forked_child_gets_errors() {
        let device = MemorySwapDevice::new(64);
        device.write_segment(0, &[7; 100]).unwrap();
        let held = device.lock().unwrap();
        let forked = crate::device::tests::in_child(|| {
            let mut back = [0; 100];
            assert_eq!(device.write_segment(1, &back), Err(DeviceError::Forked));
            assert_eq!(device.read(0, 0, &mut back), Err(DeviceError::Forked));
            assert_eq!(device.flush(), Err(DeviceError::Forked));
            device.discard(0);
            assert_eq!((device.segments(), device.bytes()), (0, 0));
        });
        drop(held);
        assert!(forked && device.segments() == 1 && device.flush().is_ok());
    }
}
