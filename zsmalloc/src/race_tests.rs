//! Races made deterministic by hooks: the test runs code between two steps of a call.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use zpool_api::{Handle, ObjRead, PageProvider, Zpool};
use zpool_base::lockdep::{self, Rank};
use zpool_base::sync::test_rng::Rng;
use zpool_pages::{FailingPages, HeapPages};

use crate::hooks::{Point, limit_relocations, on, relocations};
use crate::zspages::LaneRef;
use crate::{Config, Zsmalloc};

/// Makes a pool whose zspages have one page.
fn small_pool() -> Rc<Zsmalloc> {
    let config = Config::new().chain(1).refine(false);
    Rc::new(Zsmalloc::with_config(Arc::new(HeapPages::new()), config).unwrap())
}

/// Returns the default configuration. Under Miri, limits zspages to one page, because the table of
/// size classes is then built faster.
fn config() -> Config {
    if cfg!(miri) { Config::new().chain(1) } else { Config::new() }
}

fn put(pool: &Zsmalloc, byte: u8, len: usize) -> Handle {
    pool.malloc_from(&vec![byte; len]).unwrap()
}

/// Two zspages with room for two objects each. Each has one object left: `x` is at place 1 of
/// zspage 0, and `stays` is in zspage 1.
struct Scene {
    pool: Rc<Zsmalloc>,
    x: Handle,
    stays: Handle,
}

impl Scene {
    fn new() -> Self {
        let pool = small_pool();
        let all: Vec<Handle> = (0..4).map(|n| put(&pool, n, 2000)).collect();
        pool.free(all[3]).unwrap();
        pool.free(all[0]).unwrap();
        Scene { pool, x: all[1], stays: all[2] }
    }

    /// Moves `x` to zspage 1, makes objects of another class in zspage 0, and returns these.
    fn away(pool: &Zsmalloc, others: &[usize]) -> Vec<Handle> {
        pool.compact().unwrap();
        let made = others.iter().map(|len| put(pool, 0xbb, *len)).collect();
        assert!(pool.core.zspages.len() == 2, "zspage 0 was not recycled");
        made
    }

    /// Frees the other objects and moves `x` back to its old place.
    fn back(pool: &Zsmalloc, others: Vec<Handle>, stays: Handle) {
        for other in others {
            pool.free(other).unwrap();
        }
        let first = put(pool, 0xd0, 2000);
        let second = put(pool, 0xd1, 2000);
        pool.free(second).unwrap();
        pool.free(stays).unwrap();
        pool.compact().unwrap();
        // `first` keeps place 0.
        assert!(pool.obj_read_begin(first).is_ok());
    }

    /// Reads `x` while it moves away at `at[0]` and back at `at[1]`.
    fn read(self, others: &'static [usize], at: [Point; 2]) {
        let Scene { pool, x, stays } = self;
        let there = Rc::new(Cell::new(Vec::new()));
        let (one, other) = (pool.clone(), there.clone());
        on(at[0], move || other.set(Scene::away(&one, others)));
        let one = pool.clone();
        on(at[1], move || Scene::back(&one, there.take(), stays));
        let guard = pool.obj_read_begin(x).unwrap();
        assert_eq!(guard[..], [1; 2000]);
        pool.free(x).unwrap();
        // If the guard did not pin `x`, these objects would overwrite its bytes.
        let next: Vec<Handle> = (0..3).map(|_| put(&pool, 0x77, 2000)).collect();
        assert_eq!(guard[..], [1; 2000], "the bytes changed under the guard");
        drop(guard);
        next.into_iter().for_each(|handle| pool.free(handle).unwrap());
        assert_eq!(pool.stats().parked_objects, 0);
    }
}

#[test]
fn a_slot_word_that_comes_back_does_not_vouch_for_the_class() {
    // The reader uses a smaller class, and so takes a lane that no object of the object's own class
    // has.
    Scene::new().read(&[1000], [Point::SlotLoaded, Point::ClassLoaded]);
    // By chance the reader takes the object's own lane, but finds another start and length.
    Scene::new().read(&[3000], [Point::SlotLoaded, Point::ClassLoaded]);
    Scene::new().read(&[3000], [Point::SlotLoaded, Point::LaneLocked]);
}

#[test]
fn a_class_that_comes_back_does_not_vouch_for_the_lane() {
    // The reader is counted in a lane that is free when the class is compared.
    Scene::new().read(&[1000], [Point::SlotLoaded, Point::ClassCompared]);
    Scene::new().read(&[1000], [Point::SlotLoaded, Point::LaneLocked]);
    // The reader is counted in a lane that is taken, so it keeps the zspage in place.
    Scene::new().read(&[1000; 4], [Point::SlotLoaded, Point::ClassCompared]);
}

/// A reader that has left is about to take the class lock. Before it does, others reclaim the place.
/// The zspage gets into another class, with another parked object in that place.
#[test]
fn a_parked_place_is_reclaimed_under_its_own_class_only() {
    let pool = small_pool();
    let core = &pool.core;
    let handle = put(&pool, 1, 2000);
    let z = core.zspages.at(0);
    let lane = z.lane_number(0);
    let guard = pool.obj_read_begin(handle).unwrap();
    pool.free(handle).unwrap();
    let inner = pool.clone();
    on(Point::ReclaimClass, move || {
        let core = &inner.core;
        // Another reader passes through and reclaims the place.
        core.zspages.lane_at(lane).read_lock().unwrap();
        // SAFETY: this test counted the reader itself.
        unsafe { core.unlock_reader(LaneRef { zspage: 0, lane }) };
        inner.trim();
        let next = put(&inner, 2, 1000);
        assert_eq!(core.zspages.len(), 1, "the zspage was not recycled");
        let read = inner.obj_read_begin(next).unwrap();
        inner.free(next).unwrap();
        // The reader of `next` has left and is about to reclaim its place.
        assert!(core.zspages.lane_at(lane).read_unlock_for_test());
        std::mem::forget(read);
    });
    drop(guard);
    assert!(
        core.zspages.lane_at(lane).is_used(),
        "reclaimed by a thread that has another class's lock"
    );
    let stats = pool.class_stats();
    assert_eq!((stats.len(), stats[0].obj_used), (1, 1));
    core.reclaim_parked(LaneRef { zspage: 0, lane });
    assert_eq!((pool.total_pages(), pool.stats().parked_objects), (0, 0));
}

/// `obj_read_begin` takes no lock and does not call the provider, even if it is the last to leave a
/// parked object.
#[test]
fn a_passing_reader_leaves_a_parked_place_to_others() {
    let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
    let pool = Arc::new(Zsmalloc::with_config(pages.clone(), config()).unwrap());
    for gone in 0..3 {
        let handles = [1, 2].map(|byte| put(&pool, byte, 3000));
        let freed = handles[gone.min(1)];
        let other = pool.clone();
        on(Point::LaneLocked, move || {
            std::thread::scope(|scope| {
                // Freed in another thread, because lockdep sees that this one holds a lock.
                scope.spawn(|| other.free(freed).unwrap());
            });
        });
        if gone == 2 {
            // The other object was freed before, so the zspage becomes empty.
            pool.free(handles[0]).unwrap();
        }
        let out = pages.pages_out();
        let held = lockdep::acquire(Rank::Leaf);
        assert!(pool.obj_read_begin(freed).is_err());
        drop(held);
        assert_eq!(pages.pages_out(), out);
        // Every call that reports counts reclaims the place, without calling the provider.
        let held = lockdep::acquire(Rank::Entry);
        assert_eq!(pool.stats().parked_objects, 0);
        assert_eq!(pool.total_pages() == 0, gone == 2);
        drop(held);
        assert_eq!(pages.pages_out(), out);
        for handle in handles {
            let _ = pool.free(handle);
        }
        assert_eq!((pool.total_pages(), pages.pages_out()), (0, 0));
    }
}

/// Several places are queued, and a reader is counted in one of them when the queue is emptied.
#[test]
fn queued_places_are_all_reclaimed() {
    let pool = Arc::new(Zsmalloc::with_config(Arc::new(HeapPages::new()), config()).unwrap());
    let handles: Vec<Handle> = (0..5).map(|n| put(&pool, n, 700 * (n as usize + 1))).collect();
    for handle in &handles {
        let (other, handle) = (pool.clone(), *handle);
        on(Point::LaneLocked, move || {
            std::thread::scope(|scope| {
                // Freed in another thread, and through `free_slot`: the public `free` would empty the queue.
                scope.spawn(|| {
                    let slot = zpool_api::SlotRef::from_bits(handle.backend_bits());
                    other.core.free_slot(slot).unwrap();
                });
            });
        });
        assert!(pool.obj_read_begin(handle).is_err());
    }
    let core = &pool.core;
    // These are all USED lanes, and they are parked.
    let parked: Vec<_> = core
        .zspages
        .iter()
        .filter_map(|(number, z)| Some((number, z.class()?, z)))
        .flat_map(|(number, class, z)| {
            let objects = usize::from(core.classes[usize::from(class)].size.objects);
            (0..objects).map(move |index| (number, z.lane_number(index)))
        })
        .filter(|(_, lane)| core.zspages.lane_at(*lane).is_used())
        .collect();
    assert_eq!(parked.len(), 5);
    let (zspage, lane) = parked[2];
    core.zspages.lane_at(lane).read_lock().unwrap();
    assert_eq!(pool.stats().parked_objects, 1);
    // SAFETY: this test counted the reader itself.
    unsafe { core.unlock_reader(LaneRef { zspage, lane }) };
    let stats = pool.stats();
    assert_eq!((stats.parked_objects, stats.total_pages, stats.objects), (0, 0, 0));
}

/// A guard may be dropped under a lock of its holder: that neither panics nor calls the provider.
#[test]
fn a_guard_dropped_under_an_outer_lock_leaves_the_run_for_later() {
    let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
    type Later = fn(&Zsmalloc);
    let later: [Later; 5] = [
        |pool| drop(pool.malloc(1).unwrap()),
        |pool| drop(pool.free(Handle::from_u64(1).unwrap())),
        |pool| assert_eq!(pool.compact(), Ok(0)),
        |pool| assert_eq!(pool.compact_some(1).unwrap().pages, 0),
        |pool| assert!(pool.trim() > 0),
    ];
    for later in later {
        let pool = Zsmalloc::with_config(pages.clone(), config()).unwrap();
        let handle = put(&pool, 1, 3000);
        let guard = pool.obj_read_begin(handle).unwrap();
        pool.free(handle).unwrap();
        let out = pages.pages_out();
        let held = lockdep::acquire(Rank::Entry);
        drop(guard);
        assert_eq!((pool.total_pages(), pages.pages_out()), (0, out));
        assert_eq!(pool.stats().cached_pages, out);
        drop(held);
        later(&pool);
        // In the first case, `later` reserved a run and gave it up, so that run waits to be returned, too.
        pool.trim();
        assert_eq!((pool.total_pages(), pages.pages_out()), (0, 0));
        // Dropping the pool leaves nothing behind.
        let handle = put(&pool, 1, 3000);
        let guard = pool.obj_read_begin(handle).unwrap();
        pool.free(handle).unwrap();
        drop(guard);
        drop(pool);
        assert_eq!(pages.pages_out(), 0);
    }
}

#[test]
fn an_aborted_object_is_parked_while_a_reader_passes() {
    let pool = small_pool();
    let write = pool.malloc(2000).unwrap();
    let core = &pool.core;
    let lane = core.zspages.at(0).lane_number(0);
    core.zspages.lane_at(lane).read_lock().unwrap();
    drop(write);
    let stats = pool.stats();
    assert_eq!((stats.objects, stats.parked_objects, stats.object_bytes), (0, 1, 0));
    // SAFETY: this test counted the reader itself.
    unsafe { core.unlock_reader(LaneRef { zspage: 0, lane }) };
    let stats = pool.stats();
    assert_eq!((stats.objects, stats.parked_objects, stats.total_pages), (0, 0, 0));
}

#[test]
fn a_malloc_that_fails_gives_its_slot_back() {
    let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
    let pool = Zsmalloc::with_config(pages.clone(), config()).unwrap();
    pages.limit_pages(0);
    for len in [10, 1000, 3000, 4096].repeat(3) {
        assert!(pool.malloc_from(&vec![1; len]).is_err());
        assert!(pool.malloc(len).is_err());
    }
    assert_eq!((pool.core.slots.len(), pages.pages_out()), (1, 0));
}

/// Others make room while a run is being requested: the run is returned unattached.
#[test]
fn a_fresh_run_that_is_not_needed_goes_back() {
    let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
    let config = Config::new().chain(1).refine(false);
    let pool = Rc::new(Zsmalloc::with_config(pages.clone(), config).unwrap());
    let (stays, goes) = (put(&pool, 1, 2000), put(&pool, 2, 2000));
    let inner = pool.clone();
    on(Point::FreshRun, move || {
        inner.free(goes).unwrap();
        assert_eq!(inner.compact().unwrap(), 0);
    });
    let next = put(&pool, 3, 2000);
    assert_eq!((pool.total_pages(), pages.pages_out()), (1, 1));
    pool.free(next).unwrap();
    pool.free(stays).unwrap();
    assert_eq!((pool.total_pages(), pages.pages_out()), (0, 0));
}

/// A pool of objects of one length, some of which are being read.
struct Crowd {
    pool: Zsmalloc,
    live: Vec<Handle>,
    read: Vec<usize>,
    len: usize,
}

impl Crowd {
    fn new(seed: u64, provider: Arc<dyn PageProvider>) -> Self {
        let mut rng = Rng::new(seed);
        let len = [2044, 1000, 600, 3000, 40][rng.below(5)];
        let chain = [16, 16, 1 + rng.below(16)][rng.below(3)];
        let chain = if cfg!(miri) { 1 } else { chain };
        let config = Config::new().chain(chain).refine(false);
        let pool = Zsmalloc::with_config(provider, config).unwrap();
        let count = if cfg!(miri) { 24 } else { 96 + rng.below(200) };
        let all: Vec<Handle> = (0..count).map(|n| put(&pool, n as u8, len)).collect();
        let keep = 1 + rng.below(30);
        let order: Vec<Handle> =
            if rng.below(2) == 0 { all } else { all.into_iter().rev().collect() };
        let mut live = Vec::new();
        for handle in order {
            if rng.below(100) < keep {
                live.push(handle);
            } else {
                pool.free(handle).unwrap();
            }
        }
        let pinned = [0, 20, 50, 95][rng.below(4)];
        let read = (0..live.len()).filter(|_| rng.below(100) < pinned).collect();
        Crowd { pool, live, read, len }
    }

    fn guards(&self) -> Vec<ObjRead<'_>> {
        self.read.iter().map(|n| self.pool.obj_read_begin(self.live[*n]).unwrap()).collect()
    }

    fn places(&self) -> usize {
        self.pool.class_stats().iter().map(|class| class.obj_allocated).sum()
    }

    fn check(&self) {
        for handle in &self.live {
            let object = self.pool.obj_read_begin(*handle).unwrap();
            assert!(object.len() == self.len && object.iter().all(|byte| *byte == object[0]));
        }
    }
}

fn providers() -> Vec<Arc<dyn PageProvider>> {
    let mut all: Vec<Arc<dyn PageProvider>> = vec![Arc::new(HeapPages::new())];
    #[cfg(all(target_os = "linux", not(miri)))]
    all.push(Arc::new(zpool_pages::MmapPages::new()));
    all
}

/// Five objects in three zspages, four of them being read: the fifth must not move back and forth.
#[test]
#[cfg_attr(miri, ignore = "long zspages; the seeds of the next test are there for Miri")]
fn compaction_ends_while_four_guards_are_open() {
    for provider in providers() {
        let pool = Zsmalloc::new(provider).unwrap();
        let all: Vec<Handle> = (0..96).map(|_| put(&pool, 1, 2044)).collect();
        let keep = [28, 36, 47, 68, 91];
        for n in (0..96).rev().filter(|n| !keep.contains(n)) {
            pool.free(all[n]).unwrap();
        }
        let guards = [36, 47, 68, 91].map(|n| pool.obj_read_begin(all[n]).unwrap());
        let before = pool.total_pages();
        limit_relocations(96);
        let freed = pool.compact().unwrap();
        assert_eq!(before - pool.total_pages(), freed);
        drop(guards);
        let _ = pool.compact().unwrap();
        limit_relocations(usize::MAX);
        // Five objects of 2048 bytes, in at most two zspages.
        assert!(pool.total_pages() <= 32);
        keep.iter().for_each(|n| assert_eq!(pool.obj_read_begin(all[*n]).unwrap()[..], [1; 2044]));
    }
}

#[test]
fn compaction_visits_no_more_places_than_there_are() {
    for seed in 1..if cfg!(miri) { 3 } else { 400 } {
        for provider in providers() {
            let crowd = Crowd::new(seed, provider);
            let guards = crowd.guards();
            let at: Vec<_> = guards.iter().map(|guard| guard.as_ptr()).collect();
            let before = crowd.pool.total_pages();
            limit_relocations(crowd.places());
            let freed = crowd.pool.compact().unwrap();
            limit_relocations(usize::MAX);
            assert_eq!(before - crowd.pool.total_pages(), freed);
            assert!(guards.iter().map(|guard| guard.as_ptr()).eq(at));
            crowd.check();
        }
    }
}

#[test]
fn compaction_in_parts_ends_and_wins_what_a_whole_one_does() {
    for seed in 1..if cfg!(miri) { 2 } else { 400 } {
        for (kind, provider) in providers().into_iter().enumerate() {
            let crowd = Crowd::new(seed, provider);
            let guards = crowd.guards();
            let classes = crowd.pool.core.classes.len();
            let (before, mut freed, mut calls) = (crowd.pool.total_pages(), 0, 0);
            loop {
                let moves = relocations();
                let some = crowd.pool.compact_some(1 + calls % 3).unwrap();
                assert!(relocations() - moves <= 4096);
                freed += some.pages;
                calls += 1;
                if some.complete {
                    break;
                }
                assert!(calls < 2 * before + classes, "seed {seed}, provider {kind}");
            }
            // A page may have been touched for moves that failed because of readers.
            let less = before.checked_sub(crowd.pool.total_pages());
            let exact = less == Some(freed) || !guards.is_empty();
            assert!(
                exact && less.is_some_and(|less| less <= freed),
                "seed {seed}: {less:?} of {freed}"
            );
            crowd.check();
            drop(guards);
            // Without guards, a whole compaction finds nothing left to free.
            while !crowd.pool.compact_some(1).unwrap().complete {}
            let rest = crowd.pool.compact().unwrap();
            assert_eq!(rest, 0, "seed {seed}, provider {kind}");
        }
    }
}

#[test]
fn compaction_in_parts_stops_at_the_pages_asked_for() {
    let pool = small_pool();
    let all: Vec<Handle> = (0..40).map(|n| put(&pool, n, 2000)).collect();
    all.iter().step_by(2).for_each(|handle| pool.free(*handle).unwrap());
    assert_eq!(pool.total_pages(), 20);
    for (asked, pages) in [(3, 17), (1, 16), (0, 15), (2, 13)] {
        let some = pool.compact_some(asked).unwrap();
        assert_eq!((some.pages, some.complete), (asked.max(1), false));
        assert_eq!(pool.total_pages(), pages);
    }
    let some = pool.compact_some(usize::MAX).unwrap();
    assert_eq!((some.pages, some.complete, pool.total_pages()), (3, true, 10));
    let none = pool.compact_some(usize::MAX).unwrap();
    assert_eq!((none.pages, none.complete), (0, true));
}

#[test]
#[cfg_attr(miri, ignore = "thousands of objects")]
fn compaction_in_parts_moves_a_bounded_number_of_objects() {
    let pool = Zsmalloc::with_config(Arc::new(HeapPages::new()), Config::new().chain(1)).unwrap();
    let all: Vec<Handle> = (0..4000).map(|n| put(&pool, n as u8, 400)).collect();
    for (n, handle) in all.iter().enumerate() {
        if n % 4 != 0 {
            pool.free(*handle).unwrap();
        }
    }
    let (mut calls, mut moves) = (0, 0);
    loop {
        let before = relocations();
        let some = pool.compact_some(usize::MAX).unwrap();
        let now = relocations() - before;
        moves += now;
        calls += 1;
        assert!(now <= 256 && (now == 256 || some.complete), "{now} moves");
        if some.complete {
            break;
        }
    }
    assert!(moves > 600 && calls >= moves / 256, "{moves} moves in {calls} calls");
    assert_eq!(pool.compact().unwrap(), 0);
}
