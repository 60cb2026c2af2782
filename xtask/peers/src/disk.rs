//! This project's block device. It is written and read a page or 128 KiB at a time.

use measure::{Contestant, Memory, Page, Worker};
use zram::Zram;

use crate::error::{Error, Result};
use crate::source::{PAGE, offset};

#[derive(Debug)]
pub(crate) struct Disk(Zram);

impl Disk {
    /// Makes a disk of `pages` pages.
    pub(crate) fn new(zpool: &str, compressor: &str, pages: usize) -> Result<Self> {
        let disk = Zram::builder()
            .disksize((pages * PAGE) as u64)
            .zpool(zpool)
            .algorithm(compressor)
            .build()
            .map_err(Error::setup)?;
        Ok(Disk(disk))
    }
}

impl Contestant<Error> for Disk {
    fn worker(&self) -> Result<Box<dyn Worker<Error> + '_>> {
        Ok(Box::new(Hand(&self.0)))
    }

    fn free(&self, page: usize) -> Result<()> {
        self.0
            .discard(offset(page), PAGE as u64)
            .map_err(|error| Error::keeps("a discard", page, error))
    }

    fn tidy(&self) -> Result<()> {
        // An error is ignored: a pool that has no compaction is left unchanged.
        let _ = self.0.compact();
        self.0.trim();
        Ok(())
    }

    fn memory(&self) -> Result<Memory> {
        Ok(Memory {
            compressed_bytes: Some(self.0.mm_stat().compr_data_size as usize),
            metadata_bytes: Some(self.0.metadata_bytes()),
            ..Memory::default()
        })
    }
}

struct Hand<'a>(&'a Zram);

impl Worker<Error> for Hand<'_> {
    fn store(&mut self, first: usize, pages: &[Page]) -> Result<()> {
        self.0
            .write(offset(first), pages.as_flattened())
            .map_err(|error| Error::keeps("a write", first, error))
    }

    fn load(&mut self, first: usize, into: &mut [Page]) -> Result<bool> {
        self.0
            .read(offset(first), into.as_flattened_mut())
            .map_err(|error| Error::keeps("a read", first, error))?;
        Ok(true)
    }
}
