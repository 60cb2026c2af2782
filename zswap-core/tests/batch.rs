//! Tests batches, whose pages are compressed on the calling thread or on worker threads.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex, OnceLock, Weak, mpsc};
use std::thread;
use std::time::Duration;

use common::rig::{Rig, check, marked, pools, rig_with};
use common::{at, page};
use compressors::{
    Acomp, AcompCompletions, AcompDone, AcompEngine, AcompRequest, AcompTicket, Compressor,
    CompressorCtx, CompressorError, Scomp,
};
use zpool_base::sync::test_rng::Rng;
use zswap_core::device::{DeviceError, Geometry, MemorySwapDevice, RangeRead, SwapDevice};
use zswap_core::{LoadError, PAGE_SIZE, Page, Promotion, StoreError, SwapEntry, Zswap, builtin};

fn kinds() -> Vec<Arc<dyn Acomp>> {
    let engine = Arc::new(AcompEngine::new(3, 64).unwrap());
    if cfg!(miri) { vec![engine] } else { vec![Arc::new(Scomp), engine] }
}

fn store_all(store: &Zswap, pages: &[(SwapEntry, Box<Page>)]) -> Vec<Result<(), StoreError>> {
    let pages: Vec<(SwapEntry, &Page)> = pages.iter().map(|(e, page)| (*e, &**page)).collect();
    store.store_batch(&pages).unwrap()
}

/// An Acomp that completes each request on the calling thread, and claims to have this parallelism.
#[derive(Debug)]
struct Claims(usize);

impl Acomp for Claims {
    fn submit(
        &self,
        request: AcompRequest,
        tag: usize,
        done: &Arc<AcompCompletions>,
    ) -> Result<(), AcompRequest> {
        Scomp.submit(request, tag, done)
    }
    fn parallelism(&self) -> usize {
        self.0
    }
}

/// The ways in which an Acomp breaks its contract.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Lie {
    PanicsInSubmit,
    PanicsOnceItsOwed,
    PanicsInWait,
    DropsIt,
    DropsItUnexpected,
    KeepsItAndSaysNone,
    TellsOfItsNeighbour,
    TellsOfNobody,
    TellsTwice,
    ReturnsOtherBuffers,
    ReturnsNoInput,
}

#[derive(Debug)]
struct Liar(Lie, Mutex<Vec<(AcompRequest, AcompTicket)>>);

impl Acomp for Liar {
    fn submit(
        &self,
        request: AcompRequest,
        tag: usize,
        done: &Arc<AcompCompletions>,
    ) -> Result<(), AcompRequest> {
        // Completes the request in a queue of its own. Then the lie below decides what the batch is given.
        let complete = |request| {
            let own = Arc::new(AcompCompletions::new());
            Scomp.submit(request, 0, &own).unwrap();
            own.wait_any().unwrap().1
        };
        let expect = || done.expect().unwrap();
        let tell = |tag, completed| expect().tell(tag, completed);
        match self.0 {
            Lie::PanicsInSubmit => resume_unwind(Box::new("on purpose")),
            Lie::PanicsOnceItsOwed => {
                let _ticket = expect();
                resume_unwind(Box::new("on purpose"));
            }
            Lie::PanicsInWait => tell(tag, complete(request)),
            Lie::DropsIt => drop(expect()),
            Lie::DropsItUnexpected => {}
            Lie::KeepsItAndSaysNone => self.1.lock().unwrap().push((request, expect())),
            Lie::TellsOfItsNeighbour => tell(tag ^ 1, complete(request)),
            Lie::TellsOfNobody => tell(usize::MAX, complete(request)),
            Lie::TellsTwice => {
                let AcompDone { result, input, output, .. } = complete(request);
                let again = (result.clone(), input.clone(), output.clone());
                tell(tag, AcompDone { result, input, output, ctx: None });
                let (result, input, output) = again;
                tell(tag, AcompDone { result, input, output, ctx: None });
            }
            Lie::ReturnsOtherBuffers => {
                let (input, output) = (Vec::new(), vec![7; PAGE_SIZE]);
                tell(tag, AcompDone { result: Ok(9), input, output, ctx: Some(request.ctx) });
                drop(request.output);
            }
            Lie::ReturnsNoInput => tell(tag, AcompDone { input: Vec::new(), ..complete(request) }),
        }
        Ok(())
    }

    fn wait_any(&self, done: &AcompCompletions) -> Option<(usize, AcompDone)> {
        match self.0 {
            Lie::PanicsInWait => resume_unwind(Box::new("on purpose")),
            Lie::KeepsItAndSaysNone => None,
            _ => done.wait_any(),
        }
    }
}

/// Runs `run` on another thread; fails the test if `run` hangs.
fn in_time(what: impl core::fmt::Debug, run: impl FnOnce() + Send + 'static) {
    let (ended, end) = mpsc::channel();
    let runs = thread::spawn(move || {
        run();
        ended.send(()).unwrap();
    });
    if end.recv_timeout(Duration::from_secs(60)) != Err(mpsc::RecvTimeoutError::Timeout) {
        return runs.join().unwrap();
    }
    panic!("{what:?} hangs");
}

#[test]
fn whatever_an_acomp_does_no_page_is_said_to_be_there_that_is_not_and_nothing_hangs() {
    let lies = [
        Lie::PanicsInSubmit,
        Lie::PanicsOnceItsOwed,
        Lie::PanicsInWait,
        Lie::DropsIt,
        Lie::DropsItUnexpected,
        Lie::KeepsItAndSaysNone,
        Lie::TellsOfItsNeighbour,
        Lie::TellsOfNobody,
        Lie::TellsTwice,
        Lie::ReturnsOtherBuffers,
        Lie::ReturnsNoInput,
    ];
    for lie in lies {
        in_time(lie, move || {
            let (mut codecs, half) = (builtin::compressors(), Half(Arc::default()));
            codecs.register("half", move |_| Ok(Arc::new(half.clone()))).unwrap();
            let store = Zswap::builder().compressor_registry(codecs).compressor("half");
            let store = store.acomp(Arc::new(Liar(lie, Mutex::default()))).build().unwrap();
            // Many batches run, one after another. Some lies never return a batch's completion queue, so
            // the queues may run out.
            for round in 0..if cfg!(miri) { 3 } else { 40 } {
                let pages: Vec<_> = (0..5).map(|n| (at(n), marked(n, round))).collect();
                for (stored, (entry, page)) in store_all(&store, &pages).iter().zip(&pages) {
                    let submits = matches!(lie, Lie::PanicsInSubmit | Lie::PanicsOnceItsOwed);
                    assert!(stored.is_ok() || submits, "{lie:?}: {stored:?}");
                    assert_eq!(store.contains(*entry), stored.is_ok());
                    if stored.is_ok() {
                        check(&store, entry.offset(), round);
                    }
                    store.store(*entry, page).unwrap();
                }
                let entries: Vec<SwapEntry> = (0..5).map(at).collect();
                let mut back = vec![[0xEE; PAGE_SIZE]; 5];
                let loaded = store.load_batch(&entries, &mut back).unwrap();
                for ((loaded, back), (_, page)) in loaded.iter().zip(&back).zip(&pages) {
                    assert!(loaded.is_err() || *back == **page, "{lie:?}: {loaded:?}");
                }
                assert!(loaded.iter().filter(|loaded| loaded.is_err()).count() <= 1, "{lie:?}");
            }
        });
    }
}

/// Stores a page that does not get smaller, through an Acomp that does not return the request's input.
#[test]
fn a_page_kept_as_it_is_is_the_callers_own() {
    let store = Zswap::builder().compressor("null");
    let acomp = Arc::new(Liar(Lie::ReturnsNoInput, Mutex::default()));
    let store = store.acomp(acomp).build().unwrap();
    let mut noise = page(1);
    noise[0] ^= 1;
    assert_eq!(store_all(&store, &[(at(1), noise.clone())]), [Ok(())]);
    let mut back = Box::new([0; PAGE_SIZE]);
    store.load(at(1), &mut back).unwrap();
    assert!(back == noise && store.stats().stored_incompressible_pages == 1);
}

/// A codec with contexts that call the store's `stats` when they are asked for their memory.
#[derive(Clone, Debug, Default)]
struct Asks(Arc<OnceLock<Weak<Zswap>>>);

impl Compressor for Asks {
    fn name(&self) -> &str {
        "asks"
    }
    fn spec(&self) -> String {
        "asks".to_owned()
    }
    fn max_compressed_len(&self, len: usize) -> usize {
        len
    }
    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        Ok(Box::new(self.clone()))
    }
}

impl CompressorCtx for Asks {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        Half(Arc::default()).compress(src, dst)
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        Half(Arc::default()).decompress(src, dst)
    }
    fn memory_bytes(&self) -> usize {
        let store = self.0.get().and_then(Weak::upgrade);
        store.map_or(0, |store| store.stats().context_bytes.min(1)) + 77
    }
}

#[test]
fn a_context_that_asks_for_the_stores_figures_is_not_asked_under_a_lock() {
    in_time("stats", || {
        let (mut codecs, asks) = (builtin::compressors(), Asks::default());
        let codec = asks.clone();
        codecs.register("asks", move |_| Ok(Arc::new(codec.clone()))).unwrap();
        let store = Zswap::builder().compressor_registry(codecs).compressor("asks");
        let store = Arc::new(store.build().unwrap());
        asks.0.set(Arc::downgrade(&store)).unwrap();
        let pages: Vec<_> = (0..3).map(|n| (at(n), marked(n, 0))).collect();
        assert!(store_all(&store, &pages).iter().all(Result::is_ok));
        assert!(store.stats().context_bytes >= 77, "of the context that is kept");
    });
}

#[test]
fn whatever_parallelism_is_claimed_a_batch_completes() {
    let claims: &[usize] =
        if cfg!(miri) { &[0, usize::MAX] } else { &[0, 1, usize::MAX / 2 + 1, usize::MAX] };
    for claimed in claims.iter().copied() {
        let codec = if cfg!(feature = "zstd") { "zstd" } else { "null" };
        let store = Zswap::builder().compressor(codec).acomp(Arc::new(Claims(claimed)));
        let store = store.build().unwrap();
        let pages: Vec<_> = (0..9).map(|n| (at(n), marked(n, 0))).collect();
        assert!(store_all(&store, &pages).iter().all(Result::is_ok), "{claimed}");
        let entries: Vec<SwapEntry> = (0..9).map(at).collect();
        let mut back = vec![[0; PAGE_SIZE]; 9];
        assert!(
            store.load_batch(&entries, &mut back).unwrap().iter().all(Result::is_ok),
            "{claimed}"
        );
        assert!(back.iter().zip(&pages).all(|(back, (_, page))| *back == **page));
    }
}

#[test]
fn batches_do_what_single_calls_do() {
    for acomp in kinds() {
        for compressor in builtin::compressors().names() {
            let device = Arc::new(MemorySwapDevice::new(100));
            let store = Zswap::builder().compressor(compressor).acomp(acomp.clone());
            let store = store.swap_device(device).build().unwrap();
            // Pages of every kind.
            let pages: Vec<_> = (0..32).map(|n| (at(n), page(n))).collect();
            assert!(store_all(&store, &pages).iter().all(Result::is_ok), "{compressor}");
            assert_eq!(store.len(), 32);
            let single = Zswap::builder().compressor(compressor).build().unwrap();
            pages.iter().for_each(|(entry, page)| single.store(*entry, page).unwrap());
            assert_eq!(store.stats().compressed_bytes, single.stats().compressed_bytes);
            assert_eq!(store.stats().same_filled_pages, single.stats().same_filled_pages);

            assert_eq!(store.shrink(5), Ok(5));
            let mut entries: Vec<SwapEntry> = (0..32).map(at).collect();
            entries.push(at(999));
            let mut back = vec![[0; PAGE_SIZE]; 33];
            let results = store.load_batch(&entries, &mut back).unwrap();
            assert_eq!(results.len(), 33);
            assert_eq!(results[32], Err(LoadError::NotFound { entry: at(999) }));
            for n in 0..32 {
                assert_eq!(results[n], Ok(()));
                assert!(back[n] == *pages[n].1, "{compressor}: page {n}");
            }
            assert_eq!(store.stats().device_loads, 5);
            // The second load brings the pages back into the pool.
            assert!(store.load_batch(&entries, &mut back).unwrap()[..32].iter().all(Result::is_ok));
            assert!(back.iter().zip(&pages).all(|(back, (_, page))| *back == **page));
            let stats = store.stats();
            assert_eq!((stats.promoted_pages, stats.device_pages), (5, 0), "{compressor}");
        }
    }
}

#[test]
fn of_one_entry_given_twice_the_later_page_stays() {
    for acomp in kinds() {
        let Rig { store, pages, contexts, .. } = rig_with(|builder| builder.acomp(acomp));
        let twice: Vec<_> = (0..20).map(|n| (at(n % 3), marked(n % 3, n))).collect();
        assert!(store_all(&store, &twice).iter().all(Result::is_ok));
        for entry in 0..3 {
            check(&store, entry, 17 + (entry + 1) % 3);
        }
        assert_eq!((store.len(), pools(&store)[0].2), (3, 3));
        drop(store);
        assert_eq!((pages.pages_out(), contexts.load(SeqCst)), (0, 0));
    }
}

#[test]
fn what_fails_is_told_page_by_page_and_nothing_is_lost() {
    for acomp in kinds() {
        let Rig { store, pages, contexts, fails, inside, .. } = rig_with(|b| b.acomp(acomp));
        let batch: Vec<_> = (0..12).map(|n| (at(n), marked(n, 0))).collect();
        assert!(store_all(&store, &batch).iter().all(Result::is_ok));
        // Every third call of the codec panics. The call's context is dropped, and another context is made.
        let calls = Arc::new(AtomicU64::new(0));
        let counted = calls.clone();
        *inside.lock().unwrap() = Some(Box::new(move || {
            if counted.fetch_add(1, SeqCst) % 3 == 2 {
                resume_unwind(Box::new("on purpose"));
            }
        }));
        let again: Vec<_> = (0..12).map(|n| (at(n), marked(n, 1))).collect();
        let results = store_all(&store, &again);
        inside.clear_poison();
        *inside.lock().unwrap() = None;
        let panicked = |result: &Result<(), StoreError>| {
            let source = CompressorError::Panicked { operation: "compress" };
            matches!(result, Err(StoreError::Compress { source: s, .. }) if *s == source)
        };
        assert!(results.iter().any(panicked), "{results:?}");
        for (entry, result) in (0..).zip(&results) {
            match result {
                Ok(()) => check(&store, entry, 1),
                Err(_) => assert!(panicked(result) && !store.contains(at(entry))),
            }
        }
        // No context can be made now. Contexts that the pool has kept still work.
        fails.store(true, SeqCst);
        let more: Vec<_> = (0..40).map(|n| (at(n), marked(n, 2))).collect();
        let results = store_all(&store, &more);
        // Contexts can be made again, since a load on another processor needs one, too.
        fails.store(false, SeqCst);
        for (entry, result) in (0..).zip(results) {
            match result {
                Ok(()) => check(&store, entry, 2),
                Err(error) => assert!(matches!(error, StoreError::Compress { .. }), "{error}"),
            }
        }
        // No further pool page can be allocated, so these pages are refused.
        pages.limit_pages(pages.pages_out());
        let large: Vec<_> = (0..8).map(|n| (at(100 + n), page(n * 8 + 1))).collect();
        let refused = store_all(&store, &large);
        assert!(refused.iter().all(|r| matches!(r, Err(StoreError::Pool { .. }))), "{refused:?}");
        pages.limit_pages(usize::MAX);
        assert_eq!(pools(&store).iter().map(|pool| pool.2).sum::<usize>(), store.len());
        store.set_compressor("trim3").unwrap();
        store.invalidate_area(0);
        assert_eq!(pools(&store).len(), 1);
        store.trim();
        assert_eq!(pages.pages_out(), 0);
        drop(store);
        assert_eq!(contexts.load(SeqCst), 0);
    }
}

/// A codec that keeps the first half of a page. While its flag is set, it cannot decompress pages with a
/// first byte that is a multiple of 3.
#[derive(Clone, Debug)]
struct Half(Arc<AtomicBool>);

impl Half {
    const FAILS: CompressorError = CompressorError::OutOfMemory { codec: "half", what: "a test" };
}

impl Compressor for Half {
    fn name(&self) -> &str {
        "half"
    }
    fn spec(&self) -> String {
        "half".to_owned()
    }
    fn max_compressed_len(&self, len: usize) -> usize {
        len
    }
    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        Ok(Box::new(self.clone()))
    }
}

impl CompressorCtx for Half {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        let len = src.len() / 2;
        dst[..len].copy_from_slice(&src[..len]);
        Ok(len)
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        if self.0.load(SeqCst) && src[0] % 3 == 0 {
            return Err(Half::FAILS);
        }
        dst.fill(0);
        dst[..src.len()].copy_from_slice(src);
        Ok(())
    }
    fn memory_bytes(&self) -> usize {
        0
    }
}

#[test]
fn a_page_that_does_not_decompress_is_an_error_of_its_own_load_only() {
    for acomp in kinds() {
        let fails = Arc::new(AtomicBool::new(true));
        let (mut codecs, half) = (builtin::compressors(), Half(fails.clone()));
        codecs.register("half", move |_| Ok(Arc::new(half.clone()))).unwrap();
        let store = Zswap::builder().zpool("zbud").acomp(acomp).compressor_registry(codecs);
        let store = store.compressor("half").build().unwrap();
        let mut batch: Vec<_> = (0..9).map(|n| (at(n), marked(n, 0))).collect();
        batch.iter_mut().zip(0..).for_each(|((_, page), n)| page[0] = n);
        assert!(store_all(&store, &batch).iter().all(Result::is_ok));
        let entries: Vec<SwapEntry> = (0..9).map(at).collect();
        let mut back = vec![[0; PAGE_SIZE]; 9];
        for (n, result) in store.load_batch(&entries, &mut back).unwrap().into_iter().enumerate() {
            if n % 3 == 0 {
                let (entry, source) = (entries[n], Half::FAILS);
                assert_eq!(result, Err(LoadError::Decompress { entry, source }));
            } else {
                assert!(result.is_ok() && back[n] == *batch[n].1, "page {n}");
            }
        }
        assert_eq!(store.stats().decompress_fail, 3);
        fails.store(false, SeqCst);
        assert!(store.load_batch(&entries, &mut back).unwrap().iter().all(Result::is_ok));
        assert!(back.iter().zip(&batch).all(|(back, (_, page))| *back == **page));
    }
}

/// While requests are outstanding, only the thread that runs the batch still owns the store. The store is
/// dropped after the batch has ended.
#[test]
fn a_store_that_is_let_go_while_a_batch_is_out_goes_after_it() {
    for acomp in kinds() {
        let Rig { store, pages, contexts, inside, .. } = rig_with(|builder| builder.acomp(acomp));
        let batch: Vec<_> = (0..12).map(|n| (at(n), marked(n, 0))).collect();
        let (reached, go_on) = (Barrier::new(2), Barrier::new(2));
        let (reached, go_on) = (Arc::new(reached), Arc::new(go_on));
        let (theirs, first) = ((reached.clone(), go_on.clone()), AtomicBool::new(true));
        *inside.lock().unwrap() = Some(Box::new(move || {
            if first.swap(false, SeqCst) {
                theirs.0.wait();
                theirs.1.wait();
            }
        }));
        let alive = Arc::downgrade(&store);
        let thread = thread::spawn(move || {
            let results = store_all(&store, &batch);
            assert!(results.iter().all(Result::is_ok));
            for (n, page) in &batch {
                let mut back = Box::new([0; PAGE_SIZE]);
                store.load(*n, &mut back).unwrap();
                assert!(back == *page);
            }
        });
        reached.wait();
        assert!(alive.strong_count() == 1 && contexts.load(SeqCst) > 0);
        go_on.wait();
        thread.join().unwrap();
        assert!(alive.upgrade().is_none());
        *inside.lock().unwrap() = None;
        assert_eq!((pages.pages_out(), contexts.load(SeqCst)), (0, 0));
    }
}

/// Several threads make batches and single calls with one engine, while pools are switched. At the end the
/// store is dropped before the engine.
#[test]
fn batches_under_load() {
    let engine = Arc::new(AcompEngine::new(2, 8).unwrap());
    let Rig { store, pages, contexts, .. } = rig_with(|builder| builder.acomp(engine.clone()));
    let (threads, rounds) = if cfg!(miri) { (2, 1) } else { (4, 150) };
    thread::scope(|scope| {
        for t in 0..threads {
            let store = &store;
            scope.spawn(move || {
                let mut rng = Rng::new(t);
                let mut back = vec![[0; PAGE_SIZE]; 16];
                for round in 0..rounds {
                    let entry = |n: usize| t * 100 + n as u64;
                    let batch: Vec<_> =
                        (0..16).map(|n| (at(entry(n)), marked(entry(n), round))).collect();
                    assert!(store_all(store, &batch).iter().all(Result::is_ok));
                    if rng.below(4) == 0 {
                        store.set_compressor(&format!("trim{}", rng.below(3))).unwrap();
                    }
                    let entries: Vec<SwapEntry> = batch.iter().map(|(entry, _)| *entry).collect();
                    let results = store.load_batch(&entries, &mut back).unwrap();
                    assert!(results.iter().all(Result::is_ok));
                    for (n, (_, page)) in batch.iter().enumerate() {
                        assert!(back[n] == **page, "entry {}", entry(n));
                    }
                    check(store, entry(rng.below(16)), round);
                }
            });
        }
    });
    assert_eq!(store.len(), threads as usize * 16);
    drop(store);
    assert_eq!((pages.pages_out(), contexts.load(SeqCst)), (0, 0));
}

/// A device that counts its reads, and fails those of one segment while its number is set.
#[derive(Debug)]
struct CountsReads(MemorySwapDevice, AtomicU64, AtomicU64);

impl SwapDevice for CountsReads {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.0.write_segment(segment, bytes)
    }
    fn read(&self, segment: u64, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.1.fetch_add(1, SeqCst);
        if segment == self.2.load(SeqCst) {
            return Err(DeviceError::Missing { segment });
        }
        self.0.read(segment, at, bytes)
    }
    fn discard(&self, segment: u64) {
        self.0.discard(segment);
    }
}

#[test]
fn a_batch_reads_neighbours_on_the_device_together() {
    let count = if cfg!(miri) { 20 } else { 300 };
    for checksums in [false, true] {
        let none = AtomicU64::new(u64::MAX);
        let device = CountsReads(MemorySwapDevice::new(1 << 12), AtomicU64::new(0), none);
        let device = Arc::new(device);
        let store = Zswap::builder().checksums(checksums).swap_device(device.clone());
        let store = store.promotion(Promotion::SecondLoad).build().unwrap();
        (0..count).for_each(|n| store.store(at(n), &page(n * 8 + 5)).unwrap());
        assert_eq!(store.shrink(usize::MAX), Ok(count as usize));
        // One page of the batch is in a pool, one is same-filled, one is not there, and one is there twice.
        store.store(at(0), &page(5)).unwrap();
        store.store(at(count), &[7; PAGE_SIZE]).unwrap();
        let mut entries: Vec<u64> = (0..count + 2).chain([9]).collect();
        let mut rng = Rng::new(1);
        (1..entries.len()).rev().for_each(|n| entries.swap(n, rng.below(n + 1)));
        let mut back = vec![[0; PAGE_SIZE]; entries.len()];
        let named: Vec<SwapEntry> = entries.iter().map(|n| at(*n)).collect();
        let results = store.load_batch(&named, &mut back).unwrap();
        let segments = store.stats().device_segments as u64;
        let reads = device.1.load(SeqCst);
        assert!(reads <= segments + 1, "{reads} reads of {segments} segments");
        for ((n, result), page_read) in entries.iter().zip(&results).zip(&back) {
            match *n {
                n if n == count + 1 => {
                    assert_eq!(*result, Err(LoadError::NotFound { entry: at(n) }));
                }
                n if n == count => assert!(result.is_ok() && *page_read == [7; PAGE_SIZE]),
                n => assert!(result.is_ok() && *page_read == *page(n * 8 + 5), "{n}"),
            }
        }
        let stats = store.stats();
        // One page was loaded twice, and came back into a pool.
        assert_eq!((stats.device_loads, stats.promoted_pages), (count, 1));
        assert_eq!(stats.device_pages as u64, count - 2);
        // What cannot be read is an error of its own, and the others are read.
        device.2.store(0, SeqCst);
        let results = store.load_batch(&named, &mut back).unwrap();
        let failed = results.iter().filter(|result| {
            matches!(
                result,
                Err(LoadError::Device { source: DeviceError::Missing { segment: 0 }, .. })
            )
        });
        let failed = failed.count();
        let others = results.iter().filter(|result| result.is_ok()).count();
        assert!(failed > 0 && (cfg!(miri) || others > failed), "{failed} {others}");
        assert_eq!(failed + others + 1, entries.len());
    }
}

/// A device that does several reads in one call, the last first. While a flag is set, it leaves every other out, or
/// panics after half of them.
#[derive(Debug)]
struct ReadsMany {
    memory: MemorySwapDevice,
    calls: AtomicU64,
    leaves_out: AtomicBool,
    panics: AtomicBool,
}

impl SwapDevice for ReadsMany {
    fn geometry(&self) -> Geometry {
        self.memory.geometry()
    }
    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.memory.write_segment(segment, bytes)
    }
    fn read(&self, segment: u64, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.calls.fetch_add(1, SeqCst);
        self.memory.read(segment, at, bytes)
    }
    fn read_many(&self, reads: &mut [RangeRead<'_>]) {
        self.calls.fetch_add(1, SeqCst);
        let count = reads.len();
        for (n, RangeRead { segment, offset, bytes, result }) in reads.iter_mut().enumerate().rev()
        {
            if self.panics.load(SeqCst) && n < count / 2 {
                std::panic::resume_unwind(Box::new(()));
            }
            if !self.leaves_out.load(SeqCst) || n % 2 == 0 {
                *result = self.memory.read(*segment, *offset, bytes);
            }
        }
    }
}

#[test]
fn pages_far_from_each_other_are_read_with_few_calls_of_the_device() {
    let (count, every) = (600, 20);
    let off = || AtomicBool::new(false);
    let device = Arc::new(ReadsMany {
        memory: MemorySwapDevice::new(1 << 12),
        calls: AtomicU64::new(0),
        leaves_out: off(),
        panics: off(),
    });
    let store = Zswap::builder().swap_device(device.clone()).promotion(Promotion::Never);
    let store = store.build().unwrap();
    (0..count).for_each(|n| store.store(at(n), &page(n * 8 + 5)).unwrap());
    assert_eq!(store.shrink(usize::MAX), Ok(count as usize));
    let entries: Vec<SwapEntry> = (0..count / every).map(|n| at(n * every)).collect();
    let mut back = vec![[0; PAGE_SIZE]; entries.len()];
    let mut load = || {
        let before = device.calls.load(SeqCst);
        let results = store.load_batch(&entries, &mut back).unwrap();
        for ((result, page_read), n) in results.iter().zip(&back).zip(0..) {
            assert!(result.is_err() || *page_read == *page(n * every * 8 + 5), "{n}");
        }
        (device.calls.load(SeqCst) - before, results)
    };
    let (calls, results) = load();
    assert!(results.iter().all(Result::is_ok));
    // 30 pages of up to 4096 bytes, in a buffer of one segment.
    assert!(calls <= 4, "{calls} calls for {} pages", entries.len());
    // What the device says nothing about is missing.
    device.leaves_out.store(true, SeqCst);
    let (_, results) = load();
    let missing = |result: &&Result<(), LoadError>| {
        matches!(result, Err(LoadError::Device { source: DeviceError::Missing { .. }, .. }))
    };
    let failed = results.iter().filter(missing).count();
    assert!((entries.len() / 3..=entries.len() / 2).contains(&failed), "{failed}");
    assert!(results.iter().all(|result| result.is_ok() || missing(&result)));
    device.leaves_out.store(false, SeqCst);
    // A panic fails no page that can be read by itself.
    device.panics.store(true, SeqCst);
    let (_, results) = load();
    assert!(results.iter().all(Result::is_ok));
}
