//! Replacing a file atomically.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Writes a file beside `path` and renames it to `path`, so that nobody sees a partial file. If
/// `path` is a symbolic link, replaces the file that it leads to.
///
/// # Errors
///
/// `AlreadyExists` if `path` is a device, a pipe or a folder, which is left alone; `IsADirectory` if `path` has no
/// file name; otherwise the system's error of writing or renaming. No temporary file is left behind.
///
/// ```
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("report.json");
/// measure::replace(&path, b"{}")?;
/// assert_eq!(std::fs::read(&path)?, b"{}");
/// # std::io::Result::Ok(())
/// ```
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "it exists and is not a regular file",
        ));
    }
    let mut prefix = path.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_owned();
    prefix.push(".");
    let mut beside = tempfile::Builder::new();
    beside.prefix(&prefix).suffix(".part");
    // The file gets the rights that the umask allows, like any new file. By default, only its owner could
    // access a temporary file.
    #[cfg(unix)]
    beside.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut part = beside.tempfile_in(path.parent().unwrap_or(Path::new("")))?;
    part.write_all(bytes)?;
    part.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a file");
        for content in [&b"old"[..], b"new"] {
            replace(&path, content).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        assert!(replace(folder.path(), b"over a folder").is_err());
        assert!(replace(&folder.path().join("none/file"), b"nowhere").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_new_file_has_the_rights_of_any_other() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let (ours, any) = (folder.path().join("ours"), folder.path().join("any"));
        replace(&ours, b"1").unwrap();
        fs::write(&any, b"1").unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&any));
    }
}
