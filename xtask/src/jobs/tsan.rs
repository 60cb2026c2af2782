//! The concurrent tests under the thread sanitizer; on request every test of every crate.

use crate::error::Result;
use crate::sanitizer::{self, Crate, Sanitizer};
use crate::workspace::Workspace;

const THREAD: Sanitizer = Sanitizer { job: "tsan", name: "thread", options: None };

/// The crates that `ci` runs: those with threads. They run without the C code, which starts no threads
/// and would take most of the time.
const CONCURRENT: &[Crate] = &[
    ("zpool-base", ""),
    ("zpool-pages", ""),
    ("zpool-api", ""),
    ("zpool-conformance", ""),
    ("zbud", ""),
    ("z3fold", ""),
    ("zsmalloc", ""),
    ("zswap-compressors", "--no-default-features"),
    ("zpage", "--no-default-features --features zbud"),
    ("zswap-core", "--no-default-features --features zbud"),
    ("zram", "--no-default-features --features zbud"),
    ("zram-nbd", ""),
];

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Every crate with its default features: the codecs, whose C code has the sanitizer too, the
    /// stores with every backend, and the binary.
    #[arg(long)]
    pub(crate) all: bool,
    /// Only this crate; may be given several times.
    #[arg(short, long = "package", value_name = "CRATE")]
    pub(crate) packages: Vec<String>,
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    THREAD.run(ws, if args.all { sanitizer::WHOLE } else { CONCURRENT }, &args.packages)
}
