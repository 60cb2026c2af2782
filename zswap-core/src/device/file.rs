//! A device in a file.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::{DeviceError, SwapDevice, check};
use crate::{PAGE_SIZE, Page};

/// Keeps pages in a file of its own, each at its slot's place.
///
/// The file is made new, for its owner alone (mode 0600), and closed on exec; one that is there
/// already is used only if it is empty. It grows as pages are written; on Linux, what is discarded is
/// punched out again. It is not deleted when the device is dropped: what is in it is of no use to
/// anybody then, and may be memory worth protecting, so delete it.
///
/// `Send` and `Sync`. Nothing is synced: the pages do not outlive the process.
#[derive(Debug)]
pub struct FileSwapDevice {
    file: File,
    path: PathBuf,
    capacity: u64,
}

impl FileSwapDevice {
    /// A device of `capacity` slots in the file at `path`.
    ///
    /// Errors: those of opening a file; `AlreadyExists` for a file that is not empty.
    pub fn create(path: impl AsRef<Path>, capacity: u64) -> io::Result<Self> {
        let path = path.as_ref().to_path_buf();
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        // Never truncated: somebody's file is not to be lost by a wrong path.
        let file = match options.clone().create_new(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let file = options.open(&path)?;
                let metadata = file.metadata()?;
                if !metadata.is_file() || metadata.len() > 0 {
                    let message = format!("{} is not an empty file", path.display());
                    return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
                }
                file
            }
            opened => opened?,
        };
        Ok(FileSwapDevice { file, path, capacity })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
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
        check(slot, self.capacity)?;
        write_all_at(&self.file, page, offset(slot))
            .map_err(|error| DeviceError::io("write", slot, &error))
    }

    fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError> {
        check(slot, self.capacity)?;
        read_exact_at(&self.file, page, offset(slot))
            .map_err(|error| DeviceError::io("read", slot, &error))
    }

    fn discard(&self, slot: u64) {
        if slot < self.capacity {
            punch(&self.file, offset(slot));
        }
    }
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

/// Gives a page of the file back to the file system, if that can.
#[cfg(all(target_os = "linux", not(miri)))]
fn punch(file: &File, at: u64) {
    use std::os::fd::AsRawFd;
    let Ok(at) = libc::off_t::try_from(at) else { return };
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: a descriptor that is open, and numbers; no memory is passed. What the call returns is of
    // no matter: the space then stays taken until the slot is written again.
    unsafe { libc::fallocate(file.as_raw_fd(), mode, at, PAGE_SIZE as libc::off_t) };
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn punch(_file: &File, _at: u64) {}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;

    fn temporary(name: &str) -> PathBuf {
        let name = format!("zswap-device-{}-{name}", std::process::id());
        std::env::temp_dir().join(name)
    }

    #[test]
    fn pages_come_back_and_discarded_ones_take_no_space() {
        let path = temporary("pages");
        let device = FileSwapDevice::create(&path, 100).unwrap();
        for slot in [0, 99, 7] {
            device.write_page(slot, &[slot as u8 + 1; PAGE_SIZE]).unwrap();
        }
        let mut page = [0; PAGE_SIZE];
        for slot in [7, 0, 99] {
            device.read_page(slot, &mut page).unwrap();
            assert_eq!(page, [slot as u8 + 1; PAGE_SIZE]);
        }
        assert!(matches!(device.write_page(100, &page), Err(DeviceError::OutOfRange { .. })));
        assert!(matches!(device.read_page(100, &mut page), Err(DeviceError::OutOfRange { .. })));
        #[cfg(target_os = "linux")]
        {
            use std::os::unix::fs::{MetadataExt, PermissionsExt};
            let before = device.file.metadata().unwrap();
            assert_eq!(before.permissions().mode() & 0o777, 0o600);
            device.discard(7);
            let after = device.file.metadata().unwrap();
            assert!(after.blocks() <= before.blocks() && after.len() == before.len());
        }
        // A file that is shorter than it should be is an error, not a page.
        device.file.set_len(99 * PAGE_SIZE as u64 + 10).unwrap();
        let cut = device.read_page(99, &mut page).unwrap_err();
        assert!(matches!(cut, DeviceError::Io { kind: io::ErrorKind::UnexpectedEof, .. }), "{cut}");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_with_something_in_it_is_left_alone() {
        let path = temporary("taken");
        std::fs::write(&path, b"dear").unwrap();
        let refused = FileSwapDevice::create(&path, 1).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"dear");
        std::fs::write(&path, b"").unwrap();
        assert!(FileSwapDevice::create(&path, 1).is_ok());
        std::fs::remove_file(path).unwrap();
    }
}
