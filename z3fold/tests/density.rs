//! Pages used, against an oracle: online tightest fit of sizes in chunks, three objects a page, free
//! chunks always in one piece.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use z3fold::Z3fold;
use zpool_api::sync::test_rng::Rng;
use zpool_api::{HeapPages, Zpool};

/// Knows of each page its free chunks and its objects, and nothing of positions.
#[derive(Default)]
struct Oracle {
    pages: BTreeMap<usize, (usize, usize)>,
    /// Free chunks and number of each page that takes another object.
    open: BTreeSet<(usize, usize)>,
    made: usize,
}

impl Oracle {
    fn change(&mut self, page: usize, free: isize, objects: isize) {
        let (old, count) = self.pages.get(&page).copied().unwrap_or((64, 0));
        self.open.remove(&(old, page));
        let now = ((old as isize + free) as usize, (count as isize + objects) as usize);
        if now.1 == 0 {
            self.pages.remove(&page);
            return;
        }
        self.pages.insert(page, now);
        if now.1 < 3 && now.0 > 0 {
            self.open.insert((now.0, page));
        }
    }

    fn store(&mut self, chunks: usize) -> usize {
        let tightest = self.open.range((chunks, 0)..).next().map(|(_, page)| *page);
        let page = tightest.unwrap_or_else(|| {
            self.made += 1;
            self.made
        });
        self.change(page, -(chunks as isize), 1);
        page
    }
}

/// Sizes as codecs leave pages of real programs: many small, a broad middle, some incompressible.
fn size(rng: &mut Rng) -> usize {
    match rng.below(10) {
        0 | 1 => 40 + rng.below(400),
        2..=6 => 700 + rng.below(1400),
        7 | 8 => 1500 + rng.below(1800),
        _ => 3000 + rng.below(1097),
    }
}

#[test]
fn pages_are_as_few_as_a_tightest_fit_of_three() {
    let mut rng = Rng::new(12);
    let pool = Z3fold::new(Arc::new(HeapPages::new())).unwrap();
    let mut oracle = Oracle::default();
    let store = |oracle: &mut Oracle, rng: &mut Rng| {
        let size = size(rng);
        let handle = pool.malloc_from(&vec![1; size]).unwrap();
        (handle, size.div_ceil(64), oracle.store(size.div_ceil(64)))
    };
    let mut live: Vec<_> = (0..20_000).map(|_| store(&mut oracle, &mut rng)).collect();
    let pages = (pool.total_pages(), oracle.pages.len());
    assert!(pages.0 * 100 <= pages.1 * 101, "{} pages, the oracle has {}", pages.0, pages.1);

    for round in 0..3 {
        for _ in 0..live.len() / 2 {
            let (handle, chunks, page) = live.swap_remove(rng.below(live.len()));
            pool.free(handle).unwrap();
            oracle.change(page, chunks as isize, -1);
        }
        while live.len() < 20_000 {
            live.push(store(&mut oracle, &mut rng));
        }
        let pages = (pool.total_pages(), oracle.pages.len());
        assert!(
            pages.0 * 100 <= pages.1 * 105,
            "{} pages, the oracle has {}: {round}",
            pages.0,
            pages.1
        );
    }
}
