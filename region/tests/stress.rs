//! No lost write, ever: threads write and check all words of a region, while pages are evicted, prefetched, pinned and
//! moved to other pools, and limits change.
//!
//! Each thread owns every n-th word of every page, and knows what it wrote there last. So pages are shared by all threads,
//! and each read is checked. A round has a random setting, drawn from its number; `REGION_SECONDS` says how long rounds
//! go on (default 30), `REGION_FIRST` with which number they begin. `controls.rs` shows that protocols which are almost
//! right lose writes under the same load.
#![cfg(all(target_os = "linux", not(miri), not(loom)))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failure in a test's helper is the test's own message"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use zpool_base::sync::test_rng::Rng;
use zswap_core::Zswap;
use zswap_core::device::MemorySwapDevice;
use zswap_region::{BackendKind, BuildError, CleanPages, Region};

const PAGE: usize = 4096;
const ROUND: Duration = Duration::from_millis(1500);

/// The setting of a round.
#[derive(Debug, Clone)]
struct Setting {
    kind: BackendKind,
    /// Bytes of a page.
    unit: usize,
    threads: usize,
    pages: usize,
    resident: usize,
    clean: CleanPages,
    background: bool,
    around: bool,
    limbo: u8,
    device: bool,
    /// Threads that disturb the others.
    evictor: bool,
    meddlers: usize,
}

impl Setting {
    fn drawn(round: u64, rng: &mut Rng) -> Setting {
        let unit = if round % 3 == 2 { (2 * PAGE) << (round / 3 % 4) } else { PAGE };
        let pages = 1024 << if unit > PAGE { 0 } else { rng.below(3) };
        Setting {
            unit,
            kind: if round % 2 == 0 { BackendKind::Move } else { BackendKind::Guard },
            threads: [1, 2, 4, 8][(round / 2 % 4) as usize],
            pages,
            resident: (pages / [2, 4, 8][rng.below(3)]).max(384),
            clean: [CleanPages::Adaptive, CleanPages::Always, CleanPages::Never][rng.below(3)],
            background: rng.below(2) == 0,
            around: rng.below(2) == 0,
            limbo: [1, 12, 50][rng.below(3)],
            device: rng.below(3) == 0,
            evictor: rng.below(3) == 0,
            meddlers: rng.below(3),
        }
    }

    fn build(&self) -> Result<Region, BuildError> {
        let mut store = Zswap::builder();
        if self.device {
            store = store.max_pool_bytes(64 * self.unit).swap_device(Arc::new(
                MemorySwapDevice::new((self.pages * self.unit / PAGE) as u64),
            ));
        }
        let builder = Region::builder()
            .capacity(self.pages * self.unit)
            .unit(self.unit)
            .resident_bytes(self.resident * self.unit)
            .backend(self.kind)
            .clean_pages(self.clean)
            .background(self.background)
            .fault_around(self.around)
            .limbo_percent(self.limbo)
            .store(store);
        // SAFETY: the test keeps the rules of the crate's front page: its accesses are atomic, and only of threads that
        // end before the region does.
        unsafe { builder.build() }
    }
}

/// The words that one thread owns, and what it wrote there last.
struct Owner<'a> {
    region: &'a Region,
    thread: usize,
    threads: usize,
    written: Vec<u32>,
}

impl Owner<'_> {
    fn per_page(&self) -> usize {
        self.region.unit() / 8 / self.threads
    }

    fn word(&self, mine: usize) -> &AtomicU64 {
        let (page, word) = (mine / self.per_page(), mine % self.per_page());
        let at = page * self.region.unit() + (word * self.threads + self.thread) * 8;
        // SAFETY: the word is in the region, aligned, and all accesses to it are atomic.
        unsafe { AtomicU64::from_ptr(self.region.as_ptr().wrapping_add(at).cast()) }
    }

    fn expected(&self, mine: usize) -> u64 {
        let n = u64::from(self.written[mine]);
        if n == 0 { 0 } else { n << 32 | mine as u64 }
    }

    /// Checks a word; then writes it, perhaps.
    fn visit(&mut self, mine: usize, write: bool) -> Result<(), String> {
        let (got, expected) = (self.word(mine).load(Relaxed), self.expected(mine));
        if got != expected {
            let page = mine / self.per_page();
            let words = page * self.per_page()..(page + 1) * self.per_page();
            let wrong =
                words.filter(|at| self.word(*at).load(Relaxed) != self.expected(*at)).count();
            return Err(format!(
                "thread {}: word {mine} (page {page}) is {got:#x} instead of {expected:#x}, a moment later {:#x}; {wrong} \
                 words of the page are wrong",
                self.thread,
                self.word(mine).load(Relaxed),
            ));
        }
        if write {
            self.written[mine] += 1;
            self.word(mine).store(self.expected(mine), Relaxed);
        }
        Ok(())
    }
}

/// Does things to the region that must change no byte.
fn meddle(region: &Region, setting: &Setting, rng: &mut Rng) {
    let start = rng.below(setting.pages) * setting.unit;
    let end = (start + (1 + rng.below(64)) * setting.unit).min(region.len());
    match rng.below(12) {
        0..=2 => {
            region.prefetch(start..end).unwrap();
        }
        3..=5 => {
            region.advise_cold(start..end).unwrap();
        }
        6 | 7 => {
            let pinned = region.pin(start..(start + 4 * setting.unit).min(region.len())).unwrap();
            // While it is pinned, its pages stay.
            let before = region.advise_cold(start..start + setting.unit).unwrap();
            assert_eq!(before, 0, "a pinned page was evicted");
            drop(pinned);
        }
        8 => {
            let bytes = setting.resident * setting.unit / [1, 2][rng.below(2)];
            region.set_resident_bytes(Some(bytes.max(320 * setting.unit))).unwrap();
        }
        9 => region.set_compressor(["lz4", "zstd", "linewords"][rng.below(3)]).unwrap(),
        10 => drop(region.migrate_pools(rng.below(100))),
        _ => {
            let stats = region.stats();
            assert!(stats.memory_bytes >= stats.resident_bytes);
        }
    }
}

/// Runs one round, and returns what was done in it.
fn round(number: u64, length: Duration) -> Option<String> {
    let mut rng = Rng::new(number);
    let setting = Setting::drawn(number, &mut rng);
    let region = match setting.build() {
        Ok(region) => region,
        Err(BuildError::Unsupported { why, .. }) => {
            println!("test skipped: {why}");
            return None;
        }
        Err(error) => panic!("round {number}: {setting:?}: {error}"),
    };
    let stop = AtomicBool::new(false);
    let visits = AtomicU64::new(0);
    let fail = |what: String| {
        stop.store(true, Relaxed);
        panic!("LOST in round {number}: {setting:?}: {what}; {:?}", region.stats());
    };
    std::thread::scope(|scope| {
        for thread in 0..setting.threads {
            let (setting, stop, visits, fail, region) = (&setting, &stop, &visits, &fail, &region);
            let mut rng = Rng::new(number * 100 + thread as u64);
            scope.spawn(move || {
                let words = setting.pages * (setting.unit / 8 / setting.threads);
                let mut mine =
                    Owner { region, thread, threads: setting.threads, written: vec![0; words] };
                let written = [10, 50, 90][rng.below(3)];
                let mut at = 0;
                while !stop.load(Relaxed) {
                    for _ in 0..64 {
                        // Half of the visits go to an eighth of the pages; now and then there is a sequence.
                        at = match rng.below(8) {
                            0..=3 => rng.below(words / 8),
                            4..=6 => rng.below(words),
                            _ => (at + mine.per_page()) % words,
                        };
                        if let Err(what) = mine.visit(at, rng.below(100) < written) {
                            fail(what);
                        }
                    }
                    visits.fetch_add(64, Relaxed);
                }
                for at in 0..words {
                    if let Err(what) = mine.visit(at, false) {
                        fail(what);
                    }
                }
            });
        }
        let meddlers = setting.meddlers + usize::from(setting.evictor);
        for meddler in 0..meddlers {
            let (setting, stop, region) = (&setting, &stop, &region);
            let mut rng = Rng::new(number * 100 + 50 + meddler as u64);
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    if setting.evictor && meddler == 0 {
                        let start = rng.below(setting.pages) * setting.unit;
                        let end = (start + 16 * setting.unit).min(region.len());
                        region.advise_cold(start..end).unwrap();
                    } else {
                        meddle(region, setting, &mut rng);
                    }
                }
            });
        }
        std::thread::sleep(length);
        stop.store(true, Relaxed);
    });
    region.set_resident_bytes(Some(setting.resident * setting.unit)).unwrap();
    let stats = region.stats();
    assert!(
        stats.resident_bytes <= setting.resident * setting.unit,
        "round {number}: {setting:?}: {stats:?}"
    );
    assert_eq!(
        (stats.pinned_bytes, stats.exceeded),
        (0, 0),
        "round {number}: {setting:?}: {stats:?}"
    );
    assert!(
        stats.evicted_pages > 0 && stats.cold_faults + stats.clean_faults > 0,
        "{setting:?}: {stats:?}"
    );
    // What the store holds is what is cold, and copies of clean pages. The background evictor may be in the middle of a
    // block, whose pages are in both; it comes to rest soon.
    let may_be_clean = setting.kind == BackendKind::Move && setting.clean != CleanPages::Never;
    let begun = Instant::now();
    let stats = loop {
        let stats = region.stats();
        let (held, cold) = (stats.store.stored_pages * setting.unit, stats.cold_bytes);
        if held == cold || may_be_clean && held > cold {
            break stats;
        }
        assert!(begun.elapsed().as_secs() < 20, "round {number}: {setting:?}: {stats:?}");
        std::thread::sleep(Duration::from_millis(1));
    };
    Some(format!(
        "round {number}: {setting:?}: {} visits, {} faults, {} evicted, {} clean, {} rescued, {} undone",
        visits.into_inner(),
        stats.fault_latency.count(),
        stats.evicted_pages,
        stats.evicted_clean_pages,
        stats.rescued,
        stats.undone_pages
    ))
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

#[test]
fn no_write_is_lost() {
    let (first, seconds) = (number("REGION_FIRST", 0), number("REGION_SECONDS", 30));
    let (begun, length) = (Instant::now(), Duration::from_secs(seconds));
    let mut next = first;
    while begun.elapsed() < length || next < first + 8 {
        if let Some(done) = round(next, ROUND.min(length)) {
            println!("{done}");
        }
        next += 1;
    }
}
