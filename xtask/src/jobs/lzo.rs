//! Tests with the `lzo` feature, which is off everywhere by default and needs cmake.
//!
//! The only job that installs a system package: as root on a system with apt-get. Anyone else
//! is told the command.

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::jobs::compare;

const CRATES: &str = "-p compressors -p zswap-core -p zram -p zswap-cli --features lzo";

pub(crate) fn run() -> Result<()> {
    ensure_cmake()?;
    cargo(&format!("cargo clippy {CRATES} --all-targets -- -D warnings")).run()?;
    cargo(&format!("cargo test {CRATES}")).run()?;
    compare::check(
        &cargo(
            "cargo run --release -p zswap-cli --features lzo -- \
             compare --compressor lzo --rounds 1 --json",
        ),
        Some("lzo"),
    )
}

/// cmake 4 refuses projects as old as liblzo2's unless it is told to take them; older versions
/// ignore the variable.
fn cargo(line: &str) -> Cmd {
    Cmd::line(line).env("CMAKE_POLICY_VERSION_MINIMUM", "3.5")
}

fn ensure_cmake() -> Result<()> {
    let present = Cmd::line("cmake --version");
    if present.succeeds() {
        return Ok(());
    }
    let root = Cmd::line("id -u").quiet().is_ok_and(|id| id.trim() == "0");
    if root && Cmd::line("apt-get --version").succeeds() {
        Cmd::line("apt-get update").run()?;
        Cmd::line("apt-get install -y cmake").env("DEBIAN_FRONTEND", "noninteractive").run()?;
        if present.succeeds() {
            return Ok(());
        }
    }
    Err(Error::Missing {
        what: "cmake".to_owned(),
        fix: "sudo apt-get update && sudo apt-get install -y cmake".to_owned(),
    })
}
