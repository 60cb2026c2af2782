//! Tests of [`MmapPages`]. They compare its counts with the resident pages that the system reports.
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

mod locked;

use super::block::BLOCK_BYTES;
use super::*;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Barrier};
use std::thread;
use zpool_api::MAX_RUN_PAGES;
use zpool_base::sync::test_rng::Rng;

const _: fn() = || {
    fn both<T: Send + Sync>() {}
    both::<MmapPages>();
    both::<MmapOptions>();
};

fn with(options: MmapOptions) -> MmapPages {
    MmapPages::with_options(options).unwrap()
}

/// Returns the page sizes to test, without those that this system does not support.
fn page_sizes() -> impl Iterator<Item = usize> {
    [4096, 16384, 65536].into_iter().filter(|size| *size >= mapping::system_page_size())
}

/// Returns how many bytes of the provider's regions have memory, resident or swapped.
///
/// Reads the page map, not `smaps`. The system merges neighbouring mappings of the same kind, and tests
/// that run in parallel have such mappings. So one entry of `smaps` may cover the regions of several
/// providers.
fn resident_bytes(pages: &MmapPages) -> usize {
    let system_page = mapping::system_page_size();
    let page_map = File::open("/proc/self/pagemap").unwrap();
    let mut resident = 0;
    for (start, len) in pages.regions() {
        let mut entries = vec![0; len / system_page * 8];
        page_map.read_exact_at(&mut entries, (start / system_page * 8) as u64).unwrap();
        // The top two bits of an entry mean "present" and "swapped".
        resident += entries.chunks_exact(8).filter(|entry| entry[7] >> 6 != 0).count();
    }
    resident * system_page
}

/// Marks some pages of a run as resident and fills them.
fn touch(provider: &MmapPages, run: &mut PageRun, pages: Range<usize>, fill: u8) {
    run.mark_resident(pages.clone());
    let page_size = provider.page_size();
    assert!(pages.end <= run.pages());
    // SAFETY: the page belongs to the run, so the address is inside it.
    let at = unsafe { run.base().add(pages.start * page_size) };
    // SAFETY: the pages belong to the run, and only the test uses it.
    unsafe { at.write_bytes(fill, pages.len() * page_size) };
}

/// Returns the bytes of one page of a run.
fn page<'a>(provider: &MmapPages, run: &'a PageRun, page: usize) -> &'a [u8] {
    assert!(page < run.pages());
    // SAFETY: the page belongs to the run, so the address is inside it.
    let at = unsafe { run.base().add(page * provider.page_size()) };
    // SAFETY: the bytes are initialised. Only the test uses the run, and it does not write while it reads.
    unsafe { core::slice::from_raw_parts(at.as_ptr(), provider.page_size()) }
}

fn free(provider: &MmapPages, run: PageRun) {
    // SAFETY: a test frees a run to the provider that it came from, and accesses none of its bytes
    // afterwards.
    unsafe { provider.free_run(run) };
}

fn discard(provider: &MmapPages, run: &mut PageRun, pages: Range<usize>) {
    // SAFETY: the run comes from this provider, and the test holds no reference to its bytes.
    unsafe { provider.discard(run, pages) };
}

/// Allocates a run and touches all its pages.
fn touched(provider: &MmapPages, pages: usize, fill: u8) -> PageRun {
    let mut run = provider.alloc_run(pages).unwrap();
    touch(provider, &mut run, 0..pages, fill);
    run
}

#[test]
fn every_page_size_gives_runs_apart() {
    for page_size in page_sizes() {
        let pages = Arc::new(with(MmapOptions::new().page_size(page_size)));
        crate::exercise::exercise(pages.clone());
        assert_eq!(resident_bytes(&pages), 0, "{page_size}");
    }
}

#[test]
fn odd_page_sizes_are_refused() {
    for page_size in [0, 1, 2048, 4095, 12288, 131_072] {
        let refused = MmapPages::with_options(MmapOptions::new().page_size(page_size));
        assert!(matches!(refused, Err(PageError::PageSize { .. })), "{page_size}");
    }
}

#[test]
fn the_default_bound_is_half_a_mebibyte_and_at_least_a_longest_run() {
    for page_size in page_sizes() {
        let bound = if page_size == 65536 { 16 } else { (512 << 10) / page_size };
        assert_eq!(with(MmapOptions::new().page_size(page_size)).warm_bound, bound);
    }
}

#[test]
fn a_warm_run_comes_back_with_its_resident_marks() {
    let pages = MmapPages::new();
    let mut first = pages.alloc_run(5).unwrap();
    assert_eq!(first.resident(), 0);
    touch(&pages, &mut first, 1..3, 7);
    let second = touched(&pages, 5, 8);
    let (first_base, second_base) = (first.base(), second.base());
    free(&pages, first);
    free(&pages, second);
    assert_eq!(pages.cached_pages(), 7);

    // A run of another length does not reuse the cached runs. A run of the same length reuses the one freed
    // last.
    let other = pages.alloc_run(4).unwrap();
    assert_eq!((other.resident(), pages.cached_pages()), (0, 7));
    let again = pages.alloc_run(5).unwrap();
    assert_eq!((again.base(), again.resident()), (second_base, 0b1_1111));
    assert_eq!(pages.cached_pages(), 2);
    let again = pages.alloc_run(5).unwrap();
    assert_eq!((again.base(), again.resident()), (first_base, 0b0_0110));
    assert_eq!(page(&pages, &again, 2)[0], 7);
    assert_eq!(pages.cached_pages(), 0);
    assert_eq!(resident_bytes(&pages), 7 * pages.page_size());
}

#[test]
fn an_untouched_run_goes_back_cold() {
    let pages = MmapPages::new();
    let run = pages.alloc_run(3).unwrap();
    let base = run.base();
    free(&pages, run);
    assert_eq!(pages.cached_pages(), 0);
    // The slot is free again, and its block now serves another length.
    let run = pages.alloc_run(16).unwrap();
    assert_eq!((run.base(), run.resident()), (base, 0));
}

#[test]
fn the_bound_holds_and_the_surplus_leaves_the_process() {
    for (bound, keep) in [(0, 0), (1, 0), (32, 16), (128, 64), (1000, 936)] {
        let pages = with(MmapOptions::new().cache_pages(bound));
        let runs: Vec<PageRun> = (0..700).map(|n| touched(&pages, n % 3 + 1, 1)).collect();
        let mut in_use: usize = runs.iter().map(PageRun::pages).sum();
        assert_eq!(resident_bytes(&pages), in_use * pages.page_size());
        let mut fullest = 0;
        let mut leanest = usize::MAX;
        for run in runs {
            in_use -= run.pages();
            let before = pages.cached_pages();
            let grown = before + run.pages();
            free(&pages, run);
            let cached = pages.cached_pages();
            assert!(cached <= bound);
            fullest = fullest.max(cached);
            if cached < grown {
                // A batch left, and not more than necessary.
                assert!(
                    cached + MAX_RUN_PAGES > keep
                        && cached <= keep.max(grown.saturating_sub(BATCH_RUNS))
                );
                leanest = leanest.min(cached);
                assert_eq!(resident_bytes(&pages), (in_use + cached) * pages.page_size());
            }
        }
        assert!(leanest <= keep, "no batch ever left");
        assert!(fullest + 2 >= bound, "the cache never fills to its bound");
        let cached = pages.cached_pages();
        assert_eq!(resident_bytes(&pages), cached * pages.page_size());
        assert_eq!(pages.trim(), cached);
        assert_eq!((pages.cached_pages(), resident_bytes(&pages)), (0, 0));
    }
}

#[test]
fn pages_on_their_way_out_are_counted_and_their_slots_taken() {
    let pages = MmapPages::new();
    let run = touched(&pages, 3, 1);
    let base = run.base();
    free(&pages, run);
    let mut state = pages.lock();
    let batch = state.leave(0, u64::MAX);
    pages.publish(&state);
    drop(state);
    assert_eq!(pages.cached_pages(), 3);
    let other = pages.alloc_run(3).unwrap();
    assert!(other.base() != base, "handed out before its memory had gone");
    assert_eq!(pages.give_back(batch), 3);
    assert_eq!((pages.cached_pages(), resident_bytes(&pages)), (0, 0));
    assert_eq!(pages.alloc_run(3).unwrap().base(), base);
}

#[test]
fn discard_gives_back_just_those_pages() {
    for page_size in page_sizes() {
        let pages = with(MmapOptions::new().page_size(page_size));
        let mut run = pages.alloc_run(16).unwrap();
        touch(&pages, &mut run, 0..6, 1);
        touch(&pages, &mut run, 9..16, 2);
        discard(&pages, &mut run, 4..11);
        assert_eq!(run.resident(), 0b1111_1000_0000_1111);
        assert_eq!(resident_bytes(&pages), 9 * page_size);
        assert!([0, 1, 2, 3].iter().all(|n| page(&pages, &run, *n).iter().all(|b| *b == 1)));
        assert!((11..16).all(|n| page(&pages, &run, n).iter().all(|b| *b == 2)));
        // A range that lies beyond the run or is reversed does nothing. A range that reaches beyond the
        // run's end stops at the end.
        discard(&pages, &mut run, 16..40);
        #[expect(clippy::reversed_empty_ranges, reason = "that it does nothing is the test")]
        discard(&pages, &mut run, 3..1);
        assert_eq!(run.resident_pages(), 9);
        discard(&pages, &mut run, 15..usize::MAX);
        assert_eq!((run.resident_pages(), resident_bytes(&pages)), (8, 8 * page_size));
        assert_eq!(pages.cached_pages(), 0);
        free(&pages, run);
        assert_eq!(pages.cached_pages(), 8);
    }
}

#[test]
fn zero_on_free_clears_what_is_kept_warm() {
    for zero in [false, true] {
        let pages = with(MmapOptions::new().zero_on_free(zero));
        let mut run = pages.alloc_run(4).unwrap();
        touch(&pages, &mut run, 0..1, 0xAA);
        touch(&pages, &mut run, 3..4, 0xAA);
        let base = run.base();
        free(&pages, run);
        // Zeroing a run makes no other page resident.
        assert_eq!(resident_bytes(&pages), 2 * pages.page_size());
        let run = pages.alloc_run(4).unwrap();
        assert_eq!((run.base(), run.resident()), (base, 0b1001));
        let left = if zero { 0 } else { 0xAA };
        for n in [0, 3] {
            assert!(page(&pages, &run, n).iter().all(|b| *b == left), "zero_on_free {zero}");
        }
    }
}

#[test]
fn emptied_blocks_serve_other_lengths() {
    let pages = MmapPages::new();
    let mut rng = Rng::new(17);
    for cycle in 0..1000 {
        let length = cycle % MAX_RUN_PAGES + 1;
        // Allocates enough runs for three blocks, and touches only a few of them.
        let count = 3 * BLOCK_BYTES / (length * pages.page_size());
        let mut runs: Vec<PageRun> = (0..count).map(|_| pages.alloc_run(length).unwrap()).collect();
        for _ in 0..20 {
            let at = rng.below(count);
            touch(&pages, &mut runs[at], 0..1, 1);
        }
        for run in runs {
            free(&pages, run);
        }
    }
    assert_eq!(pages.regions().len(), 1, "a block was not reused");
}

/// Allocates, touches, discards and frees runs in random order, and frees all of them at the end. If
/// `check_every` is not 0, compares the provider's counts with the system's once every `check_every`
/// rounds.
fn random_traffic(pages: &MmapPages, seed: u64, rounds: usize, check_every: usize) {
    let mut rng = Rng::new(seed);
    let mut held: Vec<PageRun> = Vec::new();
    for round in 0..rounds {
        match rng.below(8) {
            0..=2 => held.push(pages.alloc_run(rng.below(MAX_RUN_PAGES) + 1).unwrap()),
            3..=4 if !held.is_empty() => {
                let at = rng.below(held.len());
                let from = rng.below(held[at].pages());
                let to = from + rng.below(held[at].pages() - from) + 1;
                touch(pages, &mut held[at], from..to, round as u8);
            }
            5 if !held.is_empty() => {
                let at = rng.below(held.len());
                let from = rng.below(MAX_RUN_PAGES);
                discard(pages, &mut held[at], from..from + rng.below(4));
            }
            _ if !held.is_empty() => {
                let run = held.swap_remove(rng.below(held.len()));
                free(pages, run);
            }
            _ => {}
        }
        if check_every != 0 && round % check_every == 0 {
            let in_use: usize = held.iter().map(PageRun::resident_pages).sum();
            let counted = (in_use + pages.cached_pages()) * pages.page_size();
            assert_eq!(resident_bytes(pages), counted, "round {round}");
        }
    }
    held.into_iter().for_each(|run| free(pages, run));
}

#[test]
fn the_counts_are_the_systems_after_any_traffic() {
    for page_size in page_sizes() {
        let pages = with(MmapOptions::new().page_size(page_size).cache_pages(60));
        random_traffic(&pages, page_size as u64, 6000, 50);
        assert_eq!(resident_bytes(&pages), pages.cached_pages() * page_size);
        pages.trim();
        assert_eq!(resident_bytes(&pages), 0);
    }
}

#[test]
fn the_counts_are_the_systems_after_concurrent_traffic() {
    let pages = with(MmapOptions::new().cache_pages(100));
    thread::scope(|scope| {
        for seed in 0..4 {
            let pages = &pages;
            scope.spawn(move || random_traffic(pages, seed, 8000, 0));
        }
        scope.spawn(|| (0..200).map(|_| pages.trim()).sum::<usize>());
    });
    assert!(pages.cached_pages() <= 100);
    assert_eq!(resident_bytes(&pages), pages.cached_pages() * pages.page_size());
}

#[test]
fn no_thread_sees_anothers_writes_or_loses_its_own() {
    // With a bound of 0, every free makes a system call. Meanwhile, no other thread may get the slot that
    // is being freed.
    for bound in [0, 24] {
        let pages = with(MmapOptions::new().cache_pages(bound));
        thread::scope(|scope| {
            for id in 0..4u8 {
                let pages = &pages;
                scope.spawn(move || {
                    let mut rng = Rng::new(u64::from(id) + 100);
                    let mut held: Vec<(PageRun, u8)> = Vec::new();
                    for round in 0..6000 {
                        if held.len() < 6 || rng.below(2) == 0 && held.len() < 12 {
                            let fill = id << 6 | (round % 64) as u8;
                            // There are only two lengths, so that the threads compete for the same slots.
                            held.push((touched(pages, rng.below(2) + 1, fill), fill));
                        } else {
                            let (run, fill) = held.swap_remove(rng.below(held.len()));
                            for n in 0..run.pages() {
                                assert!(page(pages, &run, n).iter().all(|b| *b == fill));
                            }
                            free(pages, run);
                        }
                    }
                    held.into_iter().for_each(|(run, _)| free(pages, run));
                });
            }
        });
        assert!(pages.cached_pages() <= bound);
        pages.trim();
        assert_eq!((pages.cached_pages(), resident_bytes(&pages)), (0, 0));
    }
}

#[test]
fn threads_that_need_a_region_at_once_keep_one() {
    for _ in 0..50 {
        let pages = MmapPages::new();
        let barrier = Barrier::new(4);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    barrier.wait();
                    let run = pages.alloc_run(2).unwrap();
                    free(&pages, run);
                });
            }
        });
        assert_eq!(pages.regions().len(), 1);
    }
}

/// Returns the flags of the mapping at an address, or `None` if nothing is mapped there.
fn flags_at(address: usize) -> Option<Vec<String>> {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in smaps.lines() {
        let range = line.split(' ').next().and_then(|word| word.split_once('-'));
        if let Some((start, end)) = range {
            let number = |hex| usize::from_str_radix(hex, 16).unwrap();
            inside = (number(start)..number(end)).contains(&address);
        } else if let (true, Some(flags)) = (inside, line.strip_prefix("VmFlags: ")) {
            return Some(flags.split_whitespace().map(str::to_owned).collect());
        }
    }
    None
}

#[test]
fn options_reach_the_system_and_drop_unmaps() {
    let all = ["nh", "hg", "dc", "dd"];
    let seen = |options: MmapOptions| {
        let pages = with(options);
        free(&pages, touched(&pages, 1, 1));
        let (start, len) = pages.regions()[0];
        let flags = flags_at(start).unwrap();
        assert_eq!(flags_at(start + len - 1).unwrap(), flags);
        let seen = all.map(|flag| flags.iter().any(|f| f == flag));
        (seen, start, pages)
    };
    // On a kernel without huge pages, the first two flags are never set.
    let (plain, ..) = seen(MmapOptions::new());
    let thp = fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap();
    assert_eq!(plain, [thp, false, false, false]);
    let (huge, ..) = seen(MmapOptions::new().huge_pages(true));
    assert_eq!(huge, [false, thp, false, false]);
    let (fork, ..) = seen(MmapOptions::new().dont_fork(true));
    assert_eq!(fork, [thp, false, true, false]);
    let (dump, ..) = seen(MmapOptions::new().dont_dump(true));
    assert_eq!(dump, [thp, false, false, true]);

    // No other test makes mappings with both flags. So if the drop has unmapped the region, no mapping at
    // this address has both.
    let (both, start, pages) = seen(MmapOptions::new().dont_fork(true).dont_dump(true));
    assert_eq!(both, [thp, false, true, true]);
    drop(pages);
    let left = flags_at(start).unwrap_or_default();
    assert!(!left.iter().any(|f| f == "dc") || !left.iter().any(|f| f == "dd"), "{left:?}");
}

#[test]
fn metadata_is_small_and_counted() {
    let pages = MmapPages::new();
    let bare = pages.metadata_bytes();
    assert!(bare >= size_of::<MmapPages>());
    let count = (68 << 20) / (16 * pages.page_size());
    let runs: Vec<PageRun> = (0..count).map(|_| pages.alloc_run(16).unwrap()).collect();
    assert_eq!(pages.regions().len(), 2);
    let more = pages.metadata_bytes() - bare;
    assert!(more >= pages.regions().iter().map(|(_, len)| len / BLOCK_BYTES * 64).sum());
    assert!(more < 16 * 1024, "{more} bytes for 128 MiB");
    runs.into_iter().for_each(|run| free(&pages, run));
}

/// The number of slots for runs of 16 pages in a block.
const LONG: usize = BLOCK_BYTES / (16 * 4096);

/// Fills three blocks with runs of 16 pages, and touches the first page of each run. Then frees every
/// second run of the first two blocks. Also frees all runs of the third block except its last two. Returns
/// the runs that stay; those of the third block are last.
fn sparse_third_block(provider: &MmapPages) -> Vec<PageRun> {
    let mut runs: Vec<PageRun> = (0..3 * LONG)
        .map(|n| {
            let mut run = provider.alloc_run(16).unwrap();
            touch(provider, &mut run, 0..1, n as u8);
            run
        })
        .collect();
    let mut stay = Vec::new();
    for (n, run) in runs.drain(..).enumerate() {
        if n < 2 * LONG && n % 2 == 0 || n >= 3 * LONG - 2 {
            stay.push(run);
        } else {
            free(provider, run);
        }
    }
    stay
}

fn four_kib() -> MmapPages {
    with(MmapOptions::new().page_size(4096))
}

#[test]
fn the_emptiest_block_is_emptied_and_given_back_whole() {
    if mapping::system_page_size() != 4096 {
        return;
    }
    let provider = four_kib();
    let mut runs = sparse_third_block(&provider);
    let block = provider.isolate_block().unwrap();
    assert_eq!(provider.cached_pages(), 0);
    assert!(provider.isolate_block().is_none(), "a second block was isolated");
    assert_eq!(block.bytes(), BLOCK_BYTES);
    let inside = |run: &PageRun| block.range().contains(&run.base().addr().get());
    assert_eq!(runs.iter().map(inside).filter(|inside| *inside).count(), 2);
    assert!(inside(&runs[runs.len() - 1]) && inside(&runs[runs.len() - 2]));

    // Runs that are allocated now come from other blocks, whether warm or cold.
    let others: Vec<PageRun> = (0..LONG).map(|_| provider.alloc_run(16).unwrap()).collect();
    assert!(!others.iter().any(inside));
    others.into_iter().for_each(|run| free(&provider, run));

    let before = resident_bytes(&provider);
    let cached = provider.cached_pages();
    for _ in 0..2 {
        free(&provider, runs.pop().unwrap());
    }
    assert_eq!(provider.cached_pages(), cached + 2);
    assert_eq!(resident_bytes(&provider), before, "nothing returns before all runs are gathered");
    assert!(provider.putback_block(block));
    assert_eq!(resident_bytes(&provider), before - 2 * 4096);
    assert_eq!(provider.cached_pages() * 4096 + runs.len() * 4096, resident_bytes(&provider));

    // The block is usable again, even for another length.
    let single = touched(&provider, 1, 7);
    assert!(page(&provider, &single, 0).iter().all(|byte| *byte == 7));
    free(&provider, single);
    for run in runs {
        free(&provider, run);
    }
    provider.trim();
    assert_eq!((provider.cached_pages(), resident_bytes(&provider)), (0, 0));
}

#[test]
fn a_block_that_is_not_empty_goes_back_into_use_as_it_was() {
    if mapping::system_page_size() != 4096 {
        return;
    }
    let provider = four_kib();
    let mut runs = sparse_third_block(&provider);
    let block = provider.isolate_block().unwrap();
    let before = resident_bytes(&provider);
    let range = block.range();
    free(&provider, runs.pop().unwrap());
    let foreign = four_kib();
    assert!(!foreign.putback_block(PageBlock::new(range.start, BLOCK_BYTES)));
    assert!(!provider.putback_block(PageBlock::new(range.start + 4096, BLOCK_BYTES)));
    assert!(!provider.putback_block(block));
    assert_eq!(resident_bytes(&provider), before);
    assert_eq!(page(&provider, &runs[runs.len() - 1], 0)[0], (3 * LONG - 2) as u8);
    // The runs that were gathered from the block are warm again and are reused.
    let again: Vec<PageRun> = (0..2 * LONG - 1).map(|_| provider.alloc_run(16).unwrap()).collect();
    let inside = again.iter().filter(|run| range.contains(&run.base().addr().get())).count();
    assert_eq!(inside, LONG - 1);
    assert_eq!(
        again.iter().map(PageRun::resident_pages).sum::<usize>(),
        1,
        "the one freed meanwhile"
    );
    for run in runs.into_iter().chain(again) {
        free(&provider, run);
    }
    provider.trim();
    assert_eq!((provider.cached_pages(), resident_bytes(&provider)), (0, 0));
}

#[test]
fn no_block_is_isolated_when_its_runs_would_not_fit_elsewhere() {
    let provider = MmapPages::new();
    assert!(provider.isolate_block().is_none());
    let run = touched(&provider, 3, 1);
    let other = touched(&provider, 2, 1);
    assert!(provider.isolate_block().is_none(), "the only blocks of their lengths");
    free(&provider, run);
    free(&provider, other);
}

#[test]
fn a_block_gathers_its_own_runs_only() {
    if mapping::system_page_size() != 4096 {
        return;
    }
    let provider = four_kib();
    let mut runs = sparse_third_block(&provider);
    let block = provider.isolate_block().unwrap();
    // Frees two runs of other blocks. The isolated block has as many runs in use.
    let inside = runs.split_off(runs.len() - 2);
    let outside = runs.split_off(runs.len() - 2);
    let places: Vec<_> = outside.iter().map(PageRun::base).collect();
    outside.into_iter().for_each(|run| free(&provider, run));
    assert_eq!(provider.cached_pages(), 2);
    // These two runs are warm, so they are reused first.
    let again: Vec<PageRun> = (0..2).map(|_| provider.alloc_run(16).unwrap()).collect();
    assert!(again.iter().all(|run| places.contains(&run.base()) && run.resident() == 1));
    again.into_iter().for_each(|run| free(&provider, run));
    assert!(!provider.putback_block(block), "two runs of it are in use");
    for (n, run) in inside.iter().enumerate() {
        let fill = (3 * LONG - 2 + n) as u8;
        assert!(
            page(&provider, run, 0).iter().all(|byte| *byte == fill),
            "a live run lost its memory"
        );
    }
    runs.into_iter().chain(inside).for_each(|run| free(&provider, run));
    provider.trim();
    assert_eq!((provider.cached_pages(), resident_bytes(&provider)), (0, 0));
}

/// Runs without memory skip the cache, so their slots are free at once. But while their block is isolated,
/// these slots are not used for new runs.
#[test]
fn cold_runs_of_an_isolated_block_are_not_handed_out() {
    if mapping::system_page_size() != 4096 {
        return;
    }
    for all in [false, true] {
        let provider = four_kib();
        // In two blocks every second slot is free, and in a third block two slots are taken. No page is
        // touched.
        let mut runs: Vec<PageRun> =
            (0..2 * LONG + 2).map(|_| provider.alloc_run(16).unwrap()).collect();
        let third = runs.split_off(2 * LONG);
        let (mut stay, go): (Vec<_>, Vec<_>) =
            runs.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
        go.into_iter().for_each(|(_, run)| free(&provider, run));
        let block = provider.isolate_block().unwrap();
        let inside = |run: &PageRun| block.range().contains(&run.base().addr().get());
        assert!(third.iter().all(inside));
        let mut third = third.into_iter();
        free(&provider, third.next().unwrap());
        if all {
            // This frees the last run of the block. The empty block does not begin to serve another length,
            // either.
            free(&provider, third.next().unwrap());
        }
        // Allocates more runs than fit into the first two blocks, and a run of a length that needs a new
        // block.
        let mut more: Vec<PageRun> =
            (0..2 * LONG).map(|_| provider.alloc_run(16).unwrap()).collect();
        more.push(provider.alloc_run(3).unwrap());
        assert!(!more.iter().any(inside), "handed out while its block was isolated");
        assert_eq!(provider.putback_block(block), all);
        stay.extend(more.into_iter().chain(third).map(|run| (0, run)));
        stay.into_iter().for_each(|(_, run)| free(&provider, run));
        // Every slot of the only region is available again.
        let blocks = provider.regions()[0].1 / BLOCK_BYTES;
        let runs: Vec<PageRun> =
            (0..blocks * LONG).map(|_| provider.alloc_run(16).unwrap()).collect();
        assert_eq!(provider.regions().len(), 1);
        runs.into_iter().for_each(|run| free(&provider, run));
    }
}

/// Anybody can make a `PageBlock`. Putting one back changes nothing if the provider did not return it, or
/// if it was put back before.
#[test]
fn made_up_foreign_and_stale_blocks_change_nothing() {
    if mapping::system_page_size() != 4096 {
        return;
    }
    let (provider, other) = (four_kib(), four_kib());
    let mut runs = sparse_third_block(&provider);
    let foreign_runs = sparse_third_block(&other);
    let foreign = other.isolate_block().unwrap();
    assert!(!provider.putback_block(PageBlock::new(0, 0)), "nothing is isolated");
    let stale = provider.isolate_block().unwrap();
    let twin = || PageBlock::new(stale.range().start, BLOCK_BYTES);
    let ticket = stale.ticket();
    let doubled = || PageBlock::with_ticket(stale.range().start, BLOCK_BYTES, ticket);
    let regions = provider.regions();
    for made_up in [
        twin(),
        PageBlock::new(0, usize::MAX),
        PageBlock::new(usize::MAX, usize::MAX),
        PageBlock::new(regions[0].0, regions[0].1),
        PageBlock::new(stale.range().start + 4096, BLOCK_BYTES),
    ] {
        assert!(!provider.putback_block(made_up));
        assert!(provider.isolate_block().is_none(), "the block is still isolated");
    }
    assert!(!provider.putback_block(doubled()), "two runs of it are in use");
    // The same block is isolated again. The value that was put back belongs to the first isolation, so it
    // does not end the second one.
    let again = provider.isolate_block().unwrap();
    assert_eq!(again.range(), stale.range());
    for made_up in [twin(), doubled()] {
        assert!(!provider.putback_block(made_up));
    }
    assert!(!provider.putback_block(stale));
    assert!(provider.isolate_block().is_none(), "put back by a stale block");
    for run in runs.split_off(runs.len() - 2) {
        free(&provider, run);
    }
    assert!(provider.putback_block(again));
    assert!(!other.putback_block(PageBlock::new(regions[0].0, BLOCK_BYTES)));
    assert!(!other.putback_block(foreign), "two runs of it are in use");
    runs.into_iter().for_each(|run| free(&provider, run));
    foreign_runs.into_iter().for_each(|run| free(&other, run));
    for pages in [provider, other] {
        pages.trim();
        assert_eq!((pages.cached_pages(), resident_bytes(&pages)), (0, 0));
    }
}
