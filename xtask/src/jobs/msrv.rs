//! Type-checks every combination of each crate's features with the oldest compiler that the root
//! manifest promises.

use std::path::Path;

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::jobs::powerset;
use crate::workspace::{Workspace, text};

pub(crate) fn run(ws: &Workspace) -> Result<()> {
    let path = ws.root().join("Cargo.toml");
    let manifest = read(&path)?;
    let stated = rust_version(&manifest).ok_or(Error::NoRustVersion)?;
    for package in ws.packages() {
        let found = package["rust_version"].as_str();
        if found != Some(stated) {
            return Err(Error::RustVersion {
                krate: text(&package["name"]).to_owned(),
                found: found.map(str::to_owned),
                wanted: stated.to_owned(),
            });
        }
    }
    let toolchain = full_version(stated);
    ensure_toolchain(&toolchain)?;
    powerset::check(ws, &powerset::Args::default(), &[format!("+{toolchain}")])
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// The value of `rust-version` in the table `[workspace.package]`.
fn rust_version(manifest: &str) -> Option<&str> {
    let mut lines = manifest.lines().skip_while(|l| l.trim() != "[workspace.package]").skip(1);
    lines.by_ref().take_while(|l| !l.trim_start().starts_with('[')).find_map(|line| {
        let value = line.trim().strip_prefix("rust-version")?.trim_start().strip_prefix('=')?;
        value.trim_start().strip_prefix('"')?.split('"').next()
    })
}

/// rustup names a toolchain by three numbers; a manifest may state two.
fn full_version(stated: &str) -> String {
    if stated.matches('.').count() < 2 { format!("{stated}.0") } else { stated.to_owned() }
}

fn ensure_toolchain(toolchain: &str) -> Result<()> {
    let listed = Cmd::line("rustup toolchain list").quiet().unwrap_or_default();
    if listed.lines().any(|l| l.starts_with(&format!("{toolchain}-")) || l == toolchain) {
        return Ok(());
    }
    let install =
        Cmd::line("rustup toolchain install").arg(toolchain).args(["--profile", "minimal"]);
    install.run().map_err(|_| Error::Missing {
        what: format!("the Rust toolchain {toolchain}"),
        fix: install.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_its_own_table() {
        let manifest = "[other]\nrust-version = \"1.1\"\n[workspace.package]\n\
                        edition = \"2024\"\nrust-version = \"1.85\" # why\n[x]\n";
        assert_eq!(rust_version(manifest), Some("1.85"));
        assert_eq!(rust_version("[workspace.package]\n[x]\nrust-version = \"1.85\"\n"), None);
    }

    #[test]
    fn a_toolchain_has_three_numbers() {
        assert_eq!(full_version("1.85"), "1.85.0");
        assert_eq!(full_version("1.85.1"), "1.85.1");
    }
}
