//! Makes all calls in random order on one thread, and checks the results against a model.

use super::fixture::Rig;
use super::model::{Model, any_size, begin};
use super::pick;
use zpool_base::sync::test_rng::Rng;

pub(super) fn random_mix_follows_the_model(rig: &Rig<'_>) {
    for seed in 0..pick(40, 1) as u64 {
        one_sequence(rig, seed);
    }
}

fn one_sequence(rig: &Rig<'_>, seed: u64) {
    let fixture = rig.fixture();
    let mut rng = Rng::new(50 + seed);
    let mut model = Model::new(50_000);
    let mut kept = Vec::new();
    // The number of objects that the pool should hold. It changes every 100 steps, so that the pool grows
    // and shrinks.
    let mut aim = 100;
    for step in 0..pick(4000, 120) {
        if step % 100 == 0 {
            aim = rng.below(pick(300, 30)) + 1;
        }
        let grow = rng.below(aim * 2) >= model.live.len();
        match rng.below(16) {
            0..=9 if grow => {
                let size = any_size(&mut rng, fixture.max());
                if rng.below(3) == 0 {
                    let mark = model.mark(size);
                    let content = mark.content();
                    let mut write = begin(&*fixture.pool, mark);
                    let (one, two) = content.split_at(rng.below(size + 1));
                    write.write(one).expect("the first piece");
                    write.write(two).expect("the second piece");
                    model.add(write.commit().expect("a complete write"), mark);
                } else {
                    model.store(&fixture, size);
                }
            }
            0..=9 if !model.live.is_empty() => {
                let index = rng.below(model.live.len());
                model.free(&fixture, index);
            }
            10 => {
                let mark = model.mark(any_size(&mut rng, fixture.max()));
                let mut write = begin(&*fixture.pool, mark);
                write.write(&mark.content()[..rng.below(mark.len())]).expect("a part");
            }
            11 if kept.len() > 30 => drop(kept.swap_remove(rng.below(kept.len()))),
            11 | 12 if !model.live.is_empty() => {
                let (handle, mark) = model.live[rng.below(model.live.len())];
                kept.push((fixture.read(handle, mark), mark));
            }
            13 if !kept.is_empty() => drop(kept.swap_remove(rng.below(kept.len()))),
            14 if rng.below(8) == 0 => {
                fixture.compact();
                fixture.migrate();
                fixture.pool.trim();
            }
            _ => {
                if let Some((handle, mark)) = model.live.get(rng.below(aim)) {
                    fixture.check(*handle, *mark);
                }
            }
        }
        model.assert_counts(&fixture);
        let parked = fixture.pool.stats().parked_objects;
        assert!(parked <= kept.len(), "{parked} objects parked, but only {} guards", kept.len());
        if step % 64 == 0 {
            for (guard, mark) in &kept {
                mark.check(guard);
            }
        }
    }
    model.check_all(&fixture);
    for (guard, mark) in kept {
        mark.check(&guard);
    }
    model.close(fixture);
}
