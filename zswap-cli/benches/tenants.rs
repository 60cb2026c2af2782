//! Two tenants of one store, of which one floods: what the other's loads and stores cost.
//!
//! The quiet tenant loads random pages of its own, and replaces every eighth that it visits. The loud one stores
//! without end, so that most of its pages go to the device. Four rounds take turns: the quiet tenant alone; with the
//! loud one in another area of the same store; with the loud one in a store of its own, which shows what the
//! processor's caches and memory cost; and with both in the shared area, as without areas.
//! `cargo xtask bench --tenants` runs it on the corpus.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench: what it cannot set up it cannot measure, and what it prints is its purpose"
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use measure::{PageSet, Pinned, Processors, SplitMix};
use zswap_core::device::MemorySwapDevice;
use zswap_core::{AreaSettings, PAGE_SIZE, Page, SwapEntry, Zswap};

#[derive(Parser)]
struct Args {
    /// Zstd-compressed files of raw 4096-byte pages. Default: the built-in sample.
    #[arg(long, num_args = 0..)]
    pages: Vec<PathBuf>,
    /// Seconds for each of the four ways.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// `cargo bench` passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Rounds for each way.
const ROUNDS: u32 = 15;
/// The quiet tenant's pages.
const QUIET_PAGES: u64 = 4096;
/// The loud tenant's entries: four times what its limit holds.
const LOUD_PAGES: u64 = 16384;
/// The limit of each area; the store has the double.
const LIMIT: usize = 8 << 20;

const QUIET: u8 = 1;
const LOUD: u8 = 2;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Alone,
    AreaBeside,
    StoreBeside,
    SharedArea,
}

const WAYS: [(Way, &str); 4] = [
    (Way::Alone, "alone"),
    (Way::AreaBeside, "the loud one in another area"),
    (Way::StoreBeside, "the loud one in another store"),
    (Way::SharedArea, "both in one area"),
];

struct Bench {
    pages: Vec<Page>,
    processors: Processors,
}

fn entry(area: u8, n: u64) -> SwapEntry {
    SwapEntry::new(area, n).unwrap()
}

fn store() -> Zswap {
    let device = Arc::new(MemorySwapDevice::new(2 * LOUD_PAGES));
    Zswap::builder().max_pool_bytes(2 * LIMIT).swap_device(device).build().unwrap()
}

/// Times in nanoseconds of one round, by kind, and what the loud tenant stored.
#[derive(Default)]
struct Round {
    loads: Vec<f64>,
    stores: Vec<f64>,
    flooded: u64,
    quiet_on_device: usize,
}

impl Bench {
    fn page(&self, area: u8, n: u64) -> &Page {
        &self.pages[(n as usize * 7 + usize::from(area)) % self.pages.len()]
    }

    /// Runs one round on fresh stores.
    fn round(&self, way: Way, time: Duration) -> Round {
        let shared = store();
        let own = store();
        let loud_store = if way == Way::StoreBeside { &own } else { &shared };
        if way != Way::SharedArea {
            for (store, area) in [(&shared, QUIET), (loud_store, LOUD)] {
                let settings = AreaSettings::default().max_pool_bytes(LIMIT);
                store.add_area(area, settings).unwrap();
            }
        }
        for n in 0..QUIET_PAGES {
            shared.store(entry(QUIET, n), self.page(QUIET, n)).unwrap();
        }
        if way != Way::Alone {
            for n in 0..LOUD_PAGES {
                loud_store.store(entry(LOUD, n), self.page(LOUD, n)).unwrap();
            }
        }
        let (stop, flooded) = (&AtomicBool::new(false), &AtomicU64::new(0));
        let mut round = Round::default();
        thread::scope(|scope| {
            if way != Way::Alone {
                scope.spawn(|| {
                    let _pinned = Pinned::to_nth(&self.processors, 1);
                    let mut rng = SplitMix(2);
                    while !stop.load(SeqCst) {
                        let n = rng.below(LOUD_PAGES as usize) as u64;
                        loud_store.store(entry(LOUD, n), self.page(LOUD, n + 1)).unwrap();
                        flooded.fetch_add(1, SeqCst);
                    }
                });
            }
            let _pinned = Pinned::to_nth(&self.processors, 0);
            let (mut rng, mut page) = (SplitMix(1), [0; PAGE_SIZE]);
            let begun = Instant::now();
            while begun.elapsed() < time {
                let n = rng.below(QUIET_PAGES as usize) as u64;
                let at = Instant::now();
                shared.load(entry(QUIET, n), &mut page).unwrap();
                round.loads.push(at.elapsed().as_nanos() as f64);
                if rng.below(8) == 0 {
                    let new = self.page(QUIET, n);
                    let at = Instant::now();
                    shared.store(entry(QUIET, n), new).unwrap();
                    round.stores.push(at.elapsed().as_nanos() as f64);
                }
            }
            stop.store(true, SeqCst);
        });
        round.flooded = flooded.load(SeqCst);
        round.quiet_on_device = shared
            .area(QUIET)
            .map_or_else(|| shared.stats().device_pages, |area| area.stats().device_pages);
        round.loads.sort_unstable_by(f64::total_cmp);
        round.stores.sort_unstable_by(f64::total_cmp);
        round
    }
}

/// Returns mean, p50, p99 and p99.9 of sorted times.
fn figures(sorted: &[f64]) -> [f64; 4] {
    let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part) as usize];
    [sorted.iter().sum::<f64>() / sorted.len() as f64, at(0.5), at(0.99), at(0.999)]
}

fn main() {
    let args = Args::parse();
    let set = PageSet::load(&args.pages, u64::MAX).unwrap();
    // Spread evenly over all files.
    let step = set.timed().len().div_ceil(LOUD_PAGES as usize).max(1);
    let pages = set.timed().iter().step_by(step).map(|&n| set.pages()[n]).collect();
    let bench = Bench { pages, processors: Processors::allowed() };
    let time = Duration::from_secs_f64(args.seconds / f64::from(ROUNDS));
    // For each way and kind, the figures of each round.
    let mut all: Vec<[Vec<[f64; 4]>; 2]> = vec![Default::default(); WAYS.len()];
    let mut notes = vec![(0, 0); WAYS.len()];
    for _ in 0..ROUNDS {
        for (at, (way, _)) in WAYS.into_iter().enumerate() {
            let round = bench.round(way, time);
            all[at][0].push(figures(&round.loads));
            all[at][1].push(figures(&round.stores));
            notes[at] = (notes[at].0 + round.flooded, round.quiet_on_device);
        }
    }
    println!(
        "\n{} distinct pages of {}; {ROUNDS} rounds each, in turns\n",
        bench.pages.len(),
        set.origin()
    );
    println!(
        "| the quiet tenant | call | mean | p50 | p99 | p99.9 | loud stores a second | its pages on the device |"
    );
    println!("|:--|:--|--:|--:|--:|--:|--:|--:|");
    for (at, (_, name)) in WAYS.iter().enumerate() {
        for (kind, call) in ["load", "store"].into_iter().enumerate() {
            // The ratio of each round to the round alone that came just before, in the middle of all rounds.
            let ratio = |figure: usize| {
                let alone = all[0][kind].iter();
                let ratios =
                    all[at][kind].iter().zip(alone).map(|(now, alone)| now[figure] / alone[figure]);
                measure::median(ratios.collect::<Vec<_>>()).unwrap()
            };
            let [mean, p50, p99, p999] = [0, 1, 2, 3].map(ratio);
            let (flooded, on_device) = notes[at];
            println!(
                "| {name} | {call} | {mean:.2} | {p50:.2} | {p99:.2} | {p999:.2} | {:.0} | {on_device} |",
                flooded as f64 / args.seconds
            );
        }
    }
}
