//! Checks the formatting without changing it.

use crate::cmd::Cmd;
use crate::error::Result;

pub(crate) fn run() -> Result<()> {
    Cmd::line("cargo fmt --all --check").run()
}
