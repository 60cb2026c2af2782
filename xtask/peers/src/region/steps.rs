//! Single steps: a fault, a sequential read, an eviction. All contestants take turns in this process,
//! round by round, on the same pages in the same random order; the kernel's swap has a process of
//! its own, which takes its turns, too.
//!
//! A new region is made for each turn, with twice as many pages. Every other run of [`RUN`] pages
//! stays cold, so that pools are neither emptied nor grow, as under a steady load. Before anything is
//! timed all pages were evicted, and the others brought back. The limit is above the region's size:
//! nothing is evicted by a fault. `load.rs` measures faults that evict.

use std::cell::Cell;
use std::hint::black_box;
use std::time::Instant;

use compressors::Compressor;
use measure::{Clock, Laps, Page, shuffled};

use super::figures::{Figures, Row};
use super::floor::{Floor, Way};
use super::memory::{Memory, Spec, default_codec};
use super::packed::{Packed, ROOM, compress};
use super::swap;
use super::touch::{Touched, check, cpu, dense, fault_all};
use crate::error::{Error, Result};
use crate::liblz4::Liblz4;
use crate::source::PAGE;

/// The pages of a region that are used, or stay cold, one after another. A call names this many.
const RUN: usize = 256;

/// Returns which page of a region is the `n`-th that is used.
fn spread(n: usize) -> usize {
    n / RUN * (2 * RUN) + n % RUN
}

/// The regions that take turns. The first of each backend and codec has the defaults; the others
/// always or never keep the compressed copy of a page that was only read.
const REGIONS: [&str; 8] = [
    "move/lz4",
    "move/lz4/always",
    "move/lz4/never",
    "move",
    "move/always",
    "move/never",
    "guard/lz4",
    "guard",
];

/// The pages of the steps, and what is needed to time them.
pub(crate) struct Steps<'a> {
    pages: &'a [Page],
    packed: Packed,
    order: Vec<usize>,
    laps: Laps,
    clock: Clock,
}

/// Whether the text of a contestant's name is wanted.
pub(crate) type Wanted<'a> = &'a dyn Fn(&str) -> bool;

/// Runs all rounds. Returns the figures, and why some did not run.
pub(crate) fn run(
    pages: &[Page],
    rounds: usize,
    files: &[std::path::PathBuf],
    most: usize,
    wanted: Wanted<'_>,
) -> Result<(Figures, Vec<String>)> {
    let (mut figures, mut absent) = (Figures::default(), Vec::new());
    let mut kernel = None;
    if wanted("kernel") {
        match swap::Child::start(files, most, pages.len()) {
            Ok(child) => kernel = Some(child),
            Err(error) => absent.push(format!("a swap fault of the kernel: {error}")),
        }
    }
    let indices: Vec<usize> = (0..pages.len()).collect();
    let mut steps = Steps {
        pages,
        packed: Packed::new(pages)?,
        order: Vec::new(),
        laps: Laps::with_capacity(pages.len()),
        clock: Clock::measure(),
    };
    let mut gone = [false; REGIONS.len()];
    let mut refused = Vec::new();
    for round in 0..rounds {
        steps.order = shuffled(&indices, round as u64);
        steps.bare(&mut figures)?;
        self::bring(&steps, &mut figures, &mut absent);
        for (way, name) in [
            (Way::Copy, "floor"),
            (Way::Guard, "guard floor"),
            (Way::CopyOnly, "floor without decode"),
        ] {
            if wanted(name) && !refused.contains(&name) {
                match Floor::new(way, &steps.packed) {
                    Ok(floor) => {
                        let touched = Touched {
                            memory: floor.memory(),
                            place: dense,
                            pages: (way != Way::CopyOnly).then_some(pages),
                            order: &steps.order,
                        };
                        fault_all(&touched, &mut steps.laps, steps.clock, name, &mut figures)?;
                    }
                    Err(reason) => {
                        refused.push(name);
                        absent.push(format!("{name}: {reason}"));
                    }
                }
            }
        }
        for turn in 0..REGIONS.len() {
            // Another is first in each round.
            let at = (turn + round) % REGIONS.len();
            let name = REGIONS[at];
            if gone[at] || !wanted(name) {
                continue;
            }
            if let Err(error) = steps.region(name, &mut figures) {
                if matches!(error, Error::Changed { .. }) {
                    return Err(error);
                }
                gone[at] = true;
                absent.push(format!("{name}: {error}"));
            }
        }
        if let Some(child) = &mut kernel {
            child.turn(round as u64, &mut figures)?;
        }
        if crate::kernel::stopped() {
            return Err(Error::Stopped);
        }
    }
    Ok((figures, absent))
}

/// Times the floor of a call that brings pages in before they are touched.
fn bring(steps: &Steps<'_>, figures: &mut Figures, absent: &mut Vec<String>) {
    let name = "floor: 16 pages a call, no fault";
    let brought = Floor::new(Way::Copy, &steps.packed).and_then(|floor| {
        let before = cpu();
        floor.bring_all()?;
        Ok(cpu() - before)
    });
    match brought {
        Ok(spent) => figures.add(name, spent / steps.pages.len() as f64),
        Err(reason) if figures.median(name).is_none() => absent.push(format!("{name}: {reason}")),
        Err(_) => {}
    }
}

fn first_word(page: &Page) -> u64 {
    page.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

impl Steps<'_> {
    /// Times liblz4 alone, and the default codec.
    fn bare(&mut self, figures: &mut Figures) -> Result<()> {
        let Steps { pages, packed, order, laps, clock } = self;
        let count = pages.len() as f64;
        let mut hot = [0; PAGE];
        let damaged = |page| Error::Changed { page, when: "by the bare codec" };
        let wall = Instant::now();
        laps.start();
        for &page in &*order {
            if !packed.decode(page, &mut hot) {
                return Err(damaged(page));
            }
            laps.lap();
        }
        if let Some(times) = laps.summary(*clock, wall.elapsed()) {
            figures.add("bare decode", times.p50);
        }
        for (page, want) in pages.iter().enumerate().step_by(97) {
            if !packed.decode(page, &mut hot) || hot != *want {
                return Err(damaged(page));
            }
        }
        let before = cpu();
        for page in 0..pages.len() {
            if !packed.decode(page, &mut hot) {
                return Err(damaged(page));
            }
        }
        figures.add("bare decode, sequential", (cpu() - before) / count);
        let (own, default) = (compressors::build("lz4")?, compressors::build(default_codec())?);
        let codecs: [(&str, &dyn Compressor); 3] =
            [("bare", &Liblz4), ("bare own lz4's", &*own), ("bare default codec's", &*default)];
        for (name, codec) in codecs {
            let (mut ctx, mut room) = (codec.new_ctx()?, vec![0; ROOM]);
            let before = cpu();
            for page in &**pages {
                black_box(compress(&mut *ctx, page, &mut room)?);
            }
            figures.add(format!("{name} compression"), (cpu() - before) / count);
        }
        Ok(())
    }

    /// One turn of a region.
    fn region(&mut self, name: &str, figures: &mut Figures) -> Result<()> {
        let Steps { pages, order, laps, clock, .. } = self;
        let spec: Spec = name.parse().map_err(Error::setup)?;
        let spec = Spec { background: false, ..spec };
        let runs = pages.len().div_ceil(RUN);
        let len = 2 * runs * RUN * PAGE;
        let memory = Memory::from_region(spec.region(len, 2 * len + (16 << 20))?);
        let region = memory.region().ok_or(Error::setup("no region"))?;
        let count = pages.len() as f64;
        // Calls something for each run that is used. Returns the time of a page.
        let each_run = |call: &dyn Fn(std::ops::Range<usize>) -> Result<()>| -> Result<f64> {
            let before = cpu();
            for run in 0..runs {
                let (first, used) = (2 * run * RUN, RUN.min(pages.len() - run * RUN));
                call(first * PAGE..(first + used) * PAGE)?;
            }
            Ok((cpu() - before) / count)
        };
        let evict = || {
            let left = Cell::new(0);
            let spent = each_run(&|range| {
                left.set(left.get() + region.advise_cold(range).map_err(Error::setup)?);
                Ok(())
            })?;
            if left.get() < pages.len() {
                let said = format!("{} of {count} pages left: {:?}", left.get(), region.stats());
                return Err(Error::Fault { said });
            }
            Ok(spent)
        };
        for (n, page) in pages.iter().enumerate() {
            memory.fill(spread(n), page);
            memory.fill(spread(n) + RUN, &pages[(n + RUN) % pages.len()]);
        }
        region.advise_cold(0..len).map_err(Error::setup)?;
        // Each page is written, and not read before, so that none is clean.
        for (n, page) in pages.iter().enumerate() {
            memory.write(spread(n), 0, first_word(page));
        }
        figures.add(format!("{name}: eviction"), evict()?);
        let touched = Touched { memory: &memory, place: spread, pages: Some(pages), order };
        fault_all(&touched, laps, *clock, name, figures)?;
        let clean = region.stats().evicted_clean_pages;
        let spent = evict()?;
        if region.stats().evicted_clean_pages - clean == pages.len() as u64 {
            figures.add(format!("{name}: eviction of clean pages"), spent);
        }
        let around = region.stats().around_pages;
        let before = cpu();
        for n in 0..pages.len() {
            black_box(memory.read(spread(n), 0));
        }
        figures.add(format!("{name}: sequential"), (cpu() - before) / count);
        let around = (region.stats().around_pages - around) as f64 / count;
        figures.add(format!("{name}: % of sequential pages brought in around"), around * 100.0);
        evict()?;
        let spent = each_run(&|range| {
            region.prefetch(range).map_err(Error::setup)?;
            Ok(())
        })?;
        figures.add(format!("{name}: prefetch"), spent);
        check(&memory, pages, spread, "in a sequence or a prefetch")
    }
}

/// Returns the rows of the steps.
pub(crate) fn rows() -> Vec<Row> {
    let row = |what, region: &str, figure: &str, beside: &str, target| {
        let spec = region.parse::<Spec>();
        let codec = spec.map(|spec| spec.codec_name().to_owned()).unwrap_or_default();
        let (own, beside) = (format!("{region}: {figure}"), beside.to_owned());
        let codec = format!("{codec}, {}", region.replace("/lz4", ""));
        Row { what, codec, own, beside, target }
    };
    let kernel = Row {
        what: "the kernel's own swap fault",
        codec: "kernel lz4".to_owned(),
        own: "kernel zram swap: fault".to_owned(),
        beside: "bare decode".to_owned(),
        target: None,
    };
    let floor = Row {
        what: "the floor itself",
        codec: "liblz4".to_owned(),
        own: "floor: fault".to_owned(),
        beside: "bare decode".to_owned(),
        target: None,
    };
    let mut rows = vec![floor, kernel];
    for region in REGIONS {
        let (lz4, is_move) = (region.contains("lz4"), region.starts_with("move"));
        let defaults = !region.contains("always") && !region.contains("never");
        let reach = |ratio: f64| (is_move && defaults).then_some(ratio);
        let floor = if is_move { "floor: fault" } else { "guard floor: fault" };
        if lz4 {
            rows.push(row("random fault", region, "fault", floor, reach(1.10)));
        } else {
            rows.push(row("random fault", region, "fault", "bare decode", reach(2.6)));
        }
        let kernel = "kernel zram swap: fault";
        rows.push(row("random fault", region, "fault", kernel, reach(1.0).filter(|_| !lz4)));
        if region.contains("always") {
            let figure = "eviction of clean pages";
            let target = is_move.then_some(0.45);
            rows.push(row(figure, region, figure, "bare decode", target));
        }
        if !defaults {
            continue;
        }
        let target = reach(1.6).filter(|_| lz4);
        rows.push(row("sequential read", region, "sequential", "bare decode", target));
        let floor = "floor: 16 pages a call, no fault";
        rows.push(row("sequential read", region, "sequential", floor, None));
        rows.push(row("prefetch", region, "prefetch", floor, None));
        rows.push(row("eviction, whole", region, "eviction", "bare compression", reach(1.25)));
        let beside =
            if lz4 { "bare own lz4's compression" } else { "bare default codec's compression" };
        rows.push(row("eviction, whole", region, "eviction", beside, None));
        rows.push(row("eviction, whole", region, "eviction", "kernel zram swap: eviction", None));
    }
    rows
}
