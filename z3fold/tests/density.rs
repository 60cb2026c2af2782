//! Compares the number of pages that the pool uses with the number that an oracle needs. The oracle stores
//! the same objects in the same order. It puts each object in the page with the tightest fit, and at most
//! three objects in a page. It only counts chunks: it treats the free chunks of a page as one piece.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]
#![allow(clippy::print_stdout, reason = "the test prints its figures")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use z3fold::Z3fold;
use zpool_api::Zpool;
use zpool_base::sync::test_rng::Rng;
use zpool_pages::HeapPages;

/// The oracle. It knows the number of free chunks and of objects in each page, but not where the objects
/// are.
#[derive(Default)]
struct Oracle {
    pages: BTreeMap<usize, (usize, usize)>,
    /// The number of free chunks and the page number of each page that can take another object.
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

/// The compressed sizes of a real program's pages, one list for each of two codecs. 4096 stands for an
/// incompressible page.
const LZ4: &str = include_str!("sizes/lz4.txt");
const ZSTD: &str = include_str!("sizes/zstd.txt");
/// The name of an environment variable that can name more files with sizes. Its value separates files as
/// `PATH` does. Each file has one size per line.
const MORE: &str = "Z3FOLD_SIZES";

fn parse(text: &str) -> Vec<usize> {
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// Returns 20,000 sizes. Repeats the list and adds a small random number to each size.
fn many(sizes: &[usize], rng: &mut Rng) -> Vec<usize> {
    (0..20_000).map(|n| (sizes[n % sizes.len()] + rng.below(64)).clamp(1, 4096)).collect()
}

/// Stores objects of these sizes in order. Then, three times, frees a random half of the objects and stores
/// objects of the same sizes again. Returns two numbers: by how many percent the pool's pages exceed the
/// oracle's after the first step, and the greatest such percentage after the later steps.
fn compare(name: &str, sizes: &[usize]) -> (f64, f64) {
    let mut rng = Rng::new(12);
    let pool = Z3fold::new(Arc::new(HeapPages::new())).unwrap();
    let mut oracle = Oracle::default();
    let zeros = [0; 4096];
    let store = |oracle: &mut Oracle, size: usize| {
        let handle = pool.malloc_from(&zeros[..size]).unwrap();
        (handle, size, oracle.store(size.div_ceil(64)))
    };
    let more = |oracle: &Oracle| {
        let (pages, expected) = (pool.total_pages(), oracle.pages.len());
        assert!(pages * 1000 >= expected * 970, "{name}: {pages} pages, the oracle has {expected}");
        (pages as f64 / expected as f64 - 1.0) * 100.0
    };
    let mut live: Vec<_> = sizes.iter().map(|&size| store(&mut oracle, size)).collect();
    let fresh = more(&oracle);
    let mut worn = f64::MIN;
    for _ in 0..3 {
        let mut again = Vec::new();
        for _ in 0..live.len() / 2 {
            let (handle, size, page) = live.swap_remove(rng.below(live.len()));
            pool.free(handle).unwrap();
            oracle.change(page, size.div_ceil(64) as isize, -1);
            again.push(size);
        }
        live.extend(again.into_iter().map(|size| store(&mut oracle, size)));
        worn = worn.max(more(&oracle));
    }
    println!(
        "{name}: {:.2} objects per page; {fresh:+.2} % pages, worn {worn:+.2} %",
        sizes.len() as f64 / oracle.pages.len() as f64
    );
    (fresh, worn)
}

#[test]
fn pages_are_as_few_as_a_tightest_fit_of_three() {
    let mut rng = Rng::new(5);
    let mut lists: Vec<(String, Vec<usize>)> = vec![
        ("lz4".into(), many(&parse(LZ4), &mut rng)),
        ("zstd".into(), many(&parse(ZSTD), &mut rng)),
    ];
    for path in std::env::var_os(MORE).iter().flat_map(std::env::split_paths) {
        let text = std::fs::read_to_string(&path).unwrap();
        lists.push((path.display().to_string(), parse(&text)));
    }
    for (name, sizes) in lists {
        let (fresh, worn) = compare(&name, &sizes);
        assert!(fresh <= 1.0, "{name}: {fresh:.2} % more pages than the oracle");
        assert!(worn <= 5.0, "{name}: {worn:.2} % more pages than the oracle after frees");
    }
}
