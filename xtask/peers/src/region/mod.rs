//! Compares a region (`zswap-region`: ordinary memory that is compressed when cold) with what it is
//! made of and with its rivals. `cargo xtask bench --region` runs it.
//!
//! Its parts are single steps (`steps.rs`), loads that do not fit in memory (`load.rs`), and the
//! memory that a region takes besides its pages (`footprint.rs`). All contestants take turns, round by
//! round; each ratio is one of medians over the rounds of one run. Every contestant's pages are
//! checked. What needs root or something of the kernel that is absent does not run; the report says
//! why.
//!
//! The kernel's contestant has swap on a zram device of its own, which is on only while its process
//! runs. `kernel/` says how it is undone, and what is left behind if this program is killed by SIGKILL.

mod figures;
mod floor;
mod footprint;
mod load;
mod memory;
mod packed;
mod process;
mod steps;
mod swap;
mod touch;
mod work;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use measure::{Pinned, median};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::kernel;
use crate::kernel::zram_swap::{Group, ZramSwap};
use crate::machine::Machine;
use crate::source::{self, PAGE};
use figures::verdict;
use memory::{Kind, Spec, default_codec};
use work::Shape;

pub(crate) use footprint::{Args as FootprintArgs, run as footprint};
pub(crate) use load::{Args as LoadArgs, run as load};
pub(crate) use swap::{Args as SwapArgs, run as swap};

/// The pages of the load, and the bytes of them that may be in memory.
const LOAD_PAGES: usize = (192 << 20) / PAGE;
const LOAD_RESIDENT: usize = 64 << 20;
/// What a cgroup's limit is above that: the page tables, and some stacks.
const GROUP_EXTRA: usize = 512 << 10;
/// The least number of operations before the measured ones, unless another is asked for. Until then,
/// many pages are evicted for the first time since they were filled.
const WARM: usize = 200_000;
/// A turn of the kernel is tried again if its cgroup kills it.
const TRIES: usize = 3;
/// The memory under load. The kernel comes second, so that all after it can be set beside it.
const LOADED: [&str; 9] = [
    "resident",
    "kernel",
    "file",
    "move",
    "move/background",
    "move/never",
    "move/lz4",
    "guard",
    "guard/lz4",
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Fewer pages, operations and rounds, and only one thread and one share of writes.
    #[arg(long)]
    quick: bool,
    /// The number of rounds of the steps. Default: 15, or 3 with --quick.
    #[arg(long)]
    rounds: Option<usize>,
    /// The number of rounds of the load. Default: 5, or 1 with --quick.
    #[arg(long)]
    load_rounds: Option<usize>,
    /// The numbers of threads of the load, separated by commas. Default: 1,2, or 1 with --quick.
    #[arg(long, value_delimiter = ',')]
    threads: Vec<usize>,
    /// The shares of writes of the load in percent, separated by commas. Default: 0,20,50, or 20 with
    /// --quick.
    #[arg(long, value_delimiter = ',')]
    writes: Vec<u64>,
    /// Measured operations of each thread, and those before them. Default: 300000, or with --quick
    /// 50000 after 200000.
    #[arg(long)]
    operations: Option<usize>,
    /// Run only these parts, separated by commas: steps, load, map, footprint.
    #[arg(long, value_delimiter = ',')]
    parts: Vec<String>,
    /// Run only contestants with one of these texts in their name, separated by commas.
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    only: Vec<String>,
    /// Also print every figure of the steps.
    #[arg(long)]
    all: bool,
    /// Files of raw pages. A file whose name ends in .zst is decompressed first. Default: the
    /// built-in sample.
    files: Vec<PathBuf>,
}

/// Runs the parts. Returns false if pages came back changed, or a region failed in a load.
pub(crate) fn run(args: &Args) -> Result<bool> {
    kernel::watch_signals();
    let part = |name: &str| args.parts.is_empty() || args.parts.iter().any(|part| part == name);
    let wanted = |name: &str| {
        args.only.is_empty() || args.only.iter().any(|text| name.contains(text.as_str()))
    };
    let machine = Machine::here();
    println!(
        "{}; {} processors, {} MiB, Linux {}\ndefault codec: {}\n",
        machine.processor,
        machine.processors,
        machine.memory_mib,
        machine.kernel,
        default_codec()
    );
    let mut fine = true;
    if part("steps") {
        let most = if args.quick { 4096 } else { 32768 };
        let rounds = args.rounds.unwrap_or(if args.quick { 3 } else { 15 }).max(1);
        let set = source::load(&args.files, Some(most))?;
        let pinned = Pinned::here();
        let (figures, absent) = steps::run(set.pages(), rounds, &args.files, most, &wanted)?;
        drop(pinned);
        println!(
            "## Steps\n\n{} pages of {}, {rounds} rounds. A fault: p50 of its wall time. All others: \
             processor time, mean.\n",
            set.pages().len(),
            set.origin()
        );
        println!("{}", figures.rows(&steps::rows()));
        if args.all {
            println!("{}", figures.all());
        }
        absent.iter().for_each(|why| println!("not run: {why}"));
    }
    if part("load") {
        fine &= loads(args, Shape::Pages, &wanted)?;
    }
    if part("map") {
        fine &= loads(args, Shape::Map, &wanted)?;
    }
    if part("footprint") {
        footprints(args.quick, &wanted)?;
    }
    Ok(fine)
}

/// One contestant of the load with its figures.
struct Loaded {
    name: &'static str,
    spec: Spec,
    told: Vec<load::Told>,
    killed: usize,
    fault: Option<Error>,
}

/// Runs the load and prints its tables.
fn loads(args: &Args, shape: Shape, wanted: &dyn Fn(&str) -> bool) -> Result<bool> {
    let rounds = args.load_rounds.unwrap_or(if args.quick { 1 } else { 5 }).max(1);
    let operations = args.operations.unwrap_or(if args.quick { 50_000 } else { 300_000 });
    let warm = if args.operations.is_some() { operations } else { operations.max(WARM) };
    let (title, all_threads, all_writes): (_, &[u64], &[u64]) = match shape {
        Shape::Pages => ("Load: pages", &[1, 2], &[0, 20, 50]),
        Shape::Map => ("Load: a hash map", &[1], &[20]),
    };
    let or = |given: &[u64], full: &[u64], quick: &[u64]| match (given, args.quick) {
        ([], true) => quick.to_vec(),
        ([], false) => full.to_vec(),
        (given, _) => given.to_vec(),
    };
    let threads: Vec<u64> = args.threads.iter().map(|&threads| threads as u64).collect();
    println!(
        "\n## {title}\n\n{} MiB of pages, {} MiB of them in memory; Zipf 0.99; {operations} operations a \
         thread after {warm}; {rounds} rounds. CPU: of the process, its background thread and the \
         kernel for it. Memory: the process's growth, or cgroup and zram.",
        (LOAD_PAGES * PAGE) >> 20,
        LOAD_RESIDENT >> 20
    );
    let mut fine = true;
    for &threads in &or(&threads, all_threads, &[1]) {
        for &writes in &or(&args.writes, all_writes, &[20]) {
            let mut all: Vec<Loaded> = Vec::new();
            for name in LOADED.into_iter().filter(|name| wanted(name)) {
                let spec = name.parse().map_err(Error::setup)?;
                all.push(Loaded { name, spec, told: Vec::new(), killed: 0, fault: None });
            }
            let count = all.len();
            for round in 0..rounds {
                for turn in 0..count {
                    let one = &mut all[(turn + round) % count];
                    if one.fault.is_some() {
                        continue;
                    }
                    // An error is ignored: this is only progress.
                    let _ = writeln!(
                        std::io::stderr(),
                        "load, {threads} threads, {writes} % writes, round {} of {rounds}: {}",
                        round + 1,
                        one.name
                    );
                    match take_turn(one, shape, threads, writes, [warm, operations], &args.files) {
                        Ok(told) => one.told.push(told),
                        Err(error) => one.fault = Some(error),
                    }
                    if kernel::stopped() {
                        return Err(Error::Stopped);
                    }
                }
            }
            print!("{}", load_table(&all, threads, writes));
            for one in &all {
                if let Some(fault) = &one.fault {
                    println!("not run: {}: {fault}", one.name);
                    fine &= !matches!(one.spec.kind, Kind::Region(_));
                }
            }
        }
    }
    Ok(fine)
}

/// Runs one turn in a process of its own.
fn take_turn(
    one: &mut Loaded,
    shape: Shape,
    threads: u64,
    writes: u64,
    [warm, operations]: [usize; 2],
    files: &[PathBuf],
) -> Result<load::Told> {
    let mut command = Vec::new();
    for (name, value) in [
        ("--on", one.name.to_owned()),
        ("--shape", if shape == Shape::Pages { "pages" } else { "map" }.to_owned()),
        ("--pages", LOAD_PAGES.to_string()),
        ("--resident", LOAD_RESIDENT.to_string()),
        ("--threads", threads.to_string()),
        ("--writes", writes.to_string()),
        ("--warm", warm.to_string()),
        ("--operations", operations.to_string()),
    ] {
        command.extend([name.to_owned(), value]);
    }
    let limit = LOAD_RESIDENT + GROUP_EXTRA;
    loop {
        let mut command = command.clone();
        // Dropped after the process has ended: the group, then the swap.
        let mut swap = None;
        let group = match one.spec.kind {
            Kind::Kernel => {
                let device = ZramSwap::new("lz4", 2 * LOAD_PAGES)?;
                command.extend(["--mm-stat".to_owned(), device.mm_stat()]);
                swap = Some(device);
                Some(Group::new(Some(limit))?)
            }
            Kind::File => Some(Group::new(Some(limit))?),
            Kind::Resident | Kind::Region(_) => None,
        };
        if let Some(group) = &group {
            command.extend(["--procs".to_owned(), group.procs()]);
            command.extend(["--usage".to_owned(), group.usage()]);
        }
        let told = child::<load::Told>("region-load", one.name, &command, files);
        drop(group);
        match told {
            Err(Error::Turn { status, .. })
                if swap.is_some() && killed(status) && one.killed + 1 < TRIES =>
            {
                one.killed += 1;
            }
            told => {
                let mut told = told?;
                told.memory_bytes += swap.map_or(0, |swap| swap.metadata()) as f64;
                return Ok(told);
            }
        }
    }
}

/// Whether SIGKILL ended a process, as a cgroup without memory does.
fn killed(status: std::process::ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGKILL)
}

/// Returns the table of a load.
fn load_table(all: &[Loaded], threads: u64, writes: u64) -> String {
    let middle = |one: &Loaded, figure: &dyn Fn(&load::Told) -> f64| {
        median(one.told.iter().map(figure).collect()).unwrap_or(f64::NAN)
    };
    let kernel = all.iter().find(|one| one.spec.kind == Kind::Kernel && !one.told.is_empty());
    let beside = |one: &Loaded, figure: &dyn Fn(&load::Told) -> f64| {
        kernel.map_or(f64::NAN, |kernel| middle(one, figure) / middle(kernel, figure))
    };
    let mut table = format!(
        "\n### Threads: {threads}, writes: {writes} %\n\n\
         | memory | codec | CPU µs an operation | program + kernel | × kernel's swap | to reach | | \
         p50 µs | p99 | p99.9 | × kernel's | to reach | | faults % | kop/s | MiB as they are | MiB in all |\n\
         |:--|:--|--:|--:|--:|--:|:--|--:|--:|--:|--:|--:|:--|--:|--:|--:|--:|\n"
    );
    for one in all.iter().filter(|one| !one.told.is_empty()) {
        // Both are NaN if the kernel's swap did not run.
        let (cpu, p999) = (beside(one, &|t| t.cpu_us()), beside(one, &|t| t.p999_us));
        // The figures are those of the default: its codec, its clean pages.
        let reach = match (one.name, writes) {
            ("move", 0..=20) => Some(0.60),
            ("move", _) => Some(0.80),
            ("guard", _) => Some(1.0),
            _ => None,
        };
        let (reach, verdict_cpu) = verdict(cpu, reach);
        let tail = (one.name == "move" && threads == 1).then_some(0.1);
        let (tail, verdict_tail) = verdict(p999, tail);
        table.push_str(&format!(
            "| {} | {} | {:.2} | {:.2} + {:.2} | {cpu:.2} | {reach} | {verdict_cpu} | {:.2} | {:.1} | \
             {:.1} | {p999:.2} | {tail} | {verdict_tail} | {:.2} | {:.0} | {:.1} | {:.1} |\n",
            one.name,
            one.spec.codec_name(),
            middle(one, &|t| t.cpu_us()),
            middle(one, &|t| t.user_us),
            middle(one, &|t| t.system_us),
            middle(one, &|t| t.p50_us),
            middle(one, &|t| t.p99_us),
            middle(one, &|t| t.p999_us),
            middle(one, &|t| t.faults),
            middle(one, &|t| t.per_second) / 1e3,
            middle(one, &|t| t.held_bytes) / f64::from(1 << 20),
            middle(one, &|t| t.memory_bytes) / f64::from(1 << 20),
        ));
    }
    for one in all {
        if let Some(last) = one.told.last().filter(|last| !last.counts.is_empty()) {
            let counts = last.counts.iter().filter(|&(_, &count)| count > 0);
            let counts: Vec<String> =
                counts.map(|(name, count)| format!("{name} {count}")).collect();
            table.push_str(&format!("\n{}: {}", one.name, counts.join(", ")));
        }
        if one.killed > 0 {
            table.push_str(&format!("\n{}: its cgroup killed {} turns", one.name, one.killed));
        }
    }
    table + "\n"
}

/// Measures the memory besides the pages and prints it.
fn footprints(quick: bool, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    let capacity: usize = if quick { 256 << 20 } else { 1 << 30 };
    println!(
        "\n## Memory besides the pages\n\n\
         | region | touched MiB | bytes a page | to reach | | it says | untouched 64 GiB: bytes | to reach |\n\
         |:--|--:|--:|--:|:--|--:|--:|--:|"
    );
    for name in ["move", "guard"].into_iter().filter(|name| wanted(name)) {
        let command = ["--on", name, "--capacity", &capacity.to_string(), "--untouched"];
        let mut command = command.map(str::to_owned).to_vec();
        command.push((64usize << 30).to_string());
        match child::<footprint::Told>("region-footprint", name, &command, &[]) {
            Ok(told) => {
                let pages = told.pages as f64;
                let (reach, verdict) = verdict(told.touched_bytes / pages, Some(8.0));
                println!(
                    "| {name} | {} | {:.2} ({:.0} before a touch) | {reach} | {verdict} | {:.2} | {:.0} \
                     | none |",
                    capacity >> 20,
                    told.touched_bytes / pages,
                    told.built_bytes,
                    told.said_bytes / pages,
                    told.untouched_bytes,
                );
            }
            Err(error) => println!("\nnot run: {name}: {error}\n"),
        }
    }
    Ok(())
}

/// Runs a command of this program and returns what it printed.
fn child<T: DeserializeOwned>(
    verb: &str,
    name: &str,
    args: &[String],
    files: &[PathBuf],
) -> Result<T> {
    let spawn = |reason| Error::System { what: "cannot start", path: name.to_owned(), reason };
    let own = std::env::current_exe().map_err(spawn)?;
    let mut command = Command::new(own);
    command.arg(verb).args(args).args(files).stdin(Stdio::null()).stderr(Stdio::piped());
    let output = command.output().map_err(spawn)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Turn { name: name.to_owned(), status: output.status, said });
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|reason| Error::TurnResult { name: name.to_owned(), reason })
}

/// Prints figures for the program that started this one.
fn tell(told: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(told)
        .map_err(|reason| Error::TurnResult { name: "this".into(), reason })?;
    println!("{text}");
    Ok(())
}

/// Lets this process be killed when the program that started it ends, however it ends.
fn end_with_parent() {
    // An error is ignored: then the process ends with its turn.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}
