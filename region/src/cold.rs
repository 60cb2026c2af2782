//! Where cold pages are: a store of zswap-core, as this crate uses it.

use zswap_core::{LoadError, StoreError, SwapEntry, Zswap};

/// A store whose entries are the numbers of pages.
pub(crate) trait Cold: Send + Sync {
    fn load(&self, page: usize, to: &mut [u8]) -> Result<(), LoadError>;
    fn store(&self, page: usize, from: &[u8]) -> Result<(), StoreError>;
    fn invalidate(&self, page: usize);
    /// Returns the bytes of everything the store keeps in memory.
    fn memory_bytes(&self) -> usize;
    /// Frees what can be freed without losing a page.
    fn squeeze(&self);
}

/// Returns the entry of a page. There are fewer pages than entries.
#[expect(
    clippy::expect_used,
    reason = "the builder refuses more pages than a word can number, 2^31"
)]
fn entry(page: usize) -> SwapEntry {
    SwapEntry::new(0, page as u64)
        .expect("the number of a page of a region is the offset of an entry")
}

impl Cold for std::sync::Arc<Zswap> {
    fn load(&self, page: usize, to: &mut [u8]) -> Result<(), LoadError> {
        Zswap::load_unit(self, entry(page), to)
    }

    fn store(&self, page: usize, from: &[u8]) -> Result<(), StoreError> {
        Zswap::store_unit(self, entry(page), from)
    }

    fn invalidate(&self, page: usize) {
        Zswap::invalidate(self, entry(page));
    }

    fn memory_bytes(&self) -> usize {
        Zswap::memory_bytes(self)
    }

    fn squeeze(&self) {
        // A backend that cannot be compacted has nothing to give.
        let _ = self.compact();
        self.trim();
    }
}
