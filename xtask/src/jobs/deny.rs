//! Runs cargo-deny over the workspace and over each package outside it: licences, duplicate
//! versions, sources, and known vulnerabilities. The file `deny.toml` says what is accepted.
//!
//! Without a network the database of vulnerabilities cannot be fetched. Then that check counts as
//! not run, after the others have passed.

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::subcommand;
use crate::workspace::Workspace;

/// The manifest of the workspace, and those of the packages that have a lock file of their own.
const MANIFESTS: &[&str] = &[
    "Cargo.toml",
    "fuzz/Cargo.toml",
    "xtask/api/Cargo.toml",
    "xtask/peers/Cargo.toml",
    "xtask/caches/Cargo.toml",
    "xtask/outside/redb/Cargo.toml",
    "xtask/outside/faults/Cargo.toml",
    "zswap-remote/Cargo.toml",
];

/// The arguments of a check. They allow unused entries in `deny.toml`, since that file is for all
/// manifests, and each manifest needs only some of its entries.
const CHECK: &str = "check --allow unmatched-skip --allow unnecessary-skip \
                     --allow license-exception-not-encountered";

pub(crate) fn run(ws: &Workspace) -> Result<()> {
    check(ws)?;
    advisories(ws)
}

/// Checks all but the vulnerabilities.
pub(crate) fn check(ws: &Workspace) -> Result<()> {
    subcommand::ensure("deny")?;
    for manifest in MANIFESTS {
        let usual = cargo_deny(ws, manifest).args(CHECK.split_whitespace());
        usual.args(["licenses", "bans", "sources"]).run()?;
        // The bans refuse the feature `lzo`, so they are not checked with all features.
        let every = cargo_deny(ws, manifest).arg("--all-features").args(CHECK.split_whitespace());
        every.args(["licenses", "sources"]).run()?;
    }
    Ok(())
}

/// Looks for dependencies with known vulnerabilities.
pub(crate) fn advisories(ws: &Workspace) -> Result<()> {
    subcommand::ensure("deny")?;
    let (fetched, said) = cargo_deny(ws, MANIFESTS[0]).args(["fetch", "db"]).verdict()?;
    if !fetched {
        println!("{}", said.trim_end());
        let why = "the database of vulnerabilities cannot be fetched, as shown above";
        return Err(Error::NotRun { why: why.to_owned() });
    }
    for manifest in MANIFESTS {
        let every = cargo_deny(ws, manifest).arg("--all-features");
        every.args(["check", "--disable-fetch", "advisories"]).run()?;
    }
    Ok(())
}

fn cargo_deny(ws: &Workspace, manifest: &str) -> Cmd {
    Cmd::line("cargo deny --locked --manifest-path")
        .arg(manifest)
        .arg("--config")
        .arg(ws.root().join("deny.toml").display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lock_file_is_checked() {
        let tracked = Cmd::line("git ls-files -- Cargo.lock */Cargo.lock").quiet().unwrap();
        let mut found: Vec<String> =
            tracked.lines().map(|lock| lock.replace("Cargo.lock", "Cargo.toml")).collect();
        let mut known = MANIFESTS.to_vec();
        found.sort();
        known.sort_unstable();
        assert_eq!(found, known);
    }
}
