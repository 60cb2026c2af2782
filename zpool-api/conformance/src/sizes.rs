//! Objects of every size. They must be stored and read back with the same length, be aligned, and be
//! refused if the size is out of range.

use super::fixture::{Fixture, Rig};
use super::model::Model;
use super::pick;
use zpool_api::ZpoolError;
use zpool_base::sync::test_rng::Rng;

/// Returns every size up to 4096, and sizes near half of `max` and near `max`. If `max` is more than 4096,
/// also sizes near every whole number of pages of 4096 bytes, near such numbers divided by 2 to 15, and at
/// random. Under Miri, a few sizes replace the sizes up to 4096, and most of the larger ones are left out.
fn sizes(max: usize) -> Vec<usize> {
    let around = |size: usize| size.saturating_sub(1)..=size + 1;
    let mut sizes: Vec<usize> = if cfg!(miri) {
        [1, 32, 64, 128, 2048].into_iter().flat_map(around).collect()
    } else {
        (1..=max.min(4096)).collect()
    };
    // Adds sizes near half of the maximum and near the maximum, where a page has no room for headers
    // and rounding.
    sizes.extend([max / 2, max - max.min(64), max].into_iter().flat_map(around));
    let step = pick(1, 7);
    for whole in (8192..=max).step_by(4096).step_by(step) {
        // A header of 4 or 8 bytes may just fit, or just not.
        sizes.extend([0, 3, 4, 5, 7, 8, 9].map(|header| whole - header));
        sizes.push(whole + 1);
        for parts in (2..16).filter(|parts| whole / parts > 4096).step_by(step) {
            sizes.extend(
                [0, 4, 8].map(|header| whole / parts - header).into_iter().flat_map(around),
            );
        }
    }
    if max > 4096 {
        let mut rng = Rng::new(max as u64);
        sizes.extend((0..pick(200, 2)).map(|_| 4097 + rng.below(max - 4096)));
    }
    sizes.retain(|size| (1..=max).contains(size));
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

pub(super) fn capabilities_are_constant(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let (caps, name, tag) = (fixture.caps(), fixture.pool.name(), fixture.pool.tag());
    assert!(caps.max_object_size > 0, "max_object_size is 0");
    assert!(caps.alignment.is_power_of_two(), "alignment {} is no power of two", caps.alignment);
    assert!(!name.is_empty(), "the backend has no name");
    let mut model = Model::new(0);
    model.store(&fixture, caps.max_object_size);
    assert_eq!(fixture.caps(), caps, "caps() changed");
    assert_eq!(fixture.pool.name(), name, "name() changed");
    assert_eq!(fixture.pool.tag(), tag, "tag() changed");
    assert_eq!(rig.fixture().caps(), caps, "caps() of a second pool over the same pages");
    model.close(fixture);
}

pub(super) fn round_trip_every_size(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(1);
    for size in sizes(fixture.max()) {
        let (handle, mark) = model.store(&fixture, size);
        model.assert_counts(&fixture);
        fixture.check(handle, mark);
        model.free(&fixture, 0);
        fixture.assert_empty();
    }
    model.close(fixture);
}

pub(super) fn all_sizes_at_once(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(2);
    let mut rng = Rng::new(2);
    // First stores objects of all sizes in order. Later stores more, into the holes that freed objects
    // leave.
    for size in sizes(fixture.max()) {
        model.store(&fixture, size);
    }
    model.check_all(&fixture);
    for _ in 0..model.live.len() / 2 {
        let index = rng.below(model.live.len());
        model.free(&fixture, index);
    }
    model.check_all(&fixture);
    for size in sizes(fixture.max()).into_iter().rev() {
        model.store(&fixture, size);
    }
    model.assert_counts(&fixture);
    model.close(fixture);
}

pub(super) fn objects_are_aligned(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(3);
    let alignment = fixture.caps().alignment;
    let aligned = |fixture: &Fixture, model: &Model| {
        for (handle, mark) in &model.live {
            let object = fixture.read(*handle, *mark);
            let at = object.as_ptr().addr();
            assert_eq!(
                at % alignment,
                0,
                "{mark:?} is at {at:#x}, but caps() promises alignment {alignment}"
            );
        }
    };
    for size in sizes(fixture.max()).into_iter().step_by(pick(7, 1)) {
        model.store(&fixture, size);
    }
    aligned(&fixture, &model);
    for index in (0..model.live.len() / 2).rev() {
        model.free(&fixture, index * 2);
    }
    fixture.compact();
    aligned(&fixture, &model);
    model.close(fixture);
}

pub(super) fn sizes_out_of_range_are_refused(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(4);
    model.store(&fixture, 1);
    let max = fixture.max();
    let refused = |size: usize| match fixture.pool.malloc(size) {
        Ok(_) => panic!("malloc({size}) was accepted; objects have 1 to {max} bytes"),
        Err(error) => error,
    };
    assert_eq!(refused(0), ZpoolError::EmptyObject, "malloc(0) (left)");
    let empty = fixture.pool.malloc_from(&[]);
    assert_eq!(empty, Err(ZpoolError::EmptyObject), "malloc_from no bytes (left)");
    let backend = fixture.pool.name();
    for size in [max + 1, max * 2, isize::MAX as usize, usize::MAX] {
        let large = ZpoolError::ObjectTooLarge { size, max, backend };
        assert_eq!(refused(size), large, "malloc({size}) (left)");
    }
    let size = max + 1;
    let large = fixture.pool.malloc_from(&vec![1; size]);
    assert_eq!(
        large,
        Err(ZpoolError::ObjectTooLarge { size, max, backend }),
        "malloc_from {size} bytes (left)"
    );
    model.assert_counts(&fixture);
    model.close(fixture);
}
