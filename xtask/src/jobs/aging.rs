//! Tests whether a store stays dense over 100 million operations while the kinds and sizes of its
//! pages drift. It does so without compaction, with compaction on demand, and with compaction in
//! the background.

use std::path::PathBuf;

use crate::error::Result;
use crate::jobs::{bench, peers};
use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Do only a million operations in each mode, for a first impression.
    #[arg(long)]
    quick: bool,
    /// Write some 2000 samples of each mode to FILE, each as a JSON object on its own line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Use the pages of these .zst files of raw 4096-byte pages. Default: the corpus beside the
    /// checkout if there is one, else the small sample in the binary.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pages: Vec<PathBuf>,
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    let mut cmd = peers::cargo(ws, "run --release").args(["--", "aging"]);
    if args.quick {
        cmd = cmd.arg("--quick");
    }
    if let Some(json) = &args.json {
        cmd = cmd.arg("--json").arg(json.display().to_string());
    }
    cmd.args(peers::whole(&bench::pages(ws, &args.pages))).run()
}
