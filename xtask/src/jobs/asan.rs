//! Runs the whole test suite, with the C codecs, under the address sanitizer and its leak checker.

use crate::error::Result;
use crate::sanitizer::{self, Sanitizer};
use crate::workspace::Workspace;

const ADDRESS: Sanitizer = Sanitizer {
    job: "asan",
    name: "address",
    // libdeflate compiles the same template file for each instruction set, so the same tables exist
    // several times. GCC merges them but registers the merged table once for each copy. The
    // sanitizer would report this.
    options: Some(("ASAN_OPTIONS", "detect_odr_violation=0")),
};

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Test only this crate; may be given several times.
    #[arg(short, long = "package", value_name = "CRATE")]
    pub(crate) packages: Vec<String>,
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    ADDRESS.run(ws, sanitizer::WHOLE, &args.packages)
}
