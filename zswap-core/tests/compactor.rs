//! Tests compaction on demand and in the background. It frees pages, and does not run again and again if no
//! page can be freed. The thread goes on after failures of the backend, and ends with the store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::rig::{check, marked};
use common::{at, eventually};
use zpool_api::{
    Compaction, Handle, ObjRead, ObjWrite, PoolTag, Zpool, ZpoolCaps, ZpoolConfig, ZpoolError,
    ZpoolStats,
};
use zpool_pages::HeapPages;
use zswap_core::{CompactorPolicy, PAGE_SIZE, Zswap, builtin};

fn quick() -> CompactorPolicy {
    CompactorPolicy::default().pause(Duration::from_millis(1)).time_percent(100)
}

/// What a [`Wasteful`] pool reports and does, and how often it was called.
#[derive(Debug, Default)]
struct Told {
    /// The waste pages, which the pool reports in addition to its real ones.
    waste: AtomicUsize,
    /// How many of the waste pages compaction cannot free.
    stuck: AtomicUsize,
    compactions: AtomicUsize,
    /// If set, each step of compaction reports that it has freed this many pages and is not complete.
    endless: Mutex<Option<usize>>,
    fails: AtomicBool,
    panics: AtomicBool,
}

/// A backend that reports waste pages. Compaction frees some of them.
#[derive(Debug)]
struct Wasteful(Arc<dyn Zpool>, Arc<Told>);

impl Zpool for Wasteful {
    fn name(&self) -> &'static str {
        "wasteful"
    }
    fn tag(&self) -> PoolTag {
        self.0.tag()
    }
    fn caps(&self) -> ZpoolCaps {
        self.0.caps().with_compaction()
    }
    fn malloc(&self, size: usize) -> Result<ObjWrite<'_>, ZpoolError> {
        self.0.malloc(size)
    }
    fn free(&self, handle: Handle) -> Result<(), ZpoolError> {
        self.0.free(handle)
    }
    fn obj_read_begin(&self, handle: Handle) -> Result<ObjRead<'_>, ZpoolError> {
        self.0.obj_read_begin(handle)
    }
    fn total_pages(&self) -> usize {
        self.0.total_pages() + self.1.waste.load(SeqCst)
    }
    fn compact(&self) -> Result<usize, ZpoolError> {
        self.1.compactions.fetch_add(1, SeqCst);
        assert!(!self.1.panics.load(SeqCst), "on purpose");
        if self.1.fails.load(SeqCst) {
            return Err(ZpoolError::OutOfMetadata { backend: "wasteful", bytes: 1 });
        }
        let stuck = self.1.stuck.load(SeqCst);
        Ok(self.1.waste.swap(stuck, SeqCst).saturating_sub(stuck))
    }
    fn compact_some(&self, _pages: usize) -> Result<Compaction, ZpoolError> {
        let Some(won) = *self.1.endless.lock().unwrap() else {
            return self.compact().map(Compaction::complete);
        };
        let before = self.1.compactions.fetch_add(1, SeqCst);
        assert!(before < 10_000, "it does not end");
        Ok(Compaction::partial(won))
    }
    fn stats(&self) -> ZpoolStats {
        let mut stats = self.0.stats();
        stats.total_pages += self.1.waste.load(SeqCst);
        stats
    }
}

/// Makes a store with a wasteful pool, and stores a few pages in it.
fn wasteful() -> (Arc<Zswap>, Arc<Told>) {
    let told = Arc::new(Told::default());
    let mut zpools = builtin::zpools();
    let theirs = told.clone();
    let build = move |config: &ZpoolConfig| {
        let inner = builtin::zpools().build("zbud", config)?;
        Ok(Arc::new(Wasteful(inner, theirs.clone())) as Arc<dyn Zpool>)
    };
    zpools.register("wasteful", build).unwrap();
    let store = Zswap::builder()
        .zpool_registry(zpools)
        .pages(|| Ok(Arc::new(HeapPages::new())))
        .zpool("wasteful")
        .compressor("null")
        .build()
        .unwrap();
    (0..4).for_each(|entry| store.store(at(entry), &marked(entry, 0)).unwrap());
    (Arc::new(store), told)
}

#[test]
fn every_pool_that_can_is_compacted() {
    let (store, told) = wasteful();
    told.waste.store(7, SeqCst);
    told.stuck.store(2, SeqCst);
    // The current pool cannot be compacted, but an older one can.
    store.set_zpool("zbud").unwrap();
    store.store(at(9), &marked(9, 0)).unwrap();
    assert_eq!((store.compact(), store.compact()), (Ok(5), Ok(0)));
    told.fails.store(true, SeqCst);
    let error = store.compact().unwrap_err();
    assert_eq!(error, ZpoolError::OutOfMetadata { backend: "wasteful", bytes: 1 });
    (0..4).for_each(|entry| check(&store, entry, 0));
    // The old pool is dropped with its last page.
    assert!((0..4).all(|entry| store.invalidate(at(entry))));
    assert_eq!(store.compact(), Ok(0));
    assert_eq!(told.compactions.load(SeqCst), 3);
}

#[test]
fn a_backend_that_is_never_complete_is_left_after_a_bounded_number_of_steps() {
    for won in [0, 1] {
        let (store, told) = wasteful();
        *told.endless.lock().unwrap() = Some(won);
        let pages = store.compact();
        let steps = told.compactions.load(SeqCst);
        assert!((64..100).contains(&steps), "{steps} for four objects");
        assert_eq!(pages, Ok(won * steps));
        // More waste allows for more steps.
        told.waste.store(16 * 1000, SeqCst);
        store.compact().unwrap();
        assert_eq!(told.compactions.load(SeqCst), 2 * steps + 1000);
        (0..4).for_each(|entry| check(&store, entry, 0));
    }
}

#[test]
fn waste_goes_when_it_is_there_and_nothing_runs_when_it_is_not() {
    let (store, told) = wasteful();
    let compactor = store.compact_in_background(quick()).unwrap();
    eventually("some looks", || compactor.report().looks > 3);
    assert_eq!(compactor.report().runs, 0, "less waste than is worth a run");
    told.waste.store(40, SeqCst);
    eventually("a run", || told.waste.load(SeqCst) == 0);
    eventually("its report", || compactor.report().pages == 40);
    let report = compactor.report();
    let quiet = report.looks + 4;
    eventually("more looks", || compactor.report().looks > quiet);
    assert_eq!((compactor.report().runs, compactor.report().failed), (report.runs, 0));

    // The thread does not keep the store alive. It ends when the store is gone.
    drop(store);
    eventually("the store's end", || Arc::strong_count(&told) == 1);
    let looks = compactor.report().looks;
    thread::sleep(Duration::from_millis(3));
    assert!(compactor.report().looks <= looks + 1);
}

#[test]
fn what_cannot_be_won_is_not_tried_over_and_over() {
    let (store, told) = wasteful();
    told.waste.store(100, SeqCst);
    told.stuck.store(100, SeqCst);
    let compactor = store.compact_in_background(quick()).unwrap();
    eventually("some looks", || compactor.report().looks > 12);
    let report = compactor.report();
    // There is a run after 1 check, then after 2 more, 4 more, ... and 64 more, and then after every 64
    // checks.
    let most = u64::from((report.looks + 1).ilog2()) + report.looks / 64;
    assert!((1..=most).contains(&report.runs), "{report:?}");
    assert_eq!((report.pages, report.failed), (0, 0));
    // More waste comes, and is freed.
    told.waste.store(140, SeqCst);
    eventually("a run", || compactor.report().pages == 40);
}

#[test]
fn errors_and_panics_of_a_backend_are_told_and_do_not_end_it() {
    let (store, told) = wasteful();
    told.fails.store(true, SeqCst);
    told.waste.store(40, SeqCst);
    let compactor = store.compact_in_background(quick()).unwrap();
    eventually("an error", || compactor.report().failed > 0);
    let error = ZpoolError::OutOfMetadata { backend: "wasteful", bytes: 1 };
    assert_eq!((compactor.report().last_error, compactor.report().pages), (Some(error), 0));
    told.fails.store(false, SeqCst);
    told.panics.store(true, SeqCst);
    let before = compactor.report().failed;
    eventually("a panic", || compactor.report().failed > before + 1);
    told.panics.store(false, SeqCst);
    eventually("a run", || compactor.report().pages == 40);
    (0..4).for_each(|entry| check(&store, entry, 0));
}

#[test]
fn dropped_it_stops() {
    let (store, told) = wasteful();
    // The first pause lasts an hour. The waste appears after the first check.
    let slow = quick().pause(Duration::from_secs(3600));
    let compactor = store.compact_in_background(slow).unwrap();
    eventually("the first look", || compactor.report().looks == 1);
    told.waste.store(1000, SeqCst);
    drop(compactor);
    assert_eq!(told.compactions.load(SeqCst), 0);
}

#[cfg(all(feature = "zsmalloc", feature = "lz4", not(miri)))]
#[test]
fn holes_among_the_objects_of_a_real_pool_go_and_every_page_stays() {
    const PAGES: u64 = 6000;
    let on_demand = holey(PAGES);
    let before = on_demand.stats();
    let won = on_demand.compact().unwrap();
    let after = on_demand.stats();
    assert_eq!(after.compressed_bytes, before.compressed_bytes);
    assert!(before.pool_total_size - after.pool_total_size >= won * PAGE_SIZE, "{won}");
    assert!(after.pool_total_size < after.compressed_bytes * 105 / 100, "{after}");

    let store = holey(PAGES);
    let compactor = store.compact_in_background(quick()).unwrap();
    eventually("pages", || store.stats().pool_total_size <= after.pool_total_size);
    drop(compactor);
    for entry in (0..PAGES).step_by(4) {
        check(&store, entry, 0);
    }
}

/// Makes a store, and drops three of every four pages, so that its pool has holes.
#[cfg(all(feature = "zsmalloc", feature = "lz4", not(miri)))]
fn holey(pages: u64) -> Arc<Zswap> {
    let store = Zswap::builder().zpool("zsmalloc").compressor("lz4").build().unwrap();
    (0..pages).for_each(|entry| store.store(at(entry), &marked(entry, 0)).unwrap());
    assert!((0..pages).filter(|entry| entry % 4 != 0).all(|entry| store.invalidate(at(entry))));
    let stats = store.stats();
    assert!(stats.pool_total_size > stats.compressed_bytes * 3 / 2, "{stats}");
    Arc::new(store)
}
