//! Every backend, codec, limit, fault and switch of the store at random, against a model: a minute in
//! CI, hours by hand.

use crate::cmd::Cmd;
use crate::error::Result;

/// What `ci` gives it.
const CI_SECONDS: u64 = 60;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long to run, in seconds.
    #[arg(long, default_value_t = CI_SECONDS)]
    seconds: u64,
    /// Threads that share all keys.
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// What everything random is made of. Default: the time.
    #[arg(long)]
    seed: Option<u64>,
    /// More options of `zswap-torture`, after `--`: see its `--help`.
    #[arg(last = true)]
    rest: Vec<String>,
}

impl Default for Args {
    fn default() -> Self {
        Self { seconds: CI_SECONDS, threads: 4, seed: None, rest: Vec::new() }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut torture = Cmd::line("cargo run --release -p zswap-torture --")
        .args(["--seconds", &args.seconds.to_string()])
        .args(["--threads", &args.threads.to_string()]);
    if let Some(seed) = args.seed {
        torture = torture.args(["--seed", &seed.to_string()]);
    }
    torture.args(args.rest.iter().map(String::as_str)).run()
}
