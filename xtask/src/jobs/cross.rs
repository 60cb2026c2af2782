//! Type-checks the crates that build no C code, for other systems.
//!
//! A check needs only the standard library of the other system. It needs no linker and no C
//! compiler for it.

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::workspace::Workspace;

const TARGETS: &[&str] =
    &["x86_64-pc-windows-gnu", "aarch64-unknown-linux-gnu", "x86_64-apple-darwin"];

const CRATES: &[&str] = &[
    "-p zpool-base",
    "-p zpool-pages",
    "-p zpool-api",
    "-p zpool-conformance",
    "-p zbud",
    "-p z3fold",
    "-p zsmalloc",
    "-p zpage --no-default-features --features zbud",
    "-p zswap-core --no-default-features --features zbud",
    "-p zram --no-default-features --features zbud",
    "-p zswap-cache --no-default-features --features zbud",
    "-p zram-nbd",
    "-p zswap-compressors --no-default-features",
];

/// The features with which CI checks all crates in one command.
const TOGETHER: &str =
    "--no-default-features --features zpage/zbud,zswap-core/zbud,zram/zbud,zswap-cache/zbud";

/// Checks each crate by itself, so that none needs a feature that only another one switches on.
pub(crate) fn run() -> Result<()> {
    add_targets()?;
    for target in TARGETS {
        for krate in CRATES {
            Cmd::line(&format!("cargo check --target {target} {krate}")).run()?;
        }
    }
    Ok(())
}

/// Checks what CI checks: all crates together.
pub(crate) fn smoke(ws: &Workspace) -> Result<()> {
    add_targets()?;
    let names = CRATES.iter().flat_map(|krate| krate.split(' ').take(2));
    Cmd::line("cargo check")
        .args(TARGETS.iter().flat_map(|target| ["--target", target]))
        .args(names)
        .args(TOGETHER.split(' '))
        .env("CARGO_TARGET_DIR", ws.target_dir("cross"))
        .run()
}

fn add_targets() -> Result<()> {
    let add = Cmd::line("rustup target add").args(TARGETS.iter().copied());
    add.run().map_err(|_| Error::Missing {
        what: "the standard library of another target".to_owned(),
        fix: add.to_string(),
    })
}
