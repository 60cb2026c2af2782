//! Opening a file for a device's pages: one that is this process's alone, and nobody else's to read.
//!
//! What is written there is memory, with its secrets. So a file is made new with mode 0600; one that is
//! there is taken only if it is empty, regular, this user's, and closed to others. It is never reached
//! through a symbolic link, and is locked for as long as it is open.
//!
//! A file of procfs and the like is a view of something else (`/proc/self/mem` is this process's memory),
//! so the file system must be none of those that are known, and the length of the file must become what
//! it is set to.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::file_size_limit;
use crate::PAGE_SIZE;

/// Why a file could not be taken for a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileDeviceError {
    /// The system did not open, look at or lock it.
    #[error("{}: {operation} failed", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The call.
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// More slots than a file has room for.
    #[error("{}: a file has no room for {capacity} slots; {most} is the most", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Slots asked for.
        capacity: u64,
        /// The most there can be.
        most: u64,
    },
    /// It is no regular file; a symbolic link is none.
    #[error("{}: is {what}, not a regular file: name a file, or a path where there is none", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It is a view of something else, as those of procfs are, and keeps no pages.
    #[error(
        "{}: {what}, so it keeps no pages: name a file on a disk or on tmpfs", path.display()
    )]
    NotStorage {
        /// The path.
        path: PathBuf,
        /// What shows it.
        what: &'static str,
    },
    /// There is something in it.
    #[error(
        "{}: holds {bytes} bytes, which would be lost: name an empty file, or a path where there is \
         none", path.display()
    )]
    NotEmpty {
        /// The file.
        path: PathBuf,
        /// Its length, bytes.
        bytes: u64,
    },
    /// It is another user's.
    #[error(
        "{}: belongs to user {owner}, and this process runs as user {user}: pages hold memory, so \
         name a file of your own", path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// This process's user.
        user: u32,
    },
    /// Others may read or write it.
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
    /// Another device, of this process or another one, has it.
    #[error("{}: is in use by another device: give each store a file of its own", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
}

impl FileDeviceError {
    fn io(path: &Path, operation: &'static str, source: io::Error) -> Self {
        FileDeviceError::Io { path: path.to_owned(), operation, source }
    }

    /// What kind of failure, for callers that deal in [`io::Error`].
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            FileDeviceError::Io { source, .. } => source.kind(),
            FileDeviceError::TooLarge { .. } | FileDeviceError::NotStorage { .. } => {
                io::ErrorKind::InvalidInput
            }
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

/// Whether an empty file keeps a length that is set; it is empty again after that.
fn check_length(path: &Path, file: &File) -> Result<(), FileDeviceError> {
    let page = PAGE_SIZE as u64;
    // To make a file longer than the limit raises a signal.
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
        let what = "its length does not become what it is set to";
        return Err(FileDeviceError::NotStorage { path: path.to_owned(), what });
    }
    Ok(())
}

#[cfg(unix)]
pub(super) use unix::{open, unlock};

#[cfg(unix)]
mod unix {
    use super::*;
    use rustix::fs::{FileType, FlockOperation, Mode, OFlags, Stat};
    use rustix::io::Errno;

    /// What must hold of the file itself, asked of the open file: the path may lead elsewhere by now.
    fn check(
        path: &Path,
        stat: &Stat,
        file_system: impl FnOnce() -> Result<Option<&'static str>, Errno>,
    ) -> Result<(), FileDeviceError> {
        let failed = |errno: Errno| FileDeviceError::io(path, "statfs", errno.into());
        let path = path.to_owned();
        let what = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => None,
            FileType::Symlink => Some("a symbolic link"),
            FileType::Directory => Some("a directory"),
            FileType::BlockDevice | FileType::CharacterDevice => Some("a device"),
            _ => Some("a pipe or socket"),
        };
        if let Some(what) = what {
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

    /// What is wrong with the file system of a file, of those that keep no pages.
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

    /// Opens, checks and locks; nothing is changed of a file that is refused.
    pub(in super::super) fn open(path: &Path) -> Result<File, FileDeviceError> {
        let failed =
            |operation| move |errno: Errno| FileDeviceError::io(path, operation, errno.into());
        // A pipe must not block the call.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let private = Mode::RUSR | Mode::WUSR;
        let made = rustix::fs::open(path, flags | OFlags::CREATE | OFlags::EXCL, private);
        let is_new = made.is_ok();
        let file = match made {
            Err(Errno::EXIST) => {
                // Asked before it is opened, too: opening a device may do something.
                let stat = rustix::fs::lstat(path).map_err(failed("lstat"))?;
                check(path, &stat, || no_storage_at(path))?;
                rustix::fs::open(path, flags, Mode::empty()).map_err(failed("open"))?
            }
            made => made.map_err(failed("open"))?,
        };
        let refused = |error| {
            if is_new {
                // A file system that knows no modes, most likely. The file is empty and ours.
                let _ = std::fs::remove_file(path);
            }
            error
        };
        let checked = rustix::fs::fstat(&file).map_err(failed("fstat"));
        checked.and_then(|stat| check(path, &stat, || no_storage_of(&file))).map_err(refused)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(FileDeviceError::InUse { path: path.to_owned() }),
            Err(errno) => return Err(failed("flock")(errno)),
        }
        // Asked last: a file that is in use is not empty either, and whoever had it may have written.
        let stat = rustix::fs::fstat(&file).map_err(failed("fstat"))?;
        if stat.st_size != 0 {
            let bytes = u64::try_from(stat.st_size).unwrap_or(0);
            return Err(FileDeviceError::NotEmpty { path: path.to_owned(), bytes });
        }
        let file = File::from(file);
        check_length(path, &file).map_err(refused)?;
        Ok(file)
    }

    /// Lets go of the lock now, also if a child of this process still has the file open.
    pub(in super::super) fn unlock(file: &File) {
        // Closing would do it for all but the children's sake.
        let _ = rustix::fs::flock(file, FlockOperation::Unlock);
    }
}

#[cfg(windows)]
pub(super) fn open(path: &Path) -> Result<File, FileDeviceError> {
    use std::os::windows::fs::OpenOptionsExt;
    /// ERROR_SHARING_VIOLATION.
    const SHARED: i32 = 32;
    let mut options = std::fs::OpenOptions::new();
    // Shared with nobody for as long as it is open.
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
