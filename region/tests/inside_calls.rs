//! Faults inside other calls of the workspace: evicted pages are the sources and targets of stores, disks and codecs,
//! whose contexts are in use at that moment, and the handler itself has to decompress, to make room and to compress.
#![cfg(all(target_os = "linux", not(miri), not(loom)))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "memory of a region as pages; a failure in a test's helper is the test's own message"
)]

mod common;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use common::*;
use compressors::AcompEngine;
use zram::Zram;
use zswap_core::{PAGE_SIZE, Page, SwapEntry, Zswap};
use zswap_region::{BackendKind, CleanPages, Region};

const PAGES: usize = 512;
const LEN: usize = PAGES * PAGE_SIZE;
const HALF: usize = PAGES / 2;
const CODECS: [&str; 4] = ["lz4", "zstd", "linewords", "deflate"];

/// A region whose store uses the codec. Few of its pages can be resident, and all that room is used: each fault has to
/// evict, and all that leaves is compressed by the thread that faults.
fn region_of(kind: BackendKind, codec: &str, seed: u64) -> (Region, Vec<u8>) {
    let store = Zswap::builder().compressor(codec);
    let builder = Region::builder().capacity(LEN).resident_bytes(FEW * PAGE_SIZE).backend(kind);
    let builder = builder.background(false).fault_around(false).limbo_percent(1).store(store);
    let region = build(builder.clean_pages(CleanPages::Never));
    let held = fill(&region, seed);
    (region, held)
}

/// Runs a test for all backends and codecs: alone, so that each fault has to make room itself, and beside an evictor that
/// takes pages away in the middle of calls. The region's faults were inside of the calls, and its pages are right.
fn each(run: impl Fn(&str, &Region, &mut Vec<u8>)) {
    for (kind, evictor) in kinds().into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        for codec in CODECS {
            let what = format!("{kind:?} {codec}, evictor {evictor}");
            let (region, mut held) = region_of(kind, codec, 10_000);
            let before = (region.stats().direct_reclaims, faults(&region));
            if evictor {
                while_evicting(&region, || run(codec, &region, &mut held));
            } else {
                run(codec, &region, &mut held);
            }
            let after = (region.stats().direct_reclaims, faults(&region));
            assert!(evictor || after.0 > before.0, "{what}: {after:?}");
            assert!(after.1 > before.1 + HALF as u64, "{what}: {after:?}");
            same(&region, &held, &what);
        }
    }
}

fn entry(n: usize) -> SwapEntry {
    SwapEntry::new(0, n as u64).unwrap()
}

/// Lends a page of the region to a call.
fn page_of(region: &Region, n: usize) -> &Page {
    assert!(n < PAGES);
    // SAFETY: the page is in the region, any bytes are a page, and nothing writes it while the test lends it.
    unsafe { &*at(region, n * PAGE_SIZE).cast() }
}

/// Lends pages of the region to a call that writes them.
#[expect(clippy::mut_from_ref, reason = "the region's memory is not part of the region's value")]
fn pages_of(region: &Region, n: usize, count: usize) -> &mut [Page] {
    assert!(n + count <= PAGES);
    // SAFETY: as above, and nothing else uses them meanwhile: each thread of a test has pages of its own.
    unsafe { std::slice::from_raw_parts_mut(at(region, n * PAGE_SIZE).cast(), count) }
}

/// Makes sure that some pages are not there, just before a call is to find them so.
fn take_away(region: &Region, n: usize, count: usize) {
    freeze(region, n * PAGE_SIZE..(n + count) * PAGE_SIZE);
}

/// A store with the same codec, all of whose contexts the calls below need.
fn other(codec: &str) -> Zswap {
    Zswap::builder().compressor(codec).checksums(true).build().unwrap()
}

fn copy_page(held: &mut [u8], from: usize, to: usize) {
    held.copy_within(from * PAGE_SIZE..(from + 1) * PAGE_SIZE, to * PAGE_SIZE);
}

#[test]
fn stores_and_loads() {
    each(|codec, region, held| {
        let other = other(codec);
        for n in 0..HALF {
            take_away(region, n, 1);
            other.store(entry(n), page_of(region, n)).unwrap();
            // Another source for the same entry, and back again.
            take_away(region, HALF - 1 - n, 1);
            other.try_replace(entry(n), page_of(region, HALF - 1 - n)).unwrap();
        }
        for n in 0..HALF {
            take_away(region, HALF + n, 1);
            let target = &mut pages_of(region, HALF + n, 1)[0];
            if n % 2 == 0 {
                other.load(entry(n), target).unwrap();
            } else {
                other.take(entry(n), target).unwrap();
            }
            copy_page(held, HALF - 1 - n, HALF + n);
        }
        assert_eq!(other.len(), HALF / 2);
    });
}

#[test]
fn batches() {
    for engine in [false, true] {
        each(|codec, region, held| {
            let builder = Zswap::builder().compressor(codec).checksums(true);
            let builder = if engine {
                builder.acomp(Arc::new(AcompEngine::new(2, 4).unwrap()))
            } else {
                builder
            };
            let other = builder.build().unwrap();
            const BATCH: usize = 8;
            for first in (0..HALF).step_by(BATCH) {
                take_away(region, first, BATCH);
                let batch: Vec<_> =
                    (first..first + BATCH).map(|n| (entry(n), page_of(region, n))).collect();
                assert!(other.store_batch(&batch).unwrap().into_iter().all(|done| done.is_ok()));
                let entries: Vec<_> = batch.iter().map(|(entry, _)| *entry).collect();
                take_away(region, HALF + first, BATCH);
                let room = pages_of(region, HALF + first, BATCH);
                assert!(
                    other.load_batch(&entries, room).unwrap().into_iter().all(|done| done.is_ok())
                );
                (first..first + BATCH).for_each(|n| copy_page(held, n, HALF + n));
            }
        });
    }
}

#[test]
fn disks() {
    each(|codec, region, held| {
        let disk = Zram::builder().disksize(LEN as u64).algorithm(codec).build().unwrap();
        let mut mirror = vec![0; LEN];
        let mut dice = Dice::new(5);
        for n in 0..HALF {
            let page = n * PAGE_SIZE;
            take_away(region, n, 1);
            disk.write(page as u64, page_of(region, n)).unwrap();
            mirror[page..page + PAGE_SIZE].copy_from_slice(&held[page..page + PAGE_SIZE]);
            // A part of a page on the disk, or of several, from a part of some in the region.
            let from = dice.range(LEN / 2);
            let to = dice.below(LEN - from.len());
            take_away(region, from.start / PAGE_SIZE, 1);
            let source = &pages_of(region, 0, HALF).as_flattened()[from.clone()];
            disk.write(to as u64, source).unwrap();
            mirror[to..to + from.len()].copy_from_slice(&held[from]);
        }
        for n in HALF..PAGES {
            let page = n * PAGE_SIZE;
            take_away(region, n, 1);
            disk.read(page as u64, &mut pages_of(region, n, 1)[0]).unwrap();
            held[page..page + PAGE_SIZE].copy_from_slice(&mirror[page..page + PAGE_SIZE]);
            let to = dice.range(LEN / 2);
            let from = dice.below(LEN - to.len());
            take_away(region, HALF + to.start / PAGE_SIZE, 1);
            let target = &mut pages_of(region, HALF, HALF).as_flattened_mut()[to.clone()];
            disk.read(from as u64, target).unwrap();
            held[LEN / 2 + to.start..LEN / 2 + to.end]
                .copy_from_slice(&mirror[from..from + to.len()]);
        }
    });
}

#[test]
fn codecs() {
    each(|codec, region, held| {
        let codec = compressors::build(codec).unwrap();
        let mut context = codec.new_ctx().unwrap();
        let stateless = codec.stateless();
        // The compressed form needs two pages of the region, before the last page.
        let (packed, back) = (PAGES - 3, PAGES - 1);
        let mut two = codec.new_ctx().unwrap();
        for n in 0..HALF + 20 {
            take_away(region, n, 1);
            take_away(region, packed, 2);
            let room = pages_of(region, packed, 2).as_flattened_mut();
            let len = context.compress(page_of(region, n), room).unwrap();
            let plain = room[..len].to_vec();
            // The same from ordinary memory: the fault has not disturbed the context.
            let mut expected = vec![0; 2 * PAGE_SIZE];
            let wanted = two.compress(&held[n * PAGE_SIZE..][..PAGE_SIZE], &mut expected).unwrap();
            assert!(plain == expected[..wanted], "page {n}");
            take_away(region, packed, 2);
            take_away(region, back, 1);
            let target = &mut pages_of(region, back, 1)[0];
            let source = &room[..len];
            match stateless {
                Some(stateless) if n % 2 == 0 => stateless.decompress(source, target).unwrap(),
                _ => context.decompress(source, target).unwrap(),
            }
            assert!(target[..] == held[n * PAGE_SIZE..][..PAGE_SIZE], "page {n}");
        }
        let len = 3 * PAGE_SIZE;
        let left = get(region, LEN - len, len);
        held[LEN - len..].copy_from_slice(&left);
    });
}

/// Several threads use one store, so that some of its contexts are held by threads in the middle of a fault.
#[test]
fn on_several_threads() {
    const THREADS: usize = 4;
    each(|codec, region, held| {
        let other = other(codec);
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let other = &other;
                scope.spawn(move || {
                    for round in 0..3 {
                        for n in (thread..HALF).step_by(THREADS) {
                            region.advise_cold(n * PAGE_SIZE..(n + 1) * PAGE_SIZE).unwrap();
                            other.store(entry(n), page_of(region, n)).unwrap();
                            let to = HALF + (n + round * THREADS) % HALF;
                            region.advise_cold(to * PAGE_SIZE..(to + 1) * PAGE_SIZE).unwrap();
                            other.load(entry(n), &mut pages_of(region, to, 1)[0]).unwrap();
                        }
                    }
                });
            }
        });
        for round in 0..3 {
            (0..HALF).for_each(|n| copy_page(held, n, HALF + (n + round * THREADS) % HALF));
        }
    });
}

/// The region has one budget for all, and its store takes most of it.
#[test]
fn at_the_budget() {
    for kind in kinds() {
        for codec in CODECS {
            let (pages, budget) = (3072, 10 << 20);
            let store = Zswap::builder().compressor(codec);
            let builder =
                Region::builder().capacity(pages * PAGE_SIZE).budget(budget).backend(kind);
            let region = build(builder.background(false).store(store));
            let held = fill(&region, 30_000);
            let other = other(codec);
            let mut dice = Dice::new(3);
            for round in 0..600 {
                let n = dice.below(pages);
                let from = at(&region, n * PAGE_SIZE).cast::<Page>();
                // SAFETY: the page is in the region, and nothing writes it now.
                other.store(entry(round), unsafe { &*from }).unwrap();
                let to = dice.below(pages);
                let target = at(&region, to * PAGE_SIZE).cast::<Page>();
                // SAFETY: as above, and nothing else uses it now.
                other.load(entry(round), unsafe { &mut *target }).unwrap();
                assert!(
                    get(&region, to * PAGE_SIZE, PAGE_SIZE) == held[n * PAGE_SIZE..][..PAGE_SIZE]
                );
                put(&region, to * PAGE_SIZE, &held[to * PAGE_SIZE..][..PAGE_SIZE]);
            }
            let stats = region.stats();
            assert!(stats.memory_bytes <= budget, "{kind:?} {codec}: {stats:?}");
            assert!(stats.direct_reclaims > 0, "{kind:?} {codec}: {stats:?}");
            assert!(faults(&region) > 300, "{kind:?} {codec}: {stats:?}");
            same(&region, &held, &format!("{kind:?} {codec} at the budget"));
        }
    }
}

/// What a thread does when it ends, in the destructor of one of its thread-locals.
struct AtTheEnd {
    region: Arc<Region>,
    other: Arc<Zswap>,
    done: Arc<AtomicUsize>,
    from: usize,
}

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        let region = &*self.region;
        for n in self.from..self.from + 16 {
            take_away(region, n, 1);
            self.other.store(entry(n), page_of(region, n)).unwrap();
            take_away(region, HALF + n, 1);
            self.other.load(entry(n), &mut pages_of(region, HALF + n, 1)[0]).unwrap();
        }
        self.done.fetch_add(1, SeqCst);
    }
}

thread_local! {
    static AT_THE_END: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) };
}

#[test]
fn when_a_thread_ends() {
    for kind in kinds() {
        for codec in CODECS {
            let (region, mut held) = region_of(kind, codec, 40_000);
            let (region, other) = (Arc::new(region), Arc::new(other(codec)));
            let done = Arc::new(AtomicUsize::new(0));
            for (thread, from) in (0..HALF).step_by(16).enumerate() {
                let (region, other, done) = (region.clone(), other.clone(), done.clone());
                let use_it = move |region: &Region, other: &Zswap| {
                    take_away(region, from, 1);
                    other.store(entry(from), page_of(region, from)).unwrap();
                };
                let run = move || {
                    // The order in which thread-locals are first used decides which are gone when this one is dropped.
                    if thread % 2 == 0 {
                        use_it(&region, &other);
                    }
                    let at_the_end =
                        AtTheEnd { region: region.clone(), other: other.clone(), done, from };
                    AT_THE_END.set(Some(at_the_end));
                    if thread % 2 == 1 {
                        use_it(&region, &other);
                    }
                };
                thread::spawn(run).join().unwrap();
            }
            assert_eq!(done.load(SeqCst), HALF / 16, "{kind:?} {codec}");
            (0..HALF).for_each(|n| copy_page(&mut held, n, HALF + n));
            same(&region, &held, &format!("{kind:?} {codec} at the end of threads"));
        }
    }
}

/// The settings of the region's store change while its threads fault inside of calls.
#[test]
fn while_the_codec_changes() {
    for kind in kinds() {
        let (region, held) = region_of(kind, "lz4", 50_000);
        let other = other("zstd");
        thread::scope(|scope| {
            let (region, other) = (&region, &other);
            let worker = scope.spawn(move || {
                for n in (0..PAGES).cycle().take(3 * PAGES) {
                    region.advise_cold(n * PAGE_SIZE..(n + 1) * PAGE_SIZE).unwrap();
                    other.store(entry(n), page_of(region, n)).unwrap();
                }
            });
            for codec in CODECS.into_iter().cycle() {
                region.set_compressor(codec).unwrap();
                thread::yield_now();
                if worker.is_finished() {
                    break;
                }
            }
            worker.join().unwrap();
        });
        same(&region, &held, "after the codec changed");
        let mut back = [0; PAGE_SIZE];
        for n in 0..PAGES {
            other.load(entry(n), &mut back).unwrap();
            assert!(back[..] == held[n * PAGE_SIZE..][..PAGE_SIZE], "page {n}");
        }
    }
}
