//! Trials of faults with pages on a device.

use std::sync::Arc;

use zpage::device::{DeviceError, Geometry, MemorySwapDevice, SwapDevice};
use zram::{PAGE_SIZE, Writeback, Zram};
use zswap_core::{SwapEntry, Zswap};

use crate::Seen;
use crate::pages::page_of;

/// A device that returns whatever is read from it with one bit of the object changed.
#[derive(Debug)]
struct Flips(MemorySwapDevice);

impl SwapDevice for Flips {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.0.write_segment(segment, bytes)
    }
    fn read(&self, segment: u64, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.0.read(segment, offset, bytes)?;
        bytes[77] ^= 4;
        Ok(())
    }
    fn discard(&self, segment: u64) {
        self.0.discard(segment);
    }
}

fn disk(device: Arc<dyn SwapDevice>) -> Zram {
    let disk = Zram::builder().disksize(10 * PAGE_SIZE as u64).backing_device(device);
    let disk = disk.build().expect("a disk");
    disk.write(0, &page_of(1, 1500)).expect("room");
    disk.writeback(&Writeback::new()).expect("a device that takes pages");
    disk
}

/// Tests whether the disk accepts a page that the device returns changed.
pub fn a_device_is_believed() -> Seen {
    let disk = disk(Arc::new(Flips(MemorySwapDevice::new(10))));
    let mut back = [0; PAGE_SIZE];
    let read = disk.read(0, &mut back);
    let fault = read.is_ok() && back != page_of(1, 1500);
    Seen::new(fault, format!("one bit changed on the device: {read:?}"))
}

/// Tests whether a page that is read repeatedly from the device never moves back into memory.
pub fn a_hot_page_stays_on_the_device() -> Seen {
    let mut back = [0; PAGE_SIZE];
    let disk = disk(Arc::new(MemorySwapDevice::new(10)));
    for _ in 0..1000 {
        disk.read(0, &mut back).expect("the page");
    }
    let store = Zswap::builder().swap_device(Arc::new(MemorySwapDevice::new(10))).build();
    let store = store.expect("a store");
    let entry = SwapEntry::new(0, 1).expect("an entry");
    store.store(entry, &page_of(1, 1500)).expect("room");
    store.shrink(1).expect("a device that takes pages");
    for _ in 0..1000 {
        store.load(entry, &mut back).expect("the page");
    }
    let reads = [disk.bd_stat().bd_reads, store.stats().device_loads as u64];
    let what = format!("1000 loads of one page: {reads:?} reads of the device, by disk and store");
    Seen::new(reads.iter().any(|reads| *reads > 500), what)
}
