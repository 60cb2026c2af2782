//! A backend panics or reports impossible figures. Either the disk is not built, or it loses no object and no
//! slot.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use common::{at, check, marked, rig_with, settle};
use zpage::builtin;
use zpage::device::MemorySwapDevice;
use zpool_api::{
    BackendBits, Handle, ObjRead, ObjSink, ObjWrite, PoolTag, Registry, Zpool, ZpoolCaps,
    ZpoolConfig, ZpoolError, ZpoolStats,
};
use zpool_pages::HeapPages;
use zram::{BuildError, PAGE_SIZE, Writeback, Zram, ZramBuilder, ZramError};

const CALM: u8 = 0;
const TAG: u8 = 1;
const STATS: u8 = 2;
const TOTAL_PAGES: u8 = 3;
const FREE: u8 = 4;
/// The mood in which the backend reports impossible figures.
const LIES: u8 = 5;
/// The moods in which a page that ends with `BAD` cannot be read, or comes back with another length.
const UNREADABLE: u8 = 6;
const EMPTY: u8 = 7;
const LONG: u8 = 8;
const BAD: u8 = 0xEE;

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
        let object = self.0.obj_read_begin(handle)?;
        if object.last() != Some(&BAD) {
            return Ok(object);
        }
        match self.1.load(SeqCst) {
            UNREADABLE => Err(ZpoolError::Unsupported { backend: "odd", operation: "read" }),
            EMPTY => Ok(ObjRead::from_owner(Arc::new([0; 0]), 0)),
            LONG => Ok(ObjRead::from_owner(Arc::new([1; 5000]), 5000)),
            _ => Ok(object),
        }
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
    assert_eq!((inner.stats().objects, device.segments()), (0, 0));
}

#[test]
fn a_page_that_the_backend_cannot_read_ends_writeback_after_the_pages_before_it() {
    for strange in [UNREADABLE, EMPTY, LONG] {
        let device = Arc::new(MemorySwapDevice::new(256));
        let (disk, mood, _) = odd(CALM);
        let disk = disk.backing_device(device.clone()).build().unwrap();
        let page = |n| {
            let mut page = marked(n, 2000);
            page[PAGE_SIZE - 1] = if n == 3 { BAD } else { 1 };
            page
        };
        (0..6).for_each(|n| disk.write(at(n), &page(n)[..]).unwrap());
        disk.set_writeback_limit(Some(10));
        mood.store(strange, SeqCst);
        let error = disk.writeback(&Writeback::new()).unwrap_err();
        assert!(matches!(error, ZramError::Pool { index: 3, .. }), "{error}");
        assert_eq!((disk.bd_stat().bd_count, disk.writeback_limit()), (3, Some(7)), "{strange}");
        mood.store(CALM, SeqCst);
        assert_eq!(disk.writeback(&Writeback::new()).unwrap().written, 3);
        (0..6).for_each(|n| check(&disk, n, &page(n)));
    }
}

/// A backend whose handles recur at once: the next object takes the place of the last that was freed, unless that one
/// is pinned.
#[derive(Debug)]
struct Recurring {
    tag: PoolTag,
    /// The objects by their handles, and whether each is allocated.
    places: Mutex<Vec<(Arc<Vec<u8>>, bool)>>,
}

impl ObjSink for Recurring {
    fn store(&self, bytes: &[u8]) -> Result<Handle, ZpoolError> {
        let mut places = self.places.lock().unwrap();
        let free =
            |(held, allocated): &(Arc<Vec<u8>>, bool)| !*allocated && Arc::strong_count(held) == 1;
        let at = places.iter().position(free).unwrap_or(places.len());
        let object = (Arc::new(bytes.to_vec()), true);
        match places.get_mut(at) {
            Some(place) => *place = object,
            None => places.push(object),
        }
        Ok(Handle::new(self.tag, BackendBits::truncate(at as u64)))
    }
}

impl Zpool for Recurring {
    fn name(&self) -> &'static str {
        "recurring"
    }
    fn tag(&self) -> PoolTag {
        self.tag
    }
    fn caps(&self) -> ZpoolCaps {
        ZpoolCaps::new(PAGE_SIZE)
    }
    fn malloc(&self, size: usize) -> Result<ObjWrite<'_>, ZpoolError> {
        ObjWrite::buffered(size, self)
    }
    fn free(&self, handle: Handle) -> Result<(), ZpoolError> {
        self.places.lock().unwrap()[handle.backend_bits().get() as usize].1 = false;
        Ok(())
    }
    fn obj_read_begin(&self, handle: Handle) -> Result<ObjRead<'_>, ZpoolError> {
        let held = self.places.lock().unwrap()[handle.backend_bits().get() as usize].0.clone();
        let len = held.len();
        Ok(ObjRead::from_owner(held, len))
    }
    fn total_pages(&self) -> usize {
        0
    }
    fn stats(&self) -> ZpoolStats {
        let mut stats = ZpoolStats::default();
        stats.page_size = PAGE_SIZE;
        stats
    }
}

#[test]
fn a_handle_that_recurs_during_the_write_is_not_taken_for_the_old_page() {
    let mut registry = Registry::new();
    let build = |_: &ZpoolConfig| -> Result<Arc<dyn Zpool>, ZpoolError> {
        Ok(Arc::new(Recurring { tag: PoolTag::next(), places: Mutex::default() }))
    };
    registry.register("recurring", build).unwrap();
    let rig = rig_with(4, |builder| builder.zpool_registry(registry).zpool("recurring"));
    let disk = &rig.disk;
    disk.write(at(0), &marked(0, 900)[..]).unwrap();
    let done = rig.gate.in_write(
        || disk.writeback(&Writeback::new()).unwrap(),
        || {
            // Each write allocates before the old object is freed, so two handles take turns.
            for n in 1..=2 {
                disk.write(at(0), &marked(n, 900)[..]).unwrap();
                check(disk, 0, &marked(n, 900));
            }
        },
    );
    assert_eq!((done.written, disk.bd_stat().bd_count), (0, 0));
    check(disk, 0, &marked(2, 900));
    assert_eq!(disk.writeback(&Writeback::new()).unwrap().written, 1);
    check(disk, 0, &marked(2, 900));
    settle(rig);
}
