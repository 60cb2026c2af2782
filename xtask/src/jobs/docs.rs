//! Checks that the documentation of all crates builds without warnings.

use crate::cmd::Cmd;
use crate::error::Result;

pub(crate) fn run() -> Result<()> {
    Cmd::line("cargo doc --workspace --no-deps --features zswap-core/metrics,zswap-core/encrypt,zram/encrypt,zswap-region/allocator")
        .env("RUSTDOCFLAGS", "-Dwarnings")
        .run()
}
