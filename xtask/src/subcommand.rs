//! Installs the cargo subcommands that a job needs if they are missing.

use crate::cmd::Cmd;
use crate::error::{Error, Result};

/// Makes sure that `cargo NAME` is installed.
pub(crate) fn ensure(name: &str) -> Result<()> {
    if Cmd::line(&format!("cargo {name} --version")).succeeds() {
        return Ok(());
    }
    let fix = format!("cargo install cargo-{name} --locked");
    let install = Cmd::line(&fix).run();
    install.map_err(|_| Error::Missing { what: format!("cargo-{name}"), fix })
}
