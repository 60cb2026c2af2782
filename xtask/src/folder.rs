//! Folders that a job fills.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

/// An empty folder at `path`.
pub(crate) fn renew(path: &Path) -> Result<()> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    if path.exists() {
        fs::remove_dir_all(path).map_err(failed)?;
    }
    fs::create_dir_all(path).map_err(failed)
}

/// Writes a file.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|source| Error::Read { path: path.to_owned(), source })
}
