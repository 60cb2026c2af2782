//! This project's block device, a page or 128 KiB at a time.

use zram::Zram;

use crate::contestant::{Contestant, Memory, Worker};
use crate::error::{Error, Result};
use crate::source::{Aligned, PAGE, bytes, bytes_mut, offset};

#[derive(Debug)]
pub(crate) struct Disk {
    disk: Zram,
    unit: usize,
}

impl Disk {
    /// Of so many pages, read and written `unit` of them at a time.
    pub(crate) fn new(zpool: &str, compressor: &str, pages: usize, unit: usize) -> Result<Self> {
        let disk = Zram::builder()
            .disksize((pages * PAGE) as u64)
            .zpool(zpool)
            .algorithm(compressor)
            .build()
            .map_err(Error::setup)?;
        Ok(Disk { disk, unit })
    }
}

impl Contestant for Disk {
    fn unit(&self) -> usize {
        self.unit
    }

    fn worker(&self) -> Result<Box<dyn Worker + '_>> {
        Ok(Box::new(Hand { disk: &self.disk, pages: vec![Aligned([0xa5; PAGE]); self.unit] }))
    }

    fn free(&self, page: usize) -> Result<()> {
        self.disk
            .discard(offset(page), PAGE as u64)
            .map_err(|error| Error::keeps("a discard", page, error))
    }

    fn tidy(&self) -> Result<()> {
        // A pool without compaction stays as it is.
        let _ = self.disk.compact();
        self.disk.trim();
        Ok(())
    }

    fn memory(&self) -> Result<Memory> {
        Ok(Memory {
            compressed_bytes: self.disk.mm_stat().compr_data_size as usize,
            metadata_bytes: Some(self.disk.metadata_bytes()),
            outside_bytes: None,
        })
    }
}

struct Hand<'a> {
    disk: &'a Zram,
    pages: Vec<Aligned>,
}

impl Worker for Hand<'_> {
    fn store(&mut self, first: usize, pages: &[Aligned]) -> Result<()> {
        self.disk
            .write(offset(first), bytes(pages))
            .map_err(|error| Error::keeps("a write", first, error))
    }

    fn load(&mut self, first: usize) -> Result<&[Aligned]> {
        self.disk
            .read(offset(first), bytes_mut(&mut self.pages))
            .map_err(|error| Error::keeps("a read", first, error))?;
        Ok(&self.pages)
    }
}
