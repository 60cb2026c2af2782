//! `cargo xtask <job>`: every check that CI makes, runnable on a laptop.
//!
//! One file a job under `jobs/`; the house rules that a machine can see are one file each under
//! `tidy/`. A job prints every command that it runs, so that it can be copied into a shell, and
//! fails with one line that says what to do. Jobs run from the workspace root whatever the
//! caller's directory is, with standard input closed.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a task runner: what it prints is its whole purpose, and no library depends on it"
)]

mod apt;
mod cmd;
mod error;
mod folder;
mod index;
mod jobs;
mod ledger;
mod libtest;
mod no_c;
mod sanitizer;
mod subcommand;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Result;
use crate::workspace::Workspace;

/// Runs one of the project's checks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Every job below in turn, with a time for each and one line at the end.
    Ci(jobs::ci::Args),
    /// Formatting, checked and not changed.
    Fmt,
    /// The house rules that a machine can see.
    Tidy,
    /// Clippy over everything, and over each library without its default features.
    Clippy,
    /// The documentation builds without a warning.
    Docs,
    /// The public API of the library crates is what docs/api says.
    Api(jobs::api::Args),
    /// The tests of the whole workspace.
    Test,
    /// `zswap compare` over the built-in sample, its JSON read back and checked.
    Compare,
    /// Every example of every crate, which checks its own results.
    Examples,
    /// Tests of what is behind features that are off by default and need nothing installed.
    Features,
    /// Tests with the `lzo` feature, which needs cmake.
    Lzo,
    /// The NBD server with the clients of QEMU and libnbd.
    Nbd,
    /// Type-checks with the oldest compiler that the root manifest promises.
    Msrv,
    /// Type-checks the crates without C code for other systems.
    Cross,
    /// Type-checks every combination of each crate's features.
    Powerset(jobs::powerset::Args),
    /// Each package published by itself to an index on disk, and compiled against that.
    Publish,
    /// The published packages, used by a crate outside the workspace.
    Outside,
    /// The crate that measures this project beside its peers is in order: lints, tests, a small run.
    Peers,
    /// Every loom model.
    Loom(jobs::loom::Args),
    /// The allocators and the store under Miri.
    Miri(jobs::miri::Args),
    /// The concurrent tests under ThreadSanitizer; all tests on request.
    Tsan(jobs::tsan::Args),
    /// All tests under AddressSanitizer, leaks and C code included.
    Asan(jobs::asan::Args),
    /// The criterion benches on real pages, told in multiples of a mutex pair; or, with --peers, this
    /// project beside its peers.
    Bench(jobs::bench::Args),
    /// How dense a store stays over 100 million operations, with and without compaction.
    Aging(jobs::aging::Args),
    /// docs/benchmarks.md and its pictures, from a run of `bench --peers` and one of aging.
    Report(jobs::report::Args),
    /// The churn tests for minutes: eight threads, every byte looked at.
    Churn(jobs::churn::Args),
    /// Every backend, codec, limit, fault and switch of the store at random, against a model.
    Torture(jobs::torture::Args),
    /// Every fuzz target for a while.
    Fuzz(jobs::fuzz::Args),
    /// Everything that looks for unsoundness, for hours; goes on where it was stopped.
    Sweep(jobs::sweep::Args),
    /// Mutants of locks, slots, reference counts and accounting: which do the tests not notice?
    Mutants(jobs::mutants::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().job) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(job: Job) -> Result<()> {
    let ws = Workspace::open()?;
    match job {
        Job::Ci(args) => jobs::ci::run(&ws, &args),
        Job::Fmt => jobs::fmt::run(),
        Job::Tidy => tidy::run(&ws),
        Job::Clippy => jobs::clippy::run(&ws),
        Job::Docs => jobs::docs::run(),
        Job::Api(args) => jobs::api::run(&ws, &args),
        Job::Test => jobs::test::run(),
        Job::Compare => jobs::compare::run(),
        Job::Examples => jobs::examples::run(&ws),
        Job::Features => jobs::features::run(),
        Job::Lzo => jobs::lzo::run(),
        Job::Nbd => jobs::nbd::run(),
        Job::Msrv => jobs::msrv::run(&ws),
        Job::Cross => jobs::cross::run(),
        Job::Powerset(args) => jobs::powerset::run(&ws, &args),
        Job::Publish => jobs::publish::run(&ws),
        Job::Outside => jobs::outside::run(&ws),
        Job::Peers => jobs::peers::check(&ws),
        Job::Loom(args) => jobs::loom::run(&ws, &args),
        Job::Miri(args) => jobs::miri::run(&ws, &args),
        Job::Tsan(args) => jobs::tsan::run(&ws, &args),
        Job::Asan(args) => jobs::asan::run(&ws, &args),
        Job::Bench(args) => jobs::bench::run(&ws, &args),
        Job::Aging(args) => jobs::aging::run(&ws, &args),
        Job::Report(args) => jobs::report::run(&ws, &args),
        Job::Churn(args) => jobs::churn::run(&args),
        Job::Torture(args) => jobs::torture::run(&args),
        Job::Fuzz(args) => jobs::fuzz::run(&ws, &args),
        Job::Sweep(args) => jobs::sweep::run(&ws, &args),
        Job::Mutants(args) => jobs::mutants::run(&ws, &args),
    }
}
