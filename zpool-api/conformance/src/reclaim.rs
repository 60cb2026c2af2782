//! Reclaim: it offers the oldest pages first, it frees only evicted objects, and the callback may make any
//! call.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::content::Mark;
use super::fixture::{Fixture, ONE_OBJECT_PAGES, Rig, assert_invalid, forget, lock, together};
use super::model::{Model, any_size, fill};
use super::pick;
use super::threads::AtWork;
use zpool_api::{Evict, Evicted, Handle, ObjRead};
use zpool_base::sync::test_rng::Rng;

/// Reclaims in a pool that supports it, and returns the number of pages freed.
fn reclaim(fixture: &Fixture, target: usize, evict: &dyn Evict) -> usize {
    let result = fixture.pool.reclaim(target, evict);
    result.unwrap_or_else(|error| panic!("reclaim of {target} pages failed: {error}"))
}

/// A model of the pool. The callbacks of a reclaim compare each offered object with it.
struct Offered {
    model: RefCell<Model>,
    /// The handles that the current reclaim has offered, in order.
    order: RefCell<Vec<Handle>>,
}

impl Offered {
    fn new(model: Model) -> Self {
        Offered { model: RefCell::new(model), order: RefCell::default() }
    }

    /// Asserts that an offered object is live, has the right bytes, and was not offered before in this
    /// reclaim. Returns its mark. Each callback calls this first.
    fn look(&self, handle: Handle, object: &ObjRead<'_>) -> Mark {
        let model = self.model.borrow();
        let found = model.live.iter().find(|(live, _)| *live == handle);
        let Some((_, mark)) = found else { panic!("{handle:?} was offered, but is not live") };
        mark.check(object);
        let mut order = self.order.borrow_mut();
        assert!(!order.contains(&handle), "{mark:?} was offered twice by one reclaim");
        order.push(handle);
        *mark
    }

    /// Records that an object is evicted, and returns [`Evicted::Evicted`].
    fn evict(&self, handle: Handle) -> Evicted {
        self.model.borrow_mut().remove_handle(handle);
        Evicted::Evicted
    }

    /// Stores a new object.
    fn store(&self, fixture: &Fixture, len: usize) -> Handle {
        self.model.borrow_mut().store(fixture, len).0
    }

    /// Called after a reclaim. Asserts that kept objects are unchanged and that the handles of evicted
    /// objects are invalid.
    fn settle(&self, fixture: &Fixture) {
        let model = self.model.borrow();
        model.assert_counts(fixture);
        model.check_all(fixture);
        for handle in self.order.take() {
            if !model.live.iter().any(|(live, _)| *live == handle) {
                fixture.assert_gone(handle);
            }
        }
    }

    /// Reclaims everything, asserts that nothing is left, and ends the fixture.
    fn close(self, fixture: Fixture) {
        self.settle(&fixture);
        // First frees the objects that readers left to the pool, because reclaim does not count the pages
        // of these objects.
        fixture.pool.trim();
        let (before, counted) = (fixture.pool.total_pages(), fixture.pool.stats().reclaimed_pages);
        let freed = reclaim(&fixture, usize::MAX, &|handle: Handle, object: ObjRead<'_>| {
            self.look(handle, &object);
            self.evict(handle)
        });
        self.settle(&fixture);
        let left = self.model.borrow().live.len();
        assert_eq!(left, 0, "objects (left) never offered by a reclaim without readers");
        assert_eq!(
            freed, before,
            "pages freed by reclaiming everything (left), and total_pages before"
        );
        let counted = fixture.pool.stats().reclaimed_pages - counted;
        assert_eq!(counted, freed as u64, "pages added to reclaimed_pages (left)");
        fixture.close();
    }
}

/// Makes a pool with `count` objects of random sizes. Returns `None` if the backend cannot reclaim.
fn filled(rig: &Rig<'_>, count: usize) -> Option<(Fixture, Offered)> {
    let fixture = rig.reclaiming_fixture()?;
    let mut model = Model::new(100);
    fill(&fixture, &mut model, count);
    Some((fixture, Offered::new(model)))
}

pub(super) fn reclaim_of_an_empty_pool(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let nothing = |handle: Handle, _: ObjRead<'_>| -> Evicted {
        panic!("{handle:?} was offered by an empty pool, or by one that cannot reclaim")
    };
    if !fixture.caps().reclaim {
        let mut model = Model::new(101);
        model.store(&fixture, 1);
        for target in [0, 1, usize::MAX] {
            let refused = fixture.pool.reclaim(target, &nothing);
            fixture.assert_unsupported(refused, "reclaim");
        }
        return model.close(fixture);
    }
    for target in [0, 1, usize::MAX] {
        assert_eq!(
            reclaim(&fixture, target, &nothing),
            0,
            "pages freed by a pool never used (left)"
        );
    }
    let mut model = Model::new(102);
    fill(&fixture, &mut model, pick(50, 5));
    while !model.live.is_empty() {
        model.free(&fixture, 0);
    }
    for target in [0, 1, usize::MAX] {
        assert_eq!(reclaim(&fixture, target, &nothing), 0, "pages freed by an emptied pool (left)");
    }
    fixture.close();
}

pub(super) fn reclaim_that_is_refused_changes_nothing(rig: &Rig<'_>) {
    let Some((fixture, offered)) = filled(rig, pick(200, 12)) else { return };
    let pages = fixture.pool.total_pages();
    let keep = |handle: Handle, object: ObjRead<'_>| {
        offered.look(handle, &object);
        Evicted::Keep
    };
    assert_eq!(reclaim(&fixture, 0, &keep), 0, "pages freed (left) for target 0");
    assert_eq!(offered.order.borrow().len(), 0, "objects offered for 0 pages");
    for target in [1, 5, usize::MAX, usize::MAX] {
        assert_eq!(
            reclaim(&fixture, target, &keep),
            0,
            "pages freed (left), but every object was kept"
        );
        let seen = offered.order.borrow().len();
        assert!(
            seen * ONE_OBJECT_PAGES >= pages,
            "only {seen} objects of {pages} pages were offered, but every object was kept"
        );
        assert_eq!(fixture.pool.total_pages(), pages, "total_pages after a refused reclaim");
        offered.settle(&fixture);
    }
    assert_eq!(
        fixture.pool.stats().reclaimed_pages,
        0,
        "reclaimed_pages (left), but every object was kept"
    );
    offered.close(fixture);
}

pub(super) fn reclaim_starts_with_the_oldest(rig: &Rig<'_>) {
    let Some(fixture) = rig.reclaiming_fixture() else { return };
    let mut model = Model::new(103);
    let max = fixture.max();
    let mut ages: Vec<_> = (0..12).map(|_| model.store(&fixture, max).0).collect();
    // The youngest objects fill the holes that older ones leave.
    for index in [7, 3, 0] {
        model.remove_handle(ages[index]);
        fixture.free(ages.remove(index));
    }
    ages.extend((0..4).map(|_| model.store(&fixture, max).0));
    // Reading an object does not make it younger.
    model.check_all(&fixture);
    let offered = Offered::new(model);
    // If two of these objects can share a page, the order depends on the backend, so it is not checked.
    let alone = max * 2 > fixture.pool.stats().page_size;
    let freed = reclaim(&fixture, 3, &|handle: Handle, object: ObjRead<'_>| {
        offered.look(handle, &object);
        offered.evict(handle)
    });
    assert!(freed >= 3, "{freed} pages freed for target 3");
    if alone {
        assert_eq!(*offered.order.borrow(), ages[..3], "offered (left), and the oldest three");
    }
    offered.settle(&fixture);
    reclaim(&fixture, usize::MAX, &|handle: Handle, object: ObjRead<'_>| {
        offered.look(handle, &object);
        offered.evict(handle)
    });
    if alone {
        assert_eq!(*offered.order.borrow(), ages[3..], "offered (left), and the rest by age");
    }
    offered.close(fixture);
}

pub(super) fn reclaim_frees_what_is_given_up(rig: &Rig<'_>) {
    let Some((fixture, offered)) = filled(rig, pick(400, 24)) else { return };
    let mut rng = Rng::new(104);
    let mut sum = 0;
    for round in 0.. {
        let before = fixture.pool.total_pages();
        let target = 1 + rng.below(5);
        // Every third round keeps some objects. Then a page may stay because of one of its objects.
        let picky = round % 3 == 2;
        let answers = RefCell::new(Rng::new(round));
        let freed = reclaim(&fixture, target, &|handle: Handle, object: ObjRead<'_>| {
            offered.look(handle, &object);
            if picky && answers.borrow_mut().below(2) == 0 {
                return Evicted::Keep;
            }
            offered.evict(handle)
        });
        sum += freed;
        let after = fixture.pool.total_pages();
        assert_eq!(
            before - after.min(before),
            freed,
            "from {before} to {after} pages, returned (right)"
        );
        assert!(freed < target + ONE_OBJECT_PAGES, "{freed} pages freed for target {target}");
        if !picky {
            let least = target.min(before);
            assert!(
                freed >= least,
                "{freed} pages freed for target {target}, but the pool held {before}"
            );
        }
        let reclaimed = fixture.pool.stats().reclaimed_pages;
        assert_eq!(
            reclaimed, sum as u64,
            "reclaimed_pages (left), and the sum that reclaim returned"
        );
        offered.settle(&fixture);
        if offered.model.borrow().live.is_empty() {
            break;
        }
    }
    offered.close(fixture);
}

pub(super) fn evict_may_free_the_object(rig: &Rig<'_>) {
    for answer in [Evicted::Evicted, Evicted::Keep] {
        let Some((fixture, offered)) = filled(rig, pick(100, 8)) else { return };
        let room = Cell::new(pick(150, 12));
        reclaim(&fixture, usize::MAX, &|handle: Handle, object: ObjRead<'_>| {
            let mark = offered.look(handle, &object);
            offered.evict(handle);
            fixture.free(handle);
            // Stores a successor. If the backend reuses space immediately, the successor may get the same
            // space. The answer below must not affect it. The number of successors is limited, so that
            // reclaim can end.
            if room.get() > 0 {
                room.set(room.get() - 1);
                drop(object);
                offered.store(&fixture, mark.len());
            }
            answer
        });
        offered.settle(&fixture);
        offered.close(fixture);
    }
}

pub(super) fn evict_may_free_others(rig: &Rig<'_>) {
    let Some((fixture, offered)) = filled(rig, pick(200, 12)) else { return };
    let rng = RefCell::new(Rng::new(105));
    reclaim(&fixture, usize::MAX, &|handle: Handle, object: ObjRead<'_>| {
        offered.look(handle, &object);
        let mut rng = rng.borrow_mut();
        // The object stored just before or just after this one most likely shares its page.
        for _ in 0..rng.below(3) {
            let mut model = offered.model.borrow_mut();
            let here = model.live.iter().position(|(live, _)| *live == handle);
            let here = here.unwrap_or_else(|| panic!("{handle:?} vanished during its callback"));
            let other = match rng.below(3) {
                0 => here + 1,
                1 => here.wrapping_sub(1),
                _ => rng.below(model.live.len()),
            };
            if other < model.live.len() && other != here {
                model.free(&fixture, other);
            }
        }
        if rng.below(2) == 0 { offered.evict(handle) } else { Evicted::Keep }
    });
    offered.settle(&fixture);
    offered.close(fixture);
}

pub(super) fn evict_may_allocate(rig: &Rig<'_>) {
    let Some((fixture, offered)) = filled(rig, pick(100, 8)) else { return };
    let rng = RefCell::new(Rng::new(106));
    let room = Cell::new(pick(200, 16));
    reclaim(&fixture, usize::MAX, &|handle: Handle, object: ObjRead<'_>| {
        let mark = offered.look(handle, &object);
        let mut rng = rng.borrow_mut();
        for _ in 0..rng.below(3).min(room.get()) {
            room.set(room.get() - 1);
            let size = any_size(&mut rng, fixture.max());
            offered.store(&fixture, size);
        }
        mark.check(&object);
        if rng.below(2) == 0 { offered.evict(handle) } else { Evicted::Keep }
    });
    offered.settle(&fixture);
    offered.close(fixture);
}

pub(super) fn reclaim_offers_nothing_that_callbacks_store(rig: &Rig<'_>) {
    // The callback stores a successor while the object still exists, or after it has freed the object. In
    // the last case, the objects also have readers.
    for (in_its_place, read) in [(false, false), (true, false), (true, true)] {
        let Some((fixture, offered)) = filled(rig, pick(80, 8)) else { return };
        let live = offered.model.borrow().live.clone();
        let there: HashSet<Handle> = live.iter().map(|(handle, _)| *handle).collect();
        let guards: Vec<_> =
            live.iter().filter(|_| read).map(|(h, m)| (fixture.read(*h, *m), *m)).collect();
        reclaim(&fixture, usize::MAX, &|handle: Handle, object: ObjRead<'_>| {
            let mark = offered.look(handle, &object);
            assert!(there.contains(&handle), "{mark:?} was stored by a callback, and offered");
            offered.evict(handle);
            if in_its_place {
                drop(object);
                fixture.free(handle);
            }
            offered.store(&fixture, mark.len());
            Evicted::Evicted
        });
        for (guard, mark) in guards {
            mark.check(&guard);
        }
        offered.settle(&fixture);
        offered.close(fixture);
    }
}

pub(super) fn evict_may_reclaim(rig: &Rig<'_>) {
    let Some((fixture, offered)) = filled(rig, pick(60, 8)) else { return };
    let rng = RefCell::new(Rng::new(107));
    let inner_freed = Cell::new(0);
    let before = fixture.pool.total_pages();
    let freed = reclaim(&fixture, usize::MAX, &|handle: Handle, object: ObjRead<'_>| {
        let mark = offered.look(handle, &object);
        let inner_offers = Cell::new(0);
        let refused = reclaim(&fixture, 2, &|inner: Handle, object: ObjRead<'_>| {
            inner_offers.set(inner_offers.get() + 1);
            let model = offered.model.borrow();
            let found = model.live.iter().find(|(live, _)| *live == inner);
            let found = found.unwrap_or_else(|| panic!("{inner:?} was offered, but is not live"));
            found.1.check(&object);
            let offers = inner_offers.get();
            assert!(
                offers <= model.live.len(),
                "{offers} objects were offered, more than the pool holds"
            );
            Evicted::Keep
        });
        assert_eq!(refused, 0, "pages freed (left) by a nested reclaim that keeps every object");
        if rng.borrow_mut().below(3) == 0 {
            let freed = reclaim(&fixture, 1, &|inner: Handle, _: ObjRead<'_>| offered.evict(inner));
            inner_freed.set(inner_freed.get() + freed);
        }
        mark.check(&object);
        offered.evict(handle)
    });
    let sum = freed + inner_freed.get();
    assert!(sum <= before, "{sum} pages freed by nested reclaims, of {before}");
    offered.settle(&fixture);
    offered.close(fixture);
}

pub(super) fn evict_may_panic(rig: &Rig<'_>) {
    struct OnPurpose;
    for at in [1, 2, pick(9, 4)] {
        let Some((fixture, offered)) = filled(rig, pick(100, 10)) else { return };
        let calls = Cell::new(0);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            fixture.pool.reclaim(usize::MAX, &|handle: Handle, object: ObjRead<'_>| {
                offered.look(handle, &object);
                calls.set(calls.get() + 1);
                if calls.get() == at {
                    // This panic prints nothing.
                    resume_unwind(Box::new(OnPurpose));
                }
                if at % 2 == 0 { Evicted::Keep } else { offered.evict(handle) }
            })
        }));
        match panicked {
            Err(payload) if payload.is::<OnPurpose>() => {}
            Err(payload) => resume_unwind(payload),
            Ok(result) => panic!("the callback's panic was swallowed: {result:?}"),
        }
        // The object whose callback panicked must still be there, and so must all objects that were not
        // evicted before.
        offered.settle(&fixture);
        fill(&fixture, &mut offered.model.borrow_mut(), pick(40, 4));
        offered.settle(&fixture);
        offered.close(fixture);
    }
}

pub(super) fn evict_may_forget_its_guard(rig: &Rig<'_>) {
    for answer in [Evicted::Keep, Evicted::Evicted] {
        let Some((fixture, offered)) = filled(rig, pick(60, 8)) else { return };
        let forgotten = Cell::new(None);
        for _ in 0..2 {
            reclaim(&fixture, usize::MAX, &|handle: Handle, object: ObjRead<'_>| {
                offered.look(handle, &object);
                if forgotten.get().is_none() {
                    forgotten.set(Some(handle));
                    forget(object);
                    if answer == Evicted::Keep {
                        return answer;
                    }
                } else if forgotten.get() == Some(handle) {
                    return Evicted::Keep;
                }
                offered.evict(handle)
            });
            offered.settle(&fixture);
            let left = offered.model.borrow().live.len();
            // Reclaim may skip the page of the forgotten guard, and with it the other objects in that page.
            assert!(left <= 8, "{left} objects left by a reclaim with one forgotten guard");
        }
        let mut model = offered.model.into_inner();
        fill(&fixture, &mut model, pick(60, 4));
        model.check_all(&fixture);
        while !model.live.is_empty() {
            model.free(&fixture, 0);
        }
        let stats = fixture.assert_counts(0, 0);
        assert!(stats.parked_objects <= 1, "one guard forgotten, but {stats:?}");
        fixture.assert_pages_at_most(ONE_OBJECT_PAGES, "with one forgotten guard and no object");
    }
}

pub(super) fn reclaim_ends_despite_readers(rig: &Rig<'_>) {
    for freed in [false, true] {
        let Some((fixture, offered)) = filled(rig, pick(120, 10)) else { return };
        let live = offered.model.borrow().live.clone();
        let read: Vec<_> = live.iter().step_by(3).copied().collect();
        let guards: Vec<_> = read.iter().map(|(h, m)| (fixture.read(*h, *m), *m)).collect();
        if freed {
            for (handle, _) in read.iter().step_by(2) {
                offered.evict(*handle);
                fixture.free(*handle);
            }
        }
        let before = fixture.pool.total_pages();
        for _ in 0..2 {
            let count = reclaim(&fixture, usize::MAX, &|handle: Handle, object: ObjRead<'_>| {
                offered.look(handle, &object);
                offered.evict(handle)
            });
            assert!(count <= before, "{count} pages freed of {before}");
            offered.settle(&fixture);
        }
        fill(&fixture, &mut offered.model.borrow_mut(), pick(60, 4));
        for (guard, mark) in guards {
            mark.check(&guard);
        }
        assert_eq!(fixture.pool.stats().parked_objects, 0, "parked objects without a reader");
        offered.close(fixture);
    }
}

pub(super) fn concurrent_reclaim(rig: &Rig<'_>) {
    let Some(fixture) = rig.reclaiming_fixture() else { return };
    // All evicted handles. A callback records a handle here before it returns.
    let given_up: Mutex<HashSet<Handle>> = Mutex::default();
    let workers = AtomicUsize::new(0);
    let mut jobs: Vec<Box<dyn FnOnce() + Send + '_>> = Vec::new();
    for worker in 0..2 {
        let (fixture, given_up, at_work) = (&fixture, &given_up, AtWork::new(&workers));
        jobs.push(Box::new(move || {
            let _at_work = at_work;
            work(fixture, given_up, worker);
        }));
    }
    for reclaimer in 0..2 {
        let (fixture, given_up, workers) = (&fixture, &given_up, &workers);
        jobs.push(Box::new(move || {
            let rng = RefCell::new(Rng::new(108 + reclaimer));
            while workers.load(SeqCst) > 0 {
                let target = rng.borrow_mut().below(4);
                reclaim(fixture, target, &|handle: Handle, object: ObjRead<'_>| {
                    let mark = Mark::of(&object);
                    mark.unwrap_or_else(|| panic!("{object:?} offered")).check(&object);
                    let answer = rng.borrow_mut().below(4);
                    if answer == 0 {
                        return Evicted::Keep;
                    }
                    lock(given_up).insert(handle);
                    if answer == 1 {
                        // The object's owner or the other reclaim may have freed the object first.
                        if let refused @ Err(_) = fixture.pool.free(handle) {
                            assert_invalid(handle, refused);
                        }
                    }
                    Evicted::Evicted
                });
                std::thread::yield_now();
            }
        }));
    }
    together(jobs);
    fixture.close();
}

/// Stores, reads and frees objects. Asserts that an object is gone only if this function freed it or a
/// callback evicted it.
fn work(fixture: &Fixture, given_up: &Mutex<HashSet<Handle>>, worker: u64) {
    let mut rng = Rng::new(110 + worker);
    let mut numbers = Model::new(1_000_000 * (worker + 1));
    let mut own: Vec<(Handle, Mark)> = Vec::new();
    let mut kept: Vec<(ObjRead<'_>, Mark)> = Vec::new();
    let lost = |handle: Handle, mark: Mark| {
        let given_up = lock(given_up).contains(&handle);
        assert!(given_up, "{mark:?} is gone, but no callback evicted it and nobody freed it");
    };
    let free = |handle: Handle, mark: Mark| {
        if let refused @ Err(_) = fixture.pool.free(handle) {
            assert_invalid(handle, refused);
            lost(handle, mark);
        }
    };
    for _ in 0..pick(30_000, 40) {
        match rng.below(8) {
            0..=3 if own.len() < 60 => {
                // The object must have room for a mark, because the callbacks recognise it by its mark.
                let size = any_size(&mut rng, fixture.max()).max(8.min(fixture.max()));
                let mark = numbers.mark(size);
                own.push((fixture.store(mark), mark));
            }
            4 | 5 if !own.is_empty() => {
                let (handle, mark) = own.swap_remove(rng.below(own.len()));
                free(handle, mark);
            }
            _ if !own.is_empty() => {
                let (handle, mark) = own[rng.below(own.len())];
                match fixture.pool.obj_read_begin(handle) {
                    Ok(guard) => {
                        mark.check(&guard);
                        kept.push((guard, mark));
                    }
                    refused => {
                        assert_invalid(handle, refused);
                        lost(handle, mark);
                    }
                }
            }
            _ => {}
        }
        if kept.len() > 5 {
            let (guard, mark) = kept.swap_remove(rng.below(kept.len()));
            mark.check(&guard);
        }
    }
    for (guard, mark) in kept {
        mark.check(&guard);
    }
    for (handle, mark) in own {
        free(handle, mark);
    }
}
