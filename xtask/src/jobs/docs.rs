//! The documentation builds without a warning, the public test suite's too.

use crate::cmd::Cmd;
use crate::error::Result;

pub(crate) fn run() -> Result<()> {
    for line in [
        "cargo doc --workspace --no-deps",
        "cargo doc -p zpool-api --features conformance --no-deps",
    ] {
        Cmd::line(line).env("RUSTDOCFLAGS", "-Dwarnings").run()?;
    }
    Ok(())
}
