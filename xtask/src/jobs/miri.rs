//! The allocators and the store under Miri, with strict provenance.
//!
//! Crates run without their C code, which Miri cannot execute. On request they also run for a
//! 32-bit and a big-endian target, which test the packed words and the size arithmetic.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::libtest;
use crate::workspace::{Workspace, integration_tests};

/// A 32-bit and a big-endian target.
const FOREIGN: &[&str] = &["i686-unknown-linux-gnu", "s390x-unknown-linux-gnu"];

/// The placeholder for a crate's integration tests that need no feature.
const TESTS: &str = "TESTS";

/// The crates and their arguments for cargo. The slowest come first, since several run at a time. The
/// store is split into parts, as it takes longest by far.
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
    // Without C code by itself: its tests keep from LZ4.
    ("linewords", "--lib --test round_trip --test hostile"),
    ("zswap-compressors", "--no-default-features --lib"),
    ("zswap-lz4-block", "--lib --tests"),
];

/// What CI runs: the allocators, and the quick parts of the others. The sweep runs all of [`CRATES`].
const SMOKE: &[(&str, &str)] = &[
    ("zsmalloc", "--lib"),
    ("z3fold", "--lib"),
    ("zbud", "--lib"),
    ("zpage", "--no-default-features --features zbud --lib"),
    ("zswap-core", "--no-default-features --features zbud --test identity"),
    ("zpool-api", "--lib"),
    ("zpool-base", "--lib"),
    ("zpool-pages", "--lib"),
    ("zpool-buddies", "--lib"),
    ("zswap-compressors", "--no-default-features --lib"),
];

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Run every test under this many schedules instead of one.
    #[arg(long, value_name = "N")]
    seeds: Option<u32>,
    /// Run for this target instead of the host; may be given several times.
    #[arg(long = "target", value_name = "TRIPLE", conflicts_with = "everywhere")]
    targets: Vec<String>,
    /// Run for the host, for a 32-bit and for a big-endian target.
    #[arg(long)]
    everywhere: bool,
    /// Only this crate; may be given several times.
    #[arg(short, long = "package", value_name = "CRATE")]
    packages: Vec<String>,
    /// Only tests whose path contains this.
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

/// Runs what CI runs.
pub(crate) fn smoke(ws: &Workspace) -> Result<()> {
    ensure_nightly_source()?;
    let args = Args::default();
    cargo_miri(ws, &args, "setup", None).run()?;
    let runs: Vec<Run<'_>> = SMOKE.iter().map(|(krate, line)| (None, *krate, *line)).collect();
    run_all(ws, &args, &runs)
}

/// A target (`None` is the host), a crate, and the other arguments for cargo.
type Run<'a> = (Option<&'a str>, &'a str, &'a str);

fn run_all(ws: &Workspace, args: &Args, runs: &[Run<'_>]) -> Result<()> {
    // Miri uses one thread, so as many crates run at a time as there are processors.
    let next = AtomicUsize::new(0);
    let worker = || -> Result<()> {
        while let Some((target, krate, features)) = runs.get(next.fetch_add(1, Relaxed)) {
            let run = cargo_miri(ws, args, "test", *target)
                .args(["-p", krate])
                .args(arguments(ws, krate, features))
                .args(args.filter.iter().map(String::as_str))
                .run_and_show_at_end();
            let ran = run.and_then(|output| {
                // Several schedules print over each other, and a filter may leave a crate no test.
                let countable = args.seeds.is_none() && args.filter.is_none();
                if countable && libtest::passed(&output) == 0 {
                    return Err(Error::NothingRan { krate: (*krate).to_owned(), what: "test" });
                }
                Ok(())
            });
            if ran.is_err() {
                // The others end after their current crate.
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

/// Returns the arguments for cargo besides the crate: the words of `line`, where [`TESTS`] is replaced.
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

/// Installs Miri and the source of the standard library, which Miri and the sanitizers build.
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
