//! Swap devices, to which a store or disk writes pages back.

mod attach;
mod faulty;
mod file;
mod geometry;
pub(crate) mod joined;
mod memory;
mod null;
mod page_device;
mod throttled;

pub use attach::AttachError;
pub(crate) use attach::Attached;
pub use faulty::FaultySwapDevice;
pub use file::{FileDeviceError, FileSwapDevice};
pub use geometry::Geometry;
pub use memory::MemorySwapDevice;
pub use null::NullSwapDevice;
pub use page_device::{PageDevice, PageSwapDevice};
pub use throttled::ThrottledSwapDevice;

use core::fmt;
use std::io;
use std::sync::Arc;

/// Errors of a [`SwapDevice`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The system call failed or was cut short.
    #[error("{} failed: {}", Call(operation, *segment), Said(*kind, *code))]
    Io {
        /// "read", "write" or "flush".
        operation: &'static str,
        /// The segment; 0 for a flush, which is of all segments.
        segment: u64,
        /// The kind of failure; a full disk is `StorageFull`.
        kind: io::ErrorKind,
        /// The system's error number, if it gave one.
        code: Option<i32>,
    },
    /// The device has no such segment, or the segment is not that long.
    #[error(
        "bytes {start} to {end} of segment {segment} are beyond the device's {} segments of {} bytes",
        geometry.segments, geometry.segment_bytes
    )]
    OutOfRange {
        /// The segment.
        segment: u64,
        /// The first byte of the range.
        start: usize,
        /// The end of the range.
        end: usize,
        /// The sizes of the device.
        geometry: Geometry,
    },
    /// The range does not consist of whole blocks.
    #[error(
        "bytes {start} to {end} of segment {segment} are not whole blocks: the start and the end must be \
         multiples of {block_bytes}"
    )]
    Unaligned {
        /// The segment.
        segment: u64,
        /// The first byte of the range.
        start: usize,
        /// The end of the range.
        end: usize,
        /// The bytes of a block.
        block_bytes: usize,
    },
    /// The device does not hold the bytes: they were not written, or the device did not keep them.
    #[error("the device holds no bytes where they were written in segment {segment}")]
    Missing {
        /// The segment.
        segment: u64,
    },
    /// The bytes read are not those that were written there.
    #[error(
        "segment {segment} does not hold at byte {offset} what was written there: something else changed \
         the device's storage, or the device lost a write; let nothing but the device write to it"
    )]
    Corrupt {
        /// The segment.
        segment: u64,
        /// The offset of the object in the segment, in bytes.
        offset: usize,
    },
    /// The segment lies beyond this process's file size limit.
    #[error(
        "segment {segment} lies beyond the {limit} bytes that this process may write to a file: raise \
         RLIMIT_FSIZE (ulimit -f), or use a smaller device"
    )]
    FileSizeLimit {
        /// The segment.
        segment: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// No segment is free, and cleaning frees none.
    #[error("all {segments} segments of the device are full")]
    Full {
        /// Segments of the device.
        segments: u64,
    },
    /// There is no memory for a segment's bytes or for the record of what it holds.
    #[error("no memory to record what a segment of the device holds; free memory and retry")]
    OutOfMemory,
    /// The device panicked.
    #[error("the device panicked in the {}", Call(operation, *segment))]
    Panicked {
        /// "read", "write" or "flush".
        operation: &'static str,
        /// The segment; 0 for a flush, which is of all segments.
        segment: u64,
    },
    /// This process is a forked child of the process that made the device. Only the process that made it may use
    /// it.
    #[error(
        "the device belongs to the process that made it, and this is a forked child: make another device \
         in the child"
    )]
    Forked,
}

impl DeviceError {
    /// Wraps an error of the system. Allocates nothing.
    pub fn io(operation: &'static str, segment: u64, error: &io::Error) -> Self {
        DeviceError::Io { operation, segment, kind: error.kind(), code: error.raw_os_error() }
    }

    /// Returns this error of a smaller unit, such as a slot of a [`PageSwapDevice`], as an error of the segment in
    /// which the unit begins at byte `offset`: replaces the number, and moves ranges and offsets by `offset`. An
    /// error without a number stays as it is.
    ///
    /// ```
    /// use zpage::device::DeviceError;
    ///
    /// let of_slot = DeviceError::Corrupt { segment: 35, offset: 0 };
    /// let of_segment = of_slot.in_segment(2, 3 * 4096);
    /// assert_eq!(of_segment, DeviceError::Corrupt { segment: 2, offset: 3 * 4096 });
    /// ```
    #[must_use]
    pub fn in_segment(mut self, segment: u64, offset: usize) -> Self {
        match &mut self {
            DeviceError::Io { segment: number, .. }
            | DeviceError::Missing { segment: number }
            | DeviceError::FileSizeLimit { segment: number, .. }
            | DeviceError::Panicked { segment: number, .. } => *number = segment,
            DeviceError::OutOfRange { segment: number, start, end, .. }
            | DeviceError::Unaligned { segment: number, start, end, .. } => {
                *number = segment;
                *start = start.saturating_add(offset);
                *end = end.saturating_add(offset);
            }
            DeviceError::Corrupt { segment: number, offset: at } => {
                *number = segment;
                *at = at.saturating_add(offset);
            }
            DeviceError::Full { .. } | DeviceError::OutOfMemory | DeviceError::Forked => {}
        }
        self
    }
}

/// Displays a call: its name, and the segment that it is for. A flush is for all segments.
struct Call<'a>(&'a str, u64);

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "flush" => f.write_str("flush"),
            operation => write!(f, "{operation} of segment {}", self.1),
        }
    }
}

/// Displays the system's message for the error number, or the error's kind if there is no number.
struct Said(io::ErrorKind, Option<i32>);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(code) => io::Error::from_raw_os_error(code).fmt(f),
            None => self.0.fmt(f),
        }
    }
}

/// One of several reads ([`SwapDevice::read_many`]).
#[derive(Debug)]
pub struct RangeRead<'a> {
    /// The segment to read from.
    pub segment: u64,
    /// The first byte of the range in the segment.
    pub offset: usize,
    /// Receives the bytes of the range. After an error its content is unspecified.
    pub bytes: &'a mut [u8],
    /// The result, which the device sets. [`DeviceError::Missing`] until then.
    pub result: Result<(), DeviceError>,
}

impl<'a> RangeRead<'a> {
    /// Wants as many bytes of a segment as `bytes` has room for, from `offset` on.
    pub fn new(segment: u64, offset: usize, bytes: &'a mut [u8]) -> Self {
        RangeRead { segment, offset, bytes, result: Err(DeviceError::Missing { segment }) }
    }
}

/// A device of numbered segments, each of which holds up to [`Geometry::segment_bytes`] bytes. A store packs
/// many compressed pages into a segment, writes it with one call, and reads ranges of it.
///
/// # What the store does
/// * It writes a segment once, from the segment's start. Before it writes the segment again, it discards it.
/// * It reads only ranges that it has written, and neither writes nor discards a segment that is being read.
/// * Lengths and offsets are multiples of [`Geometry::block_bytes`].
/// * It checks the bytes that it reads: each object has a checksum over its bytes and over what the store knows
///   about it. So a device need not detect that its storage was changed.
///
/// # What may fail, and what a failure leaves
/// Any call may fail. It may also panic, which the store treats as an error ([`DeviceError::Panicked`]).
/// * After a failed write the segment's content is unspecified. The pages stay in memory, and the store discards
///   the segment before it uses it again.
/// * After a failed read the segment is unchanged. The page stays on the device, and a later read may succeed.
/// * `discard` is a hint and cannot fail.
///
/// Calls may block. zswap-core holds no entry lock during a call. zram holds a page's lock only while it writes a part of a page that is on
/// the device.
/// Calls come from any thread and may overlap. Calls for the same segment overlap only if all of them are reads.
/// In a child after `fork` the store does not call the device.
///
/// A device belongs to one store at a time. Building a store attaches the device, and dropping the store
/// detaches it. Attaching fails with [`AttachError::InUse`] if the device is attached already.
///
/// No method and no destructor of a device may store pages to, or load pages from, the store that the
/// device is attached to. That store may be waiting for this call to return, and may need the device for
/// the other page, too.
///
/// A device whose storage consists of single pages implements [`PageSwapDevice`] instead, and is used through
/// [`PageDevice`].
///
/// ```
/// use std::sync::Mutex;
/// use zpage::device::{DeviceError, Geometry, SwapDevice};
///
/// /// A device of one segment of 8 KiB.
/// #[derive(Debug, Default)]
/// struct OneSegment(Mutex<Vec<u8>>);
///
/// impl SwapDevice for OneSegment {
///     fn geometry(&self) -> Geometry {
///         Geometry { segments: 1, segment_bytes: 8192, block_bytes: 1 }
///     }
///     fn write_segment(&self, _segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
///         *self.0.lock().unwrap() = bytes.to_vec();
///         Ok(())
///     }
///     fn read(&self, segment: u64, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
///         let held = self.0.lock().unwrap();
///         let range = held.get(offset..offset + bytes.len());
///         bytes.copy_from_slice(range.ok_or(DeviceError::Missing { segment })?);
///         Ok(())
///     }
/// }
///
/// let device = OneSegment::default();
/// device.write_segment(0, b"packed pages")?;
/// let mut back = [0; 5];
/// device.read(0, 7, &mut back)?;
/// assert_eq!(&back, b"pages");
/// # Ok::<(), DeviceError>(())
/// ```
pub trait SwapDevice: Send + Sync + fmt::Debug {
    /// Returns the sizes of the device. The result must not change.
    fn geometry(&self) -> Geometry;

    /// Writes `bytes` to a segment, from the segment's start.
    ///
    /// # Errors
    /// Any [`DeviceError`]. The segment's content is then unspecified.
    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Fills `bytes` with the bytes that were written to a segment at `offset`. After an error the content of
    /// `bytes` is unspecified.
    ///
    /// # Errors
    /// Any [`DeviceError`]; usually [`DeviceError::Missing`] if the device does not hold all of the bytes. A
    /// device must not return `Ok` if it read fewer bytes.
    fn read(&self, segment: u64, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Does several reads, and notes the result of each. A device that can do them at the same time should: a store
    /// calls this to load a batch of pages. By default, calls [`read`](Self::read) for one after another.
    fn read_many(&self, reads: &mut [RangeRead<'_>]) {
        for RangeRead { segment, offset, bytes, result } in reads {
            *result = self.read(*segment, *offset, bytes);
        }
    }

    /// Hints that the bytes of a segment are not needed any more. Does nothing by default.
    fn discard(&self, segment: u64) {
        let _ = segment;
    }

    /// Waits until the written segments are on the device's storage. Does nothing by default.
    ///
    /// # Errors
    /// Any [`DeviceError`].
    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Returns the devices on which this device keeps its segments, if it is a wrapper; none by default. A store
    /// attaches them together with the wrapper, so that no other store can use them. The result must not
    /// change.
    fn inner(&self) -> &[Arc<dyn SwapDevice>] {
        &[]
    }

    /// Returns the devices of pages on which this device keeps its segments: [`PageDevice`] returns its one. A
    /// store attaches them, too. The result must not change.
    fn page_devices(&self) -> &[Arc<dyn PageSwapDevice>] {
        &[]
    }

    /// Returns the heap bytes that the device uses to keep track of its segments; 0 by default.
    fn memory_bytes(&self) -> usize {
        0
    }
}

#[cfg(all(test, not(loom)))]
pub(crate) mod tests {
    use super::*;

    /// Runs `checks` in a forked child. Returns whether they passed.
    #[cfg(all(target_os = "linux", not(miri)))]
    pub(crate) fn in_child(checks: impl FnOnce()) -> bool {
        // SAFETY: the child runs only `checks`. It uses no lock of the parent's other threads but those of the
        // allocator, which the C library releases in the child.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "fork failed");
        if child == 0 {
            let passed = zpool_base::unwind::caught(checks).is_some();
            // SAFETY: `_exit` has no preconditions.
            unsafe { libc::_exit(i32::from(!passed)) };
        }
        let mut status = -1;
        // SAFETY: `status` is valid for writes.
        let waited = unsafe { libc::waitpid(child, &mut status, 0) };
        waited == child && status == 0
    }

    #[test]
    fn an_error_of_a_part_becomes_one_of_the_segment() {
        let (kind, code, geometry) = (io::ErrorKind::StorageFull, Some(28), Geometry::of_pages(64));
        let all = |segment, start, end| {
            [
                DeviceError::Io { operation: "write", segment, kind, code },
                DeviceError::OutOfRange { segment, start, end, geometry },
                DeviceError::Unaligned { segment, start, end, block_bytes: 512 },
                DeviceError::Missing { segment },
                DeviceError::Corrupt { segment, offset: start },
                DeviceError::FileSizeLimit { segment, limit: 9 },
                DeviceError::Full { segments: 4 },
                DeviceError::OutOfMemory,
                DeviceError::Panicked { operation: "read", segment },
                DeviceError::Forked,
            ]
        };
        assert_eq!(all(35, 1, 2).map(|error| error.in_segment(2, 100)), all(2, 101, 102));
    }

    #[test]
    fn an_error_names_the_segment_unless_it_is_of_a_flush() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let said = |operation| {
            let panicked = DeviceError::Panicked { operation, segment: 7 };
            (DeviceError::io(operation, 7, &full).to_string(), panicked.to_string())
        };
        let (failed, panicked) = said("write");
        assert!(failed.starts_with("write of segment 7 failed: "), "{failed}");
        assert_eq!(panicked, "the device panicked in the write of segment 7");
        let (failed, panicked) = said("flush");
        assert!(failed.starts_with("flush failed: "), "{failed}");
        assert_eq!(panicked, "the device panicked in the flush");
    }
}
