//! The tests of the whole workspace, by the README's command.

use crate::cmd::Cmd;
use crate::error::Result;

pub(crate) fn run() -> Result<()> {
    Cmd::line("cargo test --workspace").run()
}
