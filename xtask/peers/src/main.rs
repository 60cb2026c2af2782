//! Compares this project with alternatives that keep the same pages: the bare codec, other codecs,
//! a concurrent map of boxed blocks over three allocators, and the zram and zswap of the running
//! kernel.
//!
//! `run` gives each contestant several turns, in rotating order, and combines the figures of its
//! turns. Every turn is a separate process, so that memory which one contestant leaves in a heap
//! does not count for the next. `codec` compares codecs with liblz4. `aging` measures this project
//! alone: how dense a store stays while its pages change. `region` compares memory that is compressed
//! when cold with the kernel's swap. `report` writes a page from the results of `run` and `aging`. Start
//! them with `cargo xtask bench --peers`, `cargo xtask bench --codec`, `cargo xtask bench --region`,
//! `cargo xtask aging` and `cargo xtask report`.

mod aging;
mod bare;
mod codec;
mod contestants;
mod disk;
mod error;
mod kernel;
mod liblz4;
mod machine;
mod map;
mod record;
mod region;
mod report;
mod resident;
mod run;
mod source;
mod store;
mod table;
mod turn;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Result;

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs all contestants, round by round, and prints a table at the end.
    Run(run::Args),
    /// Runs one turn of one contestant and prints its figures as JSON. `run` starts this command.
    Turn(turn::Args),
    /// Compares codecs with liblz4, in one process.
    Codec(codec::Args),
    /// Measures how dense a store stays while its pages change.
    Aging(aging::Args),
    /// Compares a region with what it is made of and with the kernel's swap.
    Region(region::Args),
    /// Runs one turn of a load on a region or a rival. `region` starts this command.
    #[command(hide = true)]
    RegionLoad(region::LoadArgs),
    /// Measures what a region takes besides its pages. `region` starts this command.
    #[command(hide = true)]
    RegionFootprint(region::FootprintArgs),
    /// Times swap faults of the kernel. `region` starts this command.
    #[command(hide = true)]
    RegionSwap(region::SwapArgs),
    /// Writes a page of tables and pictures from the JSON of a run.
    Report(report::Args),
}

fn main() -> ExitCode {
    let done: Result<bool> = match Cli::parse().verb {
        Verb::Run(args) => run::run(&args),
        Verb::Turn(args) => turn::run(&args).map(|()| true),
        Verb::Codec(args) => codec::run(&args).map(|()| true),
        Verb::Aging(args) => aging::run(&args),
        Verb::Region(args) => region::run(&args),
        Verb::RegionLoad(args) => region::load(&args).map(|()| true),
        Verb::RegionFootprint(args) => region::footprint(&args).map(|()| true),
        Verb::RegionSwap(args) => region::swap(&args).map(|()| true),
        Verb::Report(args) => report::run(&args).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}
