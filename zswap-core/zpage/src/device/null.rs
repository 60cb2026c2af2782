//! A device that keeps nothing.

use super::{DeviceError, Geometry, SwapDevice};

/// Accepts any bytes and keeps none, to measure the cost of writeback itself. A page that is written back
/// here is lost: its read fails with [`DeviceError::Missing`].
///
/// `Send` and `Sync`.
///
/// ```
/// use zpage::device::{DeviceError, NullSwapDevice, SwapDevice};
///
/// let device = NullSwapDevice::new(1 << 10);
/// device.write_segment(3, b"packed pages")?;
/// let lost = device.read(3, 0, &mut [0; 6]);
/// assert_eq!(lost, Err(DeviceError::Missing { segment: 3 }));
/// # Ok::<(), DeviceError>(())
/// ```
#[derive(Debug)]
pub struct NullSwapDevice {
    geometry: Geometry,
}

impl NullSwapDevice {
    /// Makes a device of `pages` times 4096 bytes, with the sizes of [`Geometry::of_pages`].
    pub fn new(pages: u64) -> Self {
        Self::with_geometry(Geometry::of_pages(pages))
    }

    /// Makes a device of these sizes. A store refuses to attach the device if it cannot use them.
    pub fn with_geometry(geometry: Geometry) -> Self {
        NullSwapDevice { geometry }
    }
}

impl SwapDevice for NullSwapDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.geometry.check(segment, 0, bytes.len())
    }

    fn read(&self, segment: u64, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.geometry.check(segment, offset, bytes.len())?;
        Err(DeviceError::Missing { segment })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_fits_and_gives_nothing_back() {
        for block_bytes in [1, 512, 4096] {
            let geometry = Geometry { segments: 2, segment_bytes: 8192, block_bytes };
            let device = NullSwapDevice::with_geometry(geometry);
            assert_eq!(device.geometry(), geometry);
            let mut bytes = [5; 8193];
            device.write_segment(1, &bytes[..8192]).unwrap();
            let missing = Err(DeviceError::Missing { segment: 1 });
            assert_eq!(device.read(1, 4096, &mut bytes[..4096]), missing);
            let beyond = |refused| matches!(refused, Err(DeviceError::OutOfRange { .. }));
            assert!(beyond(device.write_segment(2, &bytes[..4096])));
            assert!(beyond(device.write_segment(1, &bytes)));
            assert!(beyond(device.read(1, 8192, &mut bytes[..4096])));
            let broken = device.write_segment(1, &bytes[..100]);
            let unaligned = matches!(broken, Err(DeviceError::Unaligned { .. }));
            assert!(unaligned == (block_bytes > 1), "{broken:?}");
        }
    }
}
