//! Stores whose pages are in several areas. Each page takes a page of its pool.

use std::sync::Arc;

use zswap_core::device::MemorySwapDevice;
use zswap_core::{PAGE_SIZE, Promotion, StoreError, SwapEntry, Zswap, ZswapBuilder};

use super::rig::marked;

pub(crate) fn of(area: u8, offset: u64) -> SwapEntry {
    SwapEntry::new(area, offset).unwrap()
}

/// Pages on the device stay there.
pub(crate) fn builder() -> ZswapBuilder {
    Zswap::builder().zpool("zbud").compressor("null").promotion(Promotion::Never)
}

pub(crate) fn with_device(pages: u64) -> ZswapBuilder {
    builder().swap_device(Arc::new(MemorySwapDevice::new(pages)))
}

/// Stores a page that is found nowhere else.
pub(crate) fn put(store: &Zswap, area: u8, offset: u64) -> Result<(), StoreError> {
    store.store(of(area, offset), &marked(u64::from(area) << 32 | offset, 1))
}

/// Checks that the page that `put` stored comes back.
pub(crate) fn check(store: &Zswap, area: u8, offset: u64) {
    let mut back = Box::new([7; PAGE_SIZE]);
    store.load(of(area, offset), &mut back).unwrap();
    assert!(back == marked(u64::from(area) << 32 | offset, 1), "{area} {offset}");
}

/// Returns the bytes of `count` pages.
pub(crate) fn pages(count: u64) -> usize {
    count as usize * PAGE_SIZE
}
