//! Read guards: their bytes neither move nor change, no call waits for them, and a guard keeps only its own
//! object in use.

use std::cell::Cell;
use std::sync::mpsc;

use super::content::Mark;
use super::fixture::{Fixture, ONE_OBJECT_PAGES, Rig, assert_invalid, forget, together};
use super::model::{Model, any_size, fill};
use super::pick;
use zpool_api::obj_read_owned;
use zpool_api::{Evicted, Handle, ObjRead, ZpoolError};
use zpool_base::lockdep::{self, Rank};
use zpool_base::sync::test_rng::Rng;

/// The number of guards that every object must be able to have. A backend may refuse more than that.
const READERS_AT_LEAST: usize = 64;

/// Stores and frees objects at random for `steps` steps. Then migrates and compacts.
fn churn(fixture: &Fixture, model: &mut Model, rng: &mut Rng, steps: usize) {
    for _ in 0..steps {
        if model.live.len() > 20 || (!model.live.is_empty() && rng.below(2) == 0) {
            let index = rng.below(model.live.len());
            model.free(fixture, index);
        } else {
            model.store(fixture, any_size(rng, fixture.max()));
        }
    }
    fixture.migrate();
    fixture.compact();
}

/// Asserts that the pool counts `expected` objects that were freed but are still being read. A backend that
/// does not use the provider's pages may count fewer. If each of its objects has its own allocation, no
/// space has to wait for readers.
fn assert_parked(fixture: &Fixture, expected: usize) {
    let parked = fixture.pool.stats().parked_objects;
    if fixture.uses_pages || parked > expected {
        assert_eq!(parked, expected, "parked_objects (left), and objects freed during reads");
    }
}

pub(super) fn free_under_a_live_reader(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(30);
    let max = fixture.max();
    let mut most = 0;
    for round in 0..pick(120, 5) {
        let size = [max, max / 2, 64, 1, max / 3][round % 5].clamp(1, max);
        let (handle, mark) = model.store(&fixture, size);
        let guards = [fixture.read(handle, mark), fixture.read(handle, mark)];
        model.remove_handle(handle);
        fixture.free(handle);
        assert_parked(&fixture, 1);
        fixture.assert_gone(handle);
        // Stores objects of the same size. They would take the freed object's space if it were reused too
        // early.
        let others: Vec<_> = (0..pick(40, 4)).map(|_| model.store(&fixture, size)).collect();
        fill(&fixture, &mut model, pick(20, 2));
        fixture.compact();
        fixture.migrate();
        for guard in guards {
            assert_parked(&fixture, 1);
            mark.check(&guard);
            fixture.assert_gone(handle);
            drop(guard);
        }
        assert_parked(&fixture, 0);
        fixture.check_all(&others);
        model.assert_counts(&fixture);
        while !model.live.is_empty() {
            model.free(&fixture, 0);
        }
        fixture.assert_empty();
        let out = fixture.pages.pages_out();
        if round < 5 {
            most = most.max(out);
        } else {
            assert!(out <= most, "{out} pages out, but only {most} after the same calls before");
        }
    }
    model.close(fixture);
}

pub(super) fn neighbours_of_a_read_object_are_reusable(rig: &Rig<'_>) {
    let max = rig.fixture().max();
    // The neighbour is freed while it has no reader, or while it is being read itself.
    let cases = [(false, max / 2), (true, max / 2), (true, 40), (false, max / 3)];
    for (own_reader, size) in cases.into_iter().take(pick(4, 2)) {
        let fixture = rig.fixture();
        let mut model = Model::new(31);
        let size = size.clamp(1, max);
        let (read, read_mark) = model.store(&fixture, (max / 3).max(1));
        let mut guard = fixture.read(read, read_mark);
        let (mut first, mut first_out) = (0, 0);
        let cycles = pick(400, 8);
        for cycle in 0..cycles {
            let neighbours: Vec<_> = (0..pick(4, 2))
                .map(|_| {
                    let (handle, mark) = model.store(&fixture, size);
                    let own = own_reader.then(|| fixture.read(handle, mark));
                    (handle, mark, own)
                })
                .collect();
            // Takes the next guard before it drops the previous one, so that the object always has a
            // reader.
            let next = fixture.read(read, read_mark);
            for (handle, mark, own) in neighbours {
                fixture.check(handle, mark);
                model.remove_handle(handle);
                fixture.free(handle);
                if let Some(own) = own {
                    mark.check(&own);
                }
            }
            drop(core::mem::replace(&mut guard, next));
            read_mark.check(&guard);
            let parked = fixture.pool.stats().parked_objects;
            // A backend may reclaim a parked object some calls after its last reader has ended. So it may
            // still count the objects of the last few cycles.
            assert!(parked <= 16, "{parked} parked objects, although all their readers have ended");
            if cycle < 4 {
                first = first.max(fixture.pool.total_pages());
                first_out = first_out.max(fixture.pages.pages_out());
            }
        }
        let (total, out) = (fixture.pool.total_pages(), fixture.pages.pages_out());
        assert!(total <= first + 8, "from {first} to {total} pages in {cycles} cycles");
        assert!(out <= first_out + 16, "from {first_out} to {out} pages out in {cycles} cycles");
        model.assert_counts(&fixture);
        drop(guard);
        model.close(fixture);
    }
}

pub(super) fn many_readers_of_one_object(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(32);
    let mut rng = Rng::new(32);
    fill(&fixture, &mut model, 6);
    for freed_meanwhile in [false, true] {
        let (handle, mark) = model.store(&fixture, fixture.max() / 2);
        let mut guards: Vec<ObjRead<'_>> = Vec::new();
        let many = pick(1000, READERS_AT_LEAST);
        while guards.len() < many {
            match fixture.pool.obj_read_begin(handle) {
                Ok(guard) => guards.push(guard),
                Err(ZpoolError::TooManyReaders { .. }) if guards.len() >= READERS_AT_LEAST => {
                    // The limit is reached. After one guard is dropped, another one must be possible.
                    guards.pop();
                    guards.push(fixture.read(handle, mark));
                    break;
                }
                Err(error) => panic!("reader {} was refused: {error}", guards.len() + 1),
            }
        }
        // The limit applies to each object separately, so another object can still be read.
        let (other, other_mark) = model.live[0];
        fixture.check(other, other_mark);
        if freed_meanwhile {
            model.remove_handle(handle);
            fixture.free(handle);
        }
        while !guards.is_empty() {
            let guard = guards.swap_remove(rng.below(guards.len()));
            mark.check(&guard);
            drop(guard);
            if guards.len() % 64 == 1 {
                churn(&fixture, &mut model, &mut rng, 4);
                for guard in guards.iter().step_by(16) {
                    mark.check(guard);
                }
            }
        }
        assert_eq!(fixture.pool.stats().parked_objects, 0, "parked objects without a reader");
        if model.remove_handle(handle).is_some() {
            fixture.check(handle, mark);
            fixture.free(handle);
        }
    }
    model.close(fixture);
}

pub(super) fn guards_end_on_another_thread(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(33);
    let mut rng = Rng::new(33);
    for _ in 0..pick(20, 2) {
        fill(&fixture, &mut model, pick(24, 6));
        let guards: Vec<_> = model.live.iter().map(|(h, m)| (fixture.read(*h, *m), *m)).collect();
        // Frees half of the objects while they have guards. So some guards are the last users of their
        // objects.
        for _ in 0..model.live.len() / 2 {
            let index = rng.below(model.live.len());
            model.free(&fixture, index);
        }
        let (there, here): (Vec<_>, Vec<_>) =
            guards.into_iter().enumerate().partition(|(index, _)| index % 3 != 0);
        together(vec![
            Box::new(|| {
                for (_, (guard, mark)) in there {
                    mark.check(&guard);
                    drop(guard);
                }
            }),
            Box::new(|| {
                for (_, (guard, mark)) in here {
                    mark.check(&guard);
                    drop(guard);
                }
            }),
        ]);
        assert_eq!(fixture.pool.stats().parked_objects, 0, "parked objects without a reader");
        model.check_all(&fixture);
        model.assert_counts(&fixture);
    }
    model.close(fixture);
}

pub(super) fn guards_are_held_across_a_wait(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(34);
    let mut rng = Rng::new(34);
    let max = fixture.max();
    let held: Vec<_> =
        [1, 100, max / 3, max / 2, max].map(|s| model.store(&fixture, s.clamp(1, max))).into();
    let (held_handles, kept): (Vec<Handle>, Mark) =
        (held.iter().map(|(handle, _)| *handle).collect(), held[2].1);
    let (ready, is_ready) = mpsc::channel::<()>();
    let (go, may_go) = mpsc::channel::<()>();
    let fixture_ref = &fixture;
    std::thread::scope(|scope| {
        let holder = scope.spawn(move || {
            let guards: Vec<_> = held.iter().map(|(h, m)| (fixture_ref.read(*h, *m), m)).collect();
            let _ = ready.send(());
            // Waits until the main thread drops `go`, at its end or in a panic. Nothing is sent, so `recv`
            // returns an error.
            let _ = may_go.recv();
            for (guard, mark) in guards {
                mark.check(&guard);
            }
        });
        // `recv` fails if the holder panicked. The join below reports that panic.
        if is_ready.recv().is_ok() {
            for handle in &held_handles {
                model.remove_handle(*handle);
                // This object stays live while its guard is held.
                if *handle == held_handles[2] {
                    continue;
                }
                fixture.free(*handle);
            }
            churn(&fixture, &mut model, &mut rng, pick(600, 30));
            fixture.check(held_handles[2], kept);
            model.check_all(&fixture);
            if fixture.caps().reclaim {
                let room = Cell::new(fixture.pool.stats().objects);
                let refuse = |_: Handle, _: ObjRead<'_>| {
                    assert!(room.get() > 0, "more objects were offered than the pool holds");
                    room.set(room.get() - 1);
                    Evicted::Keep
                };
                let count = fixture.pool.reclaim(4, &refuse);
                assert_eq!(
                    count,
                    Ok(0),
                    "reclaim that keeps every object, with waiting readers (left)"
                );
            }
            fixture.pool.trim();
        }
        drop(go);
        holder.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
    });
    fixture.free(held_handles[2]);
    model.close(fixture);
}

pub(super) fn reads_begin_and_end_under_a_callers_lock(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(37);
    let max = fixture.max();
    for size in [max, max / 2, max / 3, 1] {
        let objects: Vec<_> =
            (0..pick(24, 4)).map(|_| model.store(&fixture, size.max(1))).collect();
        let guards: Vec<_> = objects.iter().map(|(h, m)| fixture.read(*h, *m)).collect();
        // Frees all objects except the first. Now only their guards keep them.
        for (handle, _) in &objects[1..] {
            model.remove_handle(*handle);
            fixture.free(*handle);
        }
        let before = (fixture.pages.calls(), fixture.pages.pages_out());
        {
            // From here on, debug builds panic if the pool takes a lock that is not further in than Entry,
            // or if the pool or its provider makes a call that may block.
            let _entry = lockdep::acquire(Rank::Entry);
            let (live, mark) = objects[0];
            fixture.check(live, mark);
            for (n, guard) in guards.into_iter().enumerate() {
                assert_invalid(objects[1].0, fixture.pool.obj_read_begin(objects[1].0));
                objects[n].1.check(&guard);
                drop(guard);
            }
            for (stale, _) in &objects[1..] {
                assert_invalid(*stale, fixture.pool.obj_read_begin(*stale));
            }
        }
        let after = (fixture.pages.calls(), fixture.pages.pages_out());
        assert_eq!(
            after, before,
            "page requests and pages out after the reads ended (left), and before"
        );
        assert_eq!(fixture.pool.stats().parked_objects, 0, "parked objects without a reader");
        // The next call that may block frees the objects that the readers left to the pool.
        fixture.free(objects[0].0);
        model.remove_handle(objects[0].0);
        fixture.assert_empty();
    }
    model.close(fixture);
}

pub(super) fn forgotten_guard_costs_its_object_only(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(35);
    let mut rng = Rng::new(35);
    fill(&fixture, &mut model, pick(60, 4));
    let (handle, mark) = model.store(&fixture, fixture.max() / 3);
    forget(fixture.read(handle, mark));
    fill(&fixture, &mut model, pick(60, 4));
    churn(&fixture, &mut model, &mut rng, pick(400, 16));
    // `churn` may already have freed the object.
    if model.remove_handle(handle).is_some() {
        fixture.check(handle, mark);
        fixture.free(handle);
    }
    assert_invalid(handle, fixture.pool.obj_read_begin(handle));
    model.check_all(&fixture);
    // The space of the object's neighbours can be reused again and again.
    for _ in 0..pick(100, 3) {
        fill(&fixture, &mut model, 8);
        while !model.live.is_empty() {
            model.free(&fixture, 0);
        }
    }
    fixture.compact();
    let stats = fixture.assert_counts(0, 0);
    assert!(stats.parked_objects <= 1, "one guard forgotten, but {stats:?}");
    fixture.assert_pages_at_most(ONE_OBJECT_PAGES, "with one forgotten guard and no object");
    let Fixture { pool, pages, .. } = fixture;
    drop(pool);
    let out = pages.pages_out();
    assert!(
        out <= ONE_OBJECT_PAGES,
        "{out} pages kept after the pool was dropped with one forgotten guard"
    );
}

pub(super) fn owned_guard_outlives_the_pool(rig: &Rig<'_>) {
    for freed in [false, true] {
        let fixture = rig.fixture();
        let mut model = Model::new(36);
        fill(&fixture, &mut model, pick(40, 5));
        let (handle, mark) = model.store(&fixture, fixture.max() / 2);
        let guards: Vec<_> = (0..2)
            .map(|_| obj_read_owned(fixture.pool.clone(), handle).expect("an owned guard"))
            .collect();
        let stale = Handle::from_u64(handle.as_u64() ^ 1).expect("not zero");
        if !model.live.iter().any(|(live, _)| *live == stale) {
            assert_invalid(stale, obj_read_owned(fixture.pool.clone(), stale));
        }
        if freed {
            model.remove_handle(handle);
            fixture.free(handle);
        }
        let uses_pages = fixture.uses_pages;
        let Fixture { pool, pages, .. } = fixture;
        drop(pool);
        if uses_pages {
            assert!(pages.pages_out() > 0, "the pool was dropped before its last guard");
        }
        together(vec![Box::new(|| {
            for guard in guards {
                mark.check(&guard);
                // The pool must still be intact: every live object can be read.
                for (live, live_mark) in &model.live {
                    let read = guard.pool().obj_read_begin(*live).expect("a live object");
                    live_mark.check(&read);
                }
                drop(guard);
            }
        })]);
        assert_eq!(pages.pages_out(), 0, "pages kept after the last owned guard was dropped");
    }
}
