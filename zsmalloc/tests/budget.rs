//! A pool charges its budget for exactly the pages that `total_pages` counts.
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

use std::sync::Arc;
use std::thread;

use zpool_api::{Handle, PageBudget, PageError, PageProvider, Zpool, ZpoolConfig, ZpoolError};
use zpool_base::sync::test_rng::Rng;
use zpool_pages::{FailingPages, HeapPages};
use zsmalloc::{Config, Zsmalloc};

const STEPS: usize = if cfg!(miri) { 150 } else { 20_000 };

struct Rig {
    pages: Arc<FailingPages>,
    budget: Arc<PageBudget>,
    pool: Zsmalloc,
    page: usize,
}

fn providers() -> Vec<Arc<dyn PageProvider>> {
    let mut all: Vec<Arc<dyn PageProvider>> = vec![Arc::new(HeapPages::new())];
    #[cfg(all(target_os = "linux", not(miri)))]
    all.push(Arc::new(zpool_pages::MmapPages::new()));
    all
}

impl Rig {
    fn new(provider: Arc<dyn PageProvider>, pages_allowed: usize, chain: usize) -> Self {
        let page = provider.page_size();
        let pages = Arc::new(FailingPages::new(provider));
        let limit = pages_allowed.saturating_mul(page);
        let budget = Arc::new(PageBudget::new(limit));
        let config = ZpoolConfig::new(pages.clone()).with_budget(budget.clone());
        let pool = Zsmalloc::from_config(&config, Config::new().chain(chain)).unwrap();
        Rig { pages, budget, pool, page }
    }

    fn assert_exact(&self) {
        assert_eq!(self.budget.used(), self.pool.total_pages() * self.page);
    }

    /// Returns the figures that a failing call must not change.
    fn figures(&self) -> (usize, usize, usize) {
        let stats = self.pool.stats();
        (stats.objects, stats.object_bytes, stats.total_pages)
    }
}

fn is_limit(error: &ZpoolError) -> bool {
    matches!(error, ZpoolError::OutOfMemory { source: PageError::Limit { .. } })
}

#[test]
fn any_traffic_is_charged_exactly_and_never_beyond_the_limit() {
    for provider in providers() {
        for (allowed, chain) in [(40, 16), (40, 1), (usize::MAX, 16)] {
            let rig = Rig::new(provider.clone(), allowed, chain);
            let (mut rng, mut refused, mut failed) = (Rng::new(5), 0, 0);
            let mut live: Vec<(Handle, Vec<u8>)> = Vec::new();
            for step in 0..STEPS {
                let grow = if step / 500 % 2 == 0 { 3 } else { 1 };
                if rng.below(4) < grow && live.len() < 400 {
                    let object = vec![step as u8; 1 + rng.below(4096)];
                    let before = rig.figures();
                    // Now and then the provider refuses the request, not the budget.
                    if rng.below(10) == 0 {
                        rig.pages.fail_call(1);
                    }
                    let made = rig.pool.malloc_from(&object);
                    rig.pages.fail_call(0);
                    match made {
                        Ok(handle) => live.push((handle, object)),
                        Err(error) if is_limit(&error) => {
                            refused += 1;
                            assert_eq!(rig.figures(), before);
                        }
                        Err(ZpoolError::OutOfMemory { source: PageError::Injected { .. } }) => {
                            failed += 1;
                            assert_eq!(rig.figures(), before);
                        }
                        Err(error) => panic!("{error}"),
                    }
                    assert!(rig.pool.total_pages() <= allowed);
                } else if !live.is_empty() {
                    let (handle, object) = live.swap_remove(rng.below(live.len()));
                    assert_eq!(rig.pool.obj_read_begin(handle).unwrap()[..], object[..]);
                    let read = (step % 3 == 0).then(|| rig.pool.obj_read_begin(handle).unwrap());
                    rig.pool.free(handle).unwrap();
                    rig.assert_exact();
                    drop(read);
                }
                rig.assert_exact();
                match rng.below(300) {
                    0 => rig.pool.compact().map(drop).unwrap(),
                    1 => rig.pool.migrate_within(0..usize::MAX).map(drop).unwrap(),
                    2 => rig.pool.compact_some(2).map(drop).unwrap(),
                    3 => drop(rig.pool.trim()),
                    4 => drop(rig.pool.malloc(1000).map(drop)),
                    _ => {}
                }
                rig.assert_exact();
            }
            assert_eq!(refused > 0, allowed != usize::MAX, "{refused} refused");
            assert!(failed > 0 || cfg!(miri));
            let Rig { pool, budget, pages, .. } = rig;
            drop(pool);
            assert_eq!((budget.used(), pages.pages_out()), (0, 0));
        }
    }
}

/// At the limit an object goes wherever no page is needed, even into a class that is much too
/// large. It is refused only if there is no such place.
#[test]
fn at_the_limit_any_room_serves() {
    for provider in providers() {
        let rig = Rig::new(provider, usize::MAX, 1);
        let (pool, budget) = (&rig.pool, &rig.budget);
        // Two large objects fill a page. One of them is freed below.
        let large = [1, 2].map(|byte| pool.malloc_from(&[byte; 2000]).unwrap());
        budget.set_limit(budget.used());
        assert!(is_limit(&pool.malloc_from(&[4; 2000]).unwrap_err()));
        pool.free(large[0]).unwrap();
        let before = rig.pages.calls();
        let small = pool.malloc_from(&[3; 50]).unwrap();
        assert_eq!(rig.pages.calls(), before, "a run was requested");
        assert_eq!(pool.total_pages(), 1);
        assert!(is_limit(&pool.malloc_from(&[4; 50]).unwrap_err()));
        assert!(is_limit(&pool.malloc(4096).unwrap_err()));
        assert_eq!(pool.obj_read_begin(small).unwrap()[..], [3; 50]);
        assert_eq!(pool.obj_read_begin(large[1]).unwrap()[..], [2; 2000]);
        pool.free(small).unwrap();
        pool.malloc_from(&[5; 2000]).unwrap();
        // An allowance lets a caller exceed the limit.
        PageBudget::with_allowance(rig.page, || pool.malloc_from(&[4; 4096]).unwrap());
        assert_eq!(pool.total_pages(), 2);
        rig.assert_exact();
    }
}

/// Cached pages that come with a run go back to the system if the budget has no room for them.
#[cfg(all(target_os = "linux", not(miri)))]
#[test]
fn warm_pages_of_a_run_do_not_stand_in_the_way() {
    let rig = Rig::new(Arc::new(zpool_pages::MmapPages::new()), usize::MAX, 16);
    let all: Vec<Handle> = (0..400).map(|_| rig.pool.malloc_from(&[1; 3000]).unwrap()).collect();
    all.into_iter().for_each(|handle| rig.pool.free(handle).unwrap());
    assert_eq!(rig.pool.total_pages(), 0);
    assert!(rig.pages.cached_pages() >= 16);
    rig.budget.set_limit(2 * rig.page);
    let object = rig.pool.malloc_from(&[2; 3000]).unwrap();
    assert!(rig.pool.total_pages() <= 2);
    rig.assert_exact();
    rig.pool.free(object).unwrap();
    rig.assert_exact();
}

/// A provider whose runs come with every page warm but the first.
#[cfg(all(target_os = "linux", not(miri)))]
#[derive(Debug)]
struct WarmBehind(zpool_pages::MmapPages);

// SAFETY: `MmapPages` keeps the contract. A page that is marked as resident may be resident.
#[cfg(all(target_os = "linux", not(miri)))]
unsafe impl PageProvider for WarmBehind {
    fn page_size(&self) -> usize {
        self.0.page_size()
    }

    fn alloc_run(&self, pages: usize) -> Result<zpool_api::PageRun, PageError> {
        let mut run = self.0.alloc_run(pages)?;
        run.mark_resident(1..pages);
        Ok(run)
    }

    unsafe fn free_run(&self, run: zpool_api::PageRun) {
        // SAFETY: the caller's promise; every run is from `self.0`.
        unsafe { self.0.free_run(run) }
    }

    unsafe fn discard(&self, run: &mut zpool_api::PageRun, pages: std::ops::Range<usize>) {
        // SAFETY: as above.
        unsafe { self.0.discard(run, pages) }
    }

    fn cached_pages(&self) -> usize {
        self.0.cached_pages()
    }

    fn trim(&self) -> usize {
        self.0.trim()
    }

    fn metadata_bytes(&self) -> usize {
        self.0.metadata_bytes()
    }
}

/// Those pages go back even if the run's first page is not among them.
#[cfg(all(target_os = "linux", not(miri)))]
#[test]
fn warm_pages_behind_a_cold_one_do_not_stand_in_the_way() {
    let rig = Rig::new(Arc::new(WarmBehind(zpool_pages::MmapPages::new())), 2, 16);
    for object in [3000, 2600, 1700, 100, 4096] {
        let handle = rig.pool.malloc_from(&vec![2; object]).unwrap();
        assert!(rig.pool.total_pages() <= 2, "{object}");
        rig.assert_exact();
        assert_eq!(rig.pool.obj_read_begin(handle).unwrap()[..], vec![2; object]);
        rig.pool.free(handle).unwrap();
        rig.assert_exact();
    }
}

/// Pools that share a budget stay within it together, whatever their threads do.
#[test]
fn pools_share_a_budget() {
    let budget = Arc::new(PageBudget::new(64 * 4096));
    let pools: Vec<_> = (0..2)
        .map(|_| {
            let config = ZpoolConfig::new(Arc::new(HeapPages::new())).with_budget(budget.clone());
            Zsmalloc::from_config(&config, Config::new().chain(2)).unwrap()
        })
        .collect();
    thread::scope(|scope| {
        for (seed, pool) in pools.iter().chain(&pools).enumerate() {
            let budget = &budget;
            scope.spawn(move || {
                let (mut rng, mut live) = (Rng::new(seed as u64), Vec::new());
                for _ in 0..STEPS {
                    match pool.malloc_from(&vec![1; 1 + rng.below(4000)]) {
                        Ok(handle) => live.push(handle),
                        Err(error) => assert!(is_limit(&error)),
                    }
                    assert!(budget.used() <= budget.limit());
                    if live.len() > 60 {
                        pool.free(live.swap_remove(rng.below(live.len()))).unwrap();
                    }
                }
            });
        }
    });
    let pages: usize = pools.iter().map(|pool| pool.total_pages()).sum();
    assert_eq!(budget.used(), pages * 4096);
    drop(pools);
    assert_eq!(budget.used(), 0);
}
