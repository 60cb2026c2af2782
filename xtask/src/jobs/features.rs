//! Tests of the features that are off by default and need nothing installed. Lints and documentation have
//! them on anyway.

use crate::cmd::Cmd;
use crate::error::Result;

pub(crate) fn run() -> Result<()> {
    // The command also names the binary, so that cargo reuses the codecs as `cargo test --workspace` built them.
    Cmd::line("cargo test -p zswap-core -p zswap-cli --features zswap-core/metrics --test metrics")
        .run()
}
