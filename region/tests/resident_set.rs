//! A budget bounds everything, as the system counts it: the growth of the resident set agrees with the region's figures.
#![cfg(all(target_os = "linux", not(miri), not(loom)))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failure in a test's helper is the test's own message"
)]

use std::fs;

use zpool_base::sync::test_rng::Rng;
use zswap_region::{BackendKind, BuildError, PAGE_SIZE, Region, RegionStats};

const MIB: usize = 1 << 20;

/// Returns the resident set of this process in bytes.
fn resident_set() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * PAGE_SIZE
}

/// Fills a page with rows that compress to about a third.
fn fill(page: &mut [u8], rng: &mut Rng) {
    for row in page.chunks_mut(64) {
        let text = format!(
            "{{\"id\":{:08},\"name\":\"user-{:04}\",\"ok\":true}}",
            rng.next() % 100_000_000,
            rng.next() % 10_000
        );
        let len = text.len().min(row.len());
        row[..len].copy_from_slice(&text.as_bytes()[..len]);
    }
}

fn agree(what: &str, before: usize, budget: usize, stats: &RegionStats) {
    let growth = resident_set().saturating_sub(before);
    let (slack, said) = (budget / 50 + 4 * MIB, stats.memory_bytes);
    println!("{what}: growth {growth}, the region's own figure {said}, budget {budget}");
    assert!(said <= budget, "{what}: {said} bytes of a budget of {budget}: {stats:?}");
    assert!(growth <= budget + slack, "{what}: the process grew by {growth}: {stats:?}");
    assert!(growth.abs_diff(said) <= slack, "{what}: growth {growth}, figure {said}: {stats:?}");
}

fn tables_take_nothing_before_the_first_touch() {
    let before = resident_set();
    let builder = Region::builder().capacity(64 << 30).budget(64 * MIB).backend(BackendKind::Move);
    // SAFETY: nobody touches the region.
    let region = match unsafe { builder.build() } {
        Ok(region) => region,
        Err(BuildError::Unsupported { why, .. }) => return println!("test skipped: {why}"),
        Err(error) => panic!("{error}"),
    };
    let grown = resident_set().saturating_sub(before);
    assert!(grown < 2 * MIB, "{grown} bytes for a region of 64 GiB that nobody has touched");
    assert_eq!(region.stats().resident_bytes, 0);
}

/// One test, since the resident set is the process's.
#[test]
fn the_resident_set_agrees_with_the_budget() {
    tables_take_nothing_before_the_first_touch();
    let kinds = [BackendKind::Move, BackendKind::Guard];
    for (kind, unit) in
        kinds.into_iter().flat_map(|kind| [(kind, PAGE_SIZE), (kind, 16 * PAGE_SIZE)])
    {
        let (capacity, budget) = (160 * MIB, 80 * MIB);
        // The first region makes what the process keeps for all: threads, stacks, the allocator's arenas.
        for turn in 0..2 {
            let before = resident_set();
            let builder =
                Region::builder().capacity(capacity).unit(unit).budget(budget).backend(kind);
            // SAFETY: the test keeps the rules of the crate's front page.
            let mut region = match unsafe { builder.build() } {
                Ok(region) => region,
                Err(BuildError::Unsupported { why, .. }) => return println!("test skipped: {why}"),
                Err(error) => panic!("{error}"),
            };
            let mut rng = Rng::new(turn);
            for page in region.as_mut_slice().chunks_mut(PAGE_SIZE) {
                fill(page, &mut rng);
            }
            let mut sum = 0u64;
            for _ in 0..20_000 {
                let at = rng.below(capacity);
                sum += u64::from(region.as_slice()[at]);
                if rng.below(4) == 0 {
                    region.as_mut_slice()[at] ^= 1;
                }
            }
            assert!(sum > 0);
            if turn > 0 {
                agree(&format!("{kind:?}, {unit}"), before, budget, &region.stats());
                region.set_budget(Some(budget * 9 / 10)).unwrap();
                agree(&format!("{kind:?}, less"), before, budget * 9 / 10, &region.stats());
                region.set_budget(Some(budget * 2)).unwrap();
                // Pages of a file in memory count as soon as they are touched.
                let touched = region.as_slice()[..capacity / 4].iter().step_by(PAGE_SIZE);
                assert!(touched.map(|byte| u64::from(*byte)).sum::<u64>() > 0);
                agree(&format!("{kind:?}, more"), before, budget * 2, &region.stats());
            }
        }
    }
}
