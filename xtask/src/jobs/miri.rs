//! Runs the tests of the allocators, the store and other crates under Miri, with strict provenance.
//!
//! The tests run without C code, which Miri cannot execute. On request they also run for a 32-bit
//! and for a big-endian target, to test the packed words and the size arithmetic.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::libtest;
use crate::workspace::{Workspace, integration_tests};

/// A 32-bit and a big-endian target.
const FOREIGN: &[&str] = &["i686-unknown-linux-gnu", "s390x-unknown-linux-gnu"];

/// A placeholder in the lists below. It stands for the integration tests of the crate that need no
/// feature.
const TESTS: &str = "TESTS";

/// The crates, each with its arguments for cargo. Several entries run at the same time, so the
/// slowest come first. zswap-core takes by far the longest, so it is split into several entries.
const CRATES: &[(&str, &str)] = &[
    ("zswap-core", "--no-default-features --features zbud TESTS"),
    ("zsmalloc", ""),
    ("zswap-core", "--no-default-features --features zbud --lib"),
    ("zswap-core", "--no-default-features --features zbud --doc"),
    ("zpool-api", ""),
    ("zpool-conformance", ""),
    ("zpool-base", ""),
    ("zpool-pages", ""),
    ("zpage", "--no-default-features --features zbud"),
    ("z3fold", ""),
    ("zbud", ""),
    ("zram", "--no-default-features --features zbud"),
    ("zpool-buddies", ""),
    ("zswap-cache", "--no-default-features --features zbud --lib"),
    // It has no C code itself, but some of its tests use LZ4. Under Miri these tests leave out LZ4.
    ("linewords", "--lib --test round_trip --test hostile"),
    ("zswap-compressors", "--no-default-features --lib"),
    ("zswap-lz4-block", "--lib --tests"),
];

/// The crate with variants for vector instructions, and the flags with which Miri has those of AVX2.
/// Without the flags, Miri has only the portable variant.
const VECTORS: &str = "linewords";
const AVX2: &str = "-Ctarget-feature=+avx2,+bmi1,+bmi2,+lzcnt,+popcnt";

/// The tests that CI runs: most unit tests of the allocators, and quick tests of other crates. The
/// sweep runs all of [`CRATES`].
const SMOKE: &[(&str, &str)] = &[
    // The tests that are left out here calculate the tables and routes of all sizes, or go through
    // all classes. Each takes as long as many others.
    ("zsmalloc", "--lib -- --skip class_table:: --skip route:: --skip the_place_is_taken_that_"),
    ("z3fold", "--lib"),
    ("zbud", "--lib"),
    // The tests that are left out pack, checksum and clean many objects. They take ten times as long
    // as all others together, and there is no unsafe code in what they test.
    ("zpage", "--no-default-features --features zbud --lib -- --skip segments::tests"),
    ("zswap-core", "--no-default-features --features zbud --test identity"),
    ("zpool-api", "--lib"),
    ("zpool-base", "--lib"),
    ("zpool-pages", "--lib"),
    ("zpool-buddies", "--lib"),
    ("zswap-cache", "--no-default-features --features zbud --lib"),
    ("zswap-compressors", "--no-default-features --lib"),
];

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Run every test with this many schedules instead of one.
    #[arg(long, value_name = "N")]
    seeds: Option<u32>,
    /// Run for this target instead of the host; may be given several times.
    #[arg(long = "target", value_name = "TRIPLE", conflicts_with = "everywhere")]
    targets: Vec<String>,
    /// Run for the host, and also for a 32-bit and a big-endian target.
    #[arg(long)]
    everywhere: bool,
    /// Run only this crate's tests; may be given several times.
    #[arg(short, long = "package", value_name = "CRATE")]
    packages: Vec<String>,
    /// Run only the tests with this text in their path.
    filter: Option<String>,
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    let mut names: Vec<&str> = CRATES.iter().map(|&(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    let wanted = libtest::choose("miri", &names, &args.packages)?;
    ensure_nightly_source()?;
    // `None` is the host.
    let mut targets: Vec<Option<&str>> = args.targets.iter().map(|t| Some(t.as_str())).collect();
    if targets.is_empty() {
        targets.push(None);
    }
    if args.everywhere {
        targets.extend(FOREIGN.iter().copied().map(Some));
    }
    for target in &targets {
        cargo_miri(ws, args, "setup", *target).run()?;
    }
    let runs: Vec<Run<'_>> = targets
        .iter()
        .flat_map(|target| CRATES.iter().map(move |(krate, line)| (*target, *krate, *line)))
        .filter(|(_, krate, _)| wanted.contains(krate))
        .collect();
    run_all(ws, args, &runs)
}

/// Runs the tests that CI runs.
pub(crate) fn smoke(ws: &Workspace) -> Result<()> {
    ensure_nightly_source()?;
    let args = Args::default();
    cargo_miri(ws, &args, "setup", None).run()?;
    let runs: Vec<Run<'_>> = SMOKE.iter().map(|(krate, line)| (None, *krate, *line)).collect();
    run_all(ws, &args, &runs)
}

/// A target, a crate, and further arguments for cargo. The target `None` is the host.
type Run<'a> = (Option<&'a str>, &'a str, &'a str);

fn run_all(ws: &Workspace, args: &Args, runs: &[Run<'_>]) -> Result<()> {
    // A run of Miri uses one thread. So as many runs go on at the same time as there are
    // processors.
    let next = AtomicUsize::new(0);
    let worker = || -> Result<()> {
        while let Some((target, krate, features)) = runs.get(next.fetch_add(1, Relaxed)) {
            let mut cmd = cargo_miri(ws, args, "test", *target);
            if *krate == VECTORS && target.is_none() && cfg!(target_arch = "x86_64") {
                cmd =
                    cmd.env("RUSTFLAGS", AVX2).env("CARGO_TARGET_DIR", ws.target_dir("miri-avx2"));
            }
            let run = cmd
                .args(["-p", krate])
                .args(arguments(ws, krate, features))
                .args(args.filter.iter().map(String::as_str))
                .run_and_show_at_end();
            let ran = run.and_then(|output| {
                // The number of tests is not checked in two cases: with several schedules, the
                // output is mixed up; with a filter, a crate may have no test to run.
                let countable = args.seeds.is_none() && args.filter.is_none();
                if countable && libtest::passed(&output) == 0 {
                    return Err(Error::NothingRan { krate: (*krate).to_owned(), what: "test" });
                }
                Ok(())
            });
            if ran.is_err() {
                // The other workers end after their current crate.
                next.store(runs.len(), Relaxed);
                return ran;
            }
        }
        Ok(())
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(runs.len());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        let ended = workers.into_iter().map(|worker| match worker.join() {
            Ok(result) => result,
            Err(payload) => std::panic::resume_unwind(payload),
        });
        ended.collect::<Result<Vec<()>>>().map(drop)
    })
}

/// Returns the words of `line`, with the word [`TESTS`] replaced by the arguments that select the
/// integration tests of `krate`.
fn arguments(ws: &Workspace, krate: &str, line: &str) -> Vec<String> {
    let package = ws.packages().find(|p| p["name"] == krate);
    let tests = package.into_iter().flat_map(|p| integration_tests(p, |_| false));
    let tests: Vec<String> =
        tests.flat_map(|name| ["--test".to_owned(), name.to_owned()]).collect();
    line.split_whitespace()
        .flat_map(|word| if word == TESTS { tests.clone() } else { vec![word.to_owned()] })
        .collect()
}

fn cargo_miri(ws: &Workspace, args: &Args, verb: &str, target: Option<&str>) -> Cmd {
    let mut flags = String::from("-Zmiri-strict-provenance");
    if let Some(seeds) = args.seeds {
        flags.push_str(&format!(" -Zmiri-many-seeds=0..{seeds}"));
    }
    let cmd = Cmd::line("cargo +nightly miri")
        .arg(verb)
        .env("MIRIFLAGS", flags)
        .env("CARGO_TARGET_DIR", ws.target_dir("miri"));
    match target {
        Some(target) => cmd.args(["--target", target]),
        None => cmd,
    }
}

/// Installs Miri and the source of the standard library in the nightly toolchain, if they are
/// missing. Both Miri and the sanitizers need the source, to build the standard library.
pub(crate) fn ensure_nightly_source() -> Result<()> {
    let installed = Cmd::line("rustup component list --toolchain nightly --installed")
        .quiet()
        .unwrap_or_default();
    let has = |component| installed.lines().any(|l| l.starts_with(component));
    if has("miri") && has("rust-src") {
        return Ok(());
    }
    let add = Cmd::line("rustup component add miri rust-src --toolchain nightly");
    // This command also helps if there is no nightly toolchain yet.
    let fix = "rustup toolchain install nightly --component miri --component rust-src";
    add.run().map_err(|_| Error::Missing { what: "Miri".to_owned(), fix: fix.to_owned() })
}
