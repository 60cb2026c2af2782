//! Accounting: counts are exact after every step, and are zero in the end.

use super::fixture::{Fixture, Rig};
use super::model::{Model, any_size, fill};
use super::pick;
use zpool_api::{Migration, PageProvider as _, ZpoolError};
use zpool_base::sync::test_rng::Rng;

pub(super) fn given_pages_are_used(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(40);
    fill(&fixture, &mut model, pick(50, 10));
    let calls = fixture.pages.calls();
    if rig.uses_pages() {
        assert!(calls > 0, "objects use no page of the provider, but uses_pages() is true");
        let (out, page_size) = (fixture.pages.pages_out(), fixture.pages.page_size());
        let bytes: usize = model.live.iter().map(|(_, mark)| mark.len()).sum();
        assert!(out * page_size >= bytes, "{bytes} bytes of objects in {out} pages of {page_size}");
    } else {
        assert_eq!(calls, 0, "page requests (left), but uses_pages() is false");
    }
    model.close(fixture);
}

pub(super) fn counts_are_exact(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(41);
    let mut rng = Rng::new(41);
    fixture.assert_empty();
    for step in 0..pick(4000, 80) {
        // Grows and shrinks the pool in waves.
        let grow = if step / pick(500, 20) % 2 == 0 { 3 } else { 1 };
        if model.live.is_empty() || rng.below(4) < grow {
            model.store(&fixture, any_size(&mut rng, fixture.max()));
        } else {
            let index = rng.below(model.live.len());
            model.free(&fixture, index);
        }
        model.assert_counts(&fixture);
    }
    model.close(fixture);
}

pub(super) fn emptied_pool_holds_nothing(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(42);
    let mut rng = Rng::new(42);
    for order in 0..3 {
        fill(&fixture, &mut model, pick(500, 16));
        while !model.live.is_empty() {
            let index = match order {
                0 => 0,
                1 => model.live.len() - 1,
                _ => rng.below(model.live.len()),
            };
            model.free(&fixture, index);
        }
        fixture.assert_empty();
    }
    model.close(fixture);
    // A pool that is dropped with objects in it must return its pages, too.
    let fixture = rig.fixture();
    let mut model = Model::new(43);
    fill(&fixture, &mut model, pick(200, 10));
    let pages = fixture.pages.clone();
    drop(fixture);
    assert_eq!(pages.pages_out(), 0, "pages kept by a pool that was dropped with objects in it");
}

pub(super) fn trim_leaves_objects_alone(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(44);
    fill(&fixture, &mut model, pick(300, 12));
    while model.live.len() > pick(100, 4) {
        model.free(&fixture, 0);
    }
    let before = fixture.pool.stats();
    let out = fixture.pages.pages_out();
    let trimmed = fixture.pool.trim();
    let after = fixture.pool.stats();
    assert_eq!(trimmed, before.cached_pages, "pages trimmed (left) and cached before (right)");
    assert_eq!(after.cached_pages, 0, "cached pages after trim");
    assert_eq!(after.total_pages, before.total_pages, "total_pages after trim (left)");
    assert!(fixture.pages.pages_out() <= out, "trim allocated pages");
    model.check_all(&fixture);
    model.assert_counts(&fixture);
    while !model.live.is_empty() {
        model.free(&fixture, 0);
    }
    fixture.pool.trim();
    fixture.assert_empty();
    fill(&fixture, &mut model, pick(100, 6));
    model.close(fixture);
}

pub(super) fn compaction_keeps_objects(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(45);
    let mut rng = Rng::new(45);
    // Compaction of an empty pool frees nothing. A backend without compaction refuses it.
    assert_eq!(fixture.compact(), 0, "pages freed by compacting an empty pool");
    for _ in 0..pick(6, 1) {
        fill(&fixture, &mut model, pick(600, 24));
        while model.live.len() > pick(120, 8) {
            let index = rng.below(model.live.len());
            model.free(&fixture, index);
        }
        let read: Vec<_> = model.live.iter().step_by(5).copied().collect();
        let guards: Vec<_> = read.iter().map(|(h, m)| (fixture.read(*h, *m), *m)).collect();
        let before = fixture.pool.total_pages();
        let won = fixture.compact();
        let after = fixture.pool.total_pages();
        assert_eq!(
            before - after.min(before),
            won,
            "from {before} to {after} pages, returned (right)"
        );
        for (guard, mark) in guards {
            mark.check(&guard);
        }
        model.check_all(&fixture);
        model.assert_counts(&fixture);
    }
    model.close(fixture);
}

pub(super) fn migration_keeps_objects(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(46);
    assert_eq!(fixture.migrate(), Migration::default(), "migration of an empty pool (left)");
    fill(&fixture, &mut model, pick(300, 12));
    for round in 0..pick(6, 2) {
        let read: Vec<_> = model.live.iter().step_by(7).copied().collect();
        let guards: Vec<_> = read.iter().map(|(h, m)| (fixture.read(*h, *m), *m)).collect();
        let unread = model.live.iter().find(|(handle, _)| read.iter().all(|(h, _)| h != handle));
        let at = |fixture: &Fixture| unread.map(|(h, m)| fixture.read(*h, *m).as_ptr().addr());
        let before = fixture.pool.total_pages();
        let done = fixture.migrate();
        for (guard, mark) in guards {
            mark.check(&guard);
        }
        assert!(fixture.pool.total_pages() <= before, "more pages after a migration");
        model.check_all(&fixture);
        model.assert_counts(&fixture);
        if fixture.caps().migration {
            assert!(done.left > 0, "zspages moved although their objects were being read");
            let before = at(&fixture);
            let done = fixture.migrate();
            assert_eq!(done.left, 0, "zspages left (left) although nothing is being read");
            assert!(done.zspages > 0 && at(&fixture) != before, "nothing moved");
        }
        // If there is no page to move to, nothing may be lost.
        fixture.pages.limit_pages(fixture.pages.pages_out());
        if let Err(error) = fixture.pool.migrate() {
            let expected = if fixture.caps().migration {
                matches!(error, ZpoolError::OutOfMemory { .. })
            } else {
                matches!(error, ZpoolError::Unsupported { .. })
            };
            assert!(expected, "{error}");
        }
        fixture.pages.limit_pages(usize::MAX);
        model.check_all(&fixture);
        model.assert_counts(&fixture);
        if round % 2 == 0 {
            let index = round % model.live.len();
            model.free(&fixture, index);
        }
    }
    model.close(fixture);
}
