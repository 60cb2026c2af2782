//! Installs system packages that a job needs. This works only for root and on a system that has
//! apt-get; otherwise the error names the command that installs them.

use crate::cmd::Cmd;
use crate::error::{Error, Result};

/// Installs `packages` unless all commands in `probes` succeed. A probe is a command that succeeds
/// if its program is installed. Fails if a probe still does not succeed afterwards.
pub(crate) fn ensure(what: &str, probes: &[&str], packages: &str) -> Result<()> {
    let present = || probes.iter().all(|probe| Cmd::line(probe).succeeds());
    if present() {
        return Ok(());
    }
    let root = Cmd::line("id -u").quiet().is_ok_and(|id| id.trim() == "0");
    if root && Cmd::line("apt-get --version").succeeds() {
        Cmd::line("apt-get update").run()?;
        Cmd::line("apt-get install -y")
            .args(packages.split(' '))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .run()?;
        if present() {
            return Ok(());
        }
    }
    Err(Error::Missing {
        what: what.to_owned(),
        fix: format!("sudo apt-get update && sudo apt-get install -y {packages}"),
    })
}
