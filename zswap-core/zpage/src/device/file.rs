//! A device in a file.
//!
//! The file belongs to the device alone (`file/open.rs`). The CRC-32 of each slot's page stays in memory
//! (`file/sums.rs`), so reading a changed page gives an error. One such change in 2^32 goes undetected.

mod open;
mod sums;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use zpool_base::fork::Leaked;

pub use self::open::FileDeviceError;
use self::sums::{Sum, Sums};
use super::{DeviceError, SwapDevice, check};
use crate::{PAGE_SIZE, Page};

/// The most slots of a device: a file's length in bytes is an `i64`.
const MOST: u64 = i64::MAX as u64 / PAGE_SIZE as u64;

/// Keeps pages in a file, each at its slot's offset. The file belongs to the device alone.
///
/// A new file gets mode 0600, so that only its owner can open it. An existing file is used only if it is an
/// empty regular file, belongs to this user, and gives other users no permission. The last component of the path
/// must not be a symbolic link. On Linux, a file on procfs, sysfs and the like is refused. While the device
/// lives, the file is locked (`flock`): creating a second device on it fails, in this process and in any other.
/// The file is closed on exec. On Windows, only the length and the kind of the file are checked, and the file is
/// opened without sharing instead of being locked.
///
/// The file grows as pages are written. On Linux, discarding a page frees its space in the file, if the file
/// system supports holes. Dropping the device does not delete the file. Delete it yourself: without the device
/// its content is useless, and it may contain secrets. On Unix you may unlink the file as soon as the device is
/// made.
///
/// If the file is truncated, overwritten or damaged, reading a changed page fails with
/// [`DeviceError::Changed`]. The checksums that detect this take 4 bytes of memory per slot, allocated for
/// 1024 slots at a time. A write beyond the process's file size limit (`RLIMIT_FSIZE`, `ulimit -f`) fails
/// with [`DeviceError::FileSizeLimit`]; without this check the system would end the process by a signal. If
/// the limit is lowered during a write, the signal may still be raised.
///
/// `Send` and `Sync`. Nothing is synced: the pages do not outlive the process. In a child after `fork`
/// each call fails with [`DeviceError::Forked`], and dropping the device does nothing.
#[derive(Debug)]
pub struct FileSwapDevice {
    file: Leaked<Locked>,
    path: PathBuf,
    capacity: u64,
    sums: Leaked<Sums>,
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
    /// Makes a device of `capacity` slots in the file at `path`. Creates the file if it does not exist.
    ///
    /// ```
    /// use zpage::PAGE_SIZE;
    /// use zpage::device::{FileSwapDevice, SwapDevice};
    ///
    /// let path = std::env::temp_dir().join(format!("zpage-example-{}", std::process::id()));
    /// # if cfg!(miri) { return Ok(()); }
    /// let device = FileSwapDevice::create(&path, 1 << 20)?;
    /// std::fs::remove_file(&path)?;
    /// device.write_page(5, &[7; PAGE_SIZE])?;
    /// let mut page = [0; PAGE_SIZE];
    /// device.read_page(5, &mut page)?;
    /// assert_eq!(page, [7; PAGE_SIZE]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`FileDeviceError::TooLarge`] if no file is long enough for `capacity` slots;
    /// [`FileDeviceError::Io`] if the system fails to open, inspect or lock the file; one of the other
    /// variants if an existing file may not be used. A refused file keeps its content.
    ///
    /// # Blocking
    /// Blocks in the file system.
    pub fn create(path: impl AsRef<Path>, capacity: u64) -> Result<Self, FileDeviceError> {
        let path = path.as_ref().to_path_buf();
        if capacity > MOST {
            return Err(FileDeviceError::TooLarge { path, capacity, most: MOST });
        }
        let file = Leaked::new(Locked(open::open(&path)?));
        Ok(FileSwapDevice { file, path, capacity, sums: Leaked::default() })
    }

    /// Returns the path that the device was created with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the file. Fails in a child after `fork`, or if there is no such slot.
    fn file(&self, slot: u64) -> Result<&File, DeviceError> {
        if !self.file.is_here() {
            return Err(DeviceError::Forked);
        }
        check(slot, self.capacity)?;
        Ok(&self.file.0)
    }
}

fn offset(slot: u64) -> u64 {
    slot * PAGE_SIZE as u64
}

impl SwapDevice for FileSwapDevice {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn write_page(&self, slot: u64, page: &Page) -> Result<(), DeviceError> {
        let file = self.file(slot)?;
        let at = offset(slot);
        if let Some(limit) = file_size_limit().filter(|limit| at + PAGE_SIZE as u64 > *limit) {
            return Err(DeviceError::FileSizeLimit { slot, limit });
        }
        self.sums.reserve(slot)?;
        self.sums.set(slot, None);
        write_all_at(file, page, at).map_err(|error| DeviceError::io("write", slot, &error))?;
        self.sums.set(slot, Some(Sum::of(page)));
        Ok(())
    }

    fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError> {
        let file = self.file(slot)?;
        let sum = self.sums.get(slot).ok_or(DeviceError::Missing { slot })?;
        match read_exact_at(file, page, offset(slot)) {
            Ok(()) if Sum::of(page) == sum => Ok(()),
            Ok(()) => Err(DeviceError::Changed { slot }),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(DeviceError::Changed { slot })
            }
            Err(error) => Err(DeviceError::io("read", slot, &error)),
        }
    }

    fn discard(&self, slot: u64) {
        if let Ok(file) = self.file(slot) {
            self.sums.set(slot, None);
            punch(file, offset(slot));
        }
    }

    fn memory_bytes(&self) -> usize {
        if self.file.is_here() { self.sums.memory_bytes() } else { 0 }
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

/// Frees the disk space of one page of the file. If the file system does not support this, the space stays
/// allocated, and is used again when the slot is written.
#[cfg(all(target_os = "linux", not(miri)))]
fn punch(file: &File, at: u64) {
    use rustix::fs::{FallocateFlags, fallocate};
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let _ = fallocate(file, flags, at, PAGE_SIZE as u64);
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn punch(_file: &File, _at: u64) {}

#[cfg(all(test, not(loom), not(miri)))]
mod tests;
