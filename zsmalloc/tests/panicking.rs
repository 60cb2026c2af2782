//! A provider that panics: the panic reaches the caller, and the pool stays consistent.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use zpool_api::{
    Handle, PageBlock, PageBudget, PageError, PageProvider, PageRun, Zpool, ZpoolConfig,
};
use zpool_base::sync::test_rng::Rng;
use zpool_pages::FailingPages;
use zsmalloc::{Config, Zsmalloc};

const ON_PURPOSE: &str = "on purpose";

/// A provider that panics at a chosen call.
#[derive(Debug)]
struct Panicking {
    inner: Arc<dyn PageProvider>,
    /// Calls left until the panic; 0 for no panic.
    due: AtomicU64,
    isolated: AtomicU64,
    /// Whether the provider panics each time that a run is returned.
    refuses: AtomicBool,
    /// Whether the provider reports absurd figures.
    boasts: AtomicBool,
}

impl Panicking {
    fn new(inner: Arc<dyn PageProvider>) -> Self {
        Panicking {
            inner,
            due: AtomicU64::new(0),
            isolated: AtomicU64::new(0),
            refuses: AtomicBool::new(false),
            boasts: AtomicBool::new(false),
        }
    }

    fn figure(&self, real: usize) -> usize {
        if self.boasts.load(SeqCst) { usize::MAX } else { real }
    }

    fn call(&self) {
        if self.due.load(SeqCst) > 0 && self.due.fetch_sub(1, SeqCst) == 1 {
            panic!("{ON_PURPOSE}");
        }
    }
}

// SAFETY: all runs are the inner provider's, passed on unchanged.
unsafe impl PageProvider for Panicking {
    fn page_size(&self) -> usize {
        self.inner.page_size()
    }
    fn alloc_run(&self, pages: usize) -> Result<PageRun, PageError> {
        self.call();
        self.inner.alloc_run(pages)
    }
    unsafe fn free_run(&self, run: PageRun) {
        // SAFETY: the run is passed on unchanged.
        unsafe { self.inner.free_run(run) };
        if self.refuses.load(SeqCst) {
            resume_unwind(Box::new(ON_PURPOSE));
        }
        self.call();
    }
    unsafe fn discard(&self, run: &mut PageRun, pages: Range<usize>) {
        self.call();
        // SAFETY: run and pages are passed on unchanged.
        unsafe { self.inner.discard(run, pages) };
    }
    fn isolate_block(&self) -> Option<PageBlock> {
        assert_eq!(self.isolated.fetch_add(1, SeqCst), 0, "a block stayed isolated");
        Some(PageBlock::new(0, usize::MAX))
    }
    fn putback_block(&self, _: PageBlock) -> bool {
        self.isolated.fetch_sub(1, SeqCst);
        false
    }
    fn cached_pages(&self) -> usize {
        self.figure(self.inner.cached_pages())
    }
    fn trim(&self) -> usize {
        self.figure(self.inner.trim())
    }
    fn metadata_bytes(&self) -> usize {
        self.figure(self.inner.metadata_bytes())
    }
}

fn providers() -> Vec<Arc<dyn PageProvider>> {
    let mut all: Vec<Arc<dyn PageProvider>> = vec![Arc::new(zpool_pages::HeapPages::new())];
    #[cfg(all(target_os = "linux", not(miri)))]
    all.push(Arc::new(zpool_pages::MmapPages::new()));
    all
}

#[test]
fn the_pool_is_whole_after_a_panic_of_the_provider() {
    // This hides the output of hundreds of deliberate panics.
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        if text.or(payload.downcast_ref::<&str>().copied()) != Some(ON_PURPOSE) {
            loud(info);
        }
    }));
    for inner in providers() {
        let pages = Arc::new(Panicking::new(inner));
        let budget = Arc::new(PageBudget::new(60 * 4096));
        let config = ZpoolConfig::new(pages.clone()).with_budget(budget.clone());
        let pool = Zsmalloc::from_config(&config, Config::new().refine(false)).unwrap();
        let (mut rng, mut panics) = (Rng::new(3), 0);
        let mut live: Vec<(Handle, u8)> = Vec::new();
        for step in 0..if cfg!(miri) { 60 } else { 6000 } {
            if rng.below(4) == 0 {
                pages.due.store(1 + rng.below(3) as u64, SeqCst);
            }
            let object = vec![step as u8; 1 + rng.below(4096)];
            let grow = step / 100 % 2 == 0;
            let done = catch_unwind(AssertUnwindSafe(|| match rng.below(12) {
                0 => drop(pool.compact()),
                1 => drop(pool.migrate()),
                2 => drop(pool.compact_some(2)),
                3 => drop(pool.malloc(object.len())),
                4..=7 if grow => {
                    if let Ok(handle) = pool.malloc_from(&object) {
                        live.push((handle, step as u8));
                    }
                }
                _ if !live.is_empty() => {
                    let (handle, _) = live.swap_remove(rng.below(live.len()));
                    pool.free(handle).unwrap();
                }
                _ => {}
            }));
            panics += usize::from(done.is_err());
            pages.due.store(0, SeqCst);
            let stats = pool.stats();
            assert_eq!((stats.objects, stats.parked_objects), (live.len(), 0), "after {step}");
            assert_eq!(budget.used(), stats.total_pages * 4096);
            for (handle, byte) in &live {
                assert_eq!(pool.obj_read_begin(*handle).unwrap()[0], *byte);
            }
        }
        assert!(panics > 100 || cfg!(miri), "{panics} panics");
        // Nothing is isolated: every zspage can be moved and freed.
        assert_eq!(pool.migrate().unwrap().left, 0);
        for (handle, _) in live {
            pool.free(handle).unwrap();
        }
        pool.trim();
        let stats = pool.stats();
        assert_eq!((stats.objects, stats.total_pages, budget.used()), (0, 0, 0));
    }
}

/// Makes a pool of at least three zspages. Returns the pool's provider, then the inner provider (it
/// counts pages), then the pool.
fn some_runs() -> (Arc<Panicking>, Arc<FailingPages>, Zsmalloc) {
    let inner = Arc::new(FailingPages::new(Arc::new(zpool_pages::HeapPages::new())));
    let pages = Arc::new(Panicking::new(inner.clone()));
    let pool = Zsmalloc::new(pages.clone()).unwrap();
    for len in [100, 1000, 3000] {
        pool.malloc_from(&vec![1; len]).unwrap();
    }
    assert!(inner.pages_out() > 2);
    (pages, inner, pool)
}

#[test]
fn dropped_a_pool_gives_every_run_back_though_each_makes_the_provider_panic() {
    let (pages, inner, pool) = some_runs();
    pages.refuses.store(true, SeqCst);
    let payload = catch_unwind(AssertUnwindSafe(|| drop(pool))).unwrap_err();
    assert_eq!((payload.downcast_ref(), inner.pages_out()), (Some(&ON_PURPOSE), 0));
}

#[test]
fn dropped_by_a_panic_a_pool_passes_that_one_on() {
    let (pages, inner, pool) = some_runs();
    pages.refuses.store(true, SeqCst);
    let outer = || {
        let _pool = pool;
        resume_unwind(Box::new("the first"));
    };
    let payload = catch_unwind(AssertUnwindSafe(outer)).unwrap_err();
    assert_eq!((payload.downcast_ref(), inner.pages_out()), (Some(&"the first"), 0));
}

#[test]
fn absurd_figures_of_a_provider_are_figures() {
    let (pages, _, pool) = some_runs();
    pages.boasts.store(true, SeqCst);
    let object = pool.malloc_from(&[2; 4096]).unwrap();
    let read = pool.obj_read_begin(object).unwrap();
    // The object's page waits for a call that may return it to the provider.
    pool.free(object).unwrap();
    drop(read);
    let stats = pool.stats();
    assert_eq!((stats.metadata_bytes, stats.cached_pages), (usize::MAX, usize::MAX));
    assert_eq!(pool.trim(), 0, "cached pages are not fewer than before");
}
