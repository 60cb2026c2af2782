//! Write guards: an object exists if and only if all its bytes were written and then committed.

use std::io::Write as _;

use super::fixture::{Fixture, ONE_OBJECT_PAGES, Rig, forget, together};
use super::model::{Model, any_size, begin, fill};
use super::{content::Mark, pick};
use zpool_api::{Evicted, Handle, ObjRead, ObjWrite, ZpoolError};
use zpool_base::sync::test_rng::Rng;

fn write(guard: &mut ObjWrite<'_>, bytes: &[u8]) {
    if let Err(error) = guard.write(bytes) {
        panic!("{} bytes fit in {guard:?}, but were refused: {error}", bytes.len());
    }
}

fn commit(guard: ObjWrite<'_>, mark: Mark) -> Handle {
    guard.commit().unwrap_or_else(|error| panic!("{mark:?} could not be committed: {error}"))
}

/// Begins writes, and calls `end` to end each of them before it is complete. Asserts that they leave
/// nothing behind.
fn end_unfinished_writes(rig: &Rig<'_>, end: impl Fn(ObjWrite<'_>, usize, Mark)) {
    let fixture = rig.fixture();
    let mut rng = Rng::new(5);
    let mut model = Model::new(5);
    for round in 0..pick(300, 12) {
        let size = any_size(&mut rng, fixture.max());
        let mark = model.mark(size);
        let mut guard = begin(&*fixture.pool, mark);
        fixture.assert_counts(0, 0);
        let written = if round % 3 == 0 { 0 } else { rng.below(size) };
        write(&mut guard, &mark.content()[..written]);
        end(guard, written, mark);
        fixture.assert_empty();
    }
    // Does the same with an object in the pool. Each write must free its space, so the pool does not grow.
    model.store(&fixture, fixture.max());
    for _ in 0..pick(200, 8) {
        let mark = model.mark(fixture.max());
        end(begin(&*fixture.pool, mark), 0, mark);
    }
    fixture.assert_pages_at_most(3 * ONE_OBJECT_PAGES, "after writes that were not committed");
    model.assert_counts(&fixture);
    model.close(fixture);
}

pub(super) fn short_commit_frees_the_space(rig: &Rig<'_>) {
    end_unfinished_writes(rig, |guard, written, mark| {
        let size = mark.len();
        let short = Err(ZpoolError::NotFullyWritten { written, size });
        assert_eq!(guard.commit(), short, "commit after {written} of {size} bytes (left)");
    });
}

pub(super) fn dropped_write_frees_the_space(rig: &Rig<'_>) {
    end_unfinished_writes(rig, |guard, _, _| drop(guard));
    // A write that is complete but never committed makes no object, either.
    let fixture = rig.fixture();
    let mark = Mark::new(1, fixture.max());
    let mut guard = begin(&*fixture.pool, mark);
    write(&mut guard, &mark.content());
    drop(guard);
    fixture.close();
}

pub(super) fn write_beyond_the_end_is_refused(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(6);
    for size in [1, 2, fixture.max() / 2, fixture.max()] {
        let mark = model.mark(size);
        let content = mark.content();
        let mut guard = begin(&*fixture.pool, mark);
        write(&mut guard, &content[..size / 2]);
        let room = size - size / 2;
        let beyond = Err(ZpoolError::WriteBeyondEnd { len: room + 1, room });
        assert_eq!(
            guard.write(&vec![0xEE; room + 1]),
            beyond,
            "a write of one byte too many (left)"
        );
        assert_eq!(guard.written(), size / 2, "written() (left) after a refused write");
        write(&mut guard, &content[size / 2..]);
        let beyond = Err(ZpoolError::WriteBeyondEnd { len: 1, room: 0 });
        assert_eq!(guard.write(&[0xEE]), beyond, "a write to a full object (left)");
        assert!(guard.spare().is_empty(), "a full object has spare bytes");
        model.add(commit(guard, mark), mark);
        model.check_all(&fixture);
    }
    model.close(fixture);
}

pub(super) fn objects_are_written_in_pieces(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut rng = Rng::new(7);
    let mut model = Model::new(7);
    for _ in 0..pick(200, 8) {
        let mark = model.mark(any_size(&mut rng, fixture.max()));
        let content = mark.content();
        let mut guard = begin(&*fixture.pool, mark);
        let mut rest = &content[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(1 + rng.below(rest.len()));
            match rng.below(3) {
                0 => write(&mut guard, piece),
                1 => guard.write_all(piece).expect("io::Write of a piece that fits"),
                _ => {
                    assert_eq!(guard.spare().len(), rest.len(), "spare bytes (left)");
                    guard.spare()[..piece.len()].copy_from_slice(piece);
                    guard.advance(piece.len());
                }
            }
            rest = after;
            assert_eq!(guard.written(), content.len() - rest.len(), "written() (left)");
        }
        model.add(commit(guard, mark), mark);
        model.assert_counts(&fixture);
    }
    model.close(fixture);
}

pub(super) fn write_guards_are_independent(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut rng = Rng::new(8);
    let mut model = Model::new(8);
    for _ in 0..pick(40, 3) {
        let mut open: Vec<_> = (0..6)
            .map(|_| {
                let mark = model.mark(any_size(&mut rng, fixture.max()));
                (begin(&*fixture.pool, mark), mark, mark.content())
            })
            .collect();
        model.assert_counts(&fixture);
        // Writes the first half of every object in turn, and then the second halves.
        for (guard, mark, content) in &mut open {
            write(guard, &content[..mark.len() / 2]);
        }
        for (guard, mark, content) in &mut open {
            write(guard, &content[mark.len() / 2..]);
        }
        while !open.is_empty() {
            let (guard, mark, _) = open.swap_remove(rng.below(open.len()));
            if rng.below(3) == 0 {
                drop(guard);
            } else {
                model.add(commit(guard, mark), mark);
            }
        }
        model.assert_counts(&fixture);
        model.check_all(&fixture);
    }
    model.close(fixture);
}

pub(super) fn write_guard_moves_to_another_thread(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(9);
    for size in [1, fixture.max() / 2, fixture.max()] {
        let mark = model.mark(size);
        let content = mark.content();
        let mut guard = begin(&*fixture.pool, mark);
        write(&mut guard, &content[..size / 2]);
        let dropped = begin(&*fixture.pool, mark);
        let handle = std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                drop(dropped);
                write(&mut guard, &content[size / 2..]);
                commit(guard, mark)
            });
            there.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
        });
        model.add(handle, mark);
        model.assert_counts(&fixture);
        model.check_all(&fixture);
    }
    model.close(fixture);
}

pub(super) fn open_write_guard_keeps_its_space(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut rng = Rng::new(10);
    let mut model = Model::new(10);
    let max = fixture.max();
    let sizes = [33, max / 2, max, 1, max / 3, max - max / 4];
    for size in &sizes[..pick(6, 3)] {
        let mark = model.mark((*size).clamp(1, max));
        let content = mark.content();
        fill(&fixture, &mut model, pick(40, 6));
        let mut guard = begin(&*fixture.pool, mark);
        write(&mut guard, &content[..mark.len() / 2]);
        disturb(&fixture, &mut model, &mut rng);
        write(&mut guard, &content[mark.len() / 2..]);
        disturb(&fixture, &mut model, &mut rng);
        model.add(commit(guard, mark), mark);
        model.check_all(&fixture);
    }
    model.close(fixture);
}

/// On another thread, frees and stores objects at random, compacts, and reclaims as much as possible.
fn disturb(fixture: &Fixture, model: &mut Model, rng: &mut Rng) {
    together(vec![Box::new(|| {
        for _ in 0..pick(60, 6) {
            if model.live.len() > 4 {
                let index = rng.below(model.live.len());
                model.free(fixture, index);
            }
            model.store(fixture, any_size(rng, fixture.max()));
        }
        fixture.compact();
        if fixture.caps().reclaim {
            let evict = |_: Handle, _: ObjRead<'_>| Evicted::Evicted;
            fixture.pool.reclaim(usize::MAX, &evict).expect("reclaim with an open write guard");
            // Some objects may stay, because reclaim may skip a page that is being written to.
            let gone = |handle| fixture.pool.obj_read_begin(handle).is_err();
            for index in (0..model.live.len()).rev() {
                if gone(model.live[index].0) {
                    model.remove(index);
                }
            }
        }
        fill(fixture, model, pick(40, 6));
        model.assert_counts(fixture);
    })]);
}

pub(super) fn forgotten_write_guard_costs_its_space_only(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(11);
    for size in [1, fixture.max() / 3] {
        let mark = model.mark(size.max(1));
        let mut guard = begin(&*fixture.pool, mark);
        write(&mut guard, &mark.content()[..mark.len() / 2]);
        forget(guard);
        fill(&fixture, &mut model, pick(200, 8));
        model.check_all(&fixture);
        while !model.live.is_empty() {
            model.free(&fixture, 0);
        }
        fixture.compact();
    }
    fixture.assert_counts(0, 0);
    fixture.assert_pages_at_most(2 * ONE_OBJECT_PAGES, "after two write guards were forgotten");
    let Fixture { pool, pages, .. } = fixture;
    drop(pool);
    assert_eq!(pages.pages_out(), 0, "pages kept by a dropped pool, with forgotten write guards");
}
