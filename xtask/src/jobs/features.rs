//! Checks and tests the feature `metrics`. Like `lzo` it is off by default, but it needs nothing
//! installed.

use crate::cmd::Cmd;
use crate::error::Result;

const METRICS: &str = "-p zswap-core --features metrics";

pub(crate) fn run() -> Result<()> {
    Cmd::line(&format!("cargo clippy {METRICS} --all-targets -- -D warnings")).run()?;
    Cmd::line(&format!("cargo test {METRICS} --test metrics")).run()?;
    Cmd::line(&format!("cargo doc {METRICS} --no-deps")).env("RUSTDOCFLAGS", "-Dwarnings").run()
}
