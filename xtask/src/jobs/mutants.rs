//! Tests mutants of code in which every detail counts: locks, slots, segments, reference counts, entries,
//! accounting.
//!
//! A mutant is the code with one operator or result changed. cargo-mutants makes the mutants one at
//! a time and runs the crate's tests on each. If no test fails, the mutant survives, and the job
//! fails. `.cargo/mutants.toml` excludes the mutants that no test of the crate can notice, and says
//! why.
//!
//! Mutants that the tests noticed are recorded under the target directory, so that an interrupted
//! run can resume. To begin from the start, remove the folder `mutants` there.

use std::path::{Path, PathBuf};

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::libtest;
use crate::subcommand;
use crate::workspace::{Workspace, text};

/// A crate, the files under `src` to mutate, and the cargo arguments for the features that its
/// tests need.
type Target = (&'static str, &'static [&'static str], &'static [&'static str]);

const TARGETS: &[Target] = &[
    ("zpool-api", &["handle.rs", "read.rs", "stats.rs"], &[]),
    ("zpool-base", &["stable.rs", "zeroed.rs", "numbers.rs", "bitmap.rs", "lockdep.rs"], &[]),
    (
        "zpool-buddies",
        &[
            "word.rs",
            "records.rs",
            "lists.rs",
            "shelves.rs",
            "states.rs",
            "page.rs",
            "layout.rs",
            "reclaim.rs",
        ],
        &[],
    ),
    ("zbud", &["layout.rs"], &[]),
    ("z3fold", &["page.rs"], &[]),
    (
        "zsmalloc",
        &[
            "lane.rs",
            "slot.rs",
            "zspage.rs",
            "zspages.rs",
            "route.rs",
            "holes.rs",
            "class.rs",
            "class_stats.rs",
            "class_table.rs",
        ],
        &[],
    ),
    (
        "zpage",
        &[
            "word_lock.rs",
            "segments/address.rs",
            "segments/clean.rs",
            "segments/codecs.rs",
            "segments/draft.rs",
            "segments/mod.rs",
            "segments/seal.rs",
            "segments/table.rs",
        ],
        &[],
    ),
    (
        "zswap-core",
        &[
            "entry/lock.rs",
            "entry/word.rs",
            "entry/mod.rs",
            "counters.rs",
            "pool/percpu_ref.rs",
            "limits.rs",
            "stats.rs",
            "checksum.rs",
            "entry/index/change.rs",
            "entry/index/mod.rs",
            "entry/index/node.rs",
            "entry/index/pooled.rs",
            "moves/relocate.rs",
            "room.rs",
            "moves/walk.rs",
            "background/shrinker.rs",
        ],
        &[],
    ),
    (
        "zram",
        &[
            "word.rs",
            "table.rs",
            "counts.rs",
            "stat.rs",
            "idle.rs",
            "writeback.rs",
            "recompress.rs",
        ],
        &[],
    ),
];

/// The exit code of cargo-mutants if the tests missed some mutants.
const MISSED: i32 = 2;
/// The exit code of cargo-mutants if the tests hung on some mutants. A hang counts as noticed.
const TIMED_OUT: i32 = 3;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Test only this crate; may be given several times.
    #[arg(short, long = "package", value_name = "CRATE")]
    packages: Vec<String>,
    /// Print the mutants instead of testing them.
    #[arg(long)]
    list: bool,
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    let names: Vec<&str> = TARGETS.iter().map(|&(name, ..)| name).collect();
    let wanted = libtest::choose("mutants", &names, &args.packages)?;
    subcommand::ensure("mutants")?;
    let mut survivors = Vec::new();
    for target in TARGETS.iter().filter(|(name, ..)| wanted.contains(name)) {
        let cmd = cargo_mutants(ws, target)?;
        if args.list {
            cmd.arg("--list").run()?;
        } else {
            survivors.extend(test(ws, target, cmd)?);
        }
    }
    for survivor in &survivors {
        println!("mutants: survived: {survivor}");
    }
    if survivors.is_empty() {
        Ok(())
    } else {
        Err(Error::Findings { job: "mutants", findings: survivors.len() })
    }
}

/// Tests the mutants of a crate, except those that an earlier run has recorded as noticed. Returns
/// a line for each mutant that survived.
fn test(ws: &Workspace, target: &Target, cmd: Cmd) -> Result<Vec<String>> {
    let output = output_dir(ws, target.0);
    std::fs::create_dir_all(&output)
        .map_err(|source| Error::Read { path: output.clone(), source })?;
    let run = cmd
        // The tests of a crate take seconds, so 60 s mean that they hang.
        .args(["--iterate", "--jobs", "1", "--timeout", "60", "--output"])
        .arg(output.display().to_string())
        // Doc examples are not run: they take longest to build and find least.
        .args(["--", "--tests"])
        .run();
    match run {
        Ok(()) => Ok(Vec::new()),
        Err(Error::Failed { status, .. }) if matches!(status.code(), Some(MISSED | TIMED_OUT)) => {
            let path = output.join("mutants.out/missed.txt");
            let missed =
                std::fs::read_to_string(&path).map_err(|source| Error::Read { path, source })?;
            Ok(missed.lines().map(str::to_owned).collect())
        }
        Err(error) => Err(error),
    }
}

fn cargo_mutants(ws: &Workspace, (name, files, features): &Target) -> Result<Cmd> {
    let mut cmd = Cmd::line("cargo mutants --package").arg(*name).args(features.iter().copied());
    let package = ws.packages().find(|package| text(&package["name"]) == *name);
    let manifest = Path::new(package.map_or(*name, |package| text(&package["manifest_path"])));
    let manifest = manifest.strip_prefix(ws.root()).unwrap_or(manifest);
    for file in *files {
        let path = manifest.with_file_name("src").join(file);
        // cargo-mutants ignores a file that does not exist, so the job checks for it.
        std::fs::metadata(ws.root().join(&path))
            .map_err(|source| Error::Read { path: path.clone(), source })?;
        cmd = cmd.arg("--file").arg(path.display().to_string());
    }
    Ok(cmd)
}

fn output_dir(ws: &Workspace, name: &str) -> PathBuf {
    Path::new(&ws.target_dir("mutants")).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_named_is_there() {
        let ws = Workspace::open().unwrap();
        for target in TARGETS {
            cargo_mutants(&ws, target).unwrap();
        }
    }
}
