//! Runs all contestants, round by round. Each turn is a separate process. The order rotates from
//! round to round, so that changes of the machine's speed affect all contestants alike.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use measure::{Figures, Turn};

use crate::contestants::{self, Entry};
use crate::error::{Error, Result};
use crate::kernel;
use crate::machine::Machine;
use crate::record::Record;
use crate::source;
use crate::table;

/// The number of pages in a quick run: 16 MiB.
const QUICK_PAGES: usize = 4096;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Use only 16 MiB of the pages, one round, and one and four threads.
    #[arg(long)]
    quick: bool,
    /// The number of rounds. Default: 3, or 1 with --quick.
    #[arg(long)]
    rounds: Option<usize>,
    /// The thread counts, separated by commas. Default: 1,2,4, or 1,4 with --quick.
    #[arg(long, value_delimiter = ',')]
    threads: Vec<usize>,
    /// Use at most this many pages, spread evenly over the files.
    #[arg(long, value_name = "PAGES")]
    most: Option<usize>,
    /// Run only contestants with one of these texts in their name. The texts are separated by
    /// commas.
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    only: Vec<String>,
    /// List all contestants and exit.
    #[arg(long)]
    list: bool,
    /// Write the results to FILE as JSON, one object for each contestant and thread count.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Files of raw pages. A file whose name ends in .zst is decompressed first. Default: the
    /// built-in sample.
    files: Vec<PathBuf>,
}

/// One contestant with one thread count.
struct Contest {
    entry: Entry,
    threads: usize,
    told: Vec<Turn>,
    fault: Option<Error>,
}

/// Runs the contestants and prints the results. Returns false if a turn of one of this project's
/// stores or disks failed, for instance because a page came back changed.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let (all, absent) = contestants::all();
    let wanted = |entry: &Entry| {
        args.only.is_empty() || args.only.iter().any(|text| entry.name().contains(text.as_str()))
    };
    let entries: Vec<Entry> = all.into_iter().filter(wanted).collect();
    if entries.is_empty() {
        return Err(Error::NoContestant { only: args.only.join(",") });
    }
    if args.list {
        entries.iter().for_each(|entry| println!("{}", entry.name()));
        absent.iter().for_each(|reason| println!("absent: {reason}"));
        return Ok(true);
    }
    kernel::watch_signals();
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 3 }).max(1);
    let threads = match (&args.threads[..], args.quick) {
        ([], true) => vec![1, 4],
        ([], false) => vec![1, 2, 4],
        (asked, _) => asked.to_vec(),
    };
    let most = args.most.or(args.quick.then_some(QUICK_PAGES));
    let origin = {
        let set = source::load(&args.files, most)?;
        format!("{}, {} pages", set.origin(), set.pages().len())
    };
    let mut contests: Vec<Contest> = threads
        .iter()
        .flat_map(|&threads| {
            let contest =
                move |entry: Entry| Contest { entry, threads, told: Vec::new(), fault: None };
            entries.iter().cloned().map(contest).collect::<Vec<_>>()
        })
        .collect();
    let count = contests.len();
    for round in 0..rounds {
        // The order rotates, so that a contest does not have the same place in all rounds.
        let first = round * count / rounds;
        for turn in 0..count {
            let contest = &mut contests[(first + turn) % count];
            if contest.fault.is_some() {
                continue;
            }
            let name = contest.entry.name();
            // An error is ignored: this is only progress, and the report does not depend on it.
            let _ = writeln!(
                std::io::stderr(),
                "round {} of {rounds}, {} of {count}: {name}, threads: {}",
                round + 1,
                turn + 1,
                contest.threads
            );
            match take_turn(contest, round, most, &args.files) {
                Ok(told) => contest.told.push(told),
                Err(error) => contest.fault = Some(error),
            }
            if kernel::stopped() {
                return Err(Error::Stopped);
            }
        }
    }
    let machine = Machine::here();
    let records: Vec<Record> = contests
        .iter()
        .filter(|contest| contest.fault.is_none())
        .map(|c| Record::new(&c.entry, c.threads, &c.told, &origin, &machine))
        .collect();
    if let Some(path) = &args.json {
        let failed = |reason| Error::System {
            what: "cannot write",
            path: path.display().to_string(),
            reason,
        };
        let text = serde_json::to_string_pretty(&records)
            .map_err(|reason| Error::TurnResult { name: "the run".into(), reason })?;
        std::fs::write(path, text + "\n").map_err(failed)?;
    }
    let figures: Vec<Figures> = records.into_iter().map(|record| record.figures).collect();
    print!("{}", table::render(&figures, &origin, rounds, &machine));
    for reason in &absent {
        println!("absent: {reason}");
    }
    let mut verified = true;
    for contest in &contests {
        if let Some(fault) = &contest.fault {
            println!("failed: {}, {} threads: {fault}", contest.entry.name(), contest.threads);
            verified &= contest.entry.zpool.is_none();
        }
    }
    Ok(verified)
}

fn take_turn(
    contest: &Contest,
    round: usize,
    most: Option<usize>,
    files: &[PathBuf],
) -> Result<Turn> {
    let name = contest.entry.name();
    let spawn = |reason| Error::System { what: "cannot start", path: name.clone(), reason };
    let own = std::env::current_exe().map_err(spawn)?;
    let mut command = Command::new(own);
    command
        .arg("turn")
        .args(["--contestant", &name])
        .args(["--threads", &contest.threads.to_string()])
        .args(["--round", &round.to_string()]);
    if let Some(most) = most {
        command.args(["--most", &most.to_string()]);
    }
    let output =
        command.args(files).stdin(Stdio::null()).stderr(Stdio::piped()).output().map_err(spawn)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Turn { name, status: output.status, said });
    }
    serde_json::from_slice(&output.stdout).map_err(|reason| Error::TurnResult { name, reason })
}
