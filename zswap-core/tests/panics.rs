//! A device, a codec and a page provider panic in every call and every destructor. Even the destructors of
//! the panics' payloads panic. A call on the store that needs one of them returns an error, and no page is lost
//! except the one being handled.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a provider; a failure in a test's helper is the test's own message"
)]

mod common;
#[path = "common/page_device.rs"]
mod page_device;

use core::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use common::{at, eventually, page};
use compressors::{
    Acomp, AcompCompletions, AcompRequest, Compressor, CompressorCtx, CompressorError, Registry,
    Scomp,
};
use page_device::MemoryPages;
use zpool_api::{PageError, PageProvider, PageRun, ZpoolConfig};
use zpool_pages::HeapPages;
use zswap_core::device::{
    DeviceError, Geometry, MemorySwapDevice, PageDevice, PageSwapDevice, SwapDevice,
};
use zswap_core::{
    CleanerPolicy, CompactorPolicy, PAGE_SIZE, Page, Promotion, Recompress, ShrinkerPolicy,
    WritebackError, Zswap, ZswapBuilder, builtin,
};

/// A switch that says whether the brittle parts panic. Counts their panics.
#[derive(Clone, Debug, Default)]
struct Fuse(Arc<(AtomicBool, AtomicUsize)>);

/// The payload of a panic. It panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        resume_unwind(Box::new("a payload's own"));
    }
}

impl Fuse {
    fn set(&self, lit: bool) {
        self.0.0.store(lit, SeqCst);
    }

    fn step(&self) {
        if self.0.0.load(SeqCst) {
            self.0.1.fetch_add(1, SeqCst);
            resume_unwind(Box::new(Bomb));
        }
    }

    /// Returns the number of panics so far.
    fn count(&self) -> usize {
        self.0.1.load(SeqCst)
    }
}

/// A part that panics in every call and when it is dropped, while the fuse is set.
#[derive(Clone, Debug)]
struct Brittle<T>(Fuse, T);

impl<T> Drop for Brittle<T> {
    fn drop(&mut self) {
        self.0.step();
    }
}

impl Compressor for Brittle<()> {
    fn name(&self) -> &str {
        self.0.step();
        "brittle"
    }
    fn spec(&self) -> String {
        self.0.step();
        "brittle".to_owned()
    }
    fn max_compressed_len(&self, len: usize) -> usize {
        self.0.step();
        len
    }
    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        self.0.step();
        Ok(Box::new(self.clone()))
    }
}

impl CompressorCtx for Brittle<()> {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        self.0.step();
        let len = src.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        dst[..len].copy_from_slice(&src[..len]);
        Ok(len)
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        self.0.step();
        dst.fill(0);
        dst[..src.len()].copy_from_slice(src);
        Ok(())
    }
    fn memory_bytes(&self) -> usize {
        self.0.step();
        0
    }
}

impl SwapDevice for Brittle<Arc<dyn SwapDevice>> {
    fn geometry(&self) -> Geometry {
        self.0.step();
        self.1.geometry()
    }
    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.0.step();
        self.1.write_segment(segment, bytes)
    }
    fn read(&self, segment: u64, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.0.step();
        self.1.read(segment, offset, bytes)
    }
    fn discard(&self, segment: u64) {
        self.0.step();
        self.1.discard(segment);
    }
    fn flush(&self) -> Result<(), DeviceError> {
        self.0.step();
        self.1.flush()
    }
    fn inner(&self) -> &[Arc<dyn SwapDevice>] {
        self.0.step();
        core::slice::from_ref(&self.1)
    }
    fn memory_bytes(&self) -> usize {
        self.0.step();
        0
    }
}

impl PageSwapDevice for Brittle<MemoryPages> {
    fn capacity(&self) -> u64 {
        self.0.step();
        self.1.capacity()
    }
    fn write_page(&self, slot: u64, page: &Page) -> Result<(), DeviceError> {
        self.0.step();
        self.1.write_page(slot, page)
    }
    fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError> {
        self.0.step();
        self.1.read_page(slot, page)
    }
    fn discard(&self, slot: u64) {
        self.0.step();
        self.1.discard(slot);
    }
    fn inner(&self) -> &[Arc<dyn PageSwapDevice>] {
        self.0.step();
        &[]
    }
    fn memory_bytes(&self) -> usize {
        self.0.step();
        0
    }
}

// SAFETY: either forwards a call to another provider, or panics before that.
unsafe impl PageProvider for Brittle<HeapPages> {
    fn page_size(&self) -> usize {
        self.0.step();
        self.1.page_size()
    }
    fn alloc_run(&self, pages: usize) -> Result<PageRun, PageError> {
        self.0.step();
        self.1.alloc_run(pages)
    }
    unsafe fn free_run(&self, run: PageRun) {
        self.0.step();
        // SAFETY: the caller keeps this function's contract, which is the same.
        unsafe { self.1.free_run(run) }
    }
    unsafe fn discard(&self, run: &mut PageRun, pages: Range<usize>) {
        self.0.step();
        // SAFETY: the caller keeps this function's contract, which is the same.
        unsafe { self.1.discard(run, pages) }
    }
    fn cached_pages(&self) -> usize {
        self.0.step();
        self.1.cached_pages()
    }
    fn trim(&self) -> usize {
        self.0.step();
        self.1.trim()
    }
    fn metadata_bytes(&self) -> usize {
        self.0.step();
        self.1.metadata_bytes()
    }
}

/// Makes a page with data in its first three quarters, and zeros in the last.
fn some(seed: u64) -> Box<Page> {
    let mut page = page(seed * 8 + 5);
    page[PAGE_SIZE * 3 / 4..].fill(0);
    page
}

const PAGES: u64 = 60;

fn build(zpool: &str, fuse: &Fuse) -> Arc<Zswap> {
    let mut codecs = Registry::builtin();
    let codec = fuse.clone();
    codecs.register("brittle", move |_| Ok(Arc::new(Brittle(codec.clone(), ())))).unwrap();
    let pages = fuse.clone();
    // One device wraps another, and the destructors of both panic. With zbud, the inner one is a device of pages.
    let inner: Arc<dyn SwapDevice> = match zpool {
        "zbud" => Arc::new(PageDevice(Arc::new(Brittle(fuse.clone(), MemoryPages::new(1600))))),
        _ => Arc::new(MemorySwapDevice::new(1600)),
    };
    let inner = Brittle(fuse.clone(), inner);
    let outer = Brittle(fuse.clone(), Arc::new(inner) as Arc<dyn SwapDevice>);
    let store = Zswap::builder()
        .zpool(zpool)
        .compressor_registry(codecs)
        .compressor("brittle")
        .pages(move || Ok(Arc::new(Brittle(pages.clone(), HeapPages::new()))))
        .swap_device(Arc::new(outer))
        .promotion(Promotion::Never)
        .max_pool_bytes(1 << 20);
    let store = Arc::new(store.build().unwrap());
    let pages: Vec<_> = (0..PAGES).map(some).collect();
    let batch: Vec<_> = (0..).map(at).zip(pages.iter().map(|page| &**page)).collect();
    assert!(store.store_batch(&batch).unwrap().iter().all(Result::is_ok));
    assert_eq!(store.shrink(5), Ok(5));
    store
}

fn check(store: &Zswap, entries: Range<u64>) {
    let mut back = Box::new([0; PAGE_SIZE]);
    for n in entries {
        store.load(at(n), &mut back).unwrap();
        assert!(back == some(n), "entry {n}");
    }
}

#[test]
fn everything_panics_and_only_the_calls_fail() {
    for zpool in ["zsmalloc", "z3fold", "zbud"] {
        let fuse = Fuse::default();
        let store = build(zpool, &fuse);
        let mut back = Box::new([0; PAGE_SIZE]);
        for _ in 0..2 {
            fuse.set(true);
            for n in [0, 9, 59] {
                assert!(store.load(at(n), &mut back).is_err());
                assert!(store.take(at(n), &mut back).is_err());
                assert!(store.try_replace(at(n), &some(7)).is_err());
                assert!(store.contains(at(n)));
            }
            assert!(store.store(at(1000), &some(7)).is_err() && !store.contains(at(1000)));
            let entries: Vec<_> = (0..20).map(at).collect();
            let mut many = vec![[0; PAGE_SIZE]; 20];
            assert!(store.load_batch(&entries, &mut many).unwrap().iter().all(Result::is_err));
            let new = some(7);
            let batch: Vec<_> = (2000..2020).map(|n| (at(n), &*new)).collect();
            assert!(store.store_batch(&batch).unwrap().iter().all(Result::is_err));
            assert!(matches!(store.shrink(3), Err(WritebackError::Device { .. })));
            assert!(matches!(store.flush_device(), Err(WritebackError::Flush { .. })));
            let _asked = (store.compact(), store.trim(), store.stats());
            assert!(store.set_zpool("zbud").is_err() || zpool == "zbud");
            assert!(store.set_compressor("zstd").is_err());
            assert!(store.recompress(&Recompress::new("lz4").max_pages(3)).is_err());
            assert_eq!(store.entries().count() as u64, PAGES);
            fuse.set(false);
            check(&store, 0..PAGES);
            assert_eq!((store.stats().device_pages, store.flush_device()), (5, Ok(())));
        }
        // Invalidated entries are gone even if everything panics, although their memory cannot be freed then.
        fuse.set(true);
        assert!((0..PAGES / 2).all(|n| store.invalidate(at(n))));
        fuse.set(false);
        assert_eq!(store.stats().device_segments, 0, "a panic in `discard` keeps no segment");
        check(&store, PAGES / 2..PAGES);
        store.store(at(0), &some(0)).unwrap();
        check(&store, 0..1);
        // All destructors run while another panic unwinds.
        fuse.set(true);
        let before = fuse.count();
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let _store = store;
            resume_unwind(Box::new("another"));
        }));
        assert_eq!(unwound.unwrap_err().downcast_ref(), Some(&"another"));
        assert!(fuse.count() > before + 5, "contexts, provider, codec and devices");
        fuse.set(false);
    }
}

impl Acomp for Brittle<Scomp> {
    fn submit(
        &self,
        request: AcompRequest,
        tag: usize,
        done: &Arc<AcompCompletions>,
    ) -> Result<(), AcompRequest> {
        self.0.step();
        self.1.submit(request, tag, done)
    }
}

/// Makes a builder with seven parts. Each of them panics when it is dropped.
fn brittle_builder(fuse: &Fuse) -> ZswapBuilder {
    let (mut codecs, mut zpools) = (Registry::builtin(), builtin::zpools());
    for name in ["one", "two"] {
        let held = Brittle(fuse.clone(), ());
        codecs.register(name, move |_| Ok(Arc::new(held.clone()))).unwrap();
        let held = Brittle(fuse.clone(), ());
        let build = move |config: &ZpoolConfig| {
            let _held = &held;
            builtin::zpools().build("zbud", config)
        };
        zpools.register(name, build).unwrap();
    }
    let held = Brittle(fuse.clone(), HeapPages::new());
    let device = Brittle(fuse.clone(), Arc::new(MemorySwapDevice::new(9)) as Arc<dyn SwapDevice>);
    Zswap::builder()
        .compressor_registry(codecs)
        .zpool_registry(zpools)
        .pages(move || Ok(Arc::new(held.clone())))
        .swap_device(Arc::new(device))
        .acomp(Arc::new(Brittle(fuse.clone(), Scomp)))
}

#[test]
fn what_a_builder_was_given_panics_by_itself_with_or_without_a_store() {
    let fuse = Fuse::default();
    type Use = fn(ZswapBuilder);
    let uses: [Use; 5] = [
        drop,
        |builder| drop(builder.zpool("zlab").build().unwrap_err()),
        // In this call, the device panics when it is attached.
        |builder| drop(builder.pages(|| Ok(Arc::new(HeapPages::new()))).build().unwrap_err()),
        |builder| {
            let other = Arc::new(MemorySwapDevice::new(9));
            drop(builder.clone().swap_device(other).acomp(Arc::new(Scomp)));
        },
        |builder| drop(builder.max_bytes(1).build().unwrap_err()),
    ];
    for used in uses {
        let builder = brittle_builder(&fuse);
        let before = fuse.count();
        fuse.set(true);
        used(builder);
        fuse.set(false);
        assert!(fuse.count() >= before + 7);
    }
    let store = brittle_builder(&fuse).build().unwrap();
    let before = fuse.count();
    fuse.set(true);
    drop(store);
    fuse.set(false);
    assert!(fuse.count() >= before + 7);
}

#[test]
fn background_threads_outlive_it_and_say_so() {
    let fuse = Fuse::default();
    let store = build("zsmalloc", &fuse);
    fuse.set(true);
    let pause = Duration::from_millis(1);
    let shrinker =
        store.shrink_in_background(ShrinkerPolicy::default().pause(pause).from_percent(0));
    let compactor = store.compact_in_background(CompactorPolicy::default().pause(pause));
    let cleaner =
        store.clean_in_background(CleanerPolicy::default().pause(pause).free_percent(100));
    let (shrinker, compactor, cleaner) = (shrinker.unwrap(), compactor.unwrap(), cleaner.unwrap());
    eventually("a shrinker's failure", || shrinker.report().failed > 0);
    eventually("a cleaner's failure", || cleaner.report().failed > 0);
    let last_error = cleaner.report().last_error;
    assert!(matches!(last_error, Some(WritebackError::Cleaning { .. })), "{last_error:?}");
    let looks = compactor.report().looks;
    eventually("another look", || compactor.report().looks > looks + 1);
    assert!(shrinker.report().last_error.is_some());
    fuse.set(false);
    let written = shrinker.report().written;
    eventually("work after it", || shrinker.report().written > written);
    // Segments with few pages, which are worth cleaning.
    let mut more = PAGES..;
    eventually("cleaning after it", || {
        let n = more.next().unwrap();
        store.store(at(n), &some(n)).unwrap();
        store.shrink(1).unwrap();
        cleaner.report().pages > 0
    });
    check(&store, 0..PAGES);
}

/// A codec that panics when it compresses, while the fuse is set, and never when it decompresses.
#[derive(Clone, Debug)]
struct BrittleOneWay(Fuse);

impl Compressor for BrittleOneWay {
    fn name(&self) -> &str {
        "one-way"
    }
    fn spec(&self) -> String {
        "one-way".to_owned()
    }
    fn max_compressed_len(&self, len: usize) -> usize {
        len
    }
    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        Ok(Box::new(self.clone()))
    }
}

impl CompressorCtx for BrittleOneWay {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        self.0.step();
        Brittle(Fuse::default(), ()).compress(src, dst)
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        Brittle(Fuse::default(), ()).decompress(src, dst)
    }
    fn memory_bytes(&self) -> usize {
        0
    }
}

/// A page is promoted after it was loaded. If that panics, the load succeeds, and the page stays on the device.
#[test]
fn a_promotion_that_panics_costs_the_load_nothing() {
    let (mut codecs, fuse) = (Registry::builtin(), Fuse::default());
    let codec = fuse.clone();
    codecs.register("one-way", move |_| Ok(Arc::new(BrittleOneWay(codec.clone())))).unwrap();
    let store = Zswap::builder()
        .compressor_registry(codecs)
        .compressor("one-way")
        .swap_device(Arc::new(MemorySwapDevice::new(1000)))
        .promotion(Promotion::Always)
        .build()
        .unwrap();
    (0..10).for_each(|n| store.store(at(n), &some(n)).unwrap());
    assert_eq!(store.shrink(10), Ok(10));
    fuse.set(true);
    check(&store, 0..10);
    fuse.set(false);
    let stats = store.stats();
    assert!(fuse.count() >= 10, "each load tries to promote its page");
    assert_eq!((stats.promoted_pages, stats.device_pages, stats.device_loads), (0, 10, 10));
    check(&store, 0..10);
    let stats = store.stats();
    assert_eq!((stats.promoted_pages, stats.device_pages, stats.device_segments), (10, 0, 0));
    check(&store, 0..10);
}
