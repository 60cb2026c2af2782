//! Installs cargo subcommands that a job needs.

use crate::cmd::Cmd;
use crate::error::{Error, Result};

/// Installs `cargo NAME` unless it is installed. If that fails, the error names the command that
/// installs it.
pub(crate) fn ensure(name: &str) -> Result<()> {
    if Cmd::line(&format!("cargo {name} --version")).succeeds() {
        return Ok(());
    }
    // Without optimisation: a subcommand runs for a moment, and building it takes minutes.
    let fix = format!("cargo install cargo-{name} --locked --debug");
    let install = Cmd::line(&fix).run();
    install.map_err(|_| Error::Missing { what: format!("cargo-{name}"), fix })
}
