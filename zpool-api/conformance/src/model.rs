//! A model of what a pool should hold.
//!
//! The model chooses the contents of the objects. It asserts that each handle is given out only once, and
//! that the pool's counts equal its own.

use std::collections::BTreeSet;

use super::content::Mark;
use super::fixture::{Fixture, assert_invalid};
use zpool_api::{Handle, ObjWrite, Zpool};
use zpool_base::sync::test_rng::Rng;

/// The live objects, and all handles that were ever given out.
pub(super) struct Model {
    pub(super) live: Vec<(Handle, Mark)>,
    given: BTreeSet<Handle>,
    bytes: usize,
    next: u64,
}

impl Model {
    /// Makes an empty model. The first object gets the number `first` + 1.
    pub(super) fn new(first: u64) -> Self {
        Model { live: Vec::new(), given: BTreeSet::new(), bytes: 0, next: first }
    }

    /// Returns the mark for a new object of `len` bytes.
    pub(super) fn mark(&mut self, len: usize) -> Mark {
        self.next += 1;
        Mark::new(self.next, len)
    }

    /// Stores a new object of `len` bytes.
    pub(super) fn store(&mut self, fixture: &Fixture, len: usize) -> (Handle, Mark) {
        let mark = self.mark(len);
        let handle = fixture.store(mark);
        self.add(handle, mark);
        (handle, mark)
    }

    /// Records a stored object.
    pub(super) fn add(&mut self, handle: Handle, mark: Mark) {
        assert!(self.given.insert(handle), "{handle:?} was given out again, for {mark:?}");
        self.live.push((handle, mark));
        self.bytes += mark.len();
    }

    /// Records that the live object at `index` is gone, and returns it.
    pub(super) fn remove(&mut self, index: usize) -> (Handle, Mark) {
        let (handle, mark) = self.live.swap_remove(index);
        self.bytes -= mark.len();
        (handle, mark)
    }

    /// Records that the object of a handle is gone, and returns its mark. Returns `None` if the object was
    /// not alive.
    pub(super) fn remove_handle(&mut self, handle: Handle) -> Option<Mark> {
        let index = self.live.iter().position(|(live, _)| *live == handle)?;
        Some(self.remove(index).1)
    }

    /// Frees a live object and asserts that its handle is invalid afterwards.
    pub(super) fn free(&mut self, fixture: &Fixture, index: usize) -> (Handle, Mark) {
        let (handle, mark) = self.remove(index);
        fixture.free(handle);
        assert_invalid(handle, fixture.pool.obj_read_begin(handle));
        (handle, mark)
    }

    /// Asserts that the pool's counts equal the model's.
    pub(super) fn assert_counts(&self, fixture: &Fixture) {
        fixture.assert_counts(self.live.len(), self.bytes);
    }

    /// Reads every live object and checks its bytes.
    pub(super) fn check_all(&self, fixture: &Fixture) {
        fixture.check_all(&self.live);
    }

    /// Checks and frees every live object, and then ends the fixture.
    pub(super) fn close(mut self, fixture: Fixture) {
        self.check_all(&fixture);
        while !self.live.is_empty() {
            self.free(&fixture, self.live.len() - 1);
        }
        fixture.close();
    }
}

/// Returns a random size from 1 to `max`: often small, sometimes large, sometimes at a limit.
pub(super) fn any_size(rng: &mut Rng, max: usize) -> usize {
    let size = match rng.below(8) {
        0..=2 => 1 + rng.below(max.min(256)),
        3..=5 => 1 + rng.below(max),
        6 => max - rng.below(max.min(64)),
        _ => 1 << rng.below(max.ilog2() as usize + 1),
    };
    size.clamp(1, max)
}

/// Stores `count` objects of random sizes.
pub(super) fn fill(fixture: &Fixture, model: &mut Model, count: usize) {
    let mut rng = Rng::new(count as u64);
    for _ in 0..count {
        let size = any_size(&mut rng, fixture.max());
        model.store(fixture, size);
    }
}

/// Opens a write guard for an object with this mark, and asserts that it is empty.
pub(super) fn begin(pool: &dyn Zpool, mark: Mark) -> ObjWrite<'_> {
    match pool.malloc(mark.len()) {
        Ok(write) => {
            assert_eq!((write.size(), write.written()), (mark.len(), 0), "of a fresh write guard");
            write
        }
        Err(error) => panic!("no space for {mark:?}: {error}"),
    }
}
