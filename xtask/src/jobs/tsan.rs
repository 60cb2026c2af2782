//! Runs the tests of the concurrent libraries under the thread sanitizer, or on request the tests
//! of every crate.

use crate::error::Result;
use crate::sanitizer::{self, Crate, Sanitizer};
use crate::workspace::Workspace;

const THREAD: Sanitizer = Sanitizer { job: "tsan", name: "thread", options: None };

/// The crates that `ci` tests: libraries whose tests use several threads. They are built without C
/// code, which starts no threads and would take most of the time to build.
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
    ("zswap-cache", "--no-default-features --features zbud"),
    ("zram-nbd", ""),
];

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Test every crate with its default features: also the codecs, with their C code under the
    /// sanitizer, the stores with every backend, and the binary.
    #[arg(long)]
    pub(crate) all: bool,
    /// Test only this crate; may be given several times.
    #[arg(short, long = "package", value_name = "CRATE")]
    pub(crate) packages: Vec<String>,
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    THREAD.run(ws, if args.all { sanitizer::WHOLE } else { CONCURRENT }, &args.packages)
}
