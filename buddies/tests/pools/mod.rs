//! Tests that zbud and z3fold share through the macro `pool_tests!`. They test charges to a budget, the
//! limit on reclaim's callbacks, readers that take no lock, and providers and callbacks that panic.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests; the lints exempt only functions marked as tests, not those they call"
)]

use core::ops::Range;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use zpool_api::{
    Evicted, Handle, ObjRead, PageBudget, PageError, PageProvider, PageRun, Zpool, ZpoolError,
};
use zpool_base::lockdep::{self, Rank};
use zpool_base::sync::test_rng::Rng;
use zpool_pages::{FailingPages, HeapPages};

pub(crate) type Build = fn(Arc<dyn PageProvider>, Option<Arc<PageBudget>>) -> Arc<dyn Zpool>;

const PAGE: usize = 4096;

/// Returns `native`, or `miri` under Miri.
const fn pick(native: usize, miri: usize) -> usize {
    if cfg!(miri) { miri } else { native }
}

fn plain(build: Build) -> Arc<dyn Zpool> {
    build(Arc::new(HeapPages::new()), None)
}

fn charged(budget: &PageBudget, pool: &dyn Zpool) -> usize {
    let pages = pool.total_pages();
    assert_eq!(budget.used(), pages * PAGE, "bytes charged (left), with {pages} pages");
    pages
}

/// A handle, and the byte with which its object is filled.
type Object = (Handle, u8);

fn check(pool: &dyn Zpool, objects: &[Object]) {
    for (handle, byte) in objects {
        let read = pool.obj_read_begin(*handle).unwrap();
        assert!(read.iter().all(|b| b == byte), "wrong bytes");
    }
}

pub(crate) fn charges_are_the_pages_after_any_traffic(build: Build) {
    const LIMIT: usize = 12;
    let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
    let budget = Arc::new(PageBudget::new(LIMIT * PAGE));
    let pool = build(pages.clone(), Some(budget.clone()));
    let mut rng = Rng::new(77);
    let mut live: Vec<Object> = Vec::new();
    let mut guards = Vec::new();
    let mut writes = Vec::new();
    let (mut limited, mut injected) = (0, 0);
    for step in 0..pick(20_000, 400) {
        let size = 1 + rng.below(PAGE);
        let fails = rng.below(16) == 0;
        pages.fail_call(u64::from(fails));
        match rng.below(10) {
            0..=4 => {
                let before = (pool.stats(), pages.pages_out());
                let calls = pages.calls();
                match pool.malloc_from(&vec![step as u8; size]) {
                    Ok(handle) => live.push((handle, step as u8)),
                    Err(ZpoolError::OutOfMemory {
                        source: PageError::Limit { bytes, used, limit },
                    }) => {
                        assert_eq!((bytes, used, limit), (PAGE, LIMIT * PAGE, LIMIT * PAGE));
                        assert_eq!(pages.calls(), calls, "requested beyond the budget");
                        limited += 1;
                        // Before the call failed, it freed the objects that readers had left. It must have
                        // changed nothing else.
                        let after = pool.stats();
                        assert!(after.total_pages == LIMIT && after.objects == before.0.objects);
                    }
                    Err(ZpoolError::OutOfMemory { source: PageError::Injected { .. } })
                        if fails =>
                    {
                        injected += 1;
                        assert_eq!(pool.stats().objects, before.0.objects);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            5 if !live.is_empty() => {
                let (handle, byte) = live[rng.below(live.len())];
                guards.push((pool.obj_read_begin(handle).unwrap(), byte));
            }
            6 if !guards.is_empty() => {
                let (guard, byte) = guards.swap_remove(rng.below(guards.len()));
                assert!(guard.iter().all(|b| *b == byte));
            }
            7 if writes.len() < 3 => writes.extend(pool.malloc(size)),
            8 if rng.below(20) == 0 => {
                let gone = RefCell::new(Vec::new());
                let evict = |handle: Handle, _: ObjRead<'_>| {
                    gone.borrow_mut().push(handle);
                    Evicted::Evicted
                };
                pool.reclaim(rng.below(4), &evict).unwrap();
                live.retain(|(handle, _)| !gone.borrow().contains(handle));
            }
            8 => drop(writes.pop()),
            _ if !live.is_empty() => {
                let (handle, _) = live.swap_remove(rng.below(live.len()));
                pool.free(handle).unwrap();
            }
            _ => {}
        }
        pages.fail_call(0);
        let now = charged(&budget, &*pool);
        assert!(now <= LIMIT && pages.pages_out() == now, "{now} pages, step {step}");
        if step % 256 == 0 {
            check(&*pool, &live);
        }
    }
    // Under Miri there may be too few steps for any page request to fail.
    let both = limited > 0 && (injected > 0 || cfg!(miri));
    assert!(both, "{limited} refused by the budget, {injected} by the pages");
    drop((guards, writes));
    pool.trim();
    charged(&budget, &*pool);
    drop(pool);
    assert_eq!((budget.used(), pages.pages_out()), (0, 0));
}

pub(crate) fn what_fits_beside_another_needs_no_budget(build: Build) {
    let budget = Arc::new(PageBudget::new(PAGE));
    let pool = build(Arc::new(HeapPages::new()), Some(budget.clone()));
    let first = pool.malloc_from(&[1; 2000]).unwrap();
    let beside = pool.malloc_from(&[2; 2000]).unwrap();
    let limit = PageError::Limit { bytes: PAGE, used: PAGE, limit: PAGE };
    let refused = Err(ZpoolError::OutOfMemory { source: limit });
    assert_eq!(pool.malloc_from(&[3; 2000]), refused);
    assert_eq!((charged(&budget, &*pool), pool.stats().objects), (1, 2));
    check(&*pool, &[(first, 1), (beside, 2)]);
    // Now the limit is raised, and a second pool shares the budget.
    budget.set_limit(2 * PAGE);
    let other = build(Arc::new(HeapPages::new()), Some(budget.clone()));
    let elsewhere = other.malloc_from(&[4; 100]).unwrap();
    assert!(pool.malloc_from(&[3; 2000]).is_err());
    other.free(elsewhere).unwrap();
    pool.malloc_from(&[3; 2000]).unwrap();
    assert_eq!(charged(&budget, &*pool), 2);
    drop(pool);
    assert_eq!(budget.used(), 0);
}

pub(crate) fn threads_at_the_limit_never_exceed_it(build: Build) {
    const LIMIT: usize = 6;
    let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
    let budget = Arc::new(PageBudget::new(LIMIT * PAGE));
    let pool = build(pages.clone(), Some(budget.clone()));
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (pool, pages, refused) = (&pool, &pages, &refused);
            scope.spawn(move || {
                let mut rng = Rng::new(seed);
                let mut live = Vec::new();
                for step in 0..pick(5000, 40) {
                    if rng.below(3) > 0 {
                        match pool.malloc_from(&vec![seed as u8; 1 + rng.below(PAGE)]) {
                            Ok(handle) => live.push((handle, seed as u8)),
                            Err(error) => {
                                let limit = matches!(
                                    error,
                                    ZpoolError::OutOfMemory { source: PageError::Limit { .. } }
                                );
                                assert!(limit, "{error}");
                                refused.fetch_add(1, SeqCst);
                            }
                        }
                    } else if let Some((handle, _)) = live.pop() {
                        let guard = (step % 2 == 0).then(|| pool.obj_read_begin(handle).unwrap());
                        pool.free(handle).unwrap();
                        drop(guard);
                    }
                    let now = (pool.total_pages(), pages.pages_out());
                    assert!(now.0 <= LIMIT && now.1 <= LIMIT, "{now:?} pages");
                }
                check(&**pool, &live);
                for (handle, _) in live {
                    pool.free(handle).unwrap();
                }
            });
        }
    });
    pool.trim();
    assert!(refused.load(SeqCst) > 0, "never at the limit");
    assert_eq!((charged(&budget, &*pool), pages.pages_out()), (0, 0));
}

/// While the test holds the innermost rank, lockdep panics if the pool takes a lock or calls the provider.
pub(crate) fn readers_and_page_counts_take_no_lock(build: Build) {
    let pool = plain(build);
    let handles: Vec<Handle> = (0..6).map(|n| pool.malloc_from(&[n; 1300]).unwrap()).collect();
    let pages = pool.total_pages();
    let guards: Vec<_> = handles.iter().map(|h| pool.obj_read_begin(*h).unwrap()).collect();
    for handle in &handles[1..] {
        pool.free(*handle).unwrap();
    }
    {
        let _held = lockdep::acquire(Rank::Leaf);
        assert_eq!(pool.total_pages(), pages);
        assert!(pool.obj_read_begin(handles[1]).is_err());
        assert_eq!(pool.obj_read_begin(handles[0]).unwrap().len(), 1300);
        pool.prefetch(handles[2]);
        drop(guards);
    }
    let left = pool.stats();
    assert_eq!((left.parked_objects, left.objects), (0, 1));
    assert_eq!(left.total_pages, pages, "the reader returned pages");
    pool.trim();
    assert_eq!(pool.total_pages(), 1, "the next call did not return the pages");
    pool.free(handles[0]).unwrap();
    assert_eq!(pool.total_pages(), 0);
}

type Call = dyn Fn(&dyn Zpool, Handle);

fn keep(_: Handle, _: ObjRead<'_>) -> Evicted {
    Evicted::Keep
}

/// Every call that may block frees the objects that readers left. Each call is tested separately.
pub(crate) fn what_readers_left_goes_with_the_next_call(build: Build) {
    let calls: [(&Call, usize); 5] = [
        (&|pool, _| drop(pool.malloc(10).unwrap()), 1),
        (&|pool, _| assert!(pool.malloc_from(&[1; 10]).is_ok()), 1),
        (&|pool, other| pool.free(other).unwrap(), 0),
        (&|pool, _| assert_eq!(pool.reclaim(0, &keep), Ok(0)), 1),
        (&|pool, _| assert_eq!(pool.trim(), 0), 1),
    ];
    for (call, expected) in calls {
        let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
        let pool = build(pages.clone(), None);
        let other = pool.malloc_from(&[1; 3000]).unwrap();
        let handle = pool.malloc_from(&[2; 3000]).unwrap();
        let guard = pool.obj_read_begin(handle).unwrap();
        pool.free(handle).unwrap();
        drop(guard);
        assert_eq!(pages.pages_out(), 2);
        call(&*pool, other);
        assert_eq!(pages.pages_out(), expected, "pages out (left) after the next call");
        drop(pool);
        assert_eq!(pages.pages_out(), 0);
    }
    // The room of these objects is used again. Dropping the pool frees them, too.
    let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
    let pool = build(pages.clone(), None);
    for _ in 0..pick(100, 3) {
        let handle = pool.malloc_from(&[2; 3000]).unwrap();
        let guard = pool.obj_read_begin(handle).unwrap();
        pool.free(handle).unwrap();
        drop(guard);
        assert_eq!(pages.pages_out(), 1);
    }
    drop(pool);
    assert_eq!(pages.pages_out(), 0);
}

/// The number of callbacks of a reclaim never exceeds the number of objects that existed at its start,
/// whatever the callbacks do.
pub(crate) fn reclaim_is_bounded_by_what_there_was(build: Build) {
    const OBJECTS: usize = pick(90, 12);
    for what in 0..6 {
        let pool = plain(build);
        let handles: Vec<Handle> =
            (0..OBJECTS).map(|n| pool.malloc_from(&vec![n as u8; 900 + n]).unwrap()).collect();
        // In even cases every object has a reader; in odd cases none has.
        let guards: Vec<_> = if what % 2 == 0 {
            handles.iter().map(|h| pool.obj_read_begin(*h).unwrap()).collect()
        } else {
            Vec::new()
        };
        let offered = Cell::new(0);
        let evict = |handle: Handle, object: ObjRead<'_>| {
            offered.set(offered.get() + 1);
            assert!(offered.get() <= OBJECTS, "offered more objects than there were");
            match what {
                // In cases 0 and 1, stores two copies of each evicted object. In cases 2 and 3, frees the
                // object and stores a copy in its place.
                0 | 1 => {
                    for _ in 0..2 {
                        pool.malloc_from(&object).unwrap();
                    }
                }
                2 | 3 => {
                    let bytes = object.to_vec();
                    drop(object);
                    pool.free(handle).unwrap();
                    pool.malloc_from(&bytes).unwrap();
                }
                // In cases 4 and 5, stores another object and keeps this one.
                _ => {
                    let len = object.len();
                    drop(object);
                    pool.malloc_from(&vec![9; len]).unwrap();
                    return Evicted::Keep;
                }
            }
            Evicted::Evicted
        };
        let freed = pool.reclaim(usize::MAX, &evict).unwrap();
        assert!(offered.get() > 0 && freed <= OBJECTS);
        if what % 2 == 0 {
            assert_eq!(freed, 0, "every page has a reader");
        }
        for (n, guard) in guards.iter().enumerate() {
            assert!(guard.iter().all(|byte| *byte == n as u8));
        }
    }
}

/// A provider that panics in chosen calls. `alloc_run` panics before it has got a page. `free_run` panics
/// after it has lost the page.
#[derive(Debug, Default)]
struct PanickingPages {
    out: AtomicUsize,
    /// The number of the call that panics, counted from now: 1 is the next call, and 0 means that none
    /// panics.
    at: AtomicUsize,
    always: AtomicBool,
    /// The runs that were lost on purpose. They are kept here, so that leak checkers do not report them.
    lost: Mutex<Vec<PageRun>>,
}

impl PanickingPages {
    fn step(&self) -> bool {
        let at = self.at.load(SeqCst);
        self.at.store(at.saturating_sub(1), SeqCst);
        at == 1 || self.always.load(SeqCst)
    }

    fn lost(&self) -> usize {
        self.lost.lock().unwrap().len()
    }
}

// SAFETY: the runs come from a `HeapPages`.
unsafe impl PageProvider for PanickingPages {
    fn page_size(&self) -> usize {
        PAGE
    }

    fn alloc_run(&self, pages: usize) -> Result<PageRun, PageError> {
        if self.step() {
            // This panic prints nothing.
            resume_unwind(Box::new("alloc_run"));
        }
        let run = HeapPages::new().alloc_run(pages)?;
        self.out.fetch_add(1, SeqCst);
        Ok(run)
    }

    unsafe fn free_run(&self, run: PageRun) {
        self.out.fetch_sub(1, SeqCst);
        if self.step() {
            self.lost.lock().unwrap().push(run);
            resume_unwind(Box::new("free_run"));
        }
        // SAFETY: the run comes from a `HeapPages`, and the caller gives it up.
        unsafe { HeapPages::new().free_run(run) };
    }

    unsafe fn discard(&self, _: &mut PageRun, _: Range<usize>) {}

    fn cached_pages(&self) -> usize {
        0
    }

    fn trim(&self) -> usize {
        0
    }

    fn metadata_bytes(&self) -> usize {
        0
    }
}

impl Drop for PanickingPages {
    fn drop(&mut self) {
        for run in self.lost.get_mut().unwrap().drain(..) {
            // SAFETY: the run comes from a `HeapPages`, and its pool has given it up.
            unsafe { HeapPages::new().free_run(run) };
        }
    }
}

fn panics<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

pub(crate) fn a_provider_that_panics_costs_the_page_at_hand(build: Build) {
    let mut seen = 0;
    for at in 1..pick(120, 14) {
        let pages = Arc::new(PanickingPages::default());
        let budget = Arc::new(PageBudget::new(usize::MAX));
        let pool = build(pages.clone(), Some(budget.clone()));
        pages.at.store(at, SeqCst);
        let mut rng = Rng::new(9);
        let mut live: Vec<Object> = Vec::new();
        for step in 0..pick(120, 14) {
            let byte = step as u8;
            match rng.below(8) {
                0..=3 => {
                    let bytes = vec![byte; 1 + rng.below(PAGE)];
                    if let Some(handle) = panics(|| pool.malloc_from(&bytes)) {
                        live.push((handle.unwrap(), byte));
                    }
                }
                // Drops a write guard.
                4 => drop(panics(|| drop(pool.malloc(1 + step * 30)))),
                5 if !live.is_empty() => {
                    let (handle, _) = live.swap_remove(rng.below(live.len()));
                    let guard = pool.obj_read_begin(handle).unwrap();
                    // This must free the object, whether the provider takes the page or panics.
                    drop(panics(|| pool.free(handle)));
                    drop(guard);
                }
                6 => {
                    let gone = RefCell::new(Vec::new());
                    drop(panics(|| {
                        pool.reclaim(1, &|handle: Handle, _: ObjRead<'_>| {
                            gone.borrow_mut().push(handle);
                            Evicted::Evicted
                        })
                    }));
                    // A panic may have prevented the last object from being freed.
                    live.retain(|(handle, _)| pool.obj_read_begin(*handle).is_ok());
                }
                _ if !live.is_empty() => {
                    let (handle, _) = live.swap_remove(rng.below(live.len()));
                    drop(panics(|| pool.free(handle)));
                    assert!(pool.obj_read_begin(handle).is_err(), "freed");
                }
                _ => {}
            }
            assert_eq!(charged(&budget, &*pool), pages.out.load(SeqCst), "step {step}");
            assert_eq!(pool.stats().objects, live.len(), "step {step}");
        }
        pages.at.store(0, SeqCst);
        seen += pages.lost();
        assert!(pages.lost() <= 1);
        check(&*pool, &live);
        for (handle, _) in live {
            pool.free(handle).unwrap();
        }
        pool.trim();
        assert_eq!((pool.total_pages(), budget.used(), pages.out.load(SeqCst)), (0, 0, 0));
    }
    assert!(seen > 0, "no panic ever lost a page");
}

/// The callback panics. While that panic unwinds, reclaim returns the page, and the provider panics, too.
/// The second panic is dropped, the first propagates, and nothing stays locked.
pub(crate) fn two_panics_at_once_leave_the_pool_usable(build: Build) {
    let pages = Arc::new(PanickingPages::default());
    let budget = Arc::new(PageBudget::new(usize::MAX));
    let pool = build(pages.clone(), Some(budget.clone()));
    for round in 0..3 {
        let handles: Vec<Handle> = (0..3).map(|n| pool.malloc_from(&[n; 1300]).unwrap()).collect();
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.reclaim(9, &|_, object: ObjRead<'_>| -> Evicted {
                drop(object);
                for handle in &handles {
                    pool.free(*handle).unwrap();
                }
                pages.always.store(true, SeqCst);
                resume_unwind(Box::new("evict"))
            })
        }));
        assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"evict"));
        pages.always.store(false, SeqCst);
        assert!(pages.lost() > round, "the provider did not panic");
        assert_eq!((charged(&budget, &*pool), pages.out.load(SeqCst)), (0, 0));
    }
    // A panic drops a write guard. The drop returns a page, and the provider panics, too.
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _write = pool.malloc(4000).unwrap();
        pages.always.store(true, SeqCst);
        resume_unwind(Box::new("writer"))
    }));
    assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"writer"));
    assert_eq!(charged(&budget, &*pool), 0);
    pages.always.store(false, SeqCst);
    let kept = pool.malloc_from(&[7; 4000]).unwrap();
    check(&*pool, &[(kept, 7)]);
}

/// Readers have left several objects to the pool. If the provider panics when the first of them is freed, a
/// later call must free the others.
pub(crate) fn a_panic_over_what_readers_left_leaves_the_rest(build: Build) {
    let pages = Arc::new(PanickingPages::default());
    let pool = build(pages.clone(), None);
    let handles: Vec<Handle> = (0..5).map(|n| pool.malloc_from(&[n; 4000]).unwrap()).collect();
    let guards: Vec<_> = handles.iter().map(|h| pool.obj_read_begin(*h).unwrap()).collect();
    for handle in handles {
        pool.free(handle).unwrap();
    }
    drop(guards);
    for left in (0..5).rev() {
        pages.always.store(true, SeqCst);
        assert!(panics(|| pool.trim()).is_none());
        pages.always.store(false, SeqCst);
        assert_eq!((pool.total_pages(), pages.out.load(SeqCst)), (left, left));
        if left == 3 {
            break;
        }
    }
    pool.trim();
    assert_eq!((pool.total_pages(), pages.out.load(SeqCst), pages.lost()), (0, 0, 2));
}

/// A pool that is dropped returns every page, even if the provider panics whenever a page comes back.
pub(crate) fn a_pool_is_dropped_whole_though_its_provider_panics(build: Build) {
    let pages = Arc::new(PanickingPages::default());
    let budget = Arc::new(PageBudget::new(usize::MAX));
    for unwinding in [false, true] {
        let pool = build(pages.clone(), Some(budget.clone()));
        for n in 0..5 {
            pool.malloc_from(&[n; 4000]).unwrap();
        }
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let pool = pool;
            pages.always.store(true, SeqCst);
            if unwinding {
                resume_unwind(Box::new("first"));
            }
            drop(pool);
        }));
        let said = *caught.unwrap_err().downcast_ref::<&str>().unwrap();
        assert_eq!(said, if unwinding { "first" } else { "free_run" });
        pages.always.store(false, SeqCst);
        assert_eq!((budget.used(), pages.out.load(SeqCst)), (0, 0));
    }
    assert_eq!(pages.lost(), 10, "each page goes to the provider once");
}

/// Makes a `#[test]` of each of the functions above, for one pool.
macro_rules! pool_tests {
    ($build:expr; $($test:ident)*) => {
        $(#[test]
        fn $test() {
            pools::$test($build);
        })*
    };
    ($build:expr) => {
        pool_tests!($build;
            charges_are_the_pages_after_any_traffic
            what_fits_beside_another_needs_no_budget
            threads_at_the_limit_never_exceed_it
            readers_and_page_counts_take_no_lock
            what_readers_left_goes_with_the_next_call
            reclaim_is_bounded_by_what_there_was
            a_provider_that_panics_costs_the_page_at_hand
            two_panics_at_once_leave_the_pool_usable
            a_panic_over_what_readers_left_leaves_the_rest
            a_pool_is_dropped_whole_though_its_provider_panics
        );
    };
}
