//! Tests stores that a handler of page faults calls (`ZswapBuilder::in_fault_handler`). A fault is simulated by a
//! codec that calls such a store while another store calls the codec. On Linux, pages without access cause real
//! faults, too. Not under Miri, which has no zstd.
#![cfg(not(miri))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a signal handler; a failure in a test's helper is the test's own message"
)]

mod common;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};

use common::{at, page};
use compressors::{
    Acomp, AcompEngine, Compressor, CompressorCtx, CompressorError, Registry, Scomp,
};
use zpool_base::lockdep::{self, Rank};
use zswap_core::device::{DeviceError, Geometry, MemorySwapDevice, SwapDevice};
use zswap_core::{
    AreaSettings, BuildError, LoadError, PAGE_SIZE, Page, Promotion, Recompress, StoreError,
    SwapEntry, Zswap, ZswapBuilder, builtin,
};

/// What happens at each simulated fault.
type OnFault = Arc<dyn Fn() + Send + Sync>;

/// A codec with a fault in each of its calls. It needs a context to decompress, too.
struct Faulting {
    name: &'static str,
    inner: Arc<dyn Compressor>,
    on_fault: OnFault,
}

impl core::fmt::Debug for Faulting {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name)
    }
}

struct FaultingCtx(Box<dyn CompressorCtx>, OnFault);

impl core::fmt::Debug for FaultingCtx {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("FaultingCtx")
    }
}

impl Compressor for Faulting {
    fn name(&self) -> &str {
        self.name
    }
    fn spec(&self) -> String {
        self.name.to_owned()
    }
    fn max_compressed_len(&self, len: usize) -> usize {
        self.inner.max_compressed_len(len)
    }
    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        Ok(Box::new(FaultingCtx(self.inner.new_ctx()?, self.on_fault.clone())))
    }
}

impl CompressorCtx for FaultingCtx {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        (self.1)();
        self.0.compress(src, dst)
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        (self.1)();
        self.0.decompress(src, dst)
    }
    fn memory_bytes(&self) -> usize {
        self.0.memory_bytes()
    }
}

/// Returns the built-in compressors, `outer`, which is the compressor `spec` with faults, and `denser`, which is
/// zstd with faults.
fn registry(spec: &str, on_fault: &OnFault) -> Registry {
    let mut registry = builtin::compressors();
    for (name, spec) in [("outer", spec), ("denser", "zstd:level=6")] {
        let (inner, on_fault) = (registry.build(spec).unwrap(), on_fault.clone());
        let made = move |_: &compressors::Spec| -> Result<Arc<dyn Compressor>, CompressorError> {
            let (inner, on_fault) = (inner.clone(), on_fault.clone());
            Ok(Arc::new(Faulting { name, inner, on_fault }))
        };
        registry.register(name, made).unwrap();
    }
    registry
}

/// A store with faults in its codec.
fn faulting(spec: &str, on_fault: &OnFault) -> ZswapBuilder {
    Zswap::builder().compressor_registry(registry(spec, on_fault)).compressor("outer")
}

/// The store of a fault handler, and what the handler did with it.
struct Handler {
    store: Zswap,
    handled: AtomicU64,
    failed: Mutex<Option<String>>,
}

/// Seeds of pages that are compressed, of one that is kept as it is, and of a same-filled one.
const SEEDS: [u64; 4] = [4, 1, 2, 16];

impl Handler {
    fn new(builder: ZswapBuilder) -> Arc<Handler> {
        let store = builder.build().unwrap();
        Arc::new(Handler { store, handled: AtomicU64::new(0), failed: Mutex::default() })
    }

    /// Does what a handler does: makes room for a page, brings another one, and forgets it.
    fn handle(&self) {
        let n = self.handled.fetch_add(1, SeqCst);
        let done = SEEDS.iter().try_for_each(|seed| self.handle_one(n, *seed));
        if let Err(error) = done {
            self.failed.lock().unwrap().get_or_insert(error);
        }
    }

    fn handle_one(&self, n: u64, seed: u64) -> Result<(), String> {
        let (entry, kept) = (at((n + 1) << 20 | seed), at(seed));
        let mut back = [0; PAGE_SIZE];
        self.store.store(entry, &page(n * 8 + seed)).map_err(|error| format!("{error:?}"))?;
        self.store.load(entry, &mut back).map_err(|error| format!("{error:?}"))?;
        if back != *page(n * 8 + seed) || !self.store.invalidate(entry) {
            return Err(format!("the page of fault {n} is not there"));
        }
        if self.store.contains(kept) {
            self.store.load(kept, &mut back).map_err(|error| format!("kept: {error:?}"))?;
            if back != *page(seed) {
                return Err(format!("kept page {seed} is another"));
            }
        }
        Ok(())
    }

    fn on_fault(self: &Arc<Self>) -> OnFault {
        let handler = self.clone();
        Arc::new(move || handler.handle())
    }

    /// Checks that faults happened since the last call, and that all were handled.
    fn handled(&self, what: &str) {
        assert!(self.handled.swap(0, SeqCst) > 0, "{what}: no fault");
        assert_eq!(self.failed.lock().unwrap().take(), None, "{what}");
    }

    /// Checks that a fault happened, and that it could not be handled.
    fn refused(&self, what: &str) {
        assert!(self.handled.swap(0, SeqCst) > 0, "{what}: no fault");
        let error = self.failed.lock().unwrap().take();
        assert!(
            error.as_ref().is_some_and(|error| error.contains("Reentrant")),
            "{what}: {error:?}"
        );
    }
}

fn check(store: &Zswap, offset: u64, seed: u64) {
    let mut back = [0; PAGE_SIZE];
    store.load(at(offset), &mut back).unwrap();
    assert!(back == *page(seed), "{offset}");
}

/// Calls each operation of a store whose codec has faults. Calls `after` with the operation's name after each.
fn each_operation(store: &Zswap, after: &dyn Fn(&str)) {
    store.store(at(1), &page(4)).unwrap();
    after("store");
    store.store(at(2), &page(1)).unwrap();
    after("store of a page that does not get smaller");
    check(store, 1, 4);
    after("load");
    store.try_replace(at(1), &page(5)).unwrap();
    after("try_replace");
    store.take(at(1), &mut [0; PAGE_SIZE]).unwrap();
    after("take");
    let pages: Vec<_> = (4..8).map(page).collect();
    let batch: Vec<(SwapEntry, &Page)> =
        pages.iter().enumerate().map(|(n, page)| (at(10 + n as u64), &**page)).collect();
    store.store_batch(&batch).unwrap().into_iter().for_each(|stored| stored.unwrap());
    after("store_batch");
    let mut back = vec![[0; PAGE_SIZE]; 4];
    let entries: Vec<_> = batch.iter().map(|(entry, _)| *entry).collect();
    store.load_batch(&entries, &mut back).unwrap().into_iter().for_each(|loaded| loaded.unwrap());
    after("load_batch");
    assert!(back.iter().zip(&pages).all(|(back, page)| back == &**page));
    let done = store.recompress(&Recompress::new("denser")).unwrap();
    assert!(done.moved + done.not_smaller > 0);
    after("recompress");
    check(store, 10, 4);
    after("load of a recompressed page");
    store.set_compressor("denser").unwrap();
    store.set_compressor("outer").unwrap();
    store.migrate_pools(10).unwrap();
    store.store(at(3), &page(4)).unwrap();
    after("store after switching");
}

fn acomps() -> Vec<Arc<dyn Acomp>> {
    vec![Arc::new(Scomp), Arc::new(AcompEngine::new(1, 8).unwrap())]
}

#[test]
fn faults_within_any_call_are_handled() {
    for (handlers, outer) in
        [("lz4", "lz4"), ("zstd", "zstd"), ("zstd", "lz4"), ("lz4", "deflate"), ("null", "zstd")]
    {
        for zpool in ["zsmalloc", "zbud", "z3fold"] {
            let handler = Zswap::builder().zpool(zpool).compressor(handlers);
            let handler = Handler::new(handler.in_fault_handler(true).max_bytes(1 << 24));
            SEEDS.iter().for_each(|seed| handler.store.store(at(*seed), &page(*seed)).unwrap());
            for acomp in acomps() {
                let store = faulting(outer, &handler.on_fault()).zpool(zpool).acomp(acomp);
                let store = store.checksums(true).build().unwrap();
                each_operation(&store, &|what| handler.handled(&format!("{what}, {handlers}")));
            }
            assert_eq!(handler.store.len(), SEEDS.len());
        }
    }
}

#[test]
fn without_the_setting_they_are_refused() {
    let handler = Handler::new(Zswap::builder().compressor("zstd"));
    let store = faulting("zstd", &handler.on_fault()).build().unwrap();
    store.store(at(1), &page(4)).unwrap();
    handler.refused("store");
    check(&store, 1, 4);
    handler.refused("load");
}

/// A fault in the codec of a fault handler's store, and any call of a store from there.
#[test]
fn a_fault_within_a_fault_is_refused() {
    for innermost_has_it in [true, false] {
        let builder = Zswap::builder().compressor("zstd").in_fault_handler(innermost_has_it);
        let innermost = Handler::new(builder);
        let inner = faulting("zstd", &innermost.on_fault()).in_fault_handler(true);
        let inner = Handler::new(inner);
        inner.store.store(at(4), &page(4)).unwrap();
        innermost.refused("store of a handler's store, called by nobody");
        let outer = faulting("zstd", &inner.on_fault()).build().unwrap();
        outer.store(at(1), &page(4)).unwrap();
        // The first fault is handled, though those within it are not.
        innermost.refused("store");
        inner.handled("store");
        check(&outer, 1, 4);
        innermost.refused("load");
        inner.handled("load");
    }
    // A store within itself.
    let slot = Arc::new(OnceLock::<Arc<Handler>>::new());
    let own = slot.clone();
    let on_fault: OnFault = Arc::new(move || own.get().unwrap().handle());
    let handler = Handler::new(faulting("zstd", &on_fault).in_fault_handler(true));
    assert!(slot.set(handler.clone()).is_ok());
    handler.store.store(at(1), &page(4)).unwrap();
    handler.refused("store");
    // A context is needed to build, too.
    let build = |in_fault_handler| {
        let result = Arc::new(Mutex::new(None));
        let built = result.clone();
        let on_fault: OnFault = Arc::new(move || {
            let builder = Zswap::builder().compressor("zstd").max_bytes(1 << 24);
            *built.lock().unwrap() =
                Some(builder.in_fault_handler(in_fault_handler).build().map(drop));
        });
        faulting("lz4", &on_fault).build().unwrap().store(at(1), &page(4)).unwrap();
        result.lock().unwrap().take().unwrap()
    };
    assert_eq!((build(true), build(false)), (Ok(()), Err(BuildError::Reentrant)));
}

/// Each codec of a fault handler's store, however it came to be, has contexts for the handler.
#[test]
fn all_codecs_of_a_store_have_the_setting() {
    for checksums in [false, true] {
        let device = Arc::new(MemorySwapDevice::new(1000));
        let builder = Zswap::builder().compressor("zstd:level=1").in_fault_handler(true);
        let builder = builder.swap_device(device).promotion(Promotion::Always);
        let handler = Handler::new(builder.checksums(checksums));
        let store = faulting("zstd", &handler.on_fault()).build().unwrap();
        let inner = &handler.store;
        let on_device = |what: &str| {
            // The pages that stay are on the device when the fault happens, and one of its loads promotes them.
            inner.shrink(100).unwrap();
            assert!(inner.stats().device_pages >= 3, "{what}");
            store.store(at(1), &page(4)).unwrap();
            handler.handled(what);
            assert!(inner.stats().device_pages < 3, "{what}");
        };
        SEEDS.iter().for_each(|seed| inner.store(at(*seed), &page(*seed)).unwrap());
        check(inner, 4, 4);
        on_device("first compressor");
        inner.set_compressor("zstd:level=2").unwrap();
        on_device("set_compressor");
        inner.set_compressor("lz4").unwrap();
        on_device("lz4");
        assert!(inner.recompress(&Recompress::new("zstd:level=9")).unwrap().moved > 0);
        check(&store, 1, 4);
        handler.handled("recompressed pages");
        on_device("recompressed pages on the device");
        inner.set_compressor("zstd:level=2").unwrap();
        inner.set_zpool("zbud").unwrap();
        on_device("set_zpool");
        inner.migrate_pools(100).unwrap();
        on_device("migrated pages");
        let own = AreaSettings::default().compressor("zstd:level=3");
        inner.add_area(9, own).unwrap();
        let entry = SwapEntry::new(9, 1).unwrap();
        inner.store(entry, &page(4)).unwrap();
        let (of_area, result) = (handler.clone(), Arc::new(Mutex::new(Vec::new())));
        let results = result.clone();
        let on_fault: OnFault = Arc::new(move || {
            let mut back = [0; PAGE_SIZE];
            let loaded = of_area.store.load(entry, &mut back);
            let stored = of_area.store.store(entry, &back);
            results.lock().unwrap().push((loaded, stored, back == *page(4)));
        });
        faulting("lz4", &on_fault).build().unwrap().store(at(1), &page(4)).unwrap();
        assert_eq!(*result.lock().unwrap(), [(Ok(()), Ok(()), true)]);
    }
}

#[test]
fn a_store_at_its_limit_writes_back_within_a_fault() {
    let device = Arc::new(MemorySwapDevice::new(1000));
    let builder = Zswap::builder().compressor("zstd").in_fault_handler(true).swap_device(device);
    let handler = Handler::new(builder.max_pool_bytes(8 * PAGE_SIZE));
    let inner = handler.clone();
    let offset = AtomicU64::new(1 << 40);
    let on_fault: OnFault = Arc::new(move || {
        for _ in 0..8 {
            let n = offset.fetch_add(1, SeqCst);
            if let Err(error) = inner.store.store(at(n), &page(n * 8 + 1)) {
                inner.failed.lock().unwrap().get_or_insert(format!("{error:?}"));
            }
        }
        inner.handle();
    });
    let store = faulting("zstd", &on_fault).build().unwrap();
    for n in 0..8 {
        store.store(at(n), &page(4)).unwrap();
        handler.handled("store");
        check(&store, n, 4);
        handler.handled("load");
    }
    assert!(handler.store.stats().written_back_pages > 64);
}

/// A device that keeps its segments in memory, and has a fault in each write and each read.
struct FaultingDevice {
    segments: MemorySwapDevice,
    on_fault: OnFault,
    /// A store that the device calls before.
    below: Option<(Zswap, AtomicU64)>,
}

impl core::fmt::Debug for FaultingDevice {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("FaultingDevice")
    }
}

impl SwapDevice for FaultingDevice {
    fn geometry(&self) -> Geometry {
        self.segments.geometry()
    }
    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        if let Some((store, next)) = &self.below {
            store.store(at(next.fetch_add(1, SeqCst)), &page(4)).unwrap();
            store.shrink(1).unwrap();
        }
        (self.on_fault)();
        self.segments.write_segment(segment, bytes)
    }
    fn read(&self, segment: u64, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        (self.on_fault)();
        self.segments.read(segment, offset, bytes)
    }
    fn discard(&self, segment: u64) {
        self.segments.discard(segment);
    }
    fn flush(&self) -> Result<(), DeviceError> {
        self.segments.flush()
    }
}

/// Stores whose devices call the next store, as deep as such calls may be nested. The fault is in the innermost.
#[test]
fn a_fault_in_nested_writeback_may_write_back() {
    let device = Arc::new(MemorySwapDevice::new(1000));
    let builder = Zswap::builder().compressor("zstd").in_fault_handler(true).swap_device(device);
    let handler = Handler::new(builder);
    let inner = handler.clone();
    let on_fault: OnFault = Arc::new(move || {
        inner.store.store(at(1), &page(1)).unwrap();
        if let Err(error) = inner.store.shrink(1) {
            inner.failed.lock().unwrap().get_or_insert(format!("{error:?}"));
        }
        inner.handle();
    });
    let mut below = None;
    for _ in 0..4 {
        let device = FaultingDevice {
            segments: MemorySwapDevice::new(1000),
            on_fault: on_fault.clone(),
            below: below.take(),
        };
        let store =
            Zswap::builder().compressor("lz4").swap_device(Arc::new(device)).build().unwrap();
        below = Some((store, AtomicU64::new(0)));
    }
    let (store, _) = below.unwrap();
    store.store(at(1), &page(4)).unwrap();
    assert_eq!(store.shrink(1), Ok(1));
    assert!(handler.handled.load(SeqCst) >= 4);
    handler.handled("writeback");
    check(&store, 1, 4);
    handler.handled("load from the device");
}

#[test]
fn it_works_in_the_destructor_of_a_thread_local() {
    struct Last(Arc<Handler>, Zswap);
    impl Drop for Last {
        fn drop(&mut self) {
            self.0.handle();
            self.0.handled("by itself");
            each_operation(&self.1, &|what| self.0.handled(what));
        }
    }
    thread_local! {
        // Destroyed in any order, so that some of them find what others use destroyed.
        static FIRST: RefCell<Option<Last>> = const { RefCell::new(None) };
        static SECOND: RefCell<Option<Last>> = const { RefCell::new(None) };
    }
    let handler = Handler::new(Zswap::builder().compressor("zstd").in_fault_handler(true));
    let last = || {
        let store = faulting("zstd", &handler.on_fault()).build().unwrap();
        Some(Last(handler.clone(), store))
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            FIRST.set(last());
            handler.handle();
            SECOND.set(last());
        });
        thread.join().unwrap();
    });
    assert_eq!(Arc::strong_count(&handler), 1);
}

/// The interrupted call may hold ranked locks. In debug builds the handler sets their ranks aside.
#[test]
fn ranks_that_are_set_aside_do_not_matter() {
    let handler = Handler::new(Zswap::builder().compressor("zstd").in_fault_handler(true));
    for rank in [Rank::Entry, Rank::Pool, Rank::Zspage, Rank::Structure, Rank::Leaf] {
        let held = lockdep::acquire(rank);
        let interrupted = lockdep::interrupted();
        handler.handle();
        handler.handled("under a lock");
        drop(interrupted);
        drop(held);
    }
}

/// Real faults: a page that the process may not touch is given to a store as source or destination of each call.
#[cfg(target_os = "linux")]
mod real {
    use super::*;
    use std::mem::MaybeUninit;
    use std::panic::catch_unwind;
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize};

    static HANDLER: OnceLock<Arc<Handler>> = OnceLock::new();
    static MEMORY: AtomicPtr<u8> = AtomicPtr::new(null_mut());
    static FAULTS: AtomicUsize = AtomicUsize::new(0);
    static UNDER_A_LOCK: AtomicUsize = AtomicUsize::new(0);
    const PAGES: usize = 3;

    /// While set, each access is a fault, not only the first one of a call: the thread traps after the access, and the
    /// access is taken away again.
    static STEPPING: AtomicBool = AtomicBool::new(false);
    const CAN_STEP: bool = cfg!(target_arch = "x86_64");

    /// Sets whether the thread that a signal interrupts traps after its next instruction.
    fn trap_after_next(context: *mut libc::c_void, trap: bool) {
        #[cfg(target_arch = "x86_64")]
        {
            const TRAP_FLAG: i64 = 1 << 8;
            // SAFETY: the system passes the handler a context that it may change.
            let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
            let flags = &mut context.uc_mcontext.gregs[libc::REG_EFL as usize];
            *flags = if trap { *flags | TRAP_FLAG } else { *flags & !TRAP_FLAG };
        }
        let _ = (context, trap);
    }

    extern "C" fn on_trap(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
        trap_after_next(context, false);
        protect(libc::PROT_NONE);
    }

    fn protect(access: i32) {
        // SAFETY: the range is the mapping that `map` made, which is never unmapped.
        let done = unsafe { libc::mprotect(MEMORY.load(SeqCst).cast(), PAGES * PAGE_SIZE, access) };
        assert_eq!(done, 0);
    }

    /// Handles a fault: uses the handler's store, then makes the memory accessible. It does not set ranks aside, so it
    /// notices whether the interrupted call holds a ranked lock.
    extern "C" fn on_segv(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the system passes a valid `siginfo_t`.
        let info = unsafe { &*info };
        // SAFETY: `si_addr` is set for SIGSEGV.
        let address = unsafe { info.si_addr() }.addr();
        let start = MEMORY.load(SeqCst).addr();
        if !(start..start + PAGES * PAGE_SIZE).contains(&address) {
            std::process::abort();
        }
        let checked = catch_unwind(|| {
            lockdep::might_sleep("a fault");
            // All faults of a call are much alike.
            if FAULTS.fetch_add(1, SeqCst) % 500 == 0 {
                HANDLER.get().unwrap().handle();
            }
        });
        if checked.is_err() {
            UNDER_A_LOCK.fetch_add(1, SeqCst);
        }
        protect(libc::PROT_READ | libc::PROT_WRITE);
        trap_after_next(context, STEPPING.load(SeqCst));
    }

    fn map() {
        let (access, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, anywhere.
        let memory = unsafe { libc::mmap(null_mut(), PAGES * PAGE_SIZE, access, flags, -1, 0) };
        assert_ne!(memory, libc::MAP_FAILED);
        MEMORY.store(memory.cast(), SeqCst);
        // SAFETY: all-zero bytes are a valid `sigaction`.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        for (signal, handler) in
            [(libc::SIGSEGV, on_segv as *const ()), (libc::SIGTRAP, on_trap as *const ())]
        {
            action.sa_sigaction = handler as usize;
            // SAFETY: the handlers have the signature that SA_SIGINFO asks for, and live as long as the program.
            let done = unsafe { libc::sigaction(signal, &raw const action, null_mut()) };
            assert_eq!(done, 0);
        }
    }

    /// Calls `call` with the pages, the first access to which is a fault; if `stepping`, every access.
    fn within_fault<T>(
        stepping: bool,
        what: &str,
        call: impl FnOnce(&mut [Page; PAGES]) -> T,
    ) -> T {
        protect(libc::PROT_NONE);
        FAULTS.store(0, SeqCst);
        STEPPING.store(stepping, SeqCst);
        // SAFETY: the mapping has this length, is aligned, and is used by this thread alone, by one call at a
        // time. It is made accessible at the first access.
        let pages = unsafe { &mut *MEMORY.load(SeqCst).cast::<[Page; PAGES]>() };
        let done = call(pages);
        STEPPING.store(false, SeqCst);
        protect(libc::PROT_READ | libc::PROT_WRITE);
        assert!(FAULTS.load(SeqCst) > 0, "{what}: no fault");
        assert_eq!(UNDER_A_LOCK.swap(0, SeqCst), 0, "{what}: a fault under a ranked lock");
        HANDLER.get().unwrap().handled(what);
        done
    }

    fn fill(seed: u64) {
        protect(libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: as in `within_fault`.
        let pages = unsafe { &mut *MEMORY.load(SeqCst).cast::<[Page; PAGES]>() };
        pages.iter_mut().for_each(|to| *to = *page(seed));
    }

    /// One test, since a process has one handler.
    #[test]
    fn no_call_touches_the_callers_page_under_a_ranked_lock() {
        let builder = Zswap::builder().compressor("zstd").in_fault_handler(true);
        let device = Arc::new(MemorySwapDevice::new(1000));
        let handler = Handler::new(builder.swap_device(device));
        SEEDS.iter().for_each(|seed| handler.store.store(at(*seed), &page(*seed)).unwrap());
        assert!(HANDLER.set(handler.clone()).is_ok());
        map();
        // A first use makes what thread-locals there are.
        handler.handle();
        for zpool in ["zsmalloc", "zbud", "z3fold"] {
            for codec in ["lz4", "zstd", "null", "linewords"] {
                for checksums in [false, true] {
                    let device = Arc::new(MemorySwapDevice::new(1000));
                    let builder = Zswap::builder().zpool(zpool).compressor(codec);
                    let builder = builder.checksums(checksums).swap_device(device);
                    let store = builder.promotion(Promotion::Always).build().unwrap();
                    // To stop at each access takes long.
                    let slowly = CAN_STEP && checksums && (zpool, codec) == ("zsmalloc", "lz4");
                    for stepping in [false, slowly] {
                        for seed in SEEDS {
                            let which = format!("{zpool}, {codec}, {checksums}, page {seed}");
                            each(&store, seed, &which, stepping);
                        }
                    }
                }
            }
        }
    }

    fn each(store: &Zswap, seed: u64, which: &str, stepping: bool) {
        let what = |call: &str| format!("{call}, {which}");
        let same = |pages: &[Page], call: &str| {
            assert!(pages.iter().all(|back| *back == *page(seed)), "{call}, {which}");
        };
        let entries: [SwapEntry; PAGES] = core::array::from_fn(|n| at(n as u64));
        for round in 0..if stepping { 1 } else { 2 } {
            fill(seed);
            within_fault(stepping, &what("store"), |pages| store.store(entries[0], &pages[0]))
                .unwrap();
            fill(seed);
            within_fault(stepping, &what("store of a newer page"), |pages| {
                store.store(entries[0], &pages[0])
            })
            .unwrap();
            fill(seed);
            within_fault(stepping, &what("try_replace"), |pages| {
                store.try_replace(entries[0], &pages[0])
            })
            .unwrap();
            within_fault(stepping, &what("load"), |pages| {
                store.load(entries[0], &mut pages[0]).unwrap();
                same(&pages[..1], "load");
            });
            within_fault(stepping, &what("take"), |pages| {
                store.take(entries[0], &mut pages[0]).unwrap();
                same(&pages[..1], "take");
            });
            assert_eq!(
                store.load(entries[0], &mut [0; PAGE_SIZE]),
                Err(LoadError::NotFound { entry: entries[0] })
            );
            fill(seed);
            within_fault(stepping, &what("store_batch"), |pages| {
                let pages: Vec<_> = entries.into_iter().zip(pages.iter()).collect();
                let stored: Result<Vec<()>, StoreError> =
                    store.store_batch(&pages).unwrap().into_iter().collect();
                stored.unwrap();
            });
            if round == 1 || stepping {
                // Same-filled pages stay.
                store.shrink(100).unwrap();
            }
            within_fault(stepping, &what("load_batch"), |pages| {
                let loaded: Result<Vec<()>, LoadError> =
                    store.load_batch(&entries, pages).unwrap().into_iter().collect();
                loaded.unwrap();
                same(pages, "load_batch");
            });
            store.shrink(100).unwrap();
            within_fault(stepping, &what("load from the device"), |pages| {
                store.load(entries[1], &mut pages[0]).unwrap();
                same(&pages[..1], "load from the device");
            });
            store.shrink(100).unwrap();
            within_fault(stepping, &what("take from the device"), |pages| {
                store.take(entries[2], &mut pages[0]).unwrap();
                same(&pages[..1], "take from the device");
            });
            store.invalidate_area(0);
        }
    }
}
