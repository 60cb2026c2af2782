//! Runs the churn tests of zsmalloc for minutes instead of the seconds that they take in CI.

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::libtest;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run each test for this many seconds.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let output = Cmd::line("cargo test --release -p zsmalloc --test churn")
        .env("ZSMALLOC_CHURN_SECONDS", args.seconds.to_string())
        .run_and_read()?;
    if libtest::passed(&output) == 0 {
        return Err(Error::NothingRan { krate: "zsmalloc".to_owned(), what: "churn test" });
    }
    Ok(())
}
