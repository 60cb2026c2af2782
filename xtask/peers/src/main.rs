//! This project beside whatever else would keep the same pages: the bare codec, a concurrent map of
//! boxed blocks over three allocators, other codecs, and the zram and zswap of the running kernel.
//!
//! Every turn of a contestant runs in a process of its own, so that what one leaves behind in a heap
//! is not counted with the next; `run` starts them in rotated order and puts together what they
//! found. `codec` has codecs take turns within one process. `aging` is about this project alone: how dense a store stays while its pages change. `report`
//! makes a page of both. `cargo xtask bench --peers`, `cargo xtask bench --codec`, `cargo xtask aging` and `cargo xtask report` are the
//! ways in.

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
    /// One turn of one contestant, told on the standard output for `run`.
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
