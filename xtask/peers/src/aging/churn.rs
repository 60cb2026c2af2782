//! Runs the operations of one mode on its store.
//!
//! Of ten operations, seven are reads of pages drawn by Zipf's law. Two are overwrites: half of
//! them choose the page by the same law, the others evenly. The tenth drops a page, or stores a
//! page under a dropped entry. It makes the number of pages held rise and fall slowly, between 84
//! and 112 MiB. Each thread has its own entries.

use std::f64::consts::TAU;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use measure::{Clock, Laps, Page, SplitMix, Summary, shuffled};
use zswap_core::{LoadError, SwapEntry, Zswap};

use super::content::{Content, Contents};
use super::join::join;
use super::mode::{Compaction, Mode};
use super::sample::Sample;
use super::zipf::Zipf;
use crate::error::{Error, Result};

/// The least number of pages held: 84 MiB.
const LEAST: usize = 21_504;
/// The greatest number of pages held: 112 MiB.
const MOST: usize = 28_672;
/// The exponent of Zipf's law.
const THETA: f64 = 0.99;
/// The number of cycles in a run (see `content.rs`).
const CYCLES: f64 = 8.0;
/// How many waves the number of pages held goes through in a run.
const WAVES: f64 = 19.0;
/// The number of samples in a run.
const SAMPLES: u64 = 2000;
/// The number of compactions in a run of the mode on demand.
const DEMANDS: u64 = 20;
/// One operation out of this many is timed.
const TIMED: u64 = 16;
/// The number of operations that a thread claims at a time.
const STRIDE: u64 = 256;

/// The parameters, which are the same for every mode.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) operations: u64,
    pub(crate) threads: usize,
    pub(crate) zpool: String,
    pub(crate) compressor: String,
}

/// The results of one mode.
#[derive(Debug)]
pub(crate) struct Churned {
    pub(crate) mode: Mode,
    pub(crate) samples: Vec<Sample>,
    pub(crate) store: Option<Summary>,
    pub(crate) load: Option<Summary>,
}

/// Fills a store, runs all operations on it, and then checks every page.
pub(crate) fn run(mode: Mode, plan: &Plan, contents: &Contents) -> Result<Churned> {
    let store = Zswap::builder().zpool(&plan.zpool).compressor(&plan.compressor).build();
    let store = Arc::new(store.map_err(Error::setup)?);
    let zipf = Zipf::new(MOST / plan.threads, THETA);
    let mut hands = (0..plan.threads)
        .map(|thread| Hand::new(thread, plan, &store, contents, &zipf))
        .collect::<Result<Vec<Hand<'_>>>>()?;
    let mut compaction = Compaction::start(mode, &store)?;
    let start = Instant::now();
    let sample = |done: u64, compaction: &Compaction| {
        Sample::take(mode, done, start.elapsed().as_secs_f64(), &store, compaction.runs())
    };
    let mut samples = vec![sample(0, &compaction)];
    let shared = Shared::default();
    let hands = thread::scope(|scope| {
        // This thread does the first share of the work, and takes the samples.
        let others: Vec<_> = hands
            .drain(1..)
            .map(|mut hand| {
                let shared = &shared;
                scope.spawn(move || shared.told(hand.churn(shared, |_| Ok(()))).map(|()| hand))
            })
            .collect();
        let (mut sampled, mut demanded) = (0, 0);
        let first = shared.told(hands[0].churn(&shared, |done| {
            if done * SAMPLES / plan.operations > sampled {
                sampled = done * SAMPLES / plan.operations;
                samples.push(sample(done, &compaction));
                if sampled % (SAMPLES / 10) == 0 {
                    tell(mode, &samples);
                }
            }
            // Compaction comes after the sample. So no sample shows a pool that was just compacted.
            if done * DEMANDS / plan.operations > demanded {
                demanded = done * DEMANDS / plan.operations;
                compaction.demand(&store)?;
            }
            Ok(())
        }));
        let others: Result<Vec<Hand<'_>>> = others.into_iter().map(join).collect();
        first.and(others).map(|others| hands.into_iter().chain(others).collect::<Vec<_>>())
    })?;
    if samples.last().is_some_and(|last| last.operations < plan.operations) {
        samples.push(sample(plan.operations, &compaction));
    }
    let wall = start.elapsed();
    for hand in &hands {
        hand.look_at_all()?;
    }
    let (store, load) = times(hands, wall);
    Ok(Churned { mode, samples, store, load })
}

/// Prints the progress, as the last of the samples shows it.
fn tell(mode: Mode, samples: &[Sample]) {
    if let Some(Sample { operations, seconds, pool_per_compressed, .. }) = samples.last() {
        // An error is ignored: this is only progress, and the report does not depend on it.
        let _ = writeln!(
            std::io::stderr(),
            "compaction {}: {operations} operations in {seconds:.0} s, {pool_per_compressed:.3}",
            mode.name()
        );
    }
}

fn times(hands: Vec<Hand<'_>>, wall: Duration) -> (Option<Summary>, Option<Summary>) {
    let clock = Clock::measure();
    let (mut store, mut load) = (Laps::with_capacity(0), Laps::with_capacity(0));
    for mut hand in hands {
        store.absorb(&mut hand.store_laps);
        load.absorb(&mut hand.load_laps);
    }
    (store.summary(clock, wall), load.summary(clock, wall))
}

/// State shared by the threads of a mode.
///
/// All accesses are relaxed: these are a count and a flag, and no other memory is published through
/// them.
#[derive(Debug, Default)]
struct Shared {
    /// The number of operations that the threads have claimed.
    begun: AtomicU64,
    /// Set when a thread has failed.
    stop: AtomicBool,
}

impl Shared {
    fn told<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            // Relaxed: see `Shared`.
            self.stop.store(true, Relaxed);
        }
        result
    }
}

/// A thread's entries, and the content that each should have.
#[derive(Debug)]
struct Hand<'a> {
    store: &'a Zswap,
    contents: &'a Contents,
    zipf: &'a Zipf,
    random: SplitMix,
    /// The entry of each rank.
    entries: Vec<SwapEntry>,
    held: Vec<Option<Content>>,
    /// All ranks: first the `live` ones that hold a page, then the others.
    order: Vec<u32>,
    /// The place of each rank in `order`.
    places: Vec<u32>,
    live: usize,
    least: usize,
    /// The number of operations of all threads together.
    operations: u64,
    page: Box<Page>,
    store_laps: Laps,
    load_laps: Laps,
}

impl<'a> Hand<'a> {
    /// Makes a thread's share of the entries, and stores pages under the first of them.
    fn new(
        thread: usize,
        plan: &Plan,
        store: &'a Zswap,
        contents: &'a Contents,
        zipf: &'a Zipf,
    ) -> Result<Self> {
        let (most, share) = (MOST / plan.threads, plan.operations / plan.threads as u64);
        let seed = 1 + thread as u64;
        let ranks: Vec<usize> = (0..most).collect();
        let entry = |rank: usize| {
            let offset = rank * plan.threads + thread;
            SwapEntry::new(0, offset as u64).map_err(|error| Error::keeps("an entry", rank, error))
        };
        let laps =
            |percent: u64| Laps::with_capacity((share / TIMED * percent / 100) as usize + 1024);
        let mut hand = Hand {
            store,
            contents,
            zipf,
            random: SplitMix(seed << 32),
            entries: shuffled(&ranks, seed).into_iter().map(entry).collect::<Result<_>>()?,
            held: vec![None; most],
            order: (0..most as u32).collect(),
            places: (0..most as u32).collect(),
            live: 0,
            least: LEAST.div_ceil(plan.threads),
            operations: plan.operations,
            page: Box::new([0; size_of::<Page>()]),
            store_laps: laps(30),
            load_laps: laps(75),
        };
        while hand.live < hand.target(0.0) {
            let content = contents.fresh(0.0, &mut hand.random);
            hand.put(hand.order[hand.live] as usize, content, false)?;
        }
        Ok(hand)
    }

    /// Returns how many pages to hold at this point of the run. `progress` goes from 0 to 1.
    fn target(&self, progress: f64) -> usize {
        let wave = 0.5 - 0.5 * (TAU * WAVES * progress).cos();
        self.least + ((self.held.len() - self.least) as f64 * wave) as usize
    }

    /// Runs operations until all operations of the run are claimed, or a thread has failed. Claims
    /// a stride of operations at a time. After each stride, calls `now_and_then` with the number of
    /// the stride's last operation. The operations of all threads are counted together, from 1.
    fn churn(
        &mut self,
        shared: &Shared,
        mut now_and_then: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        // Relaxed: see `Shared`.
        while !shared.stop.load(Relaxed) {
            let first = shared.begun.fetch_add(STRIDE, Relaxed);
            if first >= self.operations {
                break;
            }
            let progress = first as f64 / self.operations as f64;
            let stride = STRIDE.min(self.operations - first);
            for n in 0..stride {
                self.operate(progress, n % TIMED == 0)?;
            }
            now_and_then(first + stride)?;
        }
        Ok(())
    }

    fn operate(&mut self, progress: f64, timed: bool) -> Result<()> {
        let cycles = CYCLES * progress;
        let (contents, kind) = (self.contents, self.random.below(10));
        if kind < 7 {
            let rank = self.zipf.draw(&mut self.random);
            return self.look_at(rank, timed);
        }
        // Moves towards the wave's number of pages three times out of four, and away from it once.
        // So drops and new pages alternate all the time.
        let grow = self.live < self.target(progress);
        let to_target = self.random.below(4) != 0;
        if kind == 7 && grow != to_target && self.live > self.least {
            let rank = self.order[self.random.below(self.live)] as usize;
            return self.drop_page(rank);
        }
        if kind == 7 && self.live < self.held.len() {
            let free = self.live + self.random.below(self.held.len() - self.live);
            let content = contents.fresh(cycles, &mut self.random);
            return self.put(self.order[free] as usize, content, timed);
        }
        let drawn = self.zipf.draw(&mut self.random);
        let rank = match self.held[drawn] {
            Some(_) if kind == 8 => drawn,
            _ => self.order[self.random.below(self.live)] as usize,
        };
        let content = match self.held[rank] {
            Some(old) if self.random.below(2) == 0 => {
                contents.overwritten(old, cycles, &mut self.random)
            }
            _ => contents.fresh(cycles, &mut self.random),
        };
        self.put(rank, content, timed)
    }

    fn put(&mut self, rank: usize, content: Content, timed: bool) -> Result<()> {
        self.contents.make(content, &mut self.page);
        if timed {
            self.store_laps.skip();
        }
        let stored = self.store.store(self.entries[rank], &self.page);
        if timed {
            self.store_laps.lap();
        }
        stored.map_err(|error| Error::keeps("a store", rank, error))?;
        if self.held[rank].replace(content).is_none() {
            self.swap(rank, self.live);
            self.live += 1;
        }
        Ok(())
    }

    fn drop_page(&mut self, rank: usize) -> Result<()> {
        if !self.store.invalidate(self.entries[rank]) {
            return Err(Error::Changed { page: rank, when: "to nothing before it was dropped" });
        }
        self.held[rank] = None;
        self.live -= 1;
        self.swap(rank, self.live);
        Ok(())
    }

    /// Moves a rank to another place in `order`. The rank that was there moves to the old place of
    /// this one.
    fn swap(&mut self, rank: usize, to: usize) {
        let from = self.places[rank] as usize;
        self.order.swap(from, to);
        self.places[self.order[from] as usize] = from as u32;
        self.places[rank] = to as u32;
    }

    /// Reads the page of a rank and compares it with the expected content. If none is expected, the
    /// store must not find a page.
    fn look_at(&mut self, rank: usize, timed: bool) -> Result<()> {
        if timed {
            self.load_laps.skip();
        }
        let loaded = self.store.load(self.entries[rank], &mut self.page);
        if timed {
            self.load_laps.lap();
        }
        self.judge(rank, loaded, &self.page)
    }

    fn judge(&self, rank: usize, loaded: Result<(), LoadError>, page: &Page) -> Result<()> {
        match (loaded, self.held[rank]) {
            (Err(LoadError::NotFound { .. }), None) => Ok(()),
            (Ok(()), Some(content)) if self.contents.is(content, page) => Ok(()),
            (Ok(()), Some(_)) => Err(Error::Changed { page: rank, when: "during the churn" }),
            (Ok(()), None) => Err(Error::Changed { page: rank, when: "after it was dropped" }),
            (Err(error), _) => Err(Error::keeps("a load", rank, error)),
        }
    }

    /// Reads every page once more and compares it. Called after the last operation.
    fn look_at_all(&self) -> Result<()> {
        let mut page = Box::new([0; size_of::<Page>()]);
        for (rank, entry) in self.entries.iter().enumerate() {
            let loaded = self.store.load(*entry, &mut page);
            self.judge(rank, loaded, &page)?;
        }
        Ok(())
    }
}
