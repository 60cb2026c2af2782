//! This project's page store with one of its backends and codecs.

use zswap_core::{SwapEntry, Zswap};

use crate::contestant::{Contestant, Memory, Worker};
use crate::error::{Error, Result};
use crate::source::{Aligned, PAGE};

#[derive(Debug)]
pub(crate) struct Store(Zswap);

impl Store {
    pub(crate) fn new(zpool: &str, compressor: &str) -> Result<Self> {
        let store = Zswap::builder().zpool(zpool).compressor(compressor).build();
        store.map(Store).map_err(Error::setup)
    }
}

fn entry(page: usize) -> Result<SwapEntry> {
    let reason = |error: zswap_core::EntryError| error.to_string();
    SwapEntry::new(0, page as u64).map_err(|error| Error::Keeps {
        what: "an entry",
        page,
        reason: reason(error),
    })
}

impl Contestant for Store {
    fn worker(&self) -> Result<Box<dyn Worker + '_>> {
        Ok(Box::new(Hand { store: &self.0, page: Box::new([Aligned([0xa5; PAGE])]) }))
    }

    fn free(&self, page: usize) -> Result<()> {
        self.0.invalidate(entry(page)?);
        Ok(())
    }

    fn tidy(&self) -> Result<()> {
        self.0.compact().map_err(Error::setup)?;
        self.0.trim();
        Ok(())
    }

    fn memory(&self) -> Result<Memory> {
        let stats = self.0.stats();
        Ok(Memory {
            compressed_bytes: stats.compressed_bytes,
            metadata_bytes: Some(stats.metadata_bytes),
            outside_bytes: None,
        })
    }
}

struct Hand<'a> {
    store: &'a Zswap,
    page: Box<[Aligned; 1]>,
}

impl Worker for Hand<'_> {
    fn store(&mut self, first: usize, pages: &[Aligned]) -> Result<()> {
        self.store
            .store(entry(first)?, &pages[0].0)
            .map_err(|error| Error::keeps("a store", first, error))
    }

    fn load(&mut self, first: usize) -> Result<&[Aligned]> {
        self.store
            .load(entry(first)?, &mut self.page[0].0)
            .map_err(|error| Error::keeps("a load", first, error))?;
        Ok(&self.page[..])
    }
}
