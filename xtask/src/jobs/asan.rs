//! The whole test suite under the address sanitizer and its leak checker, including the C codecs.

use crate::error::Result;
use crate::sanitizer::{self, Sanitizer};
use crate::workspace::Workspace;

const ADDRESS: Sanitizer = Sanitizer {
    job: "asan",
    name: "address",
    // libdeflate includes a template for each instruction set. GCC merges the equal tables of its
    // instances, but registers the merged table once for each instance.
    options: Some(("ASAN_OPTIONS", "detect_odr_violation=0")),
};

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Only this crate; may be given several times.
    #[arg(short, long = "package", value_name = "CRATE")]
    pub(crate) packages: Vec<String>,
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    ADDRESS.run(ws, sanitizer::WHOLE, &args.packages)
}
