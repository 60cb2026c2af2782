//! Fault injection: a device that fails chosen calls.

use std::io;
use std::sync::Arc;
// These are from std even under loom: they are switches for tests, and no modelled protocol depends on them.
use std::sync::atomic::{AtomicU64, Ordering};

use super::{DeviceError, Geometry, SwapDevice};

/// Wraps a device and fails chosen reads, writes or flushes, as a full disk or a bad sector does.
///
/// `Send` and `Sync`.
///
/// ```
/// use std::sync::Arc;
/// use zpage::device::{FaultySwapDevice, MemorySwapDevice, SwapDevice};
///
/// let device = FaultySwapDevice::new(Arc::new(MemorySwapDevice::new(64)));
/// device.fail_writes(1, 1);
/// assert!(device.write_segment(0, b"packed pages").is_ok());
/// assert!(device.write_segment(1, b"packed pages").is_err());
/// assert!(device.write_segment(1, b"packed pages").is_ok());
/// ```
#[derive(Debug)]
pub struct FaultySwapDevice {
    inner: Arc<dyn SwapDevice>,
    writes: Faults,
    reads: Faults,
    flushes: Faults,
}

/// How many of the next calls succeed (`after`), and how many calls after those fail (`fail`).
#[derive(Debug, Default)]
struct Faults {
    after: AtomicU64,
    fail: AtomicU64,
}

impl Faults {
    fn set(&self, after: u64, fail: u64) {
        self.after.store(after, Ordering::SeqCst);
        self.fail.store(fail, Ordering::SeqCst);
    }

    fn strikes(&self) -> bool {
        let less = |n: u64| n.checked_sub(1);
        let count =
            |word: &AtomicU64| word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok();
        !count(&self.after) && count(&self.fail)
    }
}

impl FaultySwapDevice {
    /// Wraps `inner`. At first, no call fails.
    pub fn new(inner: Arc<dyn SwapDevice>) -> Self {
        let (writes, reads, flushes) = Default::default();
        FaultySwapDevice { inner, writes, reads, flushes }
    }

    /// Lets the next `after` writes succeed and makes the `count` writes after them fail with `StorageFull`. A
    /// write that fails writes the first half of the bytes, and zeros in place of the rest. If there is no memory
    /// for that, it writes nothing and fails with [`DeviceError::OutOfMemory`].
    pub fn fail_writes(&self, after: u64, count: u64) {
        self.writes.set(after, count);
    }

    /// Lets the next `after` reads succeed and makes the `count` reads after them fail with `UnexpectedEof`. A
    /// read that fails spoils the first bytes of the caller's buffer.
    pub fn fail_reads(&self, after: u64, count: u64) {
        self.reads.set(after, count);
    }

    /// Lets the next `after` flushes succeed and makes the `count` flushes after them fail with `StorageFull`, as a
    /// file system that allocates space late does.
    pub fn fail_flushes(&self, after: u64, count: u64) {
        self.flushes.set(after, count);
    }
}

impl SwapDevice for FaultySwapDevice {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        if self.writes.strikes() {
            // Only the first half of the bytes arrives, as in a write that is cut short.
            let mut half = Vec::new();
            half.try_reserve_exact(bytes.len()).map_err(|_| DeviceError::OutOfMemory)?;
            half.extend_from_slice(&bytes[..bytes.len() / 2]);
            half.resize(bytes.len(), 0);
            let _ = self.inner.write_segment(segment, &half);
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(DeviceError::io("write", segment, &full));
        }
        self.inner.write_segment(segment, bytes)
    }

    fn read(&self, segment: u64, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        if self.reads.strikes() {
            let spoilt = bytes.len().min(100);
            bytes[..spoilt].fill(0xEE);
            let cut = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(DeviceError::io("read", segment, &cut));
        }
        self.inner.read(segment, offset, bytes)
    }

    fn discard(&self, segment: u64) {
        self.inner.discard(segment);
    }

    fn flush(&self) -> Result<(), DeviceError> {
        if self.flushes.strikes() {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(DeviceError::io("flush", 0, &full));
        }
        self.inner.flush()
    }

    fn inner(&self) -> &[Arc<dyn SwapDevice>] {
        core::slice::from_ref(&self.inner)
    }

    fn memory_bytes(&self) -> usize {
        self.inner.memory_bytes()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::device::MemorySwapDevice;

    fn failed(
        operation: &'static str,
        segment: u64,
        kind: io::ErrorKind,
    ) -> Result<(), DeviceError> {
        Err(DeviceError::Io { operation, segment, kind, code: None })
    }

    #[test]
    fn a_failing_write_leaves_its_first_half_and_zeros() {
        let geometry = Geometry { segments: 2, segment_bytes: 8192, block_bytes: 512 };
        let memory = Arc::new(MemorySwapDevice::with_geometry(geometry));
        let device = FaultySwapDevice::new(memory.clone());
        assert_eq!(device.geometry(), geometry);
        device.fail_writes(1, 2);
        device.write_segment(0, &[7; 512]).unwrap();
        for len in [512, 1536] {
            let full = failed("write", 1, io::ErrorKind::StorageFull);
            assert_eq!(device.write_segment(1, &vec![7; len]), full);
            let mut back = vec![9; len];
            memory.read(1, 0, &mut back).unwrap();
            assert!(back[..len / 2].iter().all(|byte| *byte == 7));
            assert!(back[len / 2..].iter().all(|byte| *byte == 0));
        }
        device.write_segment(1, &[8; 512]).unwrap();
        let mut back = [9; 512];
        device.read(1, 0, &mut back).unwrap();
        assert_eq!(back, [8; 512]);
    }

    #[test]
    fn a_failing_read_spoils_the_buffer_and_a_later_one_succeeds() {
        let device = FaultySwapDevice::new(Arc::new(MemorySwapDevice::new(64)));
        device.write_segment(0, &[7; 200]).unwrap();
        device.fail_reads(0, 2);
        let (mut few, mut many) = ([0; 3], [0; 200]);
        let cut = failed("read", 0, io::ErrorKind::UnexpectedEof);
        assert_eq!((device.read(0, 0, &mut few), few), (cut.clone(), [0xEE; 3]));
        assert_eq!(device.read(0, 0, &mut many), cut);
        assert!(many[..100] == [0xEE; 100] && many[100..] == [0; 100]);
        device.read(0, 0, &mut many).unwrap();
        assert_eq!(many, [7; 200]);
        device.discard(0);
        assert_eq!(device.read(0, 0, &mut few), Err(DeviceError::Missing { segment: 0 }));
    }

    #[test]
    fn flushes_fail_on_their_own() {
        let device = FaultySwapDevice::new(Arc::new(MemorySwapDevice::new(64)));
        device.fail_flushes(1, 1);
        device.flush().unwrap();
        device.write_segment(0, &[7; 200]).unwrap();
        assert_eq!(device.flush(), failed("flush", 0, io::ErrorKind::StorageFull));
        device.flush().unwrap();
        device.fail_flushes(0, 1);
        let outer = FaultySwapDevice::new(Arc::new(device));
        assert!(outer.flush().is_err(), "the flush reaches the device that is wrapped");
        assert!(outer.flush().is_ok());
    }
}
