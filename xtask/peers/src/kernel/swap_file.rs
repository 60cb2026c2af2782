//! Swap areas. One is switched on when it is made. On drop it is switched off, and a swap file is
//! deleted.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use super::{PATIENCE, insist, tell_left};
use crate::error::{Error, Result};
use crate::source::PAGE;

/// `SWAP_FLAG_PREFER` and the greatest priority. So the kernel uses this file before all other swap
/// areas.
const FIRST_OF_ALL: libc::c_int = 0x8000 | 0x7fff;

/// A file that is deleted on drop.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        tell_left(&self.0.display().to_string(), std::fs::remove_file(&self.0));
    }
}

/// A swap area that is in use. It is switched off on drop.
#[derive(Debug)]
pub(super) struct SwapArea(CString);

impl SwapArea {
    /// Makes the file or block device at `path`, which is open as `file`, a swap area. Page 0 holds
    /// the header; the last page is `last`. Switches it on, before all other swap areas.
    pub(super) fn new(path: &Path, file: &File, last: u32) -> io::Result<Self> {
        write_header(file, last)?;
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: the path ends in a zero byte, and the call does not keep the pointer.
        if unsafe { libc::swapon(path.as_ptr(), FIRST_OF_ALL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(SwapArea(path))
    }
}

#[derive(Debug)]
pub(super) struct SwapFile {
    _area: SwapArea,
    // Dropped last, so that the file is deleted after the kernel has stopped using it.
    _file: Temporary,
}

impl SwapFile {
    /// Makes a swap file for `pages` pages and switches it on. Tries the folder for temporary
    /// files, then `/var/tmp`. Fails if neither can hold a swap file.
    pub(super) fn new(pages: usize) -> Result<Self> {
        let mut reasons = Vec::new();
        for directory in [std::env::temp_dir(), "/var/tmp".into()] {
            match Self::within(&directory, pages) {
                Ok(file) => return Ok(file),
                Err(error) => reasons.push(format!("{}: {error}", directory.display())),
            }
        }
        let reasons = reasons.join("; ");
        Err(Error::setup(format!(
            "no swap file can be made ({reasons}); set TMPDIR to a folder that can hold one"
        )))
    }

    fn within(directory: &Path, pages: usize) -> io::Result<Self> {
        let path = directory.join(format!("system-{}.swap", std::process::id()));
        let last = u32::try_from(pages).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path)?;
        let temporary = Temporary(path);
        let len = (pages as u64 + 1) * PAGE as u64;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len)?;
        let area = SwapArea::new(&temporary.0, &file, last)?;
        Ok(SwapFile { _area: area, _file: temporary })
    }
}

/// Writes the header of a swap area, version 1. The area has the pages from 1 to `last`; page 0 is
/// the header.
fn write_header(file: &File, last: u32) -> io::Result<()> {
    const MAGIC: &[u8] = b"SWAPSPACE2";
    const VERSION: u32 = 1;
    const FIELDS: usize = 1024;

    let mut header = [0; PAGE];
    header[FIELDS..FIELDS + 4].copy_from_slice(&VERSION.to_ne_bytes());
    header[FIELDS + 4..FIELDS + 8].copy_from_slice(&last.to_ne_bytes());
    header[PAGE - MAGIC.len()..].copy_from_slice(MAGIC);
    file.write_all_at(&header, 0)
}

impl Drop for SwapArea {
    fn drop(&mut self) {
        let off = insist(PATIENCE, || {
            // SAFETY: the path ends in a zero byte, and the call does not keep the pointer.
            match unsafe { libc::swapoff(self.0.as_ptr()) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
        tell_left(&format!("swap on {}", self.0.to_string_lossy()), off);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::kernel::{is_fit, read, shared};

    #[test]
    fn it_is_in_use_then_neither_in_use_nor_there() {
        let _alone = shared::alone();
        let file = match is_fit().and_then(|()| SwapFile::new(256)) {
            Ok(file) => file,
            Err(reason) => return println!("skipped: a swap file: {reason}"),
        };
        let path = file._area.0.to_str().unwrap().to_owned();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let swaps = read("/proc/swaps").unwrap();
        let line = swaps.lines().find(|line| line.starts_with(&path)).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[1..], ["file", "1024", "0", "32767"]);
        drop(file);
        assert!(!read("/proc/swaps").unwrap().contains(&path));
        assert!(!Path::new(&path).exists());
    }
}
