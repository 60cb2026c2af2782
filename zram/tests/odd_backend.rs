//! A backend panics or reports impossible figures. Either the disk is not built, or it loses no object and no
//! slot.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

use common::{at, check, marked};
use zpage::builtin;
use zpage::device::MemorySwapDevice;
use zpool_api::{
    Handle, ObjRead, ObjWrite, PoolTag, Registry, Zpool, ZpoolCaps, ZpoolConfig, ZpoolError,
    ZpoolStats,
};
use zpool_pages::HeapPages;
use zram::{BuildError, Writeback, Zram, ZramBuilder};

const CALM: u8 = 0;
const TAG: u8 = 1;
const STATS: u8 = 2;
const TOTAL_PAGES: u8 = 3;
const FREE: u8 = 4;
/// The mood in which the backend reports impossible figures.
const LIES: u8 = 5;

/// Wraps a backend. Its mood says which of its calls panics, or that it reports impossible figures.
#[derive(Debug)]
struct Odd(Arc<dyn Zpool>, Arc<AtomicU8>);

impl Odd {
    fn may_panic(&self, call: u8) {
        assert_ne!(self.1.load(SeqCst), call, "on purpose");
    }
}

impl Zpool for Odd {
    fn name(&self) -> &'static str {
        "odd"
    }
    fn tag(&self) -> PoolTag {
        self.may_panic(TAG);
        self.0.tag()
    }
    fn caps(&self) -> ZpoolCaps {
        self.0.caps()
    }
    fn malloc(&self, size: usize) -> Result<ObjWrite<'_>, ZpoolError> {
        self.0.malloc(size)
    }
    fn free(&self, handle: Handle) -> Result<(), ZpoolError> {
        self.0.free(handle)?;
        self.may_panic(FREE);
        Ok(())
    }
    fn obj_read_begin(&self, handle: Handle) -> Result<ObjRead<'_>, ZpoolError> {
        self.0.obj_read_begin(handle)
    }
    fn total_pages(&self) -> usize {
        self.may_panic(TOTAL_PAGES);
        if self.1.load(SeqCst) == LIES { usize::MAX } else { self.0.total_pages() }
    }
    fn stats(&self) -> ZpoolStats {
        self.may_panic(STATS);
        let mut stats = self.0.stats();
        if self.1.load(SeqCst) == LIES {
            stats.metadata_bytes = usize::MAX;
        }
        stats
    }
}

/// Returns a builder of a disk of 16 pages over an odd backend, that backend's mood, and the backend that it
/// wraps.
fn odd(mood: u8) -> (ZramBuilder, Arc<AtomicU8>, Arc<dyn Zpool>) {
    let mood = Arc::new(AtomicU8::new(mood));
    let inner = builtin::zpools().build("zbud", &ZpoolConfig::new(Arc::new(HeapPages::new())));
    let inner = inner.unwrap();
    let mut registry = Registry::new();
    let given = (inner.clone(), mood.clone());
    let build = move |_: &ZpoolConfig| -> Result<Arc<dyn Zpool>, ZpoolError> {
        Ok(Arc::new(Odd(given.0.clone(), given.1.clone())))
    };
    registry.register("odd", build).unwrap();
    let disk = Zram::builder().disksize(at(16)).zpool_registry(registry).zpool("odd");
    (disk.algorithm("null"), mood, inner)
}

#[test]
fn one_that_panics_while_the_disk_is_built_is_an_error() {
    for mood in [TAG, STATS] {
        let built = odd(mood).0.build();
        let panicked = BuildError::Panicked { what: "the backend" };
        assert_eq!(built.err(), Some(panicked), "mood {mood}");
    }
}

#[test]
fn one_that_panics_or_lies_about_its_size_loses_no_object() {
    for strange in [TOTAL_PAGES, LIES] {
        let (disk, mood, inner) = odd(CALM);
        let disk = disk.build().unwrap();
        mood.store(strange, SeqCst);
        let page = marked(3, 2000);
        disk.write(0, &page[..]).unwrap();
        check(&disk, 0, &page);
        disk.reset_mem_used_max();
        let saturated = disk.metadata_bytes() == usize::MAX;
        assert_eq!(saturated, strange == LIES, "mood {strange}");
        disk.discard(0, at(1)).unwrap();
        assert_eq!(inner.stats().objects, 0, "mood {strange}");
    }
}

#[test]
fn a_disk_whose_backend_panics_when_it_frees_is_dropped_whole() {
    let device = Arc::new(MemorySwapDevice::new(16));
    let (disk, mood, inner) = odd(CALM);
    let disk = disk.backing_device(device.clone()).build().unwrap();
    for n in 0..8 {
        disk.write(at(n), &marked(n, 2000)[..]).unwrap();
    }
    assert_eq!(disk.writeback(&Writeback::new().pages(4..8)).unwrap().written, 4);
    mood.store(FREE, SeqCst);
    // Overwriting a page frees its old object.
    disk.write(0, &marked(9, 2000)[..]).unwrap();
    drop(disk);
    assert_eq!((inner.stats().objects, device.pages()), (0, 0));
}
