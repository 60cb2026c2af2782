//! Type-checks each crate with the oldest compiler that it promises, without its features, with each of
//! them alone, and with all. A feature that compiles only beside another one is found here, before a user
//! does.
//!
//! `lzo` is left out: it needs cmake, and has a job of its own.

use crate::cmd::Cmd;
use crate::error::Result;
use crate::subcommand;

const CHECK: &str = "cargo hack check --workspace --rust-version --exclude-features lzo,default";

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Every pair of features too.
    #[arg(long)]
    pub(crate) pairs: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    subcommand::ensure("hack")?;
    let sets = if args.pairs { "--feature-powerset --depth 2" } else { "--each-feature" };
    Cmd::line(CHECK).args(sets.split(' ')).run()
}
