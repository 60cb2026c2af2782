//! Work on three times more pages than may be in memory. Each turn is a process of its own. `work.rs`
//! says what it does.
//!
//! The processor time is that of the whole process, the region's background thread included. That of
//! kernel threads is not: there are none in a memory cgroup's reclaim, but those that write a
//! mapped file to the disk are left out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::memory::{Kind, Memory, Spec};
use super::process;
use super::work::{Part, Shape, Work};
use crate::error::{Error, Result};
use crate::kernel::zram_swap::{join, number};
use crate::source;

/// A turn that takes longer than this ends early.
const LONGEST: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The memory, such as `move/lz4/never`.
    #[arg(long)]
    on: String,
    /// What is done.
    #[arg(long, value_enum)]
    shape: Shape,
    /// The number of pages.
    #[arg(long)]
    pages: usize,
    /// The bytes that a region may have in memory.
    #[arg(long)]
    resident: usize,
    #[arg(long)]
    threads: usize,
    /// Operations in a hundred that write.
    #[arg(long)]
    writes: u64,
    /// Operations of each thread before the measured ones.
    #[arg(long)]
    warm: usize,
    /// Measured operations of each thread.
    #[arg(long)]
    operations: usize,
    /// The files of the cgroup: of its processes and of its memory.
    #[arg(long)]
    procs: Option<String>,
    #[arg(long)]
    usage: Option<String>,
    /// The file of the memory of the kernel's zram.
    #[arg(long)]
    mm_stat: Option<String>,
    files: Vec<PathBuf>,
}

/// The figures of a turn.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Processor time of an operation, in microseconds: of the program and of the kernel for it.
    pub(crate) user_us: f64,
    pub(crate) system_us: f64,
    /// Operations in a second, over all threads.
    pub(crate) per_second: f64,
    /// Percentiles of an operation's time, in microseconds.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// Faults that decompressed or read something, in a hundred operations.
    pub(crate) faults: f64,
    /// The pages that are uncompressed in memory in the end, a region's limbo included.
    pub(crate) held_bytes: f64,
    /// What all pages take in the end, with the copies, compressed pages and tables.
    pub(crate) memory_bytes: f64,
    /// What a region did in the measured time.
    pub(crate) counts: BTreeMap<String, u64>,
}

impl Told {
    pub(crate) fn cpu_us(&self) -> f64 {
        self.user_us + self.system_us
    }
}

/// Does up to `count` operations. Puts their times in nanoseconds into `laps`.
fn work(
    work: &Work<'_>,
    memory: &Memory,
    part: &mut Part,
    laps: &mut Vec<u32>,
    count: usize,
) -> Result<()> {
    let begun = Instant::now();
    laps.clear();
    for _ in 0..count {
        let what = work.pick(part);
        let at = Instant::now();
        work.run(memory, part, what)?;
        let now = Instant::now();
        laps.push(u32::try_from((now - at).as_nanos()).unwrap_or(u32::MAX));
        work.done(part, what);
        if now - begun > LONGEST {
            break;
        }
    }
    Ok(())
}

pub(crate) fn run(args: &Args) -> Result<()> {
    super::end_with_parent();
    let spec: Spec = args.on.parse().map_err(Error::setup)?;
    let set = source::load(&args.files, None)?;
    let set = set.pages();
    let plan = Work::new(args.shape, set, args.pages, args.threads, args.writes);
    // All of this is in memory before anything is counted.
    let laps = vec![1u32; args.operations.max(args.warm)];
    let mut parts: Vec<(Part, Vec<u32>, Result<()>)> =
        (0..args.threads).map(|thread| (plan.part(thread), laps.clone(), Ok(()))).collect();
    drop(laps);
    if let Some(procs) = &args.procs {
        join(procs)?;
    }
    let before = process::resident()?;
    let memory = Memory::new(&spec, args.pages, args.resident)?;
    plan.fill(&memory)?;
    let gate = Barrier::new(args.threads + 1);
    let (mut spent, mut faults, mut wall) = ([0.0; 2], 0, Duration::ZERO);
    let mut counts = BTreeMap::new();
    std::thread::scope(|scope| {
        for (part, laps, result) in &mut parts {
            let (plan, memory, gate) = (&plan, &memory, &gate);
            scope.spawn(move || {
                *result = work(plan, memory, part, laps, args.warm);
                gate.wait();
                gate.wait();
                if result.is_ok() {
                    *result = work(plan, memory, part, laps, args.operations);
                }
                gate.wait();
            });
        }
        gate.wait();
        let (cpu, major, counted) = (process::times(), process::major_faults(), counted(&memory));
        let begun = Instant::now();
        gate.wait();
        gate.wait();
        wall = begun.elapsed();
        let now = process::times();
        spent = [now[0] - cpu[0], now[1] - cpu[1]];
        counts = self::counted(&memory);
        for (name, count) in &mut counts {
            *count -= counted.get(name).copied().unwrap_or_default();
        }
        let count = |name: &str| counts.get(name).copied().unwrap_or_default();
        faults = match spec.kind {
            Kind::Region(_) => count("cold") + count("kept copy"),
            _ => process::major_faults() - major,
        };
    });
    let (mut done, mut laps) = (Vec::new(), Vec::new());
    for (part, times, result) in parts {
        result?;
        done.push(part);
        laps.extend(times);
    }
    let grown = process::resident()?.saturating_sub(before);
    let held_bytes = memory.region().map_or(grown, |region| region.stats().resident_bytes);
    let memory_bytes = match &args.usage {
        // What the group has in memory, and what zram holds for it.
        Some(usage) => {
            let zram = args.mm_stat.as_deref().map(crate::kernel::read).transpose()?;
            let zram = zram.as_deref().and_then(crate::kernel::zram::used).unwrap_or_default();
            number(usage)? + zram
        }
        None => grown,
    };
    plan.check(&memory, &done)?;
    laps.sort_unstable();
    let at = |share: f64| f64::from(laps[((laps.len() - 1) as f64 * share) as usize]) / 1e3;
    let operations = laps.len() as f64;
    let told = Told {
        user_us: spent[0] / operations,
        system_us: spent[1] / operations,
        per_second: operations / wall.as_secs_f64(),
        p50_us: at(0.5),
        p99_us: at(0.99),
        p999_us: at(0.999),
        faults: faults as f64 * 100.0 / operations,
        held_bytes: held_bytes as f64,
        memory_bytes: memory_bytes as f64,
        counts,
    };
    super::tell(&told)
}

/// Returns what a region has counted.
fn counted(memory: &Memory) -> BTreeMap<String, u64> {
    let Some(region) = memory.region() else { return BTreeMap::new() };
    let s = region.stats();
    let counts = [
        ("cold", s.cold_faults),
        ("kept copy", s.clean_faults),
        ("rescued", s.rescued),
        ("first write", s.write_faults),
        ("waited", s.waited),
        ("around", s.around_pages),
        ("evicted", s.evicted_pages),
        ("evicted clean", s.evicted_clean_pages),
        ("busy", s.busy_pages),
        ("direct", s.direct_reclaims),
        ("refused", s.refused_evictions),
        ("exceeded", s.exceeded),
    ];
    counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}
