//! Writes `docs/benchmarks.md`: tables and pictures of a run of `bench --peers` and of an aging
//! run.

use std::fs;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::jobs::{bench, peers};
use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Take the results from FILE, written by `bench --peers --json FILE`. Without this option, the
    /// comparison is run first.
    #[arg(long, value_name = "FILE")]
    run: Option<PathBuf>,
    /// Take the aging samples from FILE, written by `aging --json FILE`. Without this option, the
    /// page says that aging was not run.
    #[arg(long, value_name = "FILE")]
    aging: Option<PathBuf>,
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    let run = match &args.run {
        Some(run) => run.clone(),
        None => {
            let home = PathBuf::from(ws.target_dir("xtask-report"));
            fs::create_dir_all(&home)
                .map_err(|source| Error::Read { path: home.clone(), source })?;
            let json = home.join("run.json");
            bench::run(ws, &bench::Args::whole_system(json.clone()))?;
            json
        }
    };
    peers::report(ws, &run, args.aging.as_deref())
}
