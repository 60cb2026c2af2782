//! A provider that calls back into the pool. Miri leaves these tests out: they take thousands of steps.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use zpool_api::{Handle, PageError, PageProvider, PageRun, Zpool};
use zpool_base::sync::test_rng::Rng;
use zpool_pages::HeapPages;
use zsmalloc::Zsmalloc;

type Hook = Arc<dyn Fn(&Zsmalloc) + Send + Sync>;

/// Calls a hook, if one is set, whenever a run or pages of a run are returned; the hook is not
/// called recursively.
struct Reentering {
    inner: Arc<dyn PageProvider>,
    pool: Mutex<std::sync::Weak<Zsmalloc>>,
    hook: Mutex<Option<Hook>>,
    depth: AtomicUsize,
}

impl fmt::Debug for Reentering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reentering").finish_non_exhaustive()
    }
}

impl Reentering {
    fn pool(inner: Arc<dyn PageProvider>) -> (Arc<Self>, Arc<Zsmalloc>) {
        let pages = Arc::new(Reentering {
            inner,
            pool: Mutex::default(),
            hook: Mutex::default(),
            depth: AtomicUsize::new(0),
        });
        let pool = Arc::new(Zsmalloc::new(pages.clone()).unwrap());
        *pages.pool.lock().unwrap() = Arc::downgrade(&pool);
        (pages, pool)
    }

    fn has(&self, hook: impl Fn(&Zsmalloc) + Send + Sync + 'static) {
        *self.hook.lock().unwrap() = Some(Arc::new(hook));
    }

    fn call(&self) {
        let hook = self.hook.lock().unwrap().clone();
        let pool = self.pool.lock().unwrap().upgrade();
        if let (Some(hook), Some(pool)) = (hook, pool) {
            if self.depth.fetch_add(1, SeqCst) == 0 {
                hook(&pool);
            }
            self.depth.fetch_sub(1, SeqCst);
        }
    }
}

// SAFETY: all runs are the inner provider's, passed on unchanged.
unsafe impl PageProvider for Reentering {
    fn page_size(&self) -> usize {
        self.inner.page_size()
    }
    fn alloc_run(&self, pages: usize) -> Result<PageRun, PageError> {
        self.inner.alloc_run(pages)
    }
    unsafe fn free_run(&self, run: PageRun) {
        // SAFETY: the run is passed on unchanged.
        unsafe { self.inner.free_run(run) };
        self.call();
    }
    unsafe fn discard(&self, run: &mut PageRun, pages: Range<usize>) {
        self.call();
        // SAFETY: run and pages are passed on unchanged.
        unsafe { self.inner.discard(run, pages) };
    }
    fn cached_pages(&self) -> usize {
        self.inner.cached_pages()
    }
    fn trim(&self) -> usize {
        self.inner.trim()
    }
    fn metadata_bytes(&self) -> usize {
        self.inner.metadata_bytes()
    }
}

/// A test fails after this many calls of the hook, or of `compact_some`.
const MOST: usize = 20_000;

/// Returns a hook that stores objects, and frees most of them so that they leave holes.
fn makes_work() -> impl Fn(&Zsmalloc) + Send + Sync + 'static {
    let calls = AtomicUsize::new(0);
    let live = Mutex::new(Vec::<Handle>::new());
    move |pool| {
        assert!(calls.fetch_add(1, SeqCst) < MOST, "compaction does not end");
        let mut live = live.lock().unwrap();
        for handle in live.drain(..).collect::<Vec<_>>() {
            pool.free(handle).unwrap();
        }
        live.extend((0..40).map(|_| pool.malloc_from(&[2; 3000]).unwrap()));
        for n in (0..40).rev().filter(|n| n % 8 != 0) {
            pool.free(live.swap_remove(n)).unwrap();
        }
    }
}

/// Fills a pool, and frees all objects except every eighth.
fn leave_holes(pool: &Zsmalloc) {
    let all: Vec<Handle> = (0..160).map(|_| pool.malloc_from(&[1; 3000]).unwrap()).collect();
    for (_, handle) in all.iter().enumerate().filter(|(n, _)| n % 8 != 0) {
        pool.free(*handle).unwrap();
    }
}

fn providers() -> Vec<Arc<dyn PageProvider>> {
    let mut all: Vec<Arc<dyn PageProvider>> = vec![Arc::new(HeapPages::new())];
    #[cfg(target_os = "linux")]
    all.push(Arc::new(zpool_pages::MmapPages::new()));
    all
}

#[test]
fn compaction_ends_though_the_provider_makes_new_work_all_the_time() {
    for inner in providers() {
        let (pages, pool) = Reentering::pool(inner);
        leave_holes(&pool);
        pages.has(makes_work());
        pool.compact().unwrap();
    }
}

#[test]
fn compaction_in_parts_is_complete_though_the_provider_makes_new_work_all_the_time() {
    for inner in providers() {
        let (pages, pool) = Reentering::pool(inner);
        leave_holes(&pool);
        pages.has(makes_work());
        let calls = (0..MOST).take_while(|_| !pool.compact_some(1).unwrap().complete).count();
        assert!(calls < MOST);
    }
}

/// The provider's hook compacts in parts, within calls that do the same. Each call may end the pass
/// that the others take part in.
#[test]
fn compaction_in_parts_within_the_provider_comes_to_an_end() {
    let (pages, pool) = Reentering::pool(Arc::new(HeapPages::new()));
    pages.has(|pool| {
        let calls = (0..2000).take_while(|_| !pool.compact_some(64).unwrap().complete).count();
        assert!(calls < 2000, "{:?}", pool.compact_some(64));
    });
    let (mut rng, mut live) = (Rng::new(3), Vec::<Handle>::new());
    for step in 0..3000 {
        match rng.below(8) {
            0..=3 => live.push(pool.malloc_from(&vec![1; 8 + rng.below(4000)]).unwrap()),
            4..=6 if live.len() > 50 => {
                pool.free(live.swap_remove(rng.below(live.len()))).unwrap();
            }
            7 if step % 50 == 0 => while !pool.compact_some(64).unwrap().complete {},
            _ => {}
        }
    }
}
