//! Checks that the documentation of all crates builds without warnings.

use crate::cmd::Cmd;
use crate::error::Result;
use crate::workspace::FEATURES;

pub(crate) fn run() -> Result<()> {
    Cmd::line("cargo doc --workspace --no-deps --features")
        .arg(FEATURES)
        .env("RUSTDOCFLAGS", "-Dwarnings")
        .run()
}
