//! A device in a file.
//!
//! The file belongs to the device alone (`file/open.rs`). The device keeps no record of what it wrote: the store
//! checks what it reads.

mod open;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use zpool_base::fork::Leaked;

pub use self::open::FileDeviceError;
use super::{DeviceError, Geometry, SwapDevice};
use crate::PAGE_SIZE;

/// The most bytes of a device, in whole pages: a file's length in bytes is an `i64`.
const MOST: u64 = i64::MAX as u64 / PAGE_SIZE as u64 * PAGE_SIZE as u64;

/// Keeps segments in a file, one after the other.
///
/// A new file gets mode 0600, so that only its owner can open it. An existing file is used only if it is an
/// empty regular file, belongs to this user, and gives other users no permission. The last component of the path
/// must not be a symbolic link. [`block_device`](Self::block_device) uses a block device. On Linux, a file on procfs, sysfs and the like is refused. While the device
/// lives, the file is locked (`flock`): creating a second device on it fails, in this process and in any other.
/// The file is closed on exec. On Windows, only the length and the kind of the file are checked, and the file is
/// opened without sharing instead of being locked.
///
/// The file grows as segments are written. On Linux, discarding a segment frees its space in the file, if the
/// file system supports holes. Dropping the device does not delete the file. Delete it yourself: without the
/// device its content is useless, and it may contain secrets. On Unix you may unlink the file as soon as the
/// device is made.
///
/// The device keeps no checksums and takes no memory for its segments. A read beyond the end of the file, as after
/// a truncation, fails with [`DeviceError::Missing`]. Any other change of the file goes unnoticed here: the read
/// returns the bytes that the file holds. A store has a checksum of each object that it wrote, so loading a page
/// whose bytes were changed fails with [`DeviceError::Corrupt`].
///
/// A write beyond the process's file size limit (`RLIMIT_FSIZE`, `ulimit -f`) fails with
/// [`DeviceError::FileSizeLimit`]; without this check the system would end the process by a signal. If the limit
/// is lowered during a write, the signal may still be raised.
///
/// `Send` and `Sync`. Only `flush` syncs the file; the pages do not outlive the process. In a child after `fork`
/// each call fails with [`DeviceError::Forked`], and dropping the device does nothing.
#[derive(Debug)]
pub struct FileSwapDevice {
    file: Leaked<Locked>,
    path: PathBuf,
    geometry: Geometry,
}

/// The locked file.
#[derive(Debug)]
struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        open::unlock(&self.0);
    }
}

impl FileSwapDevice {
    /// Makes a device of `pages` times 4096 bytes in the file at `path`, with the sizes of [`Geometry::of_pages`].
    /// Creates the file if it does not exist.
    ///
    /// ```
    /// use zpage::device::{FileSwapDevice, SwapDevice};
    ///
    /// let path = std::env::temp_dir().join(format!("zpage-example-{}", std::process::id()));
    /// # if cfg!(miri) { return Ok(()); }
    /// let device = FileSwapDevice::create(&path, 1 << 20)?;
    /// std::fs::remove_file(&path)?;
    /// device.write_segment(5, b"packed pages")?;
    /// let mut back = [0; 5];
    /// device.read(5, 7, &mut back)?;
    /// assert_eq!(&back, b"pages");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`FileDeviceError::TooLarge`] if no file is long enough for the device;
    /// [`FileDeviceError::Io`] if the system fails to open, inspect or lock the file; one of the other
    /// variants if an existing file may not be used. A refused file keeps its content.
    ///
    /// # Blocking
    /// Blocks in the file system.
    pub fn create(path: impl AsRef<Path>, pages: u64) -> Result<Self, FileDeviceError> {
        let bytes = u128::from(pages) * PAGE_SIZE as u128;
        Self::create_of(path.as_ref(), bytes, Geometry::of_pages(pages))
    }

    /// Makes a device of these sizes in the file at `path`. Creates the file if it does not exist. A store refuses
    /// to attach the device if it cannot use the sizes.
    ///
    /// ```
    /// use zpage::device::{FileSwapDevice, Geometry, SwapDevice};
    ///
    /// let path = std::env::temp_dir().join(format!("zpage-blocks-{}", std::process::id()));
    /// # if cfg!(miri) { return Ok(()); }
    /// let geometry = Geometry { segments: 1 << 10, segment_bytes: 256 << 10, block_bytes: 512 };
    /// let device = FileSwapDevice::create_with_geometry(&path, geometry)?;
    /// std::fs::remove_file(&path)?;
    /// device.write_segment(5, &[7; 1024])?;
    /// let mut back = [0; 512];
    /// device.read(5, 512, &mut back)?;
    /// assert_eq!(back, [7; 512]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`create`](Self::create).
    ///
    /// # Blocking
    /// Blocks in the file system.
    pub fn create_with_geometry(
        path: impl AsRef<Path>,
        geometry: Geometry,
    ) -> Result<Self, FileDeviceError> {
        let bytes = u128::from(geometry.segments) * geometry.segment_bytes as u128;
        Self::create_of(path.as_ref(), bytes, geometry)
    }

    fn create_of(path: &Path, bytes: u128, geometry: Geometry) -> Result<Self, FileDeviceError> {
        let path = path.to_path_buf();
        if bytes > u128::from(MOST) {
            return Err(FileDeviceError::TooLarge { path, bytes, most: MOST });
        }
        let file = Leaked::new(Locked(open::open(&path)?));
        Ok(FileSwapDevice { file, path, geometry })
    }

    /// Makes a device of a whole block device, such as a partition or an SSD. **Everything on it is destroyed.**
    /// Only this function uses a block device, and it does not check what is there. Its whole segments of the
    /// sizes of [`Geometry::of_pages`] are used. Only on Linux.
    ///
    /// While the device lives, the system lets nobody mount the block device or use it as swap, and a second device on
    /// it fails. The path must name it, and not be a symbolic link to it. Discarding a segment discards it on the
    /// block device, if that can do so and reads zeros then.
    ///
    /// ```no_run
    /// use zpage::device::FileSwapDevice;
    ///
    /// let device = FileSwapDevice::block_device("/dev/nvme0n1p3")?;
    /// # let _ = device;
    /// # Ok::<(), zpage::device::FileDeviceError>(())
    /// ```
    ///
    /// # Errors
    /// [`FileDeviceError::NotABlockDevice`] if the path names something else; [`FileDeviceError::InUse`] if it is
    /// mounted or in use; [`FileDeviceError::Io`] if the system fails to open or measure it.
    ///
    /// # Blocking
    /// Blocks in the system.
    #[cfg(target_os = "linux")]
    pub fn block_device(path: impl AsRef<Path>) -> Result<Self, FileDeviceError> {
        let path = path.as_ref().to_path_buf();
        let (file, bytes) = open::open_block_device(&path)?;
        let geometry = Geometry::of_pages(bytes / PAGE_SIZE as u64);
        Ok(FileSwapDevice { file: Leaked::new(Locked(file)), path, geometry })
    }

    /// Returns the path that the device was created with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the file. Fails in a child after `fork`.
    fn file(&self) -> Result<&File, DeviceError> {
        if self.file.is_here() { Ok(&self.file.0) } else { Err(DeviceError::Forked) }
    }

    /// Returns the file and the place of a range in it. Fails in a child after `fork`, or if the device has no such
    /// range.
    fn place(&self, segment: u64, offset: usize, len: usize) -> Result<(&File, u64), DeviceError> {
        let file = self.file()?;
        self.geometry.check(segment, offset, len)?;
        Ok((file, segment * self.geometry.segment_bytes as u64 + offset as u64))
    }
}

impl SwapDevice for FileSwapDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let (file, at) = self.place(segment, 0, bytes.len())?;
        let end = at + bytes.len() as u64;
        if let Some(limit) = file_size_limit().filter(|limit| end > *limit) {
            return Err(DeviceError::FileSizeLimit { segment, limit });
        }
        write_all_at(file, bytes, at).map_err(|error| DeviceError::io("write", segment, &error))
    }

    fn read(&self, segment: u64, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let (file, at) = self.place(segment, offset, bytes.len())?;
        read_exact_at(file, bytes, at).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => DeviceError::Missing { segment },
            _ => DeviceError::io("read", segment, &error),
        })
    }

    fn discard(&self, segment: u64) {
        if let Ok((file, at)) = self.place(segment, 0, 0) {
            punch(file, at, self.geometry.segment_bytes as u64);
        }
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.file()?.sync_data().map_err(|error| DeviceError::io("flush", 0, &error))
    }
}

/// Returns the process's file size limit in bytes, or `None` if there is none. A write beyond the limit raises
/// SIGXFSZ. Called before each write, since the limit may change at any time.
#[cfg(all(unix, not(miri)))]
fn file_size_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Fsize).current
}

#[cfg(not(all(unix, not(miri))))]
fn file_size_limit() -> Option<u64> {
    None
}

#[cfg(unix)]
use std::os::unix::fs::FileExt;

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    file.write_all_at(bytes, at)
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    file.read_exact_at(bytes, at)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !bytes.is_empty() {
        let done = file.seek_write(bytes, at)?;
        if done == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[done..];
        at += done as u64;
    }
    Ok(())
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !bytes.is_empty() {
        let done = file.seek_read(bytes, at)?;
        if done == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[done..];
        at += done as u64;
    }
    Ok(())
}

/// Frees the disk space of `len` bytes of the file. If the file system does not support this, the space stays
/// allocated, and is used again when the segment is written.
#[cfg(all(target_os = "linux", not(miri)))]
fn punch(file: &File, at: u64, len: u64) {
    use rustix::fs::{FallocateFlags, fallocate};
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let _ = fallocate(file, flags, at, len);
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn punch(_file: &File, _at: u64, _len: u64) {}

#[cfg(all(test, not(loom), not(miri)))]
mod tests;
