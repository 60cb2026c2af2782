//! Functions for the folders and files of a job. Their errors name the path.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

/// Makes an empty folder at `path`. If there is a folder already, removes it with everything in it.
pub(crate) fn renew(path: &Path) -> Result<()> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    if path.exists() {
        fs::remove_dir_all(path).map_err(failed)?;
    }
    fs::create_dir_all(path).map_err(failed)
}

pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|source| Error::Read { path: path.to_owned(), source })
}
