//! Opens a file for a device's pages. While it is open, no other device uses it.
//!
//! Pages are copies of memory and may contain secrets. So on Unix a new file has mode 0600, and an existing file
//! is used only if it belongs to this user and gives other users no permission. The last component of the path
//! must not be a symbolic link. On all systems an existing file must be empty and regular, and the file is
//! locked for as long as it is open.
//!
//! A file on procfs and the like is a view of something else (`/proc/self/mem` is this process's memory).
//! So on Linux, files on known file systems of this kind are refused. On any system, the file's length is set
//! once as a test, and the file is refused if it does not keep that length.
//!
//! A block device is used only by a call of its own, which destroys what is on it. Owner and mode are not checked: they
//! say who administers it. On Linux the system then lets nobody mount it, or use it as swap, while it is open.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::file_size_limit;
use crate::PAGE_SIZE;

/// Why a file cannot be used for a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileDeviceError {
    /// The system failed to open, inspect or lock the file.
    #[error("{}: {operation} failed", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operation that failed.
        operation: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The device has more bytes than fit in a file.
    #[error(
        "{}: a file has no room for {} pages ({bytes} bytes): use at most {} pages ({most} bytes)",
        path.display(), bytes.div_ceil(PAGE_SIZE as u128), most / PAGE_SIZE as u64
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes asked for.
        bytes: u128,
        /// The most bytes that fit in a file, in whole pages.
        most: u64,
    },
    /// The path names something other than a regular file. On Unix, a symbolic link at its end is not followed.
    #[error("{}: is {what}, not a regular file: name a file, or a path that does not exist", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The path names something other than a block device. A symbolic link at its end is not followed.
    #[error("{}: is {what}, not a block device: name one, and not a link to it", path.display())]
    NotABlockDevice {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The file would not keep pages: like the files on procfs, it is a view of something else.
    #[error(
        "{}: {what}, so it keeps no pages: name a file on a disk or on tmpfs", path.display()
    )]
    NotStorage {
        /// The path.
        path: PathBuf,
        /// How this was found: the kind of file system, or a length that the file did not keep.
        what: &'static str,
    },
    /// The file is not empty.
    #[error(
        "{}: holds {bytes} bytes, which would be lost: name an empty file, or a path that does not \
         exist", path.display()
    )]
    NotEmpty {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        bytes: u64,
    },
    /// The file belongs to another user.
    #[error(
        "{}: belongs to user {owner}, and this process runs as user {user}: pages hold memory, so \
         name a file that this user owns", path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// This process's user.
        user: u32,
    },
    /// The file's mode gives users other than the owner some permission.
    #[error(
        "{}: has mode {mode:04o}, and pages hold memory that others must not read or change: make it \
         0600", path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another device, in this process or another one, uses the file. Or the block device is mounted or used as swap.
    #[error("{}: is in use by another device, or mounted: give each store its own file", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
}

impl FileDeviceError {
    fn io(path: &Path, operation: &'static str, source: io::Error) -> Self {
        FileDeviceError::Io { path: path.to_owned(), operation, source }
    }

    /// Returns the kind of [`io::Error`] that this error becomes.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            FileDeviceError::Io { source, .. } => source.kind(),
            FileDeviceError::TooLarge { .. }
            | FileDeviceError::NotStorage { .. }
            | FileDeviceError::NotABlockDevice { .. } => io::ErrorKind::InvalidInput,
            FileDeviceError::NotAFile { .. } | FileDeviceError::NotEmpty { .. } => {
                io::ErrorKind::AlreadyExists
            }
            FileDeviceError::Foreign { .. } | FileDeviceError::Exposed { .. } => {
                io::ErrorKind::PermissionDenied
            }
            FileDeviceError::InUse { .. } => io::ErrorKind::ResourceBusy,
        }
    }
}

impl From<FileDeviceError> for io::Error {
    fn from(error: FileDeviceError) -> Self {
        io::Error::new(error.kind(), error)
    }
}

/// Sets the length of an empty file, checks that the file keeps it, and truncates the file again.
fn check_length(path: &Path, file: &File) -> Result<(), FileDeviceError> {
    let page = PAGE_SIZE as u64;
    // Extending a file beyond the file size limit raises a signal.
    let len = file_size_limit().map_or(page, |limit| limit.min(page));
    if len == 0 {
        let source = io::ErrorKind::FileTooLarge.into();
        return Err(FileDeviceError::io(path, "setting a length within RLIMIT_FSIZE", source));
    }
    let failed = |operation| move |source| FileDeviceError::io(path, operation, source);
    file.set_len(len).map_err(failed("setting a length"))?;
    let became = file.metadata().map_err(failed("fstat"))?.len();
    file.set_len(0).map_err(failed("setting a length"))?;
    if became != len {
        let what = "it does not keep a length that is set";
        return Err(FileDeviceError::NotStorage { path: path.to_owned(), what });
    }
    Ok(())
}

#[cfg(target_os = "linux")]
pub(super) use unix::open_block_device;
#[cfg(unix)]
pub(super) use unix::{open, unlock};

#[cfg(unix)]
mod unix {
    use super::*;
    use rustix::fs::{FileType, FlockOperation, Mode, OFlags, Stat};
    use rustix::io::Errno;

    /// Checks what `stat` and `file_system` report about a file. `open` calls this before it opens an existing
    /// file, and again for each open file: by then the path may lead to another file.
    fn check(
        path: &Path,
        stat: &Stat,
        file_system: impl FnOnce() -> Result<Option<&'static str>, Errno>,
    ) -> Result<(), FileDeviceError> {
        let failed = |errno: Errno| FileDeviceError::io(path, "statfs", errno.into());
        let path = path.to_owned();
        if let Some(what) = kind_of(stat) {
            return Err(FileDeviceError::NotAFile { path, what });
        }
        if let Some(what) = file_system().map_err(failed)? {
            return Err(FileDeviceError::NotStorage { path, what });
        }
        let (owner, user) = (stat.st_uid, rustix::process::geteuid().as_raw());
        if owner != user {
            return Err(FileDeviceError::Foreign { path, owner, user });
        }
        #[allow(clippy::unnecessary_cast, reason = "16 bits on some systems")]
        let mode = stat.st_mode as u32 & 0o7777;
        if mode & 0o077 != 0 {
            return Err(FileDeviceError::Exposed { path, mode });
        }
        Ok(())
    }

    /// Returns a description of the file system if it is one that keeps no pages, else `None`.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn no_storage(found: &rustix::fs::StatFs) -> Option<&'static str> {
        #[allow(
            clippy::unnecessary_cast,
            clippy::cast_sign_loss,
            reason = "signed on some systems, and 32 bits of it are the magic number"
        )]
        let magic = found.f_type as u32;
        Some(match magic {
            0x9fa0..=0x9fa2 => "it is on procfs",
            0x6265_6572 => "it is on sysfs",
            0x6265_6570 => "it is on configfs",
            0x0027_e0eb | 0x6367_7270 => "it is on cgroupfs",
            0x0765_5821 => "it is on resctrl",
            0x6462_6720 => "it is on debugfs",
            0x7472_6163 => "it is on tracefs",
            0x7363_6673 | 0xf97c_ff8c | 0x4341_5d53 => "it is on a file system of security modules",
            0xcafe_4a11 => "it is on bpffs",
            0x6165_676c => "it is on pstore",
            0xde5e_81e4 => "it is on efivarfs",
            0x4249_4e4d => "it is on binfmt_misc",
            0x6e73_6673 => "it is on nsfs",
            0x1980_0202 => "it is on mqueue",
            0x6573_5543 => "it is on fusectl",
            0x6e66_7364 | 0x6759_6969 => "it is on a file system of the NFS server",
            0xabba_1974 => "it is on xenfs",
            _ => return None,
        })
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn no_storage_at(path: &Path) -> Result<Option<&'static str>, Errno> {
        rustix::fs::statfs(path).map(|found| no_storage(&found))
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn no_storage_of(file: &rustix::fd::OwnedFd) -> Result<Option<&'static str>, Errno> {
        rustix::fs::fstatfs(file).map(|found| no_storage(&found))
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn no_storage_at(_path: &Path) -> Result<Option<&'static str>, Errno> {
        Ok(None)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn no_storage_of(_file: &rustix::fd::OwnedFd) -> Result<Option<&'static str>, Errno> {
        Ok(None)
    }

    fn kind_of(stat: &Stat) -> Option<&'static str> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => None,
            FileType::Symlink => Some("a symbolic link"),
            FileType::Directory => Some("a directory"),
            FileType::BlockDevice => Some("a block device"),
            FileType::CharacterDevice => Some("a character device"),
            _ => Some("a pipe or socket"),
        }
    }

    /// Locks an open file.
    fn lock(path: &Path, file: &rustix::fd::OwnedFd) -> Result<(), FileDeviceError> {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(()),
            Err(Errno::WOULDBLOCK) => Err(FileDeviceError::InUse { path: path.to_owned() }),
            Err(errno) => Err(FileDeviceError::io(path, "flock", errno.into())),
        }
    }

    /// Opens a block device for this process alone. Returns it with its length in bytes.
    #[cfg(target_os = "linux")]
    pub(in super::super) fn open_block_device(path: &Path) -> Result<(File, u64), FileDeviceError> {
        let failed =
            |operation| move |errno: Errno| FileDeviceError::io(path, operation, errno.into());
        let check = |stat: &Stat| match kind_of(stat) {
            Some("a block device") => Ok(()),
            other => {
                let what = other.unwrap_or("a regular file");
                Err(FileDeviceError::NotABlockDevice { path: path.to_owned(), what })
            }
        };
        // Checked before the open, too: opening another device may have side effects.
        check(&rustix::fs::lstat(path).map_err(failed("lstat"))?)?;
        // EXCL, without CREATE: nobody else may claim the block device, as a mount does.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::EXCL;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::BUSY) => return Err(FileDeviceError::InUse { path: path.to_owned() }),
            opened => opened.map_err(failed("open"))?,
        };
        // No lock besides: others lock block devices for a moment to probe them.
        check(&rustix::fs::fstat(&file).map_err(failed("fstat"))?)?;
        let bytes =
            rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(failed("lseek"))?;
        Ok((File::from(file), bytes))
    }

    /// Creates or opens the file, checks it and locks it. A file that existed and is refused keeps its
    /// content. A file that was created here and fails a check is removed.
    pub(in super::super) fn open(path: &Path) -> Result<File, FileDeviceError> {
        let failed =
            |operation| move |errno: Errno| FileDeviceError::io(path, operation, errno.into());
        // NONBLOCK: opening a pipe must not block.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let private = Mode::RUSR | Mode::WUSR;
        let made = rustix::fs::open(path, flags | OFlags::CREATE | OFlags::EXCL, private);
        let is_new = made.is_ok();
        let file = match made {
            Err(Errno::EXIST) => {
                // Checked before the open, too: opening a device may have side effects.
                let stat = rustix::fs::lstat(path).map_err(failed("lstat"))?;
                check(path, &stat, || no_storage_at(path))?;
                rustix::fs::open(path, flags, Mode::empty()).map_err(failed("open"))?
            }
            made => made.map_err(failed("open"))?,
        };
        let refused = |error| {
            if is_new {
                // The file was created here and is empty. Most likely it is refused because the file system
                // ignores modes.
                let _ = std::fs::remove_file(path);
            }
            error
        };
        let checked = rustix::fs::fstat(&file).map_err(failed("fstat"));
        checked.and_then(|stat| check(path, &stat, || no_storage_of(&file))).map_err(refused)?;
        lock(path, &file)?;
        // The length is checked only under the lock. Before that, another device may write to the file. And a
        // file in use must be refused with `InUse`, although it is seldom empty.
        let stat = rustix::fs::fstat(&file).map_err(failed("fstat"))?;
        if stat.st_size != 0 {
            let bytes = u64::try_from(stat.st_size).unwrap_or(0);
            return Err(FileDeviceError::NotEmpty { path: path.to_owned(), bytes });
        }
        let file = File::from(file);
        check_length(path, &file).map_err(refused)?;
        Ok(file)
    }

    /// Unlocks the file. Closing the file would not be enough: the lock would stay while a child of this process
    /// has the file open.
    pub(in super::super) fn unlock(file: &File) {
        let _ = rustix::fs::flock(file, FlockOperation::Unlock);
    }
}

#[cfg(windows)]
pub(super) fn open(path: &Path) -> Result<File, FileDeviceError> {
    use std::os::windows::fs::OpenOptionsExt;
    /// ERROR_SHARING_VIOLATION.
    const SHARED: i32 = 32;
    let mut options = std::fs::OpenOptions::new();
    // Without sharing, no other process can open the file while it is open here.
    let options = options.read(true).write(true).create(true).truncate(false).share_mode(0);
    let file = options.open(path).map_err(|source| match source.raw_os_error() {
        Some(SHARED) => FileDeviceError::InUse { path: path.to_owned() },
        _ => FileDeviceError::io(path, "open", source),
    })?;
    let metadata =
        file.metadata().map_err(|source| FileDeviceError::io(path, "metadata", source))?;
    let path = path.to_owned();
    if !metadata.is_file() {
        return Err(FileDeviceError::NotAFile { path, what: "a directory or device" });
    }
    if metadata.len() > 0 {
        return Err(FileDeviceError::NotEmpty { path, bytes: metadata.len() });
    }
    check_length(&path, &file)?;
    Ok(file)
}

#[cfg(windows)]
pub(super) fn unlock(_file: &File) {}

#[cfg(all(test, target_os = "linux", not(loom), not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn a_file_whose_length_stays_is_no_storage_on_whatever_file_system() {
        let path = Path::new("/proc/self/mem");
        let memory = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let refused = check_length(path, &memory).unwrap_err();
        assert!(matches!(refused, FileDeviceError::NotStorage { .. }), "{refused}");
    }
}
