//! This project's page store, with one of its backends and codecs.

use measure::{Contestant, Memory, Page, Worker};
use zswap_core::{LoadError, SwapEntry, Zswap};

use crate::error::{Error, Result};

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

impl Contestant<Error> for Store {
    fn worker(&self) -> Result<Box<dyn Worker<Error> + '_>> {
        Ok(Box::new(Hand { store: &self.0 }))
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
            compressed_bytes: Some(stats.compressed_bytes),
            metadata_bytes: Some(stats.metadata_bytes),
            ..Memory::default()
        })
    }
}

struct Hand<'a> {
    store: &'a Zswap,
}

impl Worker<Error> for Hand<'_> {
    fn store(&mut self, first: usize, pages: &[Page]) -> Result<()> {
        self.store
            .store(entry(first)?, &pages[0])
            .map_err(|error| Error::keeps("a store", first, error))
    }

    fn load(&mut self, first: usize, into: &mut [Page]) -> Result<bool> {
        match self.store.load(entry(first)?, &mut into[0]) {
            Ok(()) => Ok(true),
            Err(LoadError::NotFound { .. }) => Ok(false),
            Err(error) => Err(Error::keeps("a load", first, error)),
        }
    }
}
