//! Type-checks each crate with the oldest Rust version that it promises: without its features, with
//! each of them alone, and with all. This finds a feature that compiles only together with another
//! one.
//!
//! The feature `lzo` is left out. It needs cmake and has its own job.

use crate::cmd::Cmd;
use crate::error::Result;
use crate::subcommand;

const CHECK: &str = "cargo hack check --workspace --rust-version --exclude-features lzo,default";

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Also check every pair of features.
    #[arg(long)]
    pub(crate) pairs: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    subcommand::ensure("hack")?;
    let sets = if args.pairs { "--feature-powerset --depth 2" } else { "--each-feature" };
    Cmd::line(CHECK).args(sets.split(' ')).run()
}
