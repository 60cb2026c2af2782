//! Searches for lost writes in regions, for as long as asked: rounds of `region/tests/stress.rs`, each with a random
//! setting. `cargo test` runs the same for half a minute.

use crate::cmd::Cmd;
use crate::error::Result;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run for this many seconds.
    #[arg(long, default_value_t = 30)]
    pub(crate) seconds: u64,
    /// The number of the first round. A round that found something is repeated by its number.
    #[arg(long, default_value_t = 0)]
    first: u64,
}

impl Args {
    /// Returns the arguments for a run of `seconds`.
    pub(crate) fn lasting(seconds: u64) -> Self {
        Self { seconds, first: 1000 }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    Cmd::line("cargo test --release -p zswap-region --test stress -- --nocapture")
        .env("REGION_SECONDS", args.seconds.to_string())
        .env("REGION_FIRST", args.first.to_string())
        .run()
}
