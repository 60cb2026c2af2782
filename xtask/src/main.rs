//! `cargo xtask <job>` runs one of the project's checks. CI runs the same jobs, so a laptop can run
//! everything that CI does.
//!
//! Each job is a file under `jobs/`. Each house rule that a machine can check is a file under
//! `tidy/`. A job prints the commands that do its work, so that they can be copied into a shell. It
//! does not print short queries, such as whether a tool is installed. If a job fails, its error
//! says what to do where possible. Jobs run in the workspace root, whatever directory the caller is
//! in. The standard input of their commands is empty.
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

use crate::error::{Error, NOT_RUN, Result};
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
    /// Runs the steps of CI, some of them two at a time. Prints the time of each, and a summary
    /// line at the end.
    Ci(jobs::ci::Args),
    /// Checks the formatting without changing it.
    Fmt,
    /// Checks the files against the house rules (tidy).
    Tidy,
    /// Runs clippy over the whole workspace, and over each library without its default features.
    Clippy,
    /// Checks that the documentation builds without a warning.
    Docs,
    /// Checks that docs/api shows the public API of the library crates.
    Api(jobs::api::Args),
    /// Runs the tests of the whole workspace.
    Test,
    /// Checks the JSON that `zswap compare` prints for the built-in sample. Also runs the command's
    /// trials of switching and writeback.
    Compare,
    /// Runs every example of every crate, and the tests in them. An example checks its own results.
    Examples,
    /// Tests the features `metrics` and `encrypt`, which are off by default.
    Features,
    /// Tests with the `lzo` feature, which needs cmake.
    Lzo,
    /// Tests the NBD server with the clients of QEMU and libnbd.
    Nbd,
    /// Type-checks each crate with the oldest Rust version that it promises: without its features,
    /// and with each feature alone. The feature `lzo` is left out.
    Msrv(jobs::msrv::Args),
    /// Type-checks the crates that build no C code, for other systems.
    Cross,
    /// Checks the licences, versions and sources of all dependencies, and looks for known
    /// vulnerabilities.
    Deny,
    /// Packs each package as for crates.io, and compiles it against the packages packed before it.
    Publish,
    /// Uses the published packages from a crate outside the workspace.
    Outside,
    /// Checks xtask/peers, the crate that compares this project with its peers: lints, tests, a
    /// small run.
    Peers,
    /// Checks zswap-remote, the device on remote services: lints, and tests on Redis and S3 servers.
    Remote(jobs::remote::Args),
    /// Runs every loom model.
    Loom(jobs::loom::Args),
    /// Runs the tests of the allocators, the store and other libraries under Miri.
    Miri(jobs::miri::Args),
    /// Runs the tests of the concurrent libraries under the thread sanitizer. With --all, runs the
    /// tests of every crate.
    Tsan(jobs::tsan::Args),
    /// Runs the tests of every crate, C code included, under the address sanitizer and its leak
    /// checker.
    Asan(jobs::asan::Args),
    /// Runs the criterion benches on real pages, and shows the times as multiples of the time of a
    /// mutex pair, a lock and an unlock. With --peers or --codec, compares this project or its
    /// codecs with others instead.
    Bench(jobs::bench::Args),
    /// Measures how dense a store stays over 100 million operations: without compaction, with
    /// compaction on demand, and with compaction in the background.
    Aging(jobs::aging::Args),
    /// Writes docs/benchmarks.md and its pictures from a run of `bench --peers` and a run of
    /// `aging`.
    Report(jobs::report::Args),
    /// Runs the churn tests of zsmalloc for minutes instead of seconds.
    Churn(jobs::churn::Args),
    /// Tests the store against a model, with random backends, codecs, limits, faults and switches.
    Torture(jobs::torture::Args),
    /// Search for lost writes in regions.
    Region(jobs::region::Args),
    /// Runs every fuzz target for a while.
    Fuzz(jobs::fuzz::Args),
    /// Runs every search for unsoundness at full length, and the whole of each check of which CI
    /// does only a part. This takes hours. A stopped sweep can be resumed.
    Sweep(jobs::sweep::Args),
    /// Changes single operators and results in locks, slots, reference counts and accounting, and
    /// lists the changes that the tests do not notice.
    Mutants(jobs::mutants::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().job) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            match error {
                Error::NotRun { .. } => ExitCode::from(NOT_RUN),
                _ => ExitCode::FAILURE,
            }
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
        Job::Msrv(args) => jobs::msrv::run(&args),
        Job::Cross => jobs::cross::run(),
        Job::Deny => jobs::deny::run(&ws),
        Job::Publish => jobs::publish::run(&ws),
        Job::Outside => jobs::outside::run(&ws),
        Job::Peers => jobs::peers::check(&ws),
        Job::Remote(args) => jobs::remote::run(&ws, &args),
        Job::Loom(args) => jobs::loom::run(&ws, &args),
        Job::Miri(args) => jobs::miri::run(&ws, &args),
        Job::Tsan(args) => jobs::tsan::run(&ws, &args),
        Job::Asan(args) => jobs::asan::run(&ws, &args),
        Job::Bench(args) => jobs::bench::run(&ws, &args),
        Job::Aging(args) => jobs::aging::run(&ws, &args),
        Job::Report(args) => jobs::report::run(&ws, &args),
        Job::Churn(args) => jobs::churn::run(&args),
        Job::Torture(args) => jobs::torture::run(&args),
        Job::Region(args) => jobs::region::run(&args),
        Job::Fuzz(args) => jobs::fuzz::run(&ws, &args),
        Job::Sweep(args) => jobs::sweep::run(&ws, &args),
        Job::Mutants(args) => jobs::mutants::run(&ws, &args),
    }
}
