//! Without pages, a call must fail and change nothing. When there are pages again, it must work again.

use super::content::Mark;
use super::fixture::{Fixture, Rig};
use super::model::{Model, any_size};
use super::pick;
use zpool_api::{Handle, PageError, PageProvider as _, ZpoolError};
use zpool_base::sync::test_rng::Rng;

/// Asserts that an error is the one that the provider was set to return.
fn assert_out_of_memory(error: &ZpoolError, doing: &str) {
    let expected = matches!(error, ZpoolError::OutOfMemory { source: PageError::Injected { .. } });
    assert!(expected, "{doing} without a page: expected the provider's OutOfMemory, got {error:?}");
}

/// Stores the content of `mark`. Uses a write guard if `guarded` is true, and `malloc_from` otherwise.
fn try_store(fixture: &Fixture, mark: Mark, guarded: bool) -> Result<Handle, ZpoolError> {
    let content = mark.content();
    if guarded {
        let mut write = fixture.pool.malloc(content.len())?;
        write.write(&content)?;
        write.commit()
    } else {
        fixture.pool.malloc_from(&content)
    }
}

/// Returns the figures that a failing call must not change: counts, pages, and the provider's pages in use.
fn figures(fixture: &Fixture) -> [usize; 5] {
    let stats = fixture.pool.stats();
    let (objects, bytes) = (stats.objects, stats.object_bytes);
    [objects, bytes, stats.parked_objects, stats.total_pages, fixture.pages.pages_out()]
}

pub(super) fn out_of_memory_at_every_step(rig: &Rig<'_>) {
    // Ends after a sequence in which no request failed, because it made fewer than `n` page requests.
    for n in 1.. {
        let fixture = match rig.failing_fixture(n) {
            Ok(fixture) => fixture,
            Err(error) => {
                assert_out_of_memory(&error, "building a pool");
                continue;
            }
        };
        one_sequence(&fixture);
        if fixture.pages.calls() < n {
            break;
        }
        assert!(n < 10_000, "a short sequence made {n} page requests");
    }
}

fn one_sequence(fixture: &Fixture) {
    let mut rng = Rng::new(90);
    let mut model = Model::new(90);
    let steps = pick(150, 10);
    for step in 0..steps {
        if rng.below(3) == 0 && !model.live.is_empty() {
            let index = rng.below(model.live.len());
            model.free(fixture, index);
            continue;
        }
        if step == steps / 2 && fixture.caps().compaction {
            if let Err(error) = fixture.pool.compact() {
                assert_out_of_memory(&error, "compact");
                model.check_all(fixture);
            }
        }
        let mark = model.mark(any_size(&mut rng, fixture.max()));
        let before = figures(fixture);
        let handle = try_store(fixture, mark, rng.below(2) == 0).unwrap_or_else(|error| {
            assert_out_of_memory(&error, "malloc");
            assert_eq!(
                figures(fixture),
                before,
                "objects, object_bytes, parked_objects, total_pages and pages out, after a malloc \
                 that failed (left) and before it"
            );
            model.check_all(fixture);
            fixture.store(mark)
        });
        model.add(handle, mark);
        model.assert_counts(fixture);
    }
    model.check_all(fixture);
    while !model.live.is_empty() {
        model.free(fixture, 0);
    }
    fixture.assert_empty();
}

pub(super) fn full_pool_recovers(rig: &Rig<'_>) {
    if !rig.uses_pages() {
        return;
    }
    let fixture = rig.fixture();
    let mut rng = Rng::new(91);
    let mut model = Model::new(91);
    let max = fixture.max();
    let limit = pick(128, 20);
    fixture.pages.limit_pages(limit);
    let most = limit * fixture.pages.page_size();
    for round in 0..pick(20, 2) {
        // In one round, fills the pool with objects of all sizes; in the next round, only with the largest ones.
        let size = |rng: &mut Rng| if round % 2 == 0 { 1 + rng.below(max) } else { max };
        let refused = loop {
            let mark = model.mark(size(&mut rng));
            let before = figures(&fixture);
            match try_store(&fixture, mark, rng.below(2) == 0) {
                Ok(handle) => model.add(handle, mark),
                Err(error) => {
                    assert_out_of_memory(&error, "malloc");
                    assert_eq!(figures(&fixture), before, "figures after malloc failed (left)");
                    break mark;
                }
            }
            let bytes: usize = model.live.iter().map(|(_, mark)| mark.len()).sum();
            assert!(bytes <= most, "{bytes} bytes of objects in {limit} pages");
        };
        model.assert_counts(&fixture);
        model.check_all(&fixture);
        // Freeing objects must make room, at the latest when the last one is freed.
        let handle = loop {
            match try_store(&fixture, refused, false) {
                Ok(handle) => break handle,
                Err(error) => assert_out_of_memory(&error, "malloc"),
            }
            assert!(!model.live.is_empty(), "an emptied pool has no room for {refused:?}");
            let index = rng.below(model.live.len());
            model.free(&fixture, index);
        };
        model.add(handle, refused);
        for _ in 0..model.live.len() / 2 {
            let index = rng.below(model.live.len());
            model.free(&fixture, index);
        }
    }
    fixture.pages.limit_pages(usize::MAX);
    for _ in 0..limit {
        model.store(&fixture, max);
    }
    model.close(fixture);
}
