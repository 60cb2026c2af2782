//! A file replaced in one step.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes beside `path` and renames, so that nobody sees half of it. What a symbolic link
/// leads to is replaced, not the link.
///
/// # Errors
///
/// The system's, with nothing left behind; `AlreadyExists` for a device, a pipe or a folder, which is left
/// alone.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there and no plain file"));
    }
    let mut name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part: PathBuf = path.with_file_name(name);
    // Not through anything that somebody else put there.
    let mut file = fs::File::create_new(&part)?;
    let written = file.write_all(bytes).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}
