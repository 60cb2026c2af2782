//! Cargo's subcommands that a job needs, installed if they are missing.

use crate::cmd::Cmd;
use crate::error::{Error, Result};

/// Has `cargo NAME` be there.
pub(crate) fn ensure(name: &str) -> Result<()> {
    if Cmd::line(&format!("cargo {name} --version")).succeeds() {
        return Ok(());
    }
    let fix = format!("cargo install cargo-{name} --locked");
    let install = Cmd::line(&fix).run();
    install.map_err(|_| Error::Missing { what: format!("cargo-{name}"), fix })
}
