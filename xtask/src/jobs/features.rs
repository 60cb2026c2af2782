//! Tests the features `metrics` and `encrypt` of zswap-core, and `encrypt` of zram, which are off by default. Unlike `lzo`, they need
//! nothing installed. The lints and the documentation have them on anyway.

use crate::cmd::Cmd;
use crate::error::Result;

pub(crate) fn run() -> Result<()> {
    // The command also names the binary's package, so that cargo reuses the codecs as `cargo test
    // --workspace` built them.
    Cmd::line("cargo test -p zswap-core -p zswap-cli --features zswap-core/metrics --test metrics")
        .run()?;
    Cmd::line("cargo test -p zswap-region --features allocator --test allocator").run()?;
    Cmd::line("cargo test -p zpage -p zswap-core -p zram --features zpage/encrypt,zswap-core/encrypt,zram/encrypt").run()
}
