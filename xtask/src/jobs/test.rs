//! Runs the tests of the whole workspace, with the same command as in the README.

use crate::cmd::Cmd;
use crate::error::Result;

pub(crate) fn run() -> Result<()> {
    Cmd::line("cargo test --workspace").run()
}
