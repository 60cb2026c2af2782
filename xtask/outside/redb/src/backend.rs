//! The storage of a database on a disk of zram.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use redb::StorageBackend;
use zram::{Zram, ZramError};

/// A file of any length up to the disk's size. It may be made again over the same disk: then it has the same content.
#[derive(Debug)]
pub(crate) struct ZramBackend {
    disk: Arc<Zram>,
    len: Arc<AtomicU64>,
}

impl ZramBackend {
    /// Makes an empty file.
    pub(crate) fn new(disk: Arc<Zram>) -> Self {
        ZramBackend { disk, len: Arc::default() }
    }

    /// Returns another handle of the file, to open the database again.
    #[cfg(test)]
    pub(crate) fn again(&self) -> Self {
        ZramBackend { disk: self.disk.clone(), len: self.len.clone() }
    }

    /// Checks that a range is in the file.
    fn check(&self, offset: u64, len: usize) -> io::Result<()> {
        let end = offset.checked_add(len as u64);
        if end.is_some_and(|end| end <= self.len.load(SeqCst)) {
            return Ok(());
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// A disk without memory is full, for a database.
fn failed(error: ZramError) -> io::Error {
    let kind = match error {
        ZramError::MemLimit { .. } | ZramError::OutOfRange { .. } => io::ErrorKind::StorageFull,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

impl StorageBackend for ZramBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len.load(SeqCst))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check(offset, out.len())?;
        self.disk.read(offset, out).map_err(failed)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > self.disk.disksize() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // What is cut off reads as zeros when the file grows again.
        let old = self.len.swap(len, SeqCst);
        if len < old {
            self.disk.write_zeroes(len, old - len).map_err(failed)?;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        // A write is in the disk's memory when it returns, and nothing outlives the process.
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(offset, data.len())?;
        self.disk.write(offset, data).map_err(failed)
    }
}
