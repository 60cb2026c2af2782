//! Compares this project with alternatives that keep the same pages: the bare codec, a concurrent map of
//! boxed blocks over three allocators, other codecs, and the zram and zswap of the running kernel.
//!
//! Every turn of a contestant runs in a separate process, so that memory one leaves in a heap
//! is not counted for the next; `run` starts them in rotated order and combines their figures.
//! `aging` measures this project alone: how dense a store stays while its pages change. `report`
//! writes a page from both. Start them with `cargo xtask bench --peers`, `cargo xtask aging` and
//! `cargo xtask report`.

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
    /// All contestants, round by round, and a table at the end.
    Run(run::Args),
    /// One turn of one contestant; prints its figures on the standard output for `run`.
    Turn(turn::Args),
    /// Codecs beside liblz4, in one process.
    Codec(codec::Args),
    /// How dense a store stays while its pages change.
    Aging(aging::Args),
    /// A run's JSON as a page of tables and pictures.
    Report(report::Args),
}

fn main() -> ExitCode {
    let done: Result<bool> = match Cli::parse().verb {
        Verb::Run(args) => run::run(&args),
        Verb::Turn(args) => turn::run(&args).map(|()| true),
        Verb::Codec(args) => codec::run(&args).map(|()| true),
        Verb::Aging(args) => aging::run(&args),
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
