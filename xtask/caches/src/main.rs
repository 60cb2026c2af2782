//! zswap-cache beside other caches whose values are compressed with zstd, at equal growth of the resident set.
//!
//! Each contestant runs in a process of its own. A contestant that takes more memory than it is set to is set to less,
//! until the process grows by the budget, within 2 %. Ours is set to the budget itself.

mod contestants;
mod error;
mod measure;
mod rng;
mod set;
mod table;
mod trace;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;

use crate::contestants::NAMES;
use crate::error::{Error, Result};
use crate::set::Set;
use crate::table::Figures;

const MIB: usize = 1 << 20;

#[derive(Debug, clap::Parser)]
struct Args {
    /// Fewer gets, and one set.
    #[arg(long)]
    quick: bool,
    /// Files with a value a line, each with its budget in MiB: `PATH=MIB`.
    sets: Vec<String>,
    /// For children of this program: a contestant, its bytes, and what to do.
    #[arg(long, num_args = 3, hide = true)]
    child: Option<Vec<String>>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut said = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                said += &format!(": {error}");
                cause = error.source();
            }
            eprintln!("caches: {said}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let gets = if args.quick { 100_000 } else { 400_000 };
    if let (Some(child), [path]) = (&args.child, args.sets.as_slice()) {
        let set = Set::open(Path::new(path))?;
        let bytes = child[1].parse().unwrap_or(0);
        let said = match child[2].as_str() {
            "growth" => measure::growth(&child[0], bytes, &set)?,
            _ => measure::figures(&child[0], bytes, &set, gets)?,
        };
        println!("{said}");
        return Ok(());
    }
    for given in args.sets.iter().take(if args.quick { 1 } else { usize::MAX }) {
        let (path, mib) = given.rsplit_once('=').unwrap_or((given, "24"));
        let (path, budget) = (PathBuf::from(path), mib.parse::<usize>().unwrap_or(24) * MIB);
        let set = Set::open(&path)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        println!(
            "\n## {name}: {} values, {:.1} MiB; budget {} MiB\n",
            set.len(),
            set.bytes() as f64 / MIB as f64,
            budget / MIB
        );
        let mut all = Vec::new();
        for name in NAMES {
            let bytes = if name.starts_with("zswap-cache") {
                budget
            } else {
                setting(name, budget, &path)?
            };
            eprintln!("{name}: set to {:.2} MiB", bytes as f64 / MIB as f64);
            all.push(parse(&child(name, bytes, "figures", &path, args.quick)?));
        }
        println!("{}", table::table(&NAMES, &all));
    }
    Ok(())
}

/// Searches the setting with which a contestant's process grows by the budget.
fn setting(name: &str, budget: usize, path: &Path) -> Result<usize> {
    let (mut low, mut high) = (budget / 4, budget);
    let mut middle = budget / 2;
    for _ in 0..10 {
        let said = child(name, middle, "growth", path, true)?;
        let grown: usize = said.trim().parse().unwrap_or(0);
        if grown.abs_diff(budget) * 50 <= budget {
            break;
        }
        if grown > budget {
            high = middle
        } else {
            low = middle
        }
        middle = low.midpoint(high);
    }
    Ok(middle)
}

/// Runs this program as a child.
fn child(name: &str, bytes: usize, what: &str, path: &Path, quick: bool) -> Result<String> {
    let this = std::env::current_exe().map_err(Error::Start)?;
    let mut command = Command::new(this);
    command.arg(path).args(["--child", name, &bytes.to_string(), what]);
    if quick {
        command.arg("--quick");
    }
    let output = command.output().map_err(Error::Start)?;
    if !output.status.success() {
        return Err(Error::Child { said: String::from_utf8_lossy(&output.stderr).into_owned() });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn parse(said: &str) -> Figures {
    let line = |line: &str| {
        let (name, numbers) = line.split_once('\t')?;
        let numbers = numbers.split(' ').filter_map(|number| number.parse().ok()).collect();
        Some((name.to_owned(), numbers))
    };
    said.lines().filter_map(line).collect()
}
