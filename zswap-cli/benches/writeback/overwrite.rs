//! Overwrites of a device that is 80 % full of live pages: how much cleaning writes, beside the greedy log.

use std::collections::BTreeSet;
use std::sync::Arc;

use measure::SplitMix;
use zswap_core::device::{Geometry, MemorySwapDevice};
use zswap_core::{Zswap, ZswapStats};

use crate::greedy::{self, Log};
use crate::objects::{Objects, entry};

/// The share of live bytes in the device's capacity.
const LIVE: f64 = 0.8;
/// Overwritten bytes, in capacities.
const TURNS: u64 = 10;
const SEGMENT: usize = 64 << 10;
/// The bytes of an object that is as long as a page, without its line in the directory.
const LARGEST: usize = 4112;
const LINE: usize = 12;

/// What happened to a device.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) segments: usize,
    pub(crate) pages: usize,
    pub(crate) live_share: f64,
    pub(crate) overwrites: u64,
    pub(crate) refusals: u64,
    pub(crate) most_segments: usize,
    /// Bytes written for each new byte of objects.
    pub(crate) store: f64,
    /// Pages that cleaning moved.
    pub(crate) store_moved: u64,
    /// As `store`, of the log that is written like any log.
    pub(crate) greedy: f64,
    pub(crate) greedy_moved: u64,
    /// As `greedy`, if each of the store's segments ends where the store ended it.
    pub(crate) batched: f64,
}

/// A step of the trace.
enum Step {
    /// A page was stored, so its older object is dead.
    Stored(usize),
    /// These pages were written back, in this order, as one segment.
    Written(Vec<usize>),
}

/// The pages in the pool, in the order in which the clock comes to them.
struct Pending {
    pages: BTreeSet<usize>,
    cursor: usize,
}

impl Pending {
    /// Takes the pages that fill a segment, if there are enough.
    fn full_segment(&mut self, len: impl Fn(usize) -> usize) -> Option<Vec<usize>> {
        let (mut end, mut taken) = (0, Vec::new());
        for &n in self.pages.range(self.cursor..).chain(self.pages.range(..self.cursor)) {
            end += greedy::cost(len(n)) - LINE;
            taken.push(n);
            if end + LARGEST + (taken.len() + 1) * LINE + greedy::OF_SEGMENT > SEGMENT {
                self.take(&taken);
                return Some(taken);
            }
        }
        None
    }

    fn take(&mut self, taken: &[usize]) {
        taken.iter().for_each(|n| _ = self.pages.remove(n));
        self.cursor = taken.last().map_or(self.cursor, |last| last + 1);
    }
}

pub(crate) fn measure(objects: &Objects) -> Outcome {
    let len = |n: usize| objects.objects[n].len();
    let cost = |n: usize| greedy::cost(len(n));
    let all: usize = (0..objects.len()).map(cost).sum();
    let segments = (all as f64 / LIVE / SEGMENT as f64) as usize;
    let capacity = segments * SEGMENT;
    let mut live = 0;
    let pages = (0..objects.len())
        .take_while(|&n| {
            live += cost(n);
            live as f64 <= LIVE * capacity as f64
        })
        .count();
    let live: usize = (0..pages).map(cost).sum();

    let geometry = Geometry { segments: segments as u64, segment_bytes: SEGMENT, block_bytes: 1 };
    let device = Arc::new(MemorySwapDevice::with_geometry(geometry));
    let store = Zswap::builder().compressor(&objects.spec).swap_device(device).build().unwrap();
    let mut pending = Pending { pages: BTreeSet::new(), cursor: 0 };
    let (mut trace, mut refusals, mut most_segments) = (Vec::new(), 0, 0);
    let mut write = |n: usize, trace: &mut Vec<Step>| {
        refusals += u64::from(store.store(entry(n), &objects.pages[n]).is_err());
        pending.pages.insert(n);
        trace.push(Step::Stored(n));
        if let Some(segment) = pending.full_segment(len) {
            refusals += u64::from(store.shrink(segment.len()).is_err());
            trace.push(Step::Written(segment));
            most_segments = most_segments.max(store.stats().device_segments);
        }
    };
    (0..pages).for_each(|n| write(n, &mut trace));
    let (filled, of_fill) = (store.stats(), trace.len());
    let (mut random, mut overwrites, mut overwritten) = (SplitMix(7), 0, 0);
    while overwritten < TURNS * capacity as u64 {
        let n = random.below(pages);
        write(n, &mut trace);
        overwrites += 1;
        overwritten += cost(n) as u64;
    }
    let ended = store.stats();
    let new = ended.device_new_bytes - filled.device_new_bytes;
    let since = |figure: fn(&ZswapStats) -> u64| figure(&ended) - figure(&filled);
    let simulated = |closes| {
        let (written, moved) = simulate(&trace, of_fill, segments, pages, cost, closes);
        (written as f64 / new as f64, moved)
    };
    let (greedy, greedy_moved) = simulated(false);
    Outcome {
        segments,
        pages,
        live_share: live as f64 / capacity as f64,
        overwrites,
        refusals,
        most_segments,
        store: since(|stats| stats.device_bytes_written) as f64 / new as f64,
        store_moved: since(|stats| stats.device_moved_pages),
        greedy,
        greedy_moved,
        batched: simulated(true).0,
    }
}

/// Plays the trace to a log. Returns the bytes written after the first `of_fill` steps, and the objects that
/// cleaning copied since then.
fn simulate(
    trace: &[Step],
    of_fill: usize,
    segments: usize,
    pages: usize,
    cost: impl Fn(usize) -> usize,
    closes: bool,
) -> (u64, u64) {
    let mut log = Log::new(segments, SEGMENT, pages);
    let mut at_fill = (0, 0);
    for (at, step) in trace.iter().enumerate() {
        if at == of_fill {
            at_fill = (log.written, log.copied);
        }
        match step {
            Step::Stored(page) => log.discard(*page),
            Step::Written(taken) => {
                taken.iter().for_each(|&page| log.append(page, cost(page)).unwrap());
                if closes {
                    log.close();
                }
            }
        }
    }
    (log.written - at_fill.0, log.copied - at_fill.1)
}
