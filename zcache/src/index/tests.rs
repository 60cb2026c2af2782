//! Tests of the index against plain models.

use std::collections::{HashMap, HashSet, VecDeque};

use zpool_base::sync::test_rng::Rng;

use super::entries::Kept;
use super::ghosts::Ghosts;
use super::{Index, NoRoom, Position, SMALL_SHARE, USES_TO_STAY};

fn hash(key: u64) -> u64 {
    let mut hash = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

/// S3-FIFO with plain queues and keys as words. Its ghosts are the index's, which have tests of their own.
#[derive(Default)]
struct Model {
    small: VecDeque<u64>,
    main: VecDeque<u64>,
    uses: HashMap<u64, u32>,
    ghosts: Ghosts,
}

impl Model {
    fn insert(&mut self, key: u64) {
        self.ghosts.grow(self.uses.len());
        self.uses.insert(key, 0);
        if self.ghosts.take(Kept::of(hash(key))) {
            self.main.push_back(key)
        } else {
            self.small.push_back(key)
        }
    }

    fn remove(&mut self, key: u64) {
        self.uses.remove(&key);
        self.small.retain(|&other| other != key);
        self.main.retain(|&other| other != key);
    }

    fn evict(&mut self) -> Option<u64> {
        loop {
            if self.small.len() > self.uses.len() / SMALL_SHARE || self.main.is_empty() {
                let key = self.small.pop_front()?;
                let uses = self.uses.get_mut(&key).unwrap();
                if *uses > USES_TO_STAY {
                    *uses = 0;
                    self.main.push_back(key);
                    continue;
                }
                self.uses.remove(&key);
                self.ghosts.add(Kept::of(hash(key)));
                return Some(key);
            }
            let key = self.main.pop_front()?;
            let uses = self.uses.get_mut(&key).unwrap();
            if *uses == 0 {
                self.uses.remove(&key);
                return Some(key);
            }
            *uses -= 1;
            self.main.push_back(key);
        }
    }
}

/// An index whose words are keys.
fn find(index: &Index, key: u64) -> Option<Position> {
    index.find(hash(key), |word| (word == key).then_some(())).map(|(at, ())| at)
}

/// Does a step of tidying. Returns whether there is more to do.
fn tidy(index: &mut Index, steps: usize) -> bool {
    let tidied = index.tidy(steps);
    if let Some(returning) = tidied.returning {
        returning.give_back();
        index.returned();
    }
    tidied.more
}

fn insert(index: &mut Index, key: u64) {
    index.reserve().unwrap();
    index.insert(hash(key), key);
}

#[test]
fn it_evicts_what_the_model_evicts() {
    let rounds = if cfg!(miri) { 1 } else { 20 };
    for seed in 1..=rounds {
        let mut rng = Rng::new(seed);
        let (mut index, mut model) = (Index::new(), Model::default());
        let keys = if cfg!(miri) { 60 } else { 50 << rng.below(6) } as u64;
        for _ in 0..if cfg!(miri) { 100 } else { 5000 } {
            let key = rng.next() % keys;
            match rng.below(10) {
                0..=3 => match find(&index, key) {
                    Some(at) => {
                        assert_eq!(index.replace(at, key), key);
                    }
                    None => {
                        insert(&mut index, key);
                        model.insert(key);
                    }
                },
                4..=6 => {
                    let at = find(&index, key);
                    assert_eq!(at.is_some(), model.uses.contains_key(&key));
                    if let Some(at) = at {
                        index.touch(at);
                        let uses = model.uses.get_mut(&key).unwrap();
                        *uses = (*uses + 1).min(3);
                    }
                }
                7 => {
                    if let Some(at) = find(&index, key) {
                        assert_eq!(index.remove(at), key);
                        model.remove(key);
                    }
                }
                8 => {
                    assert_eq!(index.evict(), model.evict());
                }
                _ => {
                    if !tidy(&mut index, rng.below(50)) {
                        model.ghosts.shrink(model.uses.len());
                    }
                }
            }
            assert_eq!(index.len(), model.uses.len());
        }
        while let Some(key) = model.evict() {
            assert_eq!(index.evict(), Some(key));
        }
        assert_eq!(index.evict(), None);
    }
}

#[test]
#[cfg_attr(miri, ignore = "it needs several groups of entries, which takes minutes")]
fn memory_comes_back() {
    let mut index = Index::new();
    assert_eq!(index.memory_bytes(), 0);
    let count = 50_000;
    (0..count).for_each(|key| insert(&mut index, key));
    let full = index.memory_bytes();
    for key in (0..count).filter(|key| key % 4 != 0) {
        let at = find(&index, key).unwrap();
        index.remove(at);
    }
    while tidy(&mut index, 100) {}
    let rest = index.memory_bytes();
    assert!(rest * 10 <= full * 3, "{rest} of {full} bytes");
    assert!((0..count).all(|key| find(&index, key).is_some() == (key % 4 == 0)));
    while index.evict().is_some() {}
    while tidy(&mut index, 100) {}
    assert_eq!(index.memory_bytes(), 0);
    insert(&mut index, 5);
    assert!(find(&index, 5).is_some());
}

#[test]
#[cfg_attr(miri, ignore = "it needs several groups of entries, which takes minutes")]
fn no_entry_comes_where_memory_is_being_given_back() {
    let mut index = Index::new();
    (0..4000).for_each(|key| insert(&mut index, key));
    for key in 0..3500 {
        let at = find(&index, key).unwrap();
        index.remove(at);
    }
    let returning = loop {
        let tidied = index.tidy(100);
        assert!(tidied.more);
        if let Some(returning) = tidied.returning {
            break returning;
        }
    };
    let mut key = 4000;
    while index.reserve().is_ok() {
        index.insert(hash(key), key);
        key += 1;
    }
    // Three groups have 1024 places each.
    assert_eq!((index.len(), index.reserve()), (3072, Err(NoRoom::Returning)));
    returning.give_back();
    index.returned();
    (key..8000).for_each(|key| insert(&mut index, key));
    assert!((3500..8000).all(|key| find(&index, key).is_some()));
}

#[test]
fn bytes_an_entry() {
    if cfg!(miri) {
        return;
    }
    let mut index = Index::new();
    let mut shares = Vec::new();
    for key in 0..200_000 {
        let (before, announced) = (index.memory_bytes(), index.bytes_to_reserve());
        insert(&mut index, key);
        let grown = index.memory_bytes() - before;
        assert!(grown <= announced, "{announced} bytes were announced and {grown} came");
        if key >= 1000 && key % 997 == 0 {
            shares.push(index.memory_bytes() as f64 / (key + 1) as f64);
        }
    }
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    let most = shares.iter().copied().fold(0.0, f64::max);
    assert!(mean < 32.0 && most < 47.0, "{mean} bytes in the mean, {most} at most");
}

#[test]
#[cfg_attr(miri, ignore = "it needs several groups of entries, which takes minutes")]
fn a_walk_visits_what_stays() {
    let count = 20_000_u64;
    let mut rng = Rng::new(1);
    let mut index = Index::new();
    (0..count).for_each(|key| insert(&mut index, key));
    let (mut seen, mut next) = (HashSet::new(), None);
    loop {
        next = index.walk_down(next, 50, |word| {
            seen.insert(word);
        });
        if next.is_none() {
            break;
        }
        // Those that are not multiples of 3 come and go.
        for _ in 0..100 {
            let key = rng.next() % count / 3 * 3 + 1;
            if let Some(at) = find(&index, key) {
                index.remove(at);
            }
        }
        tidy(&mut index, rng.below(200));
    }
    assert!((0..count).step_by(3).all(|key| seen.contains(&key)));
}

#[test]
fn replacing_entries_does_not_make_the_table_grow() {
    if cfg!(miri) {
        return;
    }
    for count in [1000, 10_000, 14_000, 50_000] {
        let mut index = Index::new();
        (0..count).for_each(|key| insert(&mut index, key));
        let full = index.table.allocation_size();
        for key in count..count * 20 {
            index.evict().unwrap();
            insert(&mut index, key);
            if key % 1000 == 0 {
                tidy(&mut index, 100);
            }
        }
        let now = index.table.allocation_size();
        assert!(now <= full.max(count as usize * 16), "{count} entries: {full}, then {now} bytes");
        assert_eq!(index.len(), count as usize);
        // The last ones are in the small queue.
        assert!((count * 20 - count / 20..count * 20).all(|key| find(&index, key).is_some()));
    }
}

/// The hits of a cache of `size` keys over a trace, by what it does for a key: whether it was there.
fn hits(trace: &[u64], mut get: impl FnMut(u64) -> bool) -> usize {
    trace.iter().filter(|&&key| get(key)).count()
}

#[test]
fn scans_do_not_drive_out_what_is_used() {
    if cfg!(miri) {
        return;
    }
    let (keys, size) = (20_000_u64, 2000);
    let mut rng = Rng::new(3);
    let sums: Vec<f64> = (1..=keys)
        .scan(0.0, |sum, rank| {
            *sum += 1.0 / rank as f64;
            Some(*sum)
        })
        .collect();
    let mut trace = Vec::new();
    for n in 0..200_000_u64 {
        let point = (rng.next() >> 11) as f64 / (1_u64 << 53) as f64 * sums[sums.len() - 1];
        trace.push(sums.partition_point(|&sum| sum < point) as u64);
        if n % 10_000 < 2000 {
            // A scan of keys that come once.
            trace.push(1 << 40 | n);
        }
    }
    let mut index = Index::new();
    let ours = hits(&trace, |key| {
        if let Some(at) = find(&index, key) {
            index.touch(at);
            return true;
        }
        if index.len() == size {
            index.evict();
        }
        insert(&mut index, key);
        false
    });
    let (mut at, mut order, mut clock) = (HashMap::new(), std::collections::BTreeMap::new(), 0_u64);
    let lru = hits(&trace, |key| {
        clock += 1;
        if let Some(before) = at.insert(key, clock) {
            order.remove(&before);
            order.insert(clock, key);
            return true;
        }
        let oldest = if order.len() == size { order.pop_first() } else { None };
        if let Some((_, oldest)) = oldest {
            at.remove(&oldest);
        }
        order.insert(clock, key);
        false
    });
    assert!(ours > lru + trace.len() / 50, "{ours} hits, and {lru} of LRU, in {}", trace.len());
}

#[test]
fn many_threads_count_uses() {
    let mut index = Index::new();
    (0..100).for_each(|key| insert(&mut index, key));
    let index = &index;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(move || {
                for key in 0..100 {
                    index.touch(find(index, key).unwrap());
                    assert_eq!(index.word(find(index, key).unwrap()), key);
                }
            });
        }
    });
    assert!((0..100).all(|key| (1..=3).contains(&index.entries.uses(find(index, key).unwrap().0))));
}
