//! Handles. Any number must be safe to pass. It names either the object for which it was given out or none.

use std::collections::HashMap;

use super::content::Mark;
use super::fixture::{Fixture, Rig, assert_invalid};
use super::model::{Model, fill};
use super::pick;
use zpool_api::{BackendBits, Handle};
use zpool_base::sync::test_rng::Rng;

/// The number of bits of a handle that belong to the backend.
const BACKEND_BITS: usize = 52;
/// The number of bits in a slot's number. They are the lowest bits of a handle.
const SLOT_BITS: u32 = 32;

pub(super) fn freed_handle_is_invalid(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(20);
    fill(&fixture, &mut model, pick(100, 10));
    let mut rng = Rng::new(20);
    let mut freed = Vec::new();
    while !model.live.is_empty() {
        let index = rng.below(model.live.len());
        freed.push(model.free(&fixture, index).0);
        for handle in freed.iter().rev().take(8) {
            fixture.assert_gone(*handle);
        }
        model.assert_counts(&fixture);
    }
    for handle in freed {
        fixture.assert_gone(handle);
    }
    model.close(fixture);
}

pub(super) fn stale_handles_stay_invalid(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(21);
    let size = fixture.max().min(200);
    // This neighbour stays, so its page and the slot tables stay in use.
    model.store(&fixture, size);
    let mut stale = Vec::new();
    for _ in 0..pick(5000, 40) {
        let (handle, _) = model.store(&fixture, size);
        fixture.check(handle, model.live[1].1);
        model.free(&fixture, 1);
        stale.push(handle);
    }
    fixture.assert_pages_at_most(64, "after one object's space was reused many times");
    // The space has an object again, and none of the old handles may match this object.
    model.store(&fixture, size);
    for handle in stale {
        fixture.assert_gone(handle);
    }
    model.assert_counts(&fixture);
    model.close(fixture);
}

/// Returns made-up handles. Most of them are close to live ones, and a few may be live handles by accident.
fn made_up(fixture: &Fixture, model: &Model, rng: &mut Rng) -> Vec<Handle> {
    let tag = fixture.pool.tag();
    let with_tag = |bits: u64| Handle::new(tag, BackendBits::truncate(bits)).as_u64();
    let mut words = vec![1, u64::MAX, u64::MAX - 1, 1 << 63, with_tag(0), with_tag(u64::MAX)];
    for (handle, _) in model.live.iter().take(pick(40, 2)) {
        let word = handle.as_u64();
        words.extend((0..u64::BITS).map(|bit| word ^ (1 << bit)));
        words.extend([word.wrapping_add(1), word.wrapping_sub(1)]);
    }
    for _ in 0..pick(3000, 30) {
        words.push(rng.next());
        words.push(with_tag(rng.next()));
        // Low slots and low generations, as live handles have them.
        words.push(with_tag(rng.next() & 0xFF));
        words.push(with_tag((rng.next() & 0xF) << SLOT_BITS | (rng.next() & 0xFF)));
        words.push(with_tag(rng.next() >> rng.below(BACKEND_BITS)));
    }
    words.into_iter().filter_map(Handle::from_u64).collect()
}

pub(super) fn made_up_handles_are_safe_to_read(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(22);
    let mut rng = Rng::new(22);
    for handle in made_up(&fixture, &model, &mut rng) {
        fixture.pool.prefetch(handle);
        assert_invalid(handle, fixture.pool.obj_read_begin(handle));
    }
    fill(&fixture, &mut model, pick(200, 5));
    for _ in 0..model.live.len() / 2 {
        let index = rng.below(model.live.len());
        model.free(&fixture, index);
    }
    let live: HashMap<Handle, Mark> = model.live.iter().copied().collect();
    for handle in made_up(&fixture, &model, &mut rng) {
        fixture.pool.prefetch(handle);
        match live.get(&handle) {
            Some(mark) => fixture.check(handle, *mark),
            None => assert_invalid(handle, fixture.pool.obj_read_begin(handle)),
        }
    }
    model.assert_counts(&fixture);
    model.close(fixture);
}

pub(super) fn made_up_handles_free_nothing(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(23);
    let mut rng = Rng::new(23);
    for handle in made_up(&fixture, &model, &mut rng) {
        assert_invalid(handle, fixture.pool.free(handle));
    }
    fixture.assert_empty();
    fill(&fixture, &mut model, pick(200, 5));
    for _ in 0..model.live.len() / 2 {
        let index = rng.below(model.live.len());
        model.free(&fixture, index);
    }
    let live: HashMap<Handle, Mark> = model.live.iter().copied().collect();
    for handle in made_up(&fixture, &model, &mut rng) {
        if !live.contains_key(&handle) {
            assert_invalid(handle, fixture.pool.free(handle));
        }
    }
    model.assert_counts(&fixture);
    model.close(fixture);
}

pub(super) fn other_pools_handles_are_invalid(rig: &Rig<'_>) {
    let (one, two) = (rig.fixture(), rig.fixture());
    assert_ne!(one.pool.tag(), two.pool.tag(), "pools built one after the other share a tag");
    // Both pools have the same history, so that the backend's bits are most likely the same.
    let (mut ones, mut twos) = (Model::new(24), Model::new(24));
    fill(&one, &mut ones, pick(100, 8));
    fill(&two, &mut twos, pick(100, 8));
    for (handle, _) in &ones.live {
        two.assert_gone(*handle);
    }
    for (handle, _) in &twos.live {
        one.assert_gone(*handle);
    }
    ones.assert_counts(&one);
    twos.assert_counts(&two);
    ones.close(one);
    twos.close(two);
}
