//! A device in a file.
//!
//! The file belongs to the device alone (`file/open.rs`), and what each slot should hold is known in
//! memory (`file/sums.rs`), so that a file that somebody changed is an error and never a page.

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

/// Slots whose places a file's length can tell.
const MOST: u64 = i64::MAX as u64 / PAGE_SIZE as u64;

/// Keeps pages in a file of its own, each at its slot's place.
///
/// The file is made new, for its owner alone (mode 0600), and closed on exec. One that is there already
/// is used only if it is an empty regular file of this user's that nobody else may read or write; a
/// symbolic link is not followed, and a file of procfs, sysfs and the like is refused. While the device lives the file is locked (`flock`): a second device
/// on it, in this process or another one, is an error.
///
/// It grows as pages are written; on Linux, what is discarded is punched out again. It is not deleted
/// when the device is dropped: what is in it is of no use to anybody then, and may be memory worth
/// protecting, so delete it; its name may go as soon as the device is there.
///
/// A page that is not what was written, because the file was truncated, overwritten or damaged, is
/// [`DeviceError::Changed`]: 4 bytes of memory a slot that was written say so. A write beyond the file
/// size limit of the process (`RLIMIT_FSIZE`, `ulimit -f`) is [`DeviceError::FileSizeLimit`] instead of
/// the signal that ends a process; who lowers the limit while a write is under way may still see that.
///
/// `Send` and `Sync`. Nothing is synced: the pages do not outlive the process. In a child after `fork`
/// each call is [`DeviceError::Forked`], and dropping the device does nothing.
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
    /// A device of `capacity` slots in the file at `path`. Blocks in the system.
    ///
    /// # Errors
    /// [`FileDeviceError`]; a file that is refused is left as it is.
    pub fn create(path: impl AsRef<Path>, capacity: u64) -> Result<Self, FileDeviceError> {
        let path = path.as_ref().to_path_buf();
        if capacity > MOST {
            return Err(FileDeviceError::TooLarge { path, capacity, most: MOST });
        }
        let file = Leaked::new(Locked(open::open(&path)?));
        Ok(FileSwapDevice { file, path, capacity, sums: Leaked::default() })
    }

    /// Where the file was when the device was made.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, for a call about a slot.
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

/// Bytes of a file that this process may write, if there is a limit: to write beyond raises SIGXFSZ.
/// Asked before each write, since it may change at any time.
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

/// Gives a page of the file back to the file system, if that can. If not, the space stays taken until
/// the slot is written again.
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
