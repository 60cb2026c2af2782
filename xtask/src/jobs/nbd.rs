//! Tests the NBD server with the clients of QEMU and libnbd, and with a file system on its disk.

use crate::apt;
use crate::cmd::Cmd;
use crate::error::Result;

pub(crate) fn run() -> Result<()> {
    let probes = [
        "qemu-img --version",
        "qemu-io --version",
        "nbdcopy --version",
        "nbdinfo --version",
        "mke2fs -V",
    ];
    apt::ensure("an NBD client", &probes, "qemu-utils libnbd-bin e2fsprogs")?;
    // The whole workspace is named, so that cargo reuses what `cargo test --workspace` has built.
    Cmd::line("cargo test --workspace --test nbd").env("ZSWAP_NBD_CLIENTS", "all").run()
}
