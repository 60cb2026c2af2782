//! A set of values: the lines of a file.

use std::path::Path;

use crate::error::{Error, Result};

#[derive(Debug)]
pub(crate) struct Set {
    bytes: Vec<u8>,
    /// Where each value begins, and where the last one ends.
    starts: Vec<u32>,
}

impl Set {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let bytes =
            std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let starts: Vec<u32> =
            std::iter::once(0).chain(ends.map(|(at, _)| at as u32 + 1)).collect();
        let set = Set { bytes, starts };
        if set.len() < 1000 {
            return Err(Error::Set { path: path.to_owned(), values: set.len() });
        }
        Ok(set)
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub(crate) fn value(&self, n: usize) -> &[u8] {
        // Without the end of the line.
        &self.bytes[self.starts[n] as usize..self.starts[n + 1] as usize - 1]
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }
}
