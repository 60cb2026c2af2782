//! The documentation builds without a warning, the public test suite's too.

use crate::cmd::Cmd;
use crate::error::Result;

pub(crate) fn run() -> Result<()> {
    Cmd::line("cargo doc --workspace --no-deps").env("RUSTDOCFLAGS", "-Dwarnings").run()
}
