//! Runs the whole test suite, with the C codecs, under the address sanitizer and its leak checker.

use crate::error::Result;
use crate::sanitizer::{self, Sanitizer};
use crate::workspace::Workspace;

const ADDRESS: Sanitizer = Sanitizer {
    job: "asan",
    name: "address",
    // libdeflate compiles one template file once for each instruction set, each time with the same
    // tables. GCC merges the equal tables but registers the merged one several times, which the
    // sanitizer would report.
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
