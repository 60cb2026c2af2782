//! A swap fault of the kernel: a process of its own in a memory cgroup, with swap on the kernel's
//! zram. Its pages are swapped out by request (`MADV_PAGEOUT`) and touched in random order.
//!
//! The process reads lines, each of which is the seed of a turn, and answers each with a line of
//! JSON.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use measure::{Clock, Laps, shuffled};
use rustix::mm::Advice;
use serde::{Deserialize, Serialize};

use super::figures::Figures;
use super::memory::{Kind, Map, Memory};
use super::touch::{Touched, cpu, dense, fault_all};
use crate::error::{Error, Result};
use crate::kernel::zram_swap::{Group, ZramSwap, join};
use crate::source::{self, PAGE};

/// The name of the figures.
const NAME: &str = "kernel zram swap";
/// How long it is tried to swap all pages out.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file that takes the number of a process which joins the cgroup.
    #[arg(long)]
    procs: String,
    #[arg(long)]
    most: Option<usize>,
    files: Vec<PathBuf>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Told {
    figures: Vec<(String, f64)>,
}

/// The process of the kernel's turns. On drop it is ended, and what was set up is undone.
pub(crate) struct Child {
    // Dropped in this order: the process, its group, its swap.
    process: Process,
    answers: BufReader<ChildStdout>,
    requests: ChildStdin,
    _group: Group,
    _swap: ZramSwap,
}

/// A process that ends on drop.
pub(crate) struct Process(pub(crate) std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Child {
    pub(crate) fn start(files: &[PathBuf], most: usize, pages: usize) -> Result<Self> {
        let swap = ZramSwap::new("lz4", 2 * pages)?;
        let group = Group::new(None)?;
        let spawn = |reason| Error::System { what: "cannot start", path: NAME.into(), reason };
        let own = std::env::current_exe().map_err(spawn)?;
        let mut command = Command::new(own);
        command.args(["region-swap", "--procs", &group.procs(), "--most", &most.to_string()]);
        command.args(files).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process(command.spawn().map_err(spawn)?);
        let (Some(requests), Some(answers)) = (process.0.stdin.take(), process.0.stdout.take())
        else {
            return Err(Error::setup("a process without pipes"));
        };
        let answers = BufReader::new(answers);
        Ok(Child { process, answers, requests, _group: group, _swap: swap })
    }

    /// Takes one turn.
    pub(crate) fn turn(&mut self, seed: u64, figures: &mut Figures) -> Result<()> {
        let failed = |reason| Error::System { what: "cannot talk to", path: NAME.into(), reason };
        writeln!(self.requests, "{seed}").map_err(failed)?;
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(failed)?;
        if line.is_empty() {
            let status = self.process.0.wait().map_err(failed)?;
            return Err(Error::Turn { name: NAME.into(), status, said: "see above".to_owned() });
        }
        let told: Told = serde_json::from_str(&line)
            .map_err(|reason| Error::TurnResult { name: NAME.into(), reason })?;
        told.figures.into_iter().for_each(|(name, value)| figures.add(name, value));
        Ok(())
    }
}

/// The process itself.
pub(crate) fn run(args: &Args) -> Result<()> {
    super::end_with_parent();
    let set = source::load(&args.files, args.most)?;
    let pages = set.pages();
    let (mut laps, clock) = (Laps::with_capacity(pages.len()), Clock::measure());
    join(&args.procs)?;
    let failed = |error: std::io::Error| Error::setup(format!("the memory: {error}"));
    let memory = Memory::from_map(Map::anonymous(pages.len() * PAGE).map_err(failed)?);
    let map = memory.map().ok_or(Error::setup(format!("{:?} is no mapping", Kind::Kernel)))?;
    pages.iter().enumerate().for_each(|(n, page)| memory.fill(n, page));
    let indices: Vec<usize> = (0..pages.len()).collect();
    for line in std::io::stdin().lines() {
        let line = line.map_err(failed)?;
        let seed = line.trim().parse().map_err(|_| Error::setup(format!("a seed of {line:?}")))?;
        // Written, so that no page is still in swap.
        for n in 0..pages.len() {
            memory.write(n, 0, memory.read(n, 0));
        }
        let mut told = Figures::default();
        let before = cpu();
        map.advise(Advice::LinuxPageOut).map_err(failed)?;
        told.add(format!("{NAME}: eviction"), (cpu() - before) / pages.len() as f64);
        // A page that was being written out at that moment stays.
        let begun = Instant::now();
        while resident(map).map_err(failed)? * 1000 > pages.len() {
            if begun.elapsed() > PATIENCE {
                return Err(Error::setup("the kernel does not swap the pages out"));
            }
            map.advise(Advice::LinuxPageOut).map_err(failed)?;
        }
        let order = shuffled(&indices, seed);
        let touched = Touched { memory: &memory, place: dense, pages: Some(pages), order: &order };
        fault_all(&touched, &mut laps, clock, NAME, &mut told)?;
        let told = Told { figures: told.into_medians() };
        let text = serde_json::to_string(&told)
            .map_err(|reason| Error::TurnResult { name: NAME.into(), reason })?;
        println!("{text}");
    }
    Ok(())
}

/// Returns the number of pages in memory. Pages in the swap cache count as in memory.
fn resident(map: &Map) -> std::io::Result<usize> {
    let mut pages = vec![0u8; map.len() / PAGE];
    // SAFETY: the range is this mapping, and `pages` has a byte for each of its pages.
    if unsafe { libc::mincore(map.start().cast(), map.len(), pages.as_mut_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(pages.iter().filter(|&&page| page & 1 != 0).count())
}
