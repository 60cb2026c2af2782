//! Tests the feature `metrics` of zswap-core, which is off by default. Unlike `lzo`, it needs
//! nothing installed. The lints and the documentation have it on anyway.

use crate::cmd::Cmd;
use crate::error::Result;

pub(crate) fn run() -> Result<()> {
    // The command also names the binary's package, so that cargo reuses the codecs as `cargo test
    // --workspace` built them.
    Cmd::line("cargo test -p zswap-core -p zswap-cli --features zswap-core/metrics --test metrics")
        .run()
}
