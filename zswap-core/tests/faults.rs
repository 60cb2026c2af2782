//! Tests what a store does when its codec or backend fails, panics or calls the store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use common::{at, page};
use compressors::{Compressor, CompressorCtx, CompressorError, StatelessDecompress};
use zpool_api::{
    Compaction, Handle, ObjRead, ObjWrite, PoolTag, Registry, Zpool, ZpoolCaps, ZpoolError,
    ZpoolStats,
};
use zpool_pages::{FailingPages, HeapPages};
use zswap_core::{
    BuildError, CompactorPolicy, LoadError, PAGE_SIZE, Recompress, StoreError, Zswap, builtin,
};

/// Says what the codec or backend under test does when it is called.
#[derive(Debug, Default)]
struct Script {
    mode: AtomicU32,
    store: Mutex<Weak<Zswap>>,
    said: Mutex<Vec<String>>,
}

const WORK: u32 = 0;
const FAIL: u32 = 1;
const PANIC: u32 = 2;
const CALL_BACK: u32 = 3;
/// The codec or backend reports absurdly large figures, such as `usize::MAX` bytes.
const ABSURD: u32 = 4;
/// The backend returns read guards that panic when they are dropped.
const GUARD: u32 = 5;

struct Bomb(Vec<u8>);

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("on purpose"));
    }
}

impl Script {
    fn set(&self, mode: u32) {
        self.mode.store(mode, Ordering::SeqCst);
    }

    fn step(&self) -> bool {
        match self.mode.load(Ordering::SeqCst) {
            FAIL => return false,
            PANIC => panic!("on purpose"),
            CALL_BACK => {
                let store = self.store.lock().unwrap().upgrade();
                if let Some(store) = store {
                    let mut back = [0; PAGE_SIZE];
                    let said = [
                        format!("{:?}", store.store(at(100), &page(4))),
                        format!("{:?}", store.load(at(1), &mut back)),
                        format!("{:?}", store.contains(at(1))),
                        format!("{:?}", store.invalidate(at(2))),
                    ];
                    self.said.lock().unwrap().extend(said);
                }
            }
            _ => {}
        }
        true
    }
}

/// A simple codec for pages with two equal halves: it keeps the first half. Each call first does what the
/// script says.
#[derive(Debug, Clone)]
struct Halves(Arc<Script>);

impl Compressor for Halves {
    fn name(&self) -> &str {
        "halves"
    }
    fn spec(&self) -> String {
        "halves".to_owned()
    }
    fn max_compressed_len(&self, len: usize) -> usize {
        len
    }
    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        Ok(Box::new(self.clone()))
    }
}

impl CompressorCtx for Halves {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        if !self.0.step() {
            return Err(CompressorError::OutOfMemory { codec: "halves", what: "a test" });
        }
        let (first, second) = src.split_at(src.len() / 2);
        let kept = if first == second { first } else { src };
        dst[..kept.len()].copy_from_slice(kept);
        Ok(kept.len())
    }

    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        if !self.0.step() {
            return Err(CompressorError::OutOfMemory { codec: "halves", what: "a test" });
        }
        for half in dst.chunks_exact_mut(src.len()) {
            half.copy_from_slice(src);
        }
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        0
    }
}

/// Makes a page with two equal halves, for `Halves`. It is not same-filled.
fn doubled(seed: u64) -> Box<[u8; PAGE_SIZE]> {
    let mut out = page(seed * 8 + 4);
    out.copy_within(..PAGE_SIZE / 2, PAGE_SIZE / 2);
    out
}

fn with_codec() -> (Arc<Zswap>, Arc<Script>) {
    let script = Arc::new(Script::default());
    let mut registry = compressors::Registry::builtin();
    let codec = Halves(script.clone());
    registry.register("halves", move |_| Ok(Arc::new(codec.clone()))).unwrap();
    let store = Zswap::builder().compressor_registry(registry).compressor("halves");
    let store = Arc::new(store.build().unwrap());
    *script.store.lock().unwrap() = Arc::downgrade(&store);
    (store, script)
}

fn check(store: &Zswap, offset: u64, seed: u64) {
    let mut back = Box::new([0; PAGE_SIZE]);
    store.load(at(offset), &mut back).unwrap();
    assert!(back == doubled(seed));
}

#[test]
fn a_codec_that_fails_is_reported_and_loses_nothing_else() {
    let (store, script) = with_codec();
    for i in 1..=3 {
        store.store(at(i), &doubled(i)).unwrap();
    }
    script.set(FAIL);
    assert!(matches!(store.store(at(1), &doubled(9)), Err(StoreError::Compress { .. })));
    assert!(!store.contains(at(1)), "the older page must not be returned");
    let mut back = [0; PAGE_SIZE];
    assert!(matches!(store.load(at(2), &mut back), Err(LoadError::Decompress { .. })));
    assert!(matches!(store.take(at(2), &mut back), Err(LoadError::Decompress { .. })));
    script.set(WORK);
    check(&store, 2, 2);
    check(&store, 3, 3);
    let stats = store.stats();
    assert_eq!((stats.reject_compress_fail, stats.decompress_fail, stats.stored_pages), (1, 2, 2));
}

#[test]
fn a_codec_that_panics_leaves_the_store_usable() {
    let (store, script) = with_codec();
    store.store(at(1), &doubled(1)).unwrap();
    script.set(PANIC);
    let mut back = [0; PAGE_SIZE];
    for _ in 0..2 {
        let source = CompressorError::Panicked { operation: "compress" };
        let refused = StoreError::Compress { entry: at(2), source };
        assert_eq!(store.store(at(2), &doubled(2)), Err(refused));
        let source = CompressorError::Panicked { operation: "decompress" };
        let refused = LoadError::Decompress { entry: at(1), source };
        assert_eq!(store.load(at(1), &mut back), Err(refused.clone()));
        assert_eq!(store.take(at(1), &mut back), Err(refused));
    }
    script.set(WORK);
    check(&store, 1, 1);
    store.store(at(2), &doubled(2)).unwrap();
    check(&store, 2, 2);
    assert_eq!((store.len(), store.stats().pools[0].objects), (2, 2));
}

#[test]
fn a_codec_that_calls_back_gets_an_error_where_it_would_need_a_context() {
    let (store, script) = with_codec();
    for i in 1..=3 {
        store.store(at(i), &doubled(i)).unwrap();
    }
    script.set(CALL_BACK);
    store.store(at(5), &doubled(5)).unwrap();
    script.set(WORK);
    let said = std::mem::take(&mut *script.said.lock().unwrap());
    assert_eq!(
        said,
        [
            "Err(Reentrant { entry: SwapEntry(0, 100) })",
            "Err(Reentrant { entry: SwapEntry(0, 1) })",
            "true",
            "true"
        ]
    );
    check(&store, 1, 1);
    check(&store, 5, 5);
    assert!(!store.contains(at(2)) && !store.contains(at(100)));
}

/// A codec that claims to have written this many bytes, whatever it was given.
#[derive(Debug, Clone)]
struct Boasting(usize);

impl Compressor for Boasting {
    fn name(&self) -> &str {
        "boasting"
    }
    fn spec(&self) -> String {
        "boasting".to_owned()
    }
    fn max_compressed_len(&self, _len: usize) -> usize {
        16
    }
    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        Ok(Box::new(self.clone()))
    }
}

impl CompressorCtx for Boasting {
    fn compress(&mut self, _src: &[u8], _dst: &mut [u8]) -> Result<usize, CompressorError> {
        Ok(self.0)
    }
    fn decompress(&mut self, _src: &[u8], _dst: &mut [u8]) -> Result<(), CompressorError> {
        Err(CompressorError::OutOfMemory { codec: "boasting", what: "a test" })
    }
    fn memory_bytes(&self) -> usize {
        0
    }
}

#[test]
fn a_codec_that_tells_a_wrong_length_gets_an_error() {
    for (len, fine) in [(0, false), (17, false), (4095, false), (16, true), (usize::MAX, true)] {
        let mut registry = compressors::Registry::builtin();
        registry.register("boasting", move |_| Ok(Arc::new(Boasting(len)))).unwrap();
        let store = Zswap::builder().compressor_registry(registry).compressor("boasting");
        let store = store.build().unwrap();
        assert_eq!(store.store(at(1), &doubled(1)).is_ok(), fine, "length {len}");
        assert_eq!(store.contains(at(1)), fine);
    }
}

/// A codec that follows the script. When it is to call back, its next decompression stores another page under
/// the entry that is being read.
#[derive(Debug)]
struct Meddling(Arc<Script>);

impl Compressor for Meddling {
    fn name(&self) -> &str {
        "meddling"
    }
    fn spec(&self) -> String {
        "meddling".to_owned()
    }
    fn max_compressed_len(&self, len: usize) -> usize {
        len
    }
    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        Ok(Box::new(Halves(self.0.clone())))
    }
    fn stateless(&self) -> Option<&dyn StatelessDecompress> {
        Some(self)
    }
}

impl StatelessDecompress for Meddling {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        if self.0.mode.swap(WORK, Ordering::SeqCst) == CALL_BACK {
            let store = self.0.store.lock().unwrap().upgrade().unwrap();
            store.store(at(1), &doubled(2)).unwrap();
        }
        Halves(self.0.clone()).decompress(src, dst)
    }
}

#[test]
fn an_overwrite_in_the_middle_of_a_read_is_neither_lost_nor_mixed_in() {
    let script = Arc::new(Script::default());
    let mut registry = compressors::Registry::builtin();
    let theirs = script.clone();
    registry.register("meddling", move |_| Ok(Arc::new(Meddling(theirs.clone())))).unwrap();
    let store = Zswap::builder().compressor_registry(registry).compressor("meddling");
    let store = Arc::new(store.build().unwrap());
    *script.store.lock().unwrap() = Arc::downgrade(&store);
    let mut back = Box::new([0; PAGE_SIZE]);

    // `load` returns the page that was stored when it began.
    store.store(at(1), &doubled(1)).unwrap();
    script.set(CALL_BACK);
    store.load(at(1), &mut back).unwrap();
    assert!(back == doubled(1));
    check(&store, 1, 2);

    // `take` returns the page that it removes.
    store.store(at(1), &doubled(1)).unwrap();
    script.set(CALL_BACK);
    store.take(at(1), &mut back).unwrap();
    assert!(back == doubled(2), "the newer page must not be lost");
    assert!(!store.contains(at(1)));
    assert_eq!((store.len(), store.stats().pools[0].objects), (0, 0));
}

/// A backend that first does what the script says, and then calls another backend.
#[derive(Debug)]
struct Scripted {
    inner: Arc<dyn Zpool>,
    script: Arc<Script>,
}

impl Zpool for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }
    fn tag(&self) -> PoolTag {
        self.inner.tag()
    }
    fn caps(&self) -> ZpoolCaps {
        let mut caps = self.inner.caps();
        caps.compaction = true;
        caps
    }
    fn malloc(&self, size: usize) -> Result<ObjWrite<'_>, ZpoolError> {
        if !self.script.step() {
            return Err(ZpoolError::OutOfMetadata { backend: "scripted", bytes: size });
        }
        self.inner.malloc(size)
    }
    fn free(&self, handle: Handle) -> Result<(), ZpoolError> {
        self.inner.free(handle)
    }
    fn obj_read_begin(&self, handle: Handle) -> Result<ObjRead<'_>, ZpoolError> {
        match self.script.mode.load(Ordering::SeqCst) {
            FAIL => Err(ZpoolError::TooManyReaders { handle: handle.as_u64(), limit: 0 }),
            PANIC => panic!("on purpose"),
            GUARD => {
                let object = self.inner.obj_read_begin(handle)?;
                let len = object.len();
                Ok(ObjRead::from_owner(Arc::new(Bomb(object.to_vec())), len))
            }
            _ => self.inner.obj_read_begin(handle),
        }
    }
    fn total_pages(&self) -> usize {
        if self.is_absurd() { usize::MAX } else { self.inner.total_pages() }
    }
    fn stats(&self) -> ZpoolStats {
        let mut stats = self.inner.stats();
        if self.is_absurd() {
            stats.total_pages = usize::MAX;
            stats.cached_pages = usize::MAX;
            stats.page_size = usize::MAX;
            stats.objects = usize::MAX;
            stats.object_bytes = usize::MAX;
            stats.metadata_bytes = usize::MAX;
        }
        stats
    }
    fn footprint(&self, len: usize) -> usize {
        if self.is_absurd() { usize::MAX } else { self.inner.footprint(len) }
    }
    fn compact_some(&self, _pages: usize) -> Result<Compaction, ZpoolError> {
        Ok(Compaction::complete(if self.is_absurd() { usize::MAX } else { 0 }))
    }
    fn trim(&self) -> usize {
        if self.is_absurd() { usize::MAX } else { 0 }
    }
}

impl Scripted {
    fn is_absurd(&self) -> bool {
        self.script.mode.load(Ordering::SeqCst) == ABSURD
    }
}

fn with_backend() -> (Arc<Zswap>, Arc<Script>) {
    let script = Arc::new(Script::default());
    let mut registry = Registry::new();
    let theirs = script.clone();
    registry
        .register("scripted", move |config| {
            let inner = builtin::zpools().build("zbud", config)?;
            Ok(Arc::new(Scripted { inner, script: theirs.clone() }))
        })
        .unwrap();
    // A codec for a second pool. It exists whichever features are on.
    let mut codecs = compressors::Registry::builtin();
    codecs.register("twin", |_| Ok(Arc::new(compressors::Null))).unwrap();
    let store = Zswap::builder().zpool_registry(registry).zpool("scripted");
    let store = store.compressor_registry(codecs).compressor("null");
    let store = Arc::new(store.build().unwrap());
    *script.store.lock().unwrap() = Arc::downgrade(&store);
    (store, script)
}

#[test]
fn a_backend_that_fails_panics_or_calls_back_leaves_the_store_usable() {
    let (store, script) = with_backend();
    for i in 1..=4 {
        store.store(at(i), &doubled(i)).unwrap();
    }
    let mut back = Box::new([0; PAGE_SIZE]);
    script.set(FAIL);
    assert!(matches!(store.store(at(3), &doubled(9)), Err(StoreError::Pool { .. })));
    assert!(matches!(store.load(at(1), &mut back), Err(LoadError::Pool { .. })));
    script.set(PANIC);
    let panicked = |operation| ZpoolError::Panicked { backend: "the backend", operation };
    let source = panicked("malloc");
    assert_eq!(store.store(at(4), &doubled(9)), Err(StoreError::Pool { entry: at(4), source }));
    let source = panicked("obj_read_begin");
    assert_eq!(store.load(at(1), &mut back), Err(LoadError::Pool { entry: at(1), source }));
    script.set(CALL_BACK);
    store.store(at(6), &doubled(6)).unwrap();
    script.set(WORK);
    // The nested store is refused, since it needs the context that is in use. The nested load of an
    // uncompressed page needs no context.
    let said = std::mem::take(&mut *script.said.lock().unwrap());
    assert_eq!(said, ["Err(Reentrant { entry: SwapEntry(0, 100) })", "Ok(())", "true", "true"]);
    check(&store, 1, 1);
    check(&store, 6, 6);
    // Pages 3 and 4 are gone because stores under their entries were refused. A nested call has dropped page 2.
    assert!([2, 3, 4].iter().all(|entry| !store.contains(at(*entry))));
    assert_eq!((store.len(), store.stats().pools[0].objects), (2, 2));
    assert_eq!(store.stats().reject_alloc_fail, 2);
}

#[test]
fn guards_that_panic_as_they_are_dropped_lose_no_page_and_no_count() {
    let (store, script) = with_backend();
    (1..=6).for_each(|i| store.store(at(i), &doubled(i)).unwrap());
    script.set(GUARD);
    (1..=6).for_each(|i| check(&store, i, i));
    let mut back = Box::new([0; PAGE_SIZE]);
    store.take(at(1), &mut back).unwrap();
    assert!(back == doubled(1) && !store.contains(at(1)));
    let entries = [at(2), at(3)];
    let mut pages = vec![[0; PAGE_SIZE]; 2];
    assert_eq!(store.load_batch(&entries, &mut pages).unwrap(), [Ok(()), Ok(())]);
    assert!(pages[0] == *doubled(2) && pages[1] == *doubled(3));
    store.set_compressor("twin").unwrap();
    let done = store.migrate_pools(9).unwrap();
    assert_eq!((done.moved, done.left), (5, 0));
    let stats = store.stats();
    assert_eq!((stats.stored_pages, stats.pools.len(), stats.pools[0].objects), (5, 1, 5));
    script.set(WORK);
    (2..=6).for_each(|i| check(&store, i, i));
}

#[test]
fn a_backend_whose_figures_are_absurd_harms_no_page() {
    let (store, script) = with_backend();
    (1..=4).for_each(|i| store.store(at(i), &doubled(i)).unwrap());
    script.set(ABSURD);
    store.set_compressor("twin").unwrap();
    let thread = store.compact_in_background(CompactorPolicy::default().pause(Duration::ZERO));
    let thread = thread.unwrap();
    // Pages 1 and 2 stay in the first pool.
    for i in 3..=8 {
        store.store(at(i), &doubled(i)).unwrap();
        check(&store, i, i);
    }
    assert_eq!(store.stats().memory_bytes(), usize::MAX);
    let refused = store.set_max_bytes(Some(1 << 30));
    assert!(matches!(refused, Err(BuildError::LimitTooSmall { needed: usize::MAX, .. })));
    // With these figures, `left` shows only that some pages are left.
    assert!(store.migrate_pools(1).unwrap().left > 0);
    assert_eq!(store.compact(), Ok(usize::MAX));
    store.recompress(&Recompress::new("null").max_pages(9)).unwrap();
    while thread.report().looks < 20 {
        std::thread::yield_now();
    }
    drop(thread);
    script.set(WORK);
    (1..=8).for_each(|i| check(&store, i, i));
    assert!(store.stats().memory_bytes() < 64 << 20);
}

#[test]
fn out_of_memory_at_every_page_request() {
    let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
    let theirs = pages.clone();
    // Use zbud, which requests each pool page separately.
    let store = Zswap::builder().zpool("zbud").compressor("null");
    let store = store.pages(move || Ok(theirs.clone())).build().unwrap();
    for n in 0..if cfg!(miri) { 4 } else { 60 } {
        store.store(at(n), &doubled(n)).unwrap();
        pages.fail_call(1);
        let refused = store.store(at(n + 1000), &doubled(n));
        assert!(matches!(refused, Err(StoreError::Pool { .. })), "{refused:?}");
        assert!(!store.contains(at(n + 1000)));
        // `try_replace` keeps the older page; `store` drops it to make room for the new one.
        pages.fail_call(1);
        assert!(store.try_replace(at(n), &doubled(n + 1)).is_err());
        check(&store, n, n);
        pages.fail_call(1);
        store.store(at(n), &doubled(n + 1)).unwrap();
        check(&store, n, n + 1);
        store.store(at(n), &doubled(n + 2)).unwrap();
        for i in 0..=n {
            check(&store, i, i + 2);
        }
    }
    let objects = store.stats().pools[0].objects;
    assert_eq!((store.len(), store.stats().stored_pages), (objects, objects));
    drop(store);
    assert_eq!(pages.pages_out(), 0);
}

#[test]
fn names_that_are_not_known_list_those_that_are() {
    let zpool = Zswap::builder().zpool("zlab").build().unwrap_err();
    assert!(matches!(&zpool, BuildError::Zpool(ZpoolError::UnknownBackend { .. })));
    let text = zpool.to_string();
    assert!(text.contains("known: ") && text.contains("zbud"), "{text}");
    let codec = Zswap::builder().compressor("lz5").build().unwrap_err();
    assert!(codec.to_string().contains("null"), "{codec}");
    if !cfg!(feature = "lzo") {
        let lzo = Zswap::builder().compressor("lzo").build().unwrap_err();
        assert!(lzo.to_string().contains("feature \"lzo\""), "{lzo}");
    }
}

#[test]
fn everything_may_be_shared_between_threads() {
    fn both<T: Send + Sync>() {}
    both::<Zswap>();
    both::<zswap_core::ZswapBuilder>();
    both::<zswap_core::Entries<'static>>();
    both::<zswap_core::ZswapStats>();
    both::<zswap_core::SwapEntry>();
    both::<(BuildError, StoreError, LoadError)>();
    // The store is in a static, as in many programs.
    static STORE: OnceLock<Zswap> = OnceLock::new();
    let store = STORE.get_or_init(|| Zswap::builder().build().unwrap());
    std::thread::spawn(move || store.store(at(0), &page(5))).join().unwrap().unwrap();
    assert_eq!(STORE.get().map(Zswap::len), Some(1));
}
