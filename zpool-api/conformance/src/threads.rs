//! Several threads share a pool. A read must give the right bytes or `InvalidHandle`, never anything else.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex};

use super::content::Mark;
use super::fixture::{Fixture, Rig, assert_invalid, lock, together};
use super::model::{Model, any_size, begin, fill};
use super::pick;
use zpool_api::{Handle, ZpoolError};
use zpool_base::sync::test_rng::Rng;

/// Counts a thread as working until this value is dropped, which also happens in a panic. Other threads go
/// on until the count is 0.
pub(super) struct AtWork<'a>(&'a AtomicUsize);

impl<'a> AtWork<'a> {
    /// Adds one to `count`. Call it before the thread starts.
    pub(super) fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, SeqCst);
        AtWork(count)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

pub(super) fn one_of_many_frees_wins(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let mut model = Model::new(60);
    let threads = pick(4, 3);
    for round in 0..pick(300, 4) {
        // Stores a neighbour before and after the object. In some rounds the object also has a reader.
        fill(&fixture, &mut model, 1);
        let (handle, mark) = model.store(&fixture, fixture.max() / 3);
        fill(&fixture, &mut model, 1);
        let guard = (round % 3 == 0).then(|| fixture.read(handle, mark));
        let (freed, start) = (AtomicUsize::new(0), Barrier::new(threads));
        let job = || {
            start.wait();
            match fixture.pool.free(handle) {
                Ok(()) => {
                    freed.fetch_add(1, SeqCst);
                }
                refused => assert_invalid(handle, refused),
            }
        };
        together((0..threads).map(|_| Box::new(job) as Box<dyn FnOnce() + Send>).collect());
        assert_eq!(freed.load(SeqCst), 1, "successful frees (left) of {threads} of one object");
        model.remove_handle(handle);
        if let Some(guard) = guard {
            mark.check(&guard);
        }
        model.assert_counts(&fixture);
        if model.live.len() > 40 {
            model.check_all(&fixture);
            while !model.live.is_empty() {
                model.free(&fixture, 0);
            }
        }
    }
    model.close(fixture);
}

pub(super) fn readers_race_free_and_reuse(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let max = fixture.max();
    for size in [max, max / 3, 48] {
        let size = size.clamp(8, max.max(8));
        if size > max {
            return;
        }
        let mut model = Model::new(70);
        // The two objects that readers should find. Each has a writer that replaces it again and again.
        let current = [(); 2].map(|()| Mutex::new(model.store(&fixture, size)));
        let writers = AtomicUsize::new(0);
        let mut jobs: Vec<Box<dyn FnOnce() + Send + '_>> = Vec::new();
        for (slot, current) in current.iter().enumerate() {
            let (fixture, at_work) = (&fixture, AtWork::new(&writers));
            jobs.push(Box::new(move || {
                let _at_work = at_work;
                for n in 0..pick(20_000, 10) as u64 {
                    let mark = Mark::new(1_000_000 * (slot as u64 + 1) + n, size);
                    let new = (fixture.store(mark), mark);
                    let (old, _) = core::mem::replace(&mut *lock(current), new);
                    fixture.free(old);
                }
            }));
        }
        for reader in 0..pick(3, 2) as u64 {
            let (fixture, current, writers) = (&fixture, &current, &writers);
            jobs.push(Box::new(move || read_while_written(fixture, current, writers, reader)));
        }
        together(jobs);
        for slot in &current {
            fixture.free(lock(slot).0);
        }
        fixture.assert_empty();
    }
    fixture.close();
}

/// Reads the two `current` objects as long as there are writers. Keeps some of the guards for a while.
fn read_while_written(
    fixture: &Fixture,
    current: &[Mutex<(Handle, Mark)>; 2],
    writers: &AtomicUsize,
    seed: u64,
) {
    let mut rng = Rng::new(71 + seed);
    let mut kept = Vec::new();
    while writers.load(SeqCst) > 0 {
        let slot = &current[rng.below(2)];
        let (handle, mark) = *lock(slot);
        match fixture.pool.obj_read_begin(handle) {
            Ok(guard) => {
                mark.check(&guard);
                kept.push((guard, mark));
            }
            refused => {
                assert_invalid(handle, refused);
                // A writer puts a new object in the slot before it frees the old one.
                assert_ne!(lock(slot).0, handle, "{mark:?} is gone, but was not freed");
            }
        }
        if kept.len() > 6 || rng.below(4) == 0 {
            for (guard, mark) in kept.drain(..) {
                mark.check(&guard);
            }
        }
    }
    for (guard, mark) in kept {
        mark.check(&guard);
    }
}

/// An object that other threads may read while its owner frees it.
struct Shared {
    handle: Handle,
    mark: Mark,
    /// Set before `free` is called.
    freeing: AtomicBool,
    /// Set after `free` has returned.
    freed: AtomicBool,
}

pub(super) fn concurrent_mix_follows_the_models(rig: &Rig<'_>) {
    let fixture = rig.fixture();
    let board: Mutex<Vec<Arc<Shared>>> = Mutex::default();
    let given: Mutex<HashSet<Handle>> = Mutex::default();
    together(
        (0..pick(4, 3) as u64)
            .map(|thread| {
                let (fixture, board, given) = (&fixture, &board, &given);
                Box::new(move || mix(fixture, board, given, thread)) as Box<dyn FnOnce() + Send>
            })
            .collect(),
    );
    fixture.close();
}

fn mix(
    fixture: &Fixture,
    board: &Mutex<Vec<Arc<Shared>>>,
    given: &Mutex<HashSet<Handle>>,
    thread: u64,
) {
    let mut rng = Rng::new(80 + thread);
    let mut numbers = Model::new(1_000_000 * (thread + 1));
    let mut own: Vec<Arc<Shared>> = Vec::new();
    let mut handles = Vec::new();
    let mut kept = Vec::new();
    let free = |object: Arc<Shared>| {
        object.freeing.store(true, SeqCst);
        fixture.free(object.handle);
        object.freed.store(true, SeqCst);
    };
    for _ in 0..pick(30_000, 40) {
        match rng.below(12) {
            0..=3 if own.len() < 60 => {
                let mark = numbers.mark(any_size(&mut rng, fixture.max()));
                let handle = fixture.store(mark);
                handles.push(handle);
                let [freeing, freed] = [false, false].map(AtomicBool::new);
                let object = Arc::new(Shared { handle, mark, freeing, freed });
                if rng.below(2) == 0 {
                    let mut board = lock(board);
                    if board.len() < 100 {
                        board.push(object.clone());
                    } else {
                        board[rng.below(100)] = object.clone();
                    }
                }
                own.push(object);
            }
            4..=6 if !own.is_empty() => free(own.swap_remove(rng.below(own.len()))),
            7 if !own.is_empty() => {
                let object = &own[rng.below(own.len())];
                kept.push((fixture.read(object.handle, object.mark), object.mark));
            }
            8 => {
                let mark = numbers.mark(any_size(&mut rng, fixture.max()));
                drop(begin(&*fixture.pool, mark));
            }
            9 if rng.below(20) == 0 => {
                fixture.compact();
                fixture.migrate();
                fixture.pool.trim();
            }
            _ => {
                let object = {
                    let board = lock(board);
                    if board.is_empty() {
                        None
                    } else {
                        Some(board[rng.below(board.len())].clone())
                    }
                };
                let Some(object) = object else { continue };
                let was_freed = object.freed.load(SeqCst);
                match fixture.pool.obj_read_begin(object.handle) {
                    Ok(guard) => {
                        assert!(!was_freed, "{:?} can be read after it was freed", object.mark);
                        object.mark.check(&guard);
                        kept.push((guard, object.mark));
                    }
                    Err(ZpoolError::InvalidHandle { .. }) => {
                        let freeing = object.freeing.load(SeqCst);
                        assert!(freeing, "{:?} is gone, but nobody freed it", object.mark);
                    }
                    Err(error) => panic!("{:?} could not be read: {error}", object.mark),
                }
            }
        }
        while kept.len() > 12 {
            let (guard, mark) = kept.swap_remove(rng.below(kept.len()));
            mark.check(&guard);
        }
    }
    for (guard, mark) in kept {
        mark.check(&guard);
    }
    for object in own {
        fixture.check(object.handle, object.mark);
        free(object);
    }
    let mut given = lock(given);
    for handle in handles {
        assert!(given.insert(handle), "{handle:?} was given out for two objects");
    }
}
