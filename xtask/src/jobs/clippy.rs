//! Runs clippy over the whole workspace, and again over each library without its default features.
//!
//! The second part finds code that compiles, or is used, only if some feature is on.

use crate::cmd::Cmd;
use crate::error::Result;
use crate::workspace::{FEATURES, Workspace, is_library, text};

pub(crate) fn run(ws: &Workspace) -> Result<()> {
    Cmd::line("cargo clippy --workspace --all-targets --features")
        .arg(FEATURES)
        .args(["--", "-D", "warnings"])
        .run()?;
    for package in ws.packages().filter(|p| is_library(p)) {
        Cmd::line("cargo clippy --no-default-features -p")
            .arg(text(&package["name"]))
            .args(["--", "-D", "warnings"])
            .run()?;
    }
    Ok(())
}
