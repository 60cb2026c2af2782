//! Models of whole stores: two threads run operations, most of them on the same entry.
//!
//! Pools and devices are toys. They hold their objects under std's mutexes, which the model checker does not
//! see. So each call of a toy is one step for the checker; another thread may run before it, but not during
//! it. The checker explores the store itself: entry words, references to pools, and segments.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use compressors::{Compressor, CompressorCtx, CompressorError};
use loom::thread::{self, JoinHandle};
use zpool_api::{
    BackendBits, ObjRead, ObjWrite, PoolTag, Registry as ZpoolRegistry, Zpool, ZpoolCaps,
    ZpoolError, ZpoolStats,
};
use zpool_pages::HeapPages;

use crate::moves::clean::Names;
use crate::{LoadError, PAGE_SIZE, Page, Recompress, SwapEntry, Zswap, ZswapBuilder, builtin};
use zpage::device::{DeviceError, Geometry, SwapDevice};
use zpage::segments::Cleaned;

/// Counts the living toy pools of a store, and the objects in them.
#[derive(Debug, Default)]
struct Census {
    objects: AtomicUsize,
    pools: AtomicUsize,
    steps: Steps,
}

/// An atomic of the model checker. Every call of a toy changes it, so the checker tries the calls in every
/// order.
#[derive(Debug, Default)]
struct Steps(loom::sync::atomic::AtomicUsize);

impl Steps {
    fn step(&self) {
        // Relaxed: publishes nothing.
        self.0.fetch_add(1, loom::sync::atomic::Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct ToyPool {
    tag: PoolTag,
    census: Arc<Census>,
    objects: Mutex<BTreeMap<u64, Arc<Vec<u8>>>>,
    last: AtomicUsize,
}

impl ToyPool {
    fn new(census: &Arc<Census>) -> Self {
        census.pools.fetch_add(1, SeqCst);
        ToyPool {
            tag: PoolTag::next(),
            census: census.clone(),
            objects: Mutex::default(),
            last: AtomicUsize::new(0),
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<u64, Arc<Vec<u8>>>) -> T) -> T {
        change(&mut self.objects.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for ToyPool {
    fn drop(&mut self) {
        assert_eq!(self.with(|objects| objects.len()), 0, "a pool goes with its last object");
        self.census.pools.fetch_sub(1, SeqCst);
    }
}

impl Zpool for ToyPool {
    fn name(&self) -> &'static str {
        "toy"
    }
    fn tag(&self) -> PoolTag {
        self.tag
    }
    fn caps(&self) -> ZpoolCaps {
        ZpoolCaps::new(PAGE_SIZE)
    }
    fn malloc(&self, size: usize) -> Result<ObjWrite<'_>, ZpoolError> {
        Err(ZpoolError::ObjectTooLarge { backend: "toy", size, max: 0 })
    }
    fn malloc_from(&self, bytes: &[u8]) -> Result<zpool_api::Handle, ZpoolError> {
        self.census.steps.step();
        let n = self.last.fetch_add(1, SeqCst) as u64 + 1;
        self.with(|objects| objects.insert(n, Arc::new(bytes.to_vec())));
        self.census.objects.fetch_add(1, SeqCst);
        Ok(zpool_api::Handle::new(self.tag, BackendBits::truncate(n)))
    }
    fn free(&self, handle: zpool_api::Handle) -> Result<(), ZpoolError> {
        self.census.steps.step();
        let gone = self.with(|objects| objects.remove(&handle.backend_bits().get()));
        assert!(gone.is_some(), "freed twice");
        self.census.objects.fetch_sub(1, SeqCst);
        Ok(())
    }
    fn obj_read_begin(&self, handle: zpool_api::Handle) -> Result<ObjRead<'_>, ZpoolError> {
        self.census.steps.step();
        let object = self.with(|objects| objects.get(&handle.backend_bits().get()).cloned());
        let object = object.ok_or(ZpoolError::invalid(handle))?;
        let len = object.len();
        Ok(ObjRead::from_owner(object, len))
    }
    fn total_pages(&self) -> usize {
        self.with(|objects| objects.len())
    }
    fn stats(&self) -> ZpoolStats {
        let mut stats = ZpoolStats::default();
        stats.objects = self.with(|objects| objects.len());
        stats.page_size = PAGE_SIZE;
        stats
    }
}

/// A codec that compresses a page to its first 8 or 16 bytes, and restores only the first 8 (the others
/// become zero).
#[derive(Debug, Clone, Copy)]
struct Head(usize);

impl Compressor for Head {
    fn name(&self) -> &str {
        if self.0 == 8 { "head8" } else { "head16" }
    }
    fn spec(&self) -> String {
        self.name().to_owned()
    }
    fn max_compressed_len(&self, len: usize) -> usize {
        len
    }
    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        Ok(Box::new(*self))
    }
}

impl CompressorCtx for Head {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        dst[..self.0].copy_from_slice(&src[..self.0]);
        Ok(self.0)
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        dst.fill(0);
        dst[..8].copy_from_slice(&src[..8]);
        Ok(())
    }
    fn memory_bytes(&self) -> usize {
        0
    }
}

/// A device. Keeps the bytes of each segment that is in use. Panics if such a segment is written.
#[derive(Debug, Default)]
struct ToyDevice(Mutex<BTreeMap<u64, Vec<u8>>>, Steps);

impl ToyDevice {
    fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<u64, Vec<u8>>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl SwapDevice for ToyDevice {
    fn geometry(&self) -> Geometry {
        Geometry { segments: 8, segment_bytes: Geometry::LEAST_SEGMENT, block_bytes: 1 }
    }
    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.1.step();
        let there = self.with(|segments| segments.insert(segment, bytes.to_vec()));
        assert_eq!(there, None, "segment {segment} is still in use");
        Ok(())
    }
    fn read(&self, segment: u64, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.1.step();
        let there = self.with(|segments| segments.get(&segment).cloned());
        let there = there.ok_or(DeviceError::Missing { segment })?;
        bytes.copy_from_slice(&there[offset..offset + bytes.len()]);
        Ok(())
    }
    fn discard(&self, segment: u64) {
        self.1.step();
        let there = self.with(|segments| segments.remove(&segment));
        assert!(there.is_some(), "discarded twice");
    }
}

/// Makes the page that stands for the number `n`: its first 8 bytes are the number.
fn marked(n: u64) -> Box<Page> {
    let mut page = Box::new([0; PAGE_SIZE]);
    page[..8].copy_from_slice(&n.to_le_bytes());
    page
}

fn head(page: &Page) -> u64 {
    page.iter().zip(0..8).map(|(byte, i)| u64::from(*byte) << (8 * i)).sum()
}

struct World {
    store: Arc<Zswap>,
    census: Arc<Census>,
    device: Arc<ToyDevice>,
}

impl World {
    /// Makes a store with a toy pool, a toy device and the codec `head16`. For each pair in `pages`, stores
    /// the page of the second number under the entry with the first number as its offset.
    fn with(pages: &[(u64, u64)]) -> World {
        Self::built(pages, |builder| builder)
    }

    /// Does so with other settings, too.
    fn built(pages: &[(u64, u64)], more: impl FnOnce(ZswapBuilder) -> ZswapBuilder) -> World {
        let (census, device): (Arc<Census>, Arc<ToyDevice>) = Default::default();
        let (mut zpools, mut codecs) = (ZpoolRegistry::new(), builtin::compressors());
        for name in ["toy", "toy2"] {
            let theirs = census.clone();
            zpools.register(name, move |_| Ok(Arc::new(ToyPool::new(&theirs)))).unwrap();
        }
        for codec in [Head(8), Head(16)] {
            codecs.register(codec.name(), move |_| Ok(Arc::new(codec))).unwrap();
        }
        let store = Zswap::builder()
            .zpool_registry(zpools)
            .compressor_registry(codecs)
            .pages(|| Ok(Arc::new(HeapPages::new())))
            .zpool("toy")
            .compressor("head16")
            .swap_device(device.clone());
        let world = World { store: Arc::new(more(store).build().unwrap()), census, device };
        pages.iter().for_each(|&(entry, n)| world.store.put(entry, n));
        world
    }

    /// Starts `run` on another thread of the model.
    fn beside<T: 'static>(&self, run: impl FnOnce(&Zswap) -> T + 'static) -> JoinHandle<T> {
        let store = self.store.clone();
        thread::spawn(move || run(&store))
    }

    /// Checks that each entry of `pages` has the expected page, and that each page is either in a pool or on
    /// the device. Then drops all pages, and checks that no object, segment or older pool is left.
    fn settle(self, pages: &[(u64, Option<u64>)]) {
        for &(entry, expected) in pages {
            assert_eq!(self.store.get(entry), expected, "entry {entry}");
        }
        let (objects, stats) = (self.census.objects.load(SeqCst), self.store.stats());
        let on_device = stats.device_pages;
        assert_eq!(objects + on_device, self.store.len(), "{objects} and {on_device}");
        assert_eq!(stats.device_segments, self.device.with(|segments| segments.len()));
        self.store.invalidate_area(0);
        assert_eq!((self.store.len(), self.census.objects.load(SeqCst)), (0, 0));
        assert_eq!(self.device.with(|segments| segments.len()), 0);
        assert_eq!(self.census.pools.load(SeqCst), 1, "only the current pool is left");
        drop(self.store);
        assert_eq!(self.census.pools.load(SeqCst), 0);
    }
}

/// Uses the store as a map from number to number.
trait AsMap {
    fn put(&self, entry: u64, n: u64);
    fn get(&self, entry: u64) -> Option<u64>;
    fn pull(&self, entry: u64) -> Option<u64>;
    fn remove(&self, entry: u64) -> bool;
}

fn at(entry: u64) -> SwapEntry {
    SwapEntry::new(0, entry).unwrap()
}

impl AsMap for Zswap {
    fn put(&self, entry: u64, n: u64) {
        self.store(at(entry), &marked(n)).unwrap();
    }

    fn get(&self, entry: u64) -> Option<u64> {
        let mut page = Box::new([0; PAGE_SIZE]);
        match self.load(at(entry), &mut page) {
            Ok(()) => Some(head(&page)),
            Err(LoadError::NotFound { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn pull(&self, entry: u64) -> Option<u64> {
        let mut page = Box::new([0; PAGE_SIZE]);
        match self.take(at(entry), &mut page) {
            Ok(()) => Some(head(&page)),
            Err(LoadError::NotFound { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn remove(&self, entry: u64) -> bool {
        self.invalidate(at(entry))
    }
}

#[test]
fn loom_store_against_store() {
    loom::model(|| {
        let world = World::with(&[]);
        let other = world.beside(|store| store.put(0, 1));
        world.store.put(0, 2);
        other.join().unwrap();
        let last = world.store.get(0);
        assert!(matches!(last, Some(1 | 2)), "{last:?}");
        assert_eq!(world.store.len(), 1);
        world.settle(&[(0, last)]);
    });
}

#[test]
fn loom_load_against_store() {
    loom::model(|| {
        let world = World::with(&[(0, 1)]);
        let other = world.beside(|store| store.put(0, 2));
        let seen = world.store.get(0);
        assert!(matches!(seen, Some(1 | 2)), "{seen:?}");
        other.join().unwrap();
        world.settle(&[(0, Some(2))]);
    });
}

#[test]
fn loom_load_against_invalidate() {
    loom::model(|| {
        let world = World::with(&[(0, 1)]);
        let other = world.beside(|store| assert!(store.remove(0)));
        let seen = world.store.get(0);
        assert!(matches!(seen, Some(1) | None), "{seen:?}");
        other.join().unwrap();
        world.settle(&[(0, None)]);
    });
}

#[test]
fn loom_take_against_store() {
    loom::model(|| {
        let world = World::with(&[(0, 1)]);
        let other = world.beside(|store| store.put(0, 2));
        let taken = world.store.pull(0);
        other.join().unwrap();
        match taken {
            Some(1) => world.settle(&[(0, Some(2))]),
            Some(2) => world.settle(&[(0, None)]),
            _ => panic!("{taken:?}"),
        }
    });
}

#[test]
fn loom_take_against_take() {
    loom::model(|| {
        let world = World::with(&[(0, 1)]);
        let other = world.beside(|store| store.pull(0));
        let taken = [world.store.pull(0), other.join().unwrap()];
        assert!(matches!(taken, [Some(1), None] | [None, Some(1)]), "{taken:?}");
        world.settle(&[(0, None)]);
    });
}

#[test]
fn loom_writeback_against_store() {
    loom::model(|| {
        let world = World::with(&[(0, 1)]);
        let other = world.beside(|store| store.put(0, 2));
        world.store.shrink(1).unwrap();
        other.join().unwrap();
        world.settle(&[(0, Some(2))]);
    });
}

#[test]
fn loom_writeback_against_load() {
    loom::model(|| {
        let world = World::with(&[(0, 1)]);
        let other = world.beside(|store| store.get(0));
        world.store.shrink(1).unwrap();
        assert_eq!(other.join().unwrap(), Some(1));
        world.settle(&[(0, Some(1))]);
    });
}

#[test]
fn loom_writeback_against_invalidate() {
    loom::model(|| {
        let world = World::with(&[(0, 1)]);
        let other = world.beside(|store| assert!(store.remove(0)));
        world.store.shrink(1).unwrap();
        other.join().unwrap();
        world.settle(&[(0, None)]);
    });
}

/// A clean page is dropped while a newer one is stored. The newer one stays, unless it is dropped itself.
#[test]
fn loom_drop_clean_against_store() {
    loom::model(|| {
        let world = World::built(&[(0, 1)], |builder| builder.clean_filter(|_| true));
        let other = world.beside(|store| store.put(0, 2));
        let dropped = world.store.shrink(1).unwrap();
        other.join().unwrap();
        let left = world.store.get(0);
        assert!(left == Some(2) || left.is_none() && dropped == 1, "{left:?} {dropped}");
        world.settle(&[(0, left)]);
    });
}

#[test]
fn loom_drop_clean_against_take() {
    loom::model(|| {
        let world = World::built(&[(0, 1)], |builder| builder.clean_filter(|_| true));
        let other = world.beside(|store| store.pull(0));
        let dropped = world.store.shrink(1).unwrap();
        let taken = other.join().unwrap();
        assert_eq!(taken, (dropped == 0).then_some(1));
        world.settle(&[(0, None)]);
    });
}

#[test]
fn loom_shrink_against_shrink() {
    loom::model(|| {
        let world = World::with(&[(0, 1)]);
        let other = world.beside(|store| store.shrink(1).unwrap());
        let written = world.store.shrink(1).unwrap();
        assert_eq!(written + other.join().unwrap(), 1);
        world.settle(&[(0, Some(1))]);
    });
}

/// A page on the device is dropped while it is being read. Its segment must not be written again before
/// the read ends.
#[test]
fn loom_load_from_the_device_against_reuse_of_its_segment() {
    loom::model(|| {
        let world = World::with(&[(0, 1)]);
        assert_eq!(world.store.shrink(1), Ok(1));
        world.store.put(1, 2);
        let other = world.beside(|store| {
            store.remove(0);
            store.shrink(1).unwrap();
        });
        let seen = world.store.get(0);
        assert!(matches!(seen, Some(1) | None), "{seen:?}");
        other.join().unwrap();
        world.settle(&[(0, None), (1, Some(2))]);
    });
}

#[test]
fn loom_take_from_the_device_against_store() {
    let mut model = loom::model::Builder::new();
    // With one more preemption, the model takes minutes. The fault that the model is meant to find needs only
    // one preemption.
    model.preemption_bound = Some(2);
    model.check(|| {
        let world = World::with(&[(0, 1)]);
        assert_eq!(world.store.shrink(1), Ok(1));
        let other = world.beside(|store| {
            store.put(0, 2);
            // If `take` has not pinned the segment, this writeback writes the same segment.
            store.shrink(1).unwrap();
        });
        let taken = world.store.pull(0);
        other.join().unwrap();
        match taken {
            Some(1) => world.settle(&[(0, Some(2))]),
            Some(2) => world.settle(&[(0, None)]),
            _ => panic!("{taken:?}"),
        }
    });
}

/// Writes two pages to a segment each, so that cleaning has something to win. They are small.
fn two_segments() -> World {
    let world = World::with(&[(0, 1), (1, 2)]);
    assert_eq!((world.store.shrink(1), world.store.shrink(1)), (Ok(1), Ok(1)));
    assert_eq!(world.store.stats().device_segments, 2);
    world
}

fn clean(store: &Zswap) -> Cleaned {
    let segments = store.backing.as_ref().unwrap();
    segments.clean(&Names(store), &|| false).unwrap()
}

fn check_cleaning(against: fn(&World) -> Option<u64>, beside: fn(&Zswap)) {
    let mut model = loom::model::Builder::new();
    // As in `loom_take_from_the_device_against_store`.
    model.preemption_bound = Some(2);
    model.check(move || {
        let world = two_segments();
        let other = world.beside(beside);
        let left = against(&world);
        other.join().unwrap();
        world.settle(&[(0, left), (1, Some(2))]);
    });
}

/// A page is loaded while it is moved to another segment, and its old segment is discarded.
#[test]
fn loom_clean_against_load() {
    check_cleaning(
        |world| {
            assert_eq!(world.store.get(0), Some(1));
            Some(1)
        },
        |store| {
            let cleaned = clean(store);
            assert_eq!((cleaned.segments, cleaned.written, cleaned.objects), (2, 1, 2));
        },
    );
}

/// A page is overwritten, and the new page written back, while the older one is moved to another segment.
#[test]
fn loom_clean_against_store() {
    check_cleaning(
        |world| {
            world.store.put(0, 3);
            world.store.shrink(1).unwrap();
            Some(3)
        },
        |store| {
            clean(store);
        },
    );
}

/// A page is taken while it is moved to another segment.
#[test]
fn loom_clean_against_take() {
    check_cleaning(
        |world| {
            assert_eq!(world.store.pull(0), Some(1));
            None
        },
        |store| {
            clean(store);
        },
    );
}

/// Two threads clean. One waits for the other.
#[test]
fn loom_clean_against_clean() {
    check_cleaning(
        |world| {
            clean(&world.store);
            Some(1)
        },
        |store| {
            clean(store);
        },
    );
}

/// A page comes back from the device while it is overwritten.
#[test]
fn loom_promote_against_store() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let world = World::with(&[(0, 1)]);
        assert_eq!(world.store.shrink(1), Ok(1));
        // The first load only marks the page.
        assert_eq!(world.store.get(0), Some(1));
        let other = world.beside(|store| store.put(0, 2));
        let seen = world.store.get(0);
        assert!(matches!(seen, Some(1 | 2)), "{seen:?}");
        other.join().unwrap();
        world.settle(&[(0, Some(2))]);
    });
}

/// A page comes back from the device while it is moved there.
#[test]
fn loom_promote_against_clean() {
    check_cleaning(
        |world| {
            assert_eq!((world.store.get(0), world.store.get(0)), (Some(1), Some(1)));
            Some(1)
        },
        |store| {
            clean(store);
        },
    );
}

/// While a page is being loaded, another thread switches to a new pool and drops the page. The old pool has
/// no other page, so it is dropped, too.
#[test]
fn loom_switch_against_load_and_invalidate() {
    loom::model(|| {
        let world = World::with(&[(0, 1)]);
        let other = world.beside(|store| {
            store.set_compressor("head8").unwrap();
            store.remove(0);
        });
        let seen = world.store.get(0);
        assert!(matches!(seen, Some(1) | None), "{seen:?}");
        other.join().unwrap();
        world.settle(&[(0, None)]);
    });
}

#[test]
fn loom_switch_against_store() {
    loom::model(|| {
        let world = World::with(&[(0, 1)]);
        let other = world.beside(|store| store.set_compressor("head8").unwrap());
        world.store.put(0, 2);
        other.join().unwrap();
        world.settle(&[(0, Some(2))]);
    });
}

/// One thread changes the backend, and the other changes the compressor. Neither change is lost.
#[test]
fn loom_switch_against_switch() {
    loom::model(|| {
        let world = World::with(&[]);
        let other = world.beside(|store| store.set_zpool("toy2").unwrap());
        world.store.set_compressor("head8").unwrap();
        other.join().unwrap();
        let pools = world.store.stats().pools;
        assert_eq!(pools.len(), 1);
        assert!(world.store.areas.shared().pools.current().is_like("toy2", "head8"), "{pools:?}");
        world.settle(&[]);
    });
}

#[test]
fn loom_migrate_against_store() {
    loom::model(|| {
        let world = World::with(&[(0, 1)]);
        world.store.set_compressor("head8").unwrap();
        let other = world.beside(|store| store.put(0, 2));
        world.store.migrate_pools(1).unwrap();
        other.join().unwrap();
        world.settle(&[(0, Some(2))]);
    });
}

#[test]
fn loom_recompress_against_writeback() {
    loom::model(|| {
        let world = World::with(&[(0, 1)]);
        let other = world.beside(|store| store.shrink(1).unwrap());
        world.store.recompress(&Recompress::new("head8").max_pages(1)).unwrap();
        other.join().unwrap();
        world.settle(&[(0, Some(1))]);
    });
}
