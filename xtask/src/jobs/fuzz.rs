//! Runs every fuzz target for a while, starting from the committed seeds and from inputs of earlier
//! runs.
//!
//! New inputs are kept in `fuzz/corpus`, which is not committed. An input that makes a target fail
//! is a finding. It fails the job, and the output says how to reproduce it. The input is kept in
//! `fuzz/artifacts`, and later runs try it first.
//!
//! With `--resume` a target runs in slices, and a ledger counts its seconds. The seconds count only
//! for the binary that ran: a binary from changed sources starts at zero. If the job is stopped, at
//! most one slice is lost. A finding sets the target's seconds back to zero.

use std::hash::{DefaultHasher, Hasher};
use std::path::Path;

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::jobs::miri;
use crate::ledger::Ledger;
use crate::libtest;
use crate::subcommand;
use crate::workspace::{self, Workspace, text};

pub(crate) const TARGETS: &[&str] = &[
    "zpool_ops",
    "decompress",
    "lz4_block",
    "linewords",
    "zswap_ops",
    "zram_ops",
    "cache_ops",
    "nbd_stream",
];
/// How many seconds each target runs in `ci`.
const CI_SECONDS: u64 = 12;
/// The length of a slice. The ledger is written after each slice.
const SLICE_SECONDS: u64 = 60;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only this target; may be given several times.
    #[arg(short, long = "target", value_name = "TARGET")]
    pub(crate) targets: Vec<String>,
    /// Run each target for this many seconds.
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// Count the seconds that the same binary already ran with this option, and run only the rest.
    /// If the job is stopped, at most the last 60 s are lost.
    #[arg(long)]
    pub(crate) resume: bool,
}

impl Default for Args {
    fn default() -> Self {
        Self { targets: Vec::new(), seconds: CI_SECONDS, resume: false }
    }
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    let wanted = libtest::choose("fuzz", TARGETS, &args.targets)?;
    subcommand::ensure("fuzz")?;
    miri::ensure_nightly_source()?;
    for target in wanted {
        for folder in ["corpus", "artifacts"] {
            let path = ws.root().join("fuzz").join(folder).join(target);
            std::fs::create_dir_all(&path).map_err(|source| Error::Read { path, source })?;
        }
        if args.resume {
            let mut ledger = Ledger::open(ws.target_dir("fuzz-seconds.json"));
            let mut runs = 0;
            resume(&mut ledger, target, args.seconds, build, |seconds| {
                runs += fuzz(target, seconds)?;
                Ok(())
            })?;
            let wanted = args.seconds;
            println!("fuzz: {target}: {runs} executions now, no finding in {wanted} s in all");
        } else {
            let runs = fuzz(target, args.seconds)?;
            println!("fuzz: {target}: {runs} executions, no finding");
        }
    }
    Ok(())
}

/// Runs `target` in slices until the binary that `build` makes has run for `wanted` seconds in all.
/// If a slice fails, sets the target's seconds back to zero and returns the error.
fn resume(
    ledger: &mut Ledger,
    target: &str,
    wanted: u64,
    build: impl Fn(&str) -> Result<String>,
    mut slice: impl FnMut(u64) -> Result<()>,
) -> Result<()> {
    loop {
        let state = build(target)?;
        let had = ledger.seconds(target, &state).unwrap_or(0);
        if had >= wanted {
            return Ok(());
        }
        let seconds = SLICE_SECONDS.min(wanted - had);
        if let Err(finding) = slice(seconds) {
            // The earlier seconds do not count any more: this binary has a fault.
            ledger.forget(target)?;
            return Err(finding);
        }
        // A slice builds the target, too. If the sources have changed since `build`, another binary
        // may have run, and the slice does not count.
        if build(target)? == state {
            ledger.set(target, &state, had + seconds)?;
        }
    }
}

/// Builds a target. Returns a hash of the binary.
fn build(target: &str) -> Result<String> {
    let rustc = Cmd::line("rustc +nightly -vV").quiet()?;
    let host = rustc.lines().find_map(|l| l.strip_prefix("host: ")).unwrap_or_default();
    Cmd::line("cargo +nightly fuzz build --target").args([host, target]).quiet()?;
    let metadata = workspace::metadata(&["--no-deps", "--manifest-path", "fuzz/Cargo.toml"])?;
    let folder = Path::new(text(&metadata["target_directory"])).join(host).join("release");
    let path = folder.join(target);
    let binary = std::fs::read(&path).map_err(|source| Error::Read { path, source })?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&binary);
    Ok(format!("{:016x}", hasher.finish()))
}

/// Runs a target. Returns how many inputs it executed, or an error if it executed none.
fn fuzz(target: &str, seconds: u64) -> Result<u64> {
    // libFuzzer writes everything to standard error, even how to reproduce a finding.
    let line = format!(
        "exec cargo +nightly fuzz run {target} fuzz/corpus/{target} fuzz/seeds/{target} \
         fuzz/artifacts/{target} -- -print_final_stats=1 -rss_limit_mb=4096 \
         -max_total_time={seconds} 2>&1"
    );
    let output = Cmd::new("sh").args(["-c", &line]).run_and_read()?;
    match executions(&output) {
        Some(runs) if runs > 0 => Ok(runs),
        _ => Err(Error::NothingRan { krate: target.to_owned(), what: "input" }),
    }
}

/// Returns how many inputs were executed, as libFuzzer reports it in `output`. Returns `None` if
/// the report is not there.
fn executions(output: &str) -> Option<u64> {
    let line = output.lines().find(|l| l.starts_with("stat::number_of_executed_units:"))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::path::PathBuf;

    use super::*;

    /// The directory of a ledger for one test. It is removed on drop.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(test: &str) -> Self {
            let name = format!("xtask-fuzz-{}-{test}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn ledger(&self) -> Ledger {
            Ledger::open(self.0.join("fuzz-seconds.json"))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn stopped() -> Error {
        Error::NothingRan { krate: "zram_ops".to_owned(), what: "input" }
    }

    #[test]
    fn a_target_runs_in_slices_and_only_what_is_left() {
        let scratch = Scratch::new("slices");
        let ran = RefCell::new(Vec::new());
        let run = |wanted| {
            resume(
                &mut scratch.ledger(),
                "zram_ops",
                wanted,
                |_| Ok("one".to_owned()),
                |seconds| {
                    ran.borrow_mut().push(seconds);
                    Ok(())
                },
            )
            .unwrap();
            ran.take()
        };
        assert_eq!(run(150), [60, 60, 30]);
        assert!(run(150).is_empty(), "all seconds have run");
        assert_eq!(run(170), [20]);
    }

    #[test]
    fn a_stop_loses_one_slice() {
        let scratch = Scratch::new("stop");
        let slices = Cell::new(0);
        // The panic stands for a stop, which ends the process in the middle of a slice.
        let run = || {
            resume(
                &mut scratch.ledger(),
                "zram_ops",
                240,
                |_| Ok("one".to_owned()),
                |_| {
                    slices.set(slices.get() + 1);
                    assert_ne!(slices.get(), 3, "stopped");
                    Ok(())
                },
            )
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
        assert_eq!(scratch.ledger().seconds("zram_ops", "one"), Some(120));
        run().unwrap();
        assert_eq!(slices.get(), 5, "two before, the lost one, two after");
    }

    #[test]
    fn a_finding_takes_back_what_the_binary_had() {
        let scratch = Scratch::new("finding");
        let mut slices = 0;
        let found = resume(
            &mut scratch.ledger(),
            "zram_ops",
            240,
            |_| Ok("one".to_owned()),
            |_| {
                slices += 1;
                if slices < 3 { Ok(()) } else { Err(stopped()) }
            },
        );
        assert!(found.is_err());
        assert_eq!(scratch.ledger().seconds("zram_ops", "one"), None);
    }

    #[test]
    fn a_binary_from_other_sources_starts_at_none() {
        let scratch = Scratch::new("rebuilt");
        let (slices, state) = (Cell::new(0), Cell::new("one"));
        // The sources change during the second slice, so the slice does not count for either
        // binary.
        resume(
            &mut scratch.ledger(),
            "zram_ops",
            180,
            |_| Ok(state.get().to_owned()),
            |_| {
                slices.set(slices.get() + 1);
                match slices.get() {
                    2 => state.set("two"),
                    3 => assert_eq!(scratch.ledger().seconds("zram_ops", "one"), Some(60)),
                    _ => {}
                }
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(slices.get(), 5);
        assert_eq!(scratch.ledger().seconds("zram_ops", "two"), Some(180));
    }

    #[test]
    fn executions_are_libfuzzers_count() {
        let output = "#12 DONE\nstat::number_of_executed_units: 4711\nstat::peak_rss_mb: 37\n";
        assert_eq!(executions(output), Some(4711));
        assert_eq!(executions("no such line"), None);
    }
}
