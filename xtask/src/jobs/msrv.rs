//! Type-checks each crate with the oldest Rust version that it promises: without its features, and
//! with each of them alone. This finds a feature that compiles only together with another one.
//!
//! The feature `lzo` is left out. It needs cmake and has its own job. cargo-hack does not check all
//! features together if one is left out.

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::no_c;
use crate::subcommand;
use crate::workspace::{Workspace, text};

const CHECK: &str = "cargo hack check --workspace --rust-version --exclude-features lzo,default";

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Also check every pair of features.
    #[arg(long)]
    pub(crate) pairs: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    subcommand::ensure("hack")?;
    let sets = if args.pairs { "--feature-powerset --depth 2" } else { "--each-feature" };
    Cmd::line(CHECK).args(sets.split(' ')).run()
}

/// Checks what CI checks: all crates together, with their default features, `metrics` and `encrypt`. Does not
/// need cargo-hack, which takes longer to build than this check takes.
pub(crate) fn smoke(ws: &Workspace) -> Result<()> {
    let oldest = oldest(ws);
    let toolchain = format!("+{oldest}");
    if !Cmd::line(&format!("rustc {toolchain} --version")).succeeds() {
        let add = Cmd::line("rustup toolchain install --profile minimal").arg(oldest);
        let missing = |_| Error::Missing { what: format!("Rust {oldest}"), fix: add.to_string() };
        add.run().map_err(missing)?;
    }
    Cmd::line("cargo")
        .arg(&toolchain)
        .args(no_c::config(&toolchain)?)
        .args([
            "check",
            "--workspace",
            "--features",
            "zswap-core/metrics,zswap-core/encrypt,zram/encrypt",
        ])
        // The lints of the oldest version are not checked. Clippy checks today's.
        .env("RUSTFLAGS", "--cap-lints=allow")
        .env("CARGO_TARGET_DIR", ws.target_dir("msrv"))
        .run()
}

/// Returns the oldest Rust version that the workspace's crates promise. All promise the same one.
fn oldest(ws: &Workspace) -> &str {
    ws.packages().map(|package| text(&package["rust_version"])).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_crates_promise_the_same_version() {
        let ws = Workspace::open().unwrap();
        assert!(oldest(&ws).starts_with("1."));
        for package in ws.packages() {
            assert_eq!(text(&package["rust_version"]), oldest(&ws), "{}", package["name"]);
        }
    }
}
